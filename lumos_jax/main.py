r"""Prepares the data if need be, trains, evaluates, writes the report.

  python -m lumos_jax.main --config=configs/pretrain.py [--workdir=DIR]
  python -m lumos_jax.main --config=pretrain:smoke --config.train.steps=50

--config.KEY=VALUE sets any key of the config (lumos_jax/config has all).
The same command resumes an interrupted run; with a larger
--config.train.steps, a finished one (docs/training.md).

Exit status: 0 when done, 1 for what cannot run, 2 for a wrong flag or argument,
143 when a signal stopped the run and its state was saved, 130 when it was not.
"""

import json
import os
import re
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from lumos_jax import (
  checkpoint,
  evaluate,
  identity,
  lock,
  progress,
  startup,
  train,
)
from lumos_jax import config as config_lib
from lumos_jax import recipes as recipes_lib
from lumos_jax.data import hosts, raw_files, records
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Experiment: FILE.py or a shipped config's NAME, with :ARGUMENTS behind it; "
  "--config.KEY=VALUE sets a key.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Of the run's outputs; default runs/<config.name>."
)
_INIT_FROM = flags.DEFINE_string(
  "init_from",
  None,
  "Workdir of another run, whose parameters a new run begins at; "
  "sets config.init_from.",
)
_MULTIHOST = flags.DEFINE_bool(
  "multihost", False, "One process of several: a TPU slice's workers."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, if it is not detected."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: from 0.")

_HELP = re.compile(r"--?(help(short|full|xml)?|\?)")
# What a user can mend: printed as one line, without a traceback.
ERRORS = (
  *evaluate.ERRORS,
  schema_lib.SchemaError,
  train.NotFinite,
  lock.WorkdirBusy,
  hosts.WorkerLost,
)


def open_data(config) -> records.Records:
  """Opens the config's data set, preparing it first where it is absent.

  Only preparation imports data_prep: with shards in place, a machine needs the
  training stack alone.
  """
  options = config.data.options.to_dict()
  root = epath.Path(config.data.root)
  path = root / records.directory_name(config.data.source, options)
  if not path.exists():
    if jax.process_index() == 0:
      logging.info("%s is absent: preparing it", path)
      from lumos_jax import data_prep

      data_prep.prepare(config.data.source, root, **options)
  # All wait, also one that comes so late that it finds the data prepared.
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("data prepared")
  found = records.Records.open(path)
  raw_files.check(path, found.stats, config.data.source, options)
  return found


def warn_of_later_rows(config, schema: schema_lib.Schema) -> None:
  """Warns if the schema was fitted on rows that are to be predicted."""
  d = config.data
  if config.recipe == "panther" and d.holdout == "last":
    return  # Not days but each user's last events are held out.
  for split in ("validation", "test"):
    origin = d[f"{split}_origin"]
    if d[f"{split}_split"] == d.train_split and origin < schema.train_until:
      logging.warning(
        "data.%s_origin = %d, and vocabularies, bins and scales were fitted on "
        "rows before day %d: they have seen the target days. Prepare the data with "
        "an earlier train_until",
        split,
        origin,
        schema.train_until,
      )


def claim_workdir(workdir: epath.Path, config) -> None:
  """Writes config.json, or checks that the one there is this run's.

  Raises:
    ValueError: The workdir holds another run; names the keys that differ.
  """
  path = workdir / "config.json"
  mine = identity.plain(config)
  if path.exists():
    try:
      theirs = json.loads(path.read_text())
    except ValueError as e:
      raise ValueError(
        f"{path} cannot be read ({e}): remove it, and the checkpoints say whose "
        "run this is"
      ) from e
    differ = identity.differences(mine, theirs)
    if differ:
      raise ValueError(
        f"{workdir} holds another run; these keys differ (this against that): "
        f"{'; '.join(differ)}. Choose another --workdir, or remove that one"
      )
  if jax.process_index() == 0:
    text = json.dumps(mine, indent=1, sort_keys=True)
    predict.write_atomic(path, text.encode())


