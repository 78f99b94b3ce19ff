"""The text of a drafted description and config."""

import pathlib

from . import guesses

_YEAR = 364  # Days of history that a draft reads at most.


def _columns(table, time: bool) -> str:
  lines = [f'      "key": {table.key!r},']
  if time and table.time:
    value = repr(table.time)
    if table.declared:
      value = repr({"from": table.time, **table.declared})
    lines.append(f'      "time": {value},')
  return "\n".join(lines)


def description(
  name, activity, profile, tables, skipped, first, last
) -> tuple[str, dict]:
  """The description's text, and the tasks of its config."""
  number = isinstance(first, int)
  days = (last - first if number else (last - first).days) + 1
  horizon = horizon_days(days)
  until = guesses.day(first, days - 2 * horizon)
  worth = guesses.worth(activity)
  tasks = {
    f"active{horizon}": dict(
      kind="binary", field="events", reduce="any", horizon_days=horizon
    ),
    "quiet": dict(
      kind="binary", field="events", reduce="none", horizon_days=horizon
    ),
  }
  if worth:
    tasks["amount"] = dict(kind="regression", field=worth, horizon_days=horizon)
  kinds = {"Categorical", "Numeric", "Schema"}
  body = [
    f'"""A first draft of {name}, by lumos data_prep describe.',
    "",
    "Every guess is a comment; correct what is wrong. docs/data.md says what can",
    'stand here."""',
    "",
    "import polars as pl",
    "",
    f"from lumos_jax.data.schema import {', '.join(sorted(kinds))}",
    "",
    "# What was guessed, and why:",
  ]
  for table in tables:
    role = (
      "activity" if table is activity
      else "profile" if table is profile else "not used"
    )  # fmt: skip
    body.append(f"# {table.file.name}: {table.rows:,} rows, {role}")
    body += [f"#   {line}" for line in table.why]
    if role == "not used":
      body.append(f"#   columns: {', '.join(table.sample.columns)[:300]}")
  body += [f"# skipped: {s}" for s in skipped]
  body += [
    f"# Days {first} to {last}. A calendar (sales, holidays, due dates) was not",
    "# looked for: a table with a start and an end can be one.",
    "",
    "SCHEMA = Schema(",
    f"  name={name!r},",
    "  activity=(",
    '    Numeric("events"),  # Rows a day, made below.',
    *_fields(activity),
    "  ),",
  ]
  if profile:
    body += ["  profile=(", *_fields(profile), "  ),"]
  body += [
    ")",
    "TABLES = {",
    '  "activity": {',
    f'    "file": {str(activity.file)!r},',
    '    "columns": {',
    _columns(activity, True),
    "    },",
    "  },",
  ]
  if profile:
    body += [
      '  "profile": {',
      f'    "file": {str(profile.file)!r},',
      '    "columns": {',
      _columns(profile, False),
      "    },",
      "  },",
    ]
  shown = until if number else f'"{until}"'
  body += [
    "}",
    f"# The last {2 * horizon} days are for validation and test.",
    f"TRAIN_UNTIL = {shown}",
    *(
      ['TIME_ZONE = "UTC"  # Times have a zone: say where days begin.']
      if activity.zoned
      else ["# Times have no zone: days begin where their clocks say so."]
    ),
    "",
    "",
    "def activity(frame: pl.LazyFrame) -> pl.LazyFrame:",
    '  """Adds the count that makes activity a number."""',
    *_made_time(activity.parts),
    "  return frame.with_columns(events=pl.lit(1.0))",
    "",
  ]
  return "\n".join(body), tasks


def _made_time(parts) -> list[str]:
  """Lines that make the time of its parts."""
  if not parts:
    return []
  joined, form = guesses.parts_format(parts)
  names = ", ".join(map(repr, parts))
  return [
    f"  text = pl.format({joined!r}, {names})",
    f"  time = text.str.to_datetime({form!r}, strict=False)",
    "  frame = frame.with_columns(time=time)",
  ]


def _fields(table) -> list[str]:
  lines = []
  for kind, column, why in guesses.fields(table):
    more = ", nullable=True" if kind == "Numeric" else ", max_values=1000"
    lines.append(f"    {kind}({column!r}{more}),  # {why}.")
  return lines


def horizon_days(days: int) -> int:
  """Days ahead that the span of the data has room for."""
  return max(1, min(28, days // 8))


def config(path: pathlib.Path, tasks: dict, days: int, start: int = 0) -> str:
  """Text of a config in the form of configs/online_retail.py."""
  horizon = horizon_days(days)
  test = days - horizon
  validation = test - horizon
  last = max(1, validation - horizon)
  lines = "\n".join(f"    {k}={v!r}," for k, v in tasks.items())
  return f'''"""LUMOS on {path.stem}, a first draft by lumos data_prep describe.

  lumos train --config={path.stem}_config.py:smoke
  lumos train --config={path.stem}_config.py
"""

from lumos_jax import config as config_lib


def get_config(arg=None):
  """Arguments: smoke, steps=, seed=."""
  args = config_lib.parse_arg(arg, smoke=False, steps=400, seed=0)
  c = config_lib.default()
  c.name = {path.stem!r}
  c.seed = args.seed
  c.tasks = dict(
{lines}
  )
  c.evals = dict(
    validation=dict(type="forecast", split="validation", every_steps=100),
    forecast=dict(type="forecast"),
    baseline_naive=dict(type="baseline_naive"),
  )
  d = c.data
  d.source = "tables"
  d.options = dict(schema={str(path)!r})
  # {days} days of data; label windows of {horizon} days do not overlap.
  d.train_origin_first = {start + max(1, last // 4)}
  d.train_origin_last = {start + last}
  d.validation_origin, d.test_origin = {start + validation}, {start + test}
  d.history_days, d.eval_history_days = {min(last, _YEAR)}, {min(test, _YEAR)}
  config_lib.set_size(c, "base")
  c.train.steps, c.train.batch_size = args.steps, 64
  if args.smoke:
    config_lib.set_size(c, "tiny")
    c.train.steps, c.train.batch_size = 10, 16
    c.optimizer.warmup_steps = 2
  c.lock()
  return c
'''
