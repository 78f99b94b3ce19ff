"""Declared tasks: labels are computed from the records, not engineered.

The label window of an origin o is the days [o, o + horizon_days). Who learns as of
a day is told by what was known by then (`known_by`): an outcome that became known
later is not there, and no outcome counts as absent before it would be known.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.names import near

NO_TIME = np.iinfo(np.int32).min
_KINDS = ("binary", "regression")
_REDUCE = ("any", "none", "sum", "static", "event")


@dataclasses.dataclass(frozen=True)
class Task:
  """A quantity to forecast.

  Attributes:
    name: Of the task, as in metrics.
    kind: "binary" or "regression".
    horizon_days: Length of the label window.
    field: Numeric activity field the label is made of; or
    label: Name of a schema `Label`.
    reduce: "any" (non-zero on any day), "none" (zero on every day), "sum",
      "static" (the label's value for the user, whatever the origin), or "event"
      (the label's value for the event that is scored). A row of a label with text
      values is an event: it counts 1.
    equals: Of a label with text values: only rows of this value count.
    weight: Of its loss; auxiliary tasks may weigh less.
  """

  name: str
  kind: str
  horizon_days: int = 28
  field: str = ""
  label: str = ""
  reduce: str = "sum"
  equals: str = ""
  weight: float = 1.0

  def __post_init__(self):
    if self.kind not in _KINDS or self.reduce not in _REDUCE:
      raise ValueError(
        f"task {self.name!r}: kind {self.kind!r} must be one of {_KINDS}, "
        f"reduce {self.reduce!r} one of {_REDUCE}"
      )
    if bool(self.field) == bool(self.label):
      raise ValueError(f"task {self.name!r}: give either field or label")
    if self.kind == "binary" and self.reduce == "sum":
      raise ValueError(f"task {self.name!r}: a binary task needs any or none")
    if self.kind == "regression" and self.reduce in ("any", "none"):
      raise ValueError(
        f"task {self.name!r}: reduce {self.reduce!r} is 0 or 1: use kind "
        "'binary', or reduce 'sum'"
      )
    of_label = self.reduce in ("static", "event")
    if self.field and (self.equals or of_label):
      raise ValueError(
        f"task {self.name!r}: equals and reduce 'static' are of labels, and "
        f"{self.field!r} is a field: leave them out"
      )
    if self.horizon_days < 1:
      raise ValueError(f"task {self.name!r}: horizon_days must be positive")


def from_config(tasks: Mapping[str, Mapping]) -> tuple[Task, ...]:
  """Tasks of `config.tasks`: {name: dict(kind=..., field=..., ...)}.

  Raises:
    ValueError: A task has a setting that there is not, or lacks its kind.
  """
  known = [f.name for f in dataclasses.fields(Task)[1:]]
  for name, kw in tasks.items():
    for key in kw:
      if key not in known:
        raise ValueError(
          f"config.tasks.{name}.{key}: a task has no such setting"
          f"{near(key, known)} It has {known}"
        )
    if "kind" not in kw:
      raise ValueError(f"config.tasks.{name} lacks kind, one of {_KINDS}")
  return tuple(Task(name=n, **dict(kw)) for n, kw in tasks.items())


def check(tasks: Sequence[Task], schema: schema_lib.Schema) -> None:
  """Raises SchemaError where a task names what the schema does not have."""
  for t in tasks:
    if t.field:
      schema.numeric_column("activity", t.field)
    elif t.label not in [x.name for x in schema.labels]:
      raise schema_lib.SchemaError(
        f"task {t.name!r}: no label {t.label!r} in {schema.name!r}; it has "
        f"{[x.name for x in schema.labels]}"
      )
    else:
      _check_label(t, _label(t, schema))


def _label(task: Task, schema: schema_lib.Schema) -> schema_lib.Label:
  return next(x for x in schema.labels if x.name == task.label)


def _check_label(task: Task, label: schema_lib.Label) -> None:
  values = label.values or ()
  if (task.reduce == "event") != (label.level == "event"):
    # Days with an event that has the label are outcomes of the user, too.
    if task.reduce == "event":
      raise schema_lib.SchemaError(
        f"task {task.name!r}: reduce 'event' needs a label of events, and label "
        f"{label.name!r} is of users: use 'static' or 'any'"
      )
    if task.reduce == "static":
      raise schema_lib.SchemaError(
        f"task {task.name!r}: label {label.name!r} is of events: use reduce "
        "'event' to score events, 'any' for days with one"
      )
  if task.equals and task.equals not in values:
    raise schema_lib.SchemaError(
      f"task {task.name!r}: label {label.name!r} has no value {task.equals!r}; "
      f"it has {values or 'numbers: leave equals out'}"
    )
  most = 2 if task.kind == "binary" else 0
  if task.reduce == "static" and not task.equals and len(values) > most:
    raise schema_lib.SchemaError(
      f"task {task.name!r}: label {label.name!r} has the values {values}, which "
      f"are no number: say which one counts, equals={values[0]!r}"
    )


def daily_values(
  task: Task,
  schema: schema_lib.Schema,
  record: Mapping[str, np.ndarray],
  first_day: int,
  last_day: int,
  known_by: int | None = None,
) -> np.ndarray:
  """The task's raw quantity on each day: float64 [last_day - first_day].

  With `known_by`, of labels what was known by that day.
  """
  out = np.zeros(max(last_day - first_day, 0))
  if task.field:
    days = instants.days(record)
    column = schema.numeric_column("activity", task.field)
    values = record["numeric"][:, column].astype(np.float64)
    values = np.where(np.isnan(values), 0.0, values)
  else:
    index = [x.name for x in schema.labels].index(task.label)
    mine = _known_rows(record, index, known_by)
    days = record["label_time"][mine]
    values = record["label_value"][mine].astype(np.float64)
    classes = schema.labels[index].values
    if task.equals:
      values = (values == classes.index(task.equals)).astype(np.float64)
    elif classes:  # Places in a list of texts: the first is not "nothing".
      values = np.ones_like(values)
  inside = (days >= first_day) & (days < last_day)
  np.add.at(out, days[inside] - first_day, values[inside])
  return out


def _known_rows(record, index: int, known_by: int | None) -> np.ndarray:
  """bool [L]: rows of a label, those known by a day if one is given."""
  mine = record["label_id"] == index
  if known_by is None:
    return mine
  # What has no time is known from the first.
  known = record.get("label_known", ())
  if len(known) != len(mine) or not len(mine):
    known = record["label_time"]
  return mine & (known <= known_by)


def of_events(
  task: Task,
  schema: schema_lib.Schema,
  record: Mapping[str, np.ndarray],
  known_by: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """A task of reduce "event" at each event of a user.

  Args:
    task: With a label of events.
    schema: Of the data set.
    record: One user's record.
    known_by: Day of learning; None: all is known.

  Returns:
    labels float32 [T] and mask bool [T]: whether the event's label is known.
  """
  index = [x.name for x in schema.labels].index(task.label)
  rows = len(record["day"])
  y, mask = np.zeros(rows, np.float32), np.zeros(rows, bool)
  mine = _known_rows(record, index, known_by)
  event, value = record["label_event"][mine], record["label_value"][mine]
  if task.equals:
    place = (schema.labels[index].values or ()).index(task.equals)
    value = value == place
  y[event], mask[event] = value, True
  return y, mask


def _static(task, schema, record, known_by):
  index = [x.name for x in schema.labels].index(task.label)
  mine = _known_rows(record, index, known_by)
  if not mine.any():
    return 0.0, False
  value = float(record["label_value"][mine][0])
  if task.equals:
    values = schema.labels[index].values or ()
    value = float(value == values.index(task.equals))
  return value, True


def observed_until(
  task: Task, schema: schema_lib.Schema, activity_until: int
) -> int:
  """Day from which on a task's outcome is not known.

  Args:
    task: With a field or label of the schema.
    schema: Of the data set.
    activity_until: The same of the activity: a user's, or the data's.
  """
  until = _label(task, schema).observed_until if task.label else None
  return activity_until if until is None else until


def labels(
  tasks: Sequence[Task],
  schema: schema_lib.Schema,
  record: Mapping[str, np.ndarray],
  origins: np.ndarray,
  known_by: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Labels of one user at some origins.

  Args:
    tasks: M tasks.
    schema: Of the data set.
    record: One user's record.
    origins: int [O] days.
    known_by: Day of learning: no outcome that became known later is read, and a
      window counts when all of its outcomes are known. None: all are.

  Returns:
    labels float32 [O, M] and mask bool [O, M]: whether the user was at risk at
    the origin and the whole window was observed.
  """
  origins = np.asarray(origins, np.int64)
  y = np.zeros((len(origins), len(tasks)), np.float32)
  mask = np.zeros((len(origins), len(tasks)), bool)
  enter, leave, known_until = (int(x) for x in record["span"])
  at_risk = (origins >= enter) & (origins < leave)
  first = int(origins.min())
  for m, task in enumerate(tasks):
    if task.reduce == "event":  # Of an event, and not of a day: `of_events`.
      continue
    if task.reduce == "static":
      value, known = _static(task, schema, record, known_by)
      y[:, m], mask[:, m] = value, known & at_risk
      continue
    last = int(origins.max()) + task.horizon_days
    values = daily_values(task, schema, record, first, last, known_by)
    if task.reduce in ("any", "none"):
      values = (values != 0).astype(np.float64)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = origins - first
    window = total[at + task.horizon_days] - total[at]
    if task.reduce == "any":
      window = window > 0
    elif task.reduce == "none":
      window = window == 0
    y[:, m] = window
    end = observed_until(task, schema, known_until)
    if known_by is not None:
      delay = (_label(task, schema).delay_days or 0) if task.label else 0
      end = min(end, known_by - delay)
    mask[:, m] = at_risk & (origins + task.horizon_days <= end)
  return y, mask