def run(config, workdir: epath.PathLike) -> None:
  """Data, training, evaluation, report: all of a run."""
  workdir = epath.Path(workdir)
  config_lib.check(config)
  tasks = tasks_lib.from_config(config.tasks)
  data = open_data(config)
  warn_of_later_rows(config, data.schema)
  recipe = recipes_lib.build(config, data, tasks)
  session = evaluate.Session(config, workdir, data, recipe, tasks)
  with lock.locked(workdir):
    # Last: a config that was refused above must not claim the workdir.
    claim_workdir(workdir, config)
    train.train(config, workdir, data, recipe, tasks, session.evaluate)
    if config.report and jax.process_index() == 0:
      from lumos_jax import report

      logging.info("report: %s", report.build(workdir))


def _resolve_config_flags(argv: Sequence[str]) -> list[str]:
  """Replaces a shipped config's name in --config by its file.

  Also finds mistakes in --config and --config.KEY that absl would answer with a
  traceback.
  """
  argv, path, keys = list(argv), None, []
  for i, flag in enumerate(argv):
    found = re.fullmatch(r"(--?(?:no)?config)(?:\.([^=]+))?(?:=(.*))?", flag)
    if not found:
      continue
    name, key, value = found.groups()
    if key:
      keys.append(key)
    elif value is not None:
      path = config_lib.resolve(value)
      argv[i] = f"{name}={path}"
    elif i + 1 < len(argv):
      path = argv[i + 1] = config_lib.resolve(argv[i + 1])
  if path is not None:
    config = config_lib.load(path)
    for key in keys:
      config_lib.check_key(config, key)
  return argv


def parse_flags(argv: Sequence[str]) -> None:
  """Parses flags; a mistake ends in one line and exit status 2."""
  try:
    rest = flags.FLAGS(_resolve_config_flags(argv))[1:]
    if rest:
      raise flags.Error(f"unknown arguments {rest}; write --FLAG=VALUE")
    if _CONFIG.value is None:
      raise flags.Error(
        "--config=FILE or NAME is needed, see --help; shipped configs are "
        f"{', '.join(config_lib.shipped())}"
      )
  except SystemExit as e:
    # absl ends with 1 where it was asked for help and has shown it.
    sys.exit(0 if any(map(_HELP.fullmatch, argv[1:])) else e.code)
  except (config_lib.ConfigError, flags.Error) as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)


def main(_):
  """Entry point."""
  if _MULTIHOST.value or _COORDINATOR.value:
    startup.connect(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  startup.keep_compilations()
  progress.quiet_libraries()
  config = _CONFIG.value
  if _INIT_FROM.value is not None:
    config.init_from = _INIT_FROM.value
  workdir = _WORKDIR.value or f"runs/{config.name}"
  try:
    run(config, workdir)
  except train.Stopped as e:
    print(f"stopped: {e}", file=sys.stderr)
    sys.exit(143)
  except KeyboardInterrupt:
    print(
      "interrupted: the same command resumes from the newest checkpoint, if there "
      "is one",
      file=sys.stderr,
    )
    sys.exit(130)
  except ERRORS as e:
    logging.debug("", exc_info=True)
    print(f"error: {e}", file=sys.stderr)
    if isinstance(e, checkpoint.CheckpointError):
      # Threads of a write that has failed hold up an orderly end for minutes.
      _exit_now(1)
    sys.exit(1)
  except jax.errors.JaxRuntimeError as e:
    if jax.process_count() == 1:
      raise
    print(
      f"error: process {jax.process_index()} of {jax.process_count()} lost the "
      f"others: {str(e).splitlines()[0]}. Once all are up again, the same "
      "command resumes from the newest checkpoint",
      file=sys.stderr,
    )
    # An orderly end would wait for the others.
    _exit_now(1)


def _exit_now(status: int) -> None:
  """Ends the process without waiting for its threads."""
  logging.flush()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
