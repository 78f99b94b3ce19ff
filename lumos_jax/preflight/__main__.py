r"""Does a config fit a TPU slice, and how fast could it be? Needs no TPU.

  python -m lumos_jax.preflight --config=configs/pretrain.py:size=large \
    --topology=v5e:16x16 [--slices=2] [--json=FILE] [--config.KEY=VALUE ...]

--config.KEY=VALUE sets any key of the config, as in lumos_jax.main.

Exit status: 0 where it fits with a tenth of the memory to spare, 1 where it does
not, 2 if that cannot be determined: a wrong flag, config or mesh, no data, no libtpu.
"""

import json
import sys
import traceback

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax import progress
from lumos_jax.evaluators import predict
from lumos_jax.preflight import advice, chips, table

_TOPOLOGY = flags.DEFINE_string(
  "topology", "v5e:16x16", "KIND:SHAPE; kinds are v4, v5e, v5p, v6e."
)
_SLICES = flags.DEFINE_integer("slices", 1, "Slices of that topology.")
_JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
_VOCABULARY = flags.DEFINE_integer(
  "vocabulary", 0, "Values of data.target, instead of the data set's."
)
_TOKENS = flags.DEFINE_float(
  "tokens", 0, "Tokens to estimate the cost of; default those of train.steps."
)


def _report():
  """The report on the flags' config and topology."""
  config = flags.FLAGS.config
  topology = chips.parse(_TOPOLOGY.value, _SLICES.value)
  config_lib.check(config)
  devices = topology.devices()
  records = main_lib.open_data(config)
  if _VOCABULARY.value:
    records = advice.with_vocabulary(records, config, _VOCABULARY.value)
  found = advice.examine(config, records, topology, devices, _TOKENS.value)
  flag = flags.FLAGS["config"]
  typed = {
    "config": found["config"],
    "config_file": config_flags.get_config_filename(flag),
    "config_overrides": config_flags.get_override_values(flag),
    "vocabulary": _VOCABULARY.value or None,
  }
  return typed | found


def main(_):
  """Entry point."""
  # What is not compiled for the slice is computed here.
  jax.config.update("jax_platforms", "cpu")
  progress.quiet_libraries()
  try:
    report = _report()
    print(table.text(report))
    if _JSON.value:
      text = json.dumps(report, indent=1) + "\n"
      predict.write_atomic(epath.Path(_JSON.value), text.encode())
  except (*main_lib.ERRORS, chips.TopologyError) as e:
    logging.debug("", exc_info=True)
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)
  except Exception:
    # Python would end with 1, which is to mean that it does not fit.
    traceback.print_exc()
    sys.exit(2)
  sys.exit(0 if report["fits"] else 1)


if __name__ == "__main__":
  app.run(main, flags_parser=main_lib.parse_flags)
