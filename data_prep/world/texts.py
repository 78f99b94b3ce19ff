"""The description and the config that a world brings."""

from . import spec

_DESCRIPTION = '''"""A generated world, for the source "tables".

  python -m data_prep --source=tables --out=data --set schema=world.py
"""

from lumos_jax.data.schema import Categorical, Label, Numeric, Schema

SCHEMA = Schema(
  name="world",
  activity=(
    Categorical("category", daily="pivot:amount"),
    Categorical("item", max_values=500, daily="drop"),
    Categorical("channel", daily="pivot"),
    Categorical("merchant", daily="drop"),
    Numeric("amount"),
    Numeric("visit"),
    Numeric("redeemed", scale="minmax"),
  ),
  calendar=(
    Categorical("kind"),
    Numeric("discount", transform="none", scale="minmax"),
  ),
  profile=(Categorical("segment"), Categorical("region"), Numeric("age")),
  labels=(Label("fraud"),),
  epoch="{epoch}",
  first_day=0,
  last_day={days},
)

TABLES = {{
  "activity": {{"file": "activity/*.parquet"}},
  "calendar": {{"file": "calendar.parquet"}},
  "membership": {{"file": "membership/*.parquet"}},
  "profile": {{"file": "profile/*.parquet"}},
  "labels": {{"file": "labels/*.parquet"}},
  "span": {{"file": "span/*.parquet"}},
}}

# The validation origin: {train_until} days from the epoch.
TRAIN_UNTIL = {train_until}
'''

_CONFIG = '''"""LUMOS on a generated world.

  python -m lumos_jax.main --config={name}:smoke
  python -m lumos_jax.main --config={name}
"""

import pathlib

from lumos_jax import config as config_lib
from lumos_jax.presets import lumos

HERE = pathlib.Path(__file__).parent


def get_config(arg=None):
  """Arguments: smoke, size=, steps=, seed=, baselines= (states, all)."""
  args = config_lib.parse_arg(
    arg, smoke=False, size="", steps=0, seed=0, baselines=""
  )
  c = config_lib.default("lumos")
  c.name, c.seed = "world", args.seed
  c.tasks = dict(
    active=dict(kind="binary", field="visit", reduce="any"),
    active7=dict(kind="binary", field="visit", reduce="any", horizon_days=7),
    redeem=dict(kind="binary", field="redeemed", reduce="any"),
    visits=dict(kind="regression", field="visit"),
    spend=dict(kind="regression", field="amount"),
  )
  d = c.data
  d.source, d.root = "tables", str(HERE / "prepared")
  d.options = dict(schema=str(HERE / "world.py"))
  d.train_origin_first, d.train_origin_last = {first}, {last}
  d.validation_origin, d.test_origin = {validation}, {test}
  d.history_days, d.eval_history_days = {history}, {history}
  d.origins_per_example, d.origin_stride_days = {origins}, 14
  d.origin_jitter_days = 13
  # truth/ has the same users' probabilities with and without it.
  c.evals.what_if = dict(
    type="what_if", edits=[dict(op="remove", match=dict(kind="mail"))]
  )
  lumos.weekly(c)
  c.train.steps, c.train.batch_size = args.steps or 600, 64
  lumos.evaluate(c, every_steps=200, baselines=args.baselines)
  lumos.finish(c, args, size="base")
  return c
'''


def description(days: int) -> str:
  """Text of world.py."""
  return _DESCRIPTION.format(
    epoch=spec.EPOCH, days=days, train_until=spec.origins(days)[0]
  )


def config(days: int, name: str = "world_config.py") -> str:
  """Text of the config."""
  validation, test = spec.origins(days)
  history = min(364, test - test % 7)
  return _CONFIG.format(
    name=name,
    first=min(84, validation - 2 * spec.HORIZON_DAYS),
    last=validation - spec.HORIZON_DAYS,
    validation=validation,
    test=test,
    history=history,
    origins=min(14, history // 14),
  )
