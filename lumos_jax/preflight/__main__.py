r"""Does a config fit a TPU slice, and how fast could it be? Needs no TPU.

  python -m lumos_jax.preflight --config=configs/pretrain.py:size=large \
    --topology=v5e:16x16 [--slices=2] [--json=FILE]

Exit status: 0 where it fits with a tenth of the memory to spare, 1 where not.
"""

import json
import sys

import jax
from absl import app, flags, logging
from etils import epath

from lumos_jax import main as main_lib
from lumos_jax import progress
from lumos_jax.evaluators import predict
from lumos_jax.preflight import advice, chips, table

_TOPOLOGY = flags.DEFINE_string(
  "topology", "v5e:16x16", "KIND:SHAPE, kinds v4, v5e, v5p, v6e."
)
_SLICES = flags.DEFINE_integer("slices", 1, "Slices of that topology.")
_JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
_VOCABULARY = flags.DEFINE_integer(
  "vocabulary", 0, "Values of data.target, instead of the data set's."
)
_TOKENS = flags.DEFINE_float(
  "tokens", 0, "Tokens to tell the cost of; default those of train.steps."
)


def main(_):
  """Entry point."""
  # What is not compiled for the slice is computed here.
  jax.config.update("jax_platforms", "cpu")
  progress.quiet_libraries()
  config = flags.FLAGS.config
  try:
    topology = chips.parse(_TOPOLOGY.value, _SLICES.value)
    devices = topology.devices()
    records = main_lib.open_data(config)
    if _VOCABULARY.value:
      records = advice.with_vocabulary(records, config, _VOCABULARY.value)
    report = advice.examine(config, records, topology, devices, _TOKENS.value)
  except (*main_lib.ERRORS, chips.TopologyError) as e:
    logging.debug("", exc_info=True)
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  print(table.text(report))
  if _JSON.value:
    text = json.dumps(report, indent=1) + "\n"
    predict.write_atomic(epath.Path(_JSON.value), text.encode())
  sys.exit(0 if report["fits"] else 1)


if __name__ == "__main__":
  app.run(main, flags_parser=main_lib.parse_flags)
