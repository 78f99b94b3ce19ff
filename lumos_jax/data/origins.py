"""Days that serve as origins of forecasts, and what settings exclude.

The label window of an origin o is the days [o, o + horizon_days).
"""

from collections.abc import Sequence

from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib


def horizon_days(tasks: Sequence[tasks_lib.Task]) -> int:
  """H: the longest label window, and so the future that the model is shown."""
  return max(t.horizon_days for t in tasks)


def check_config(
  cfg,
  tasks: Sequence[tasks_lib.Task],
  schema: schema_lib.Schema | None = None,
) -> None:
  """Raises ValueError, naming the keys, where origins do not make sense.

  Those of training must be in order, and their label windows end before
  evaluation begins; those of validation and test must not overlap; with a
  schema, some training origin's must lie in its data.
  """
  first, last = cfg.train_origin_first, cfg.train_origin_last
  of_events = [t.name for t in tasks if t.reduce == "event"]
  if of_events:
    raise ValueError(
      f"tasks {of_events} have reduce = 'event', labels of events, and this "
      "recipe forecasts days: use recipe 'hybrid', or reduce = 'any'"
    )
  if first > last:
    raise ValueError(
      f"data.train_origin_first = {first} is after data.train_origin_last = "
      f"{last}: training draws origins from the first to the last of them"
    )
  if schema is not None:
    _check_origins(cfg, tasks, schema)
  span = cfg.origin_stride_days * (cfg.origins_per_example - 1)
  if span >= cfg.history_days:
    raise ValueError(
      f"data.origins_per_example x origin_stride_days spans {span} days, and "
      f"data.history_days = {cfg.history_days} leaves the first origin no "
      "history: lower one of the former"
    )
  static = [t.name for t in tasks if t.reduce == "static"]
  if cfg.daily_labels and static:
    raise ValueError(
      f"data.daily_labels = True (model.head = 'sequence') asks for a value a "
      f"day, which tasks {static} with reduce = 'static' have not: set "
      "data.daily_labels = False and model.head = 'aggregated', or leave them out"
    )
  for name in ("validation", "test"):
    key = f"data.{name}_origin"
    check_origin(cfg, tasks, name, cfg[f"{name}_origin"], key)


def check_origin(
  cfg, tasks: Sequence[tasks_lib.Task], split: str, origin: int, key: str
) -> None:
  """Raises ValueError where outcomes of an evaluation were seen before it.

  Args:
    cfg: config.data.
    tasks: Declared tasks.
    split: "validation" or "test".
    origin: Its day of forecast.
    key: Config key of that day, for the message.
  """
  horizon, users = horizon_days(tasks), cfg[f"{split}_split"]
  end = cfg.train_origin_last + horizon
  if users == cfg.train_split and origin < end:
    raise ValueError(
      f"{key} = {origin} lies inside the label window of the last training "
      f"origin, data.train_origin_last = {cfg.train_origin_last}, which ends on "
      f"day {end}: move either"
    )
  other = "test" if split == "validation" else "validation"
  day = cfg[f"{other}_origin"]
  if users == cfg[f"{other}_split"] and abs(origin - day) < horizon:
    raise ValueError(
      f"{key} = {origin} and data.{other}_origin = {day} are of the same users, "
      f"and their label windows of {horizon} days overlap: move them {horizon} "
      f"days apart, or evaluate other users (data.{split}_split)"
    )


def _check_origins(cfg, tasks, schema: schema_lib.Schema) -> None:
  """Raises ValueError where no training origin has both a past and labels."""
  first, last = cfg.train_origin_first, cfg.train_origin_last
  days = lambda t: 0 if t.reduce == "static" else t.horizon_days
  known = lambda t: tasks_lib.observed_until(t, schema, schema.last_day)
  shortest = min(map(days, tasks))
  fits = any(first + days(t) <= known(t) for t in tasks)
  if last < schema.first_day or first > schema.last_day or not fits:
    raise ValueError(
      f"data.train_origin_first = {first} and data.train_origin_last = {last} "
      f"lie outside the data, which span days {schema.first_day} to "
      f"{schema.last_day - 1}; the shortest label window takes {shortest} days"
    )
