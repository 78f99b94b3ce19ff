"""Which parameters belong to which value, field or column of a schema.

For models that go on with other data: see lumos_jax/init_from.py.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import running
from lumos_jax.data import schema as schema_lib
from lumos_jax.models import fields

Params = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one parameter is made.

  Attributes:
    source: Its path in the other run.
    apply: (the other run's parameters, the fresh value) -> value, and what is
      to be told of it, "" for nothing.
    new: Why it may be absent there; "" where that is an error.
  """

  source: str
  apply: Callable[[Params, np.ndarray], tuple[np.ndarray, str]] | None
  new: str = ""


def rules(
  before: schema_lib.Schema,
  now: schema_lib.Schema,
  columns_before: Sequence[str],
  columns_now: Sequence[str],
  target_before: str = "",
  target_now: str = "",
) -> dict[str, Rule]:
  """{path: how it is made} of what depends on the data.

  Args:
    before, now: Schemas of the other run and of this one.
    columns_before, columns_now: Of the calendars.
    target_before, target_now: config.data.target, of recipe "panther".
  """
  out: dict[str, Rule] = {}
  streams = {"model/activity": ("activity", "", "")}
  if target_now:
    streams = {"model/event": ("activity", target_before, target_now)}
    out |= _values(before, now, target_before, target_now)
    kernel = "model/habits/mlp/layers/0/kernel"
    rows = _rows(_habits(before), _habits(now), "habits")
    out[kernel] = _rule(kernel, rows)
  streams["model/profile"] = ("profile", "", "")
  for prefix, (table, less_before, less_now) in streams.items():
    out |= _stream(prefix, table, before, now, less_before, less_now)
  out["model/calendar/layers/0/kernel"] = _rule(
    "model/calendar/layers/0/kernel",
    _rows(list(columns_before), list(columns_now), "calendar columns"),
  )
  return out


def _rule(source: str, made: tuple[Callable, str]) -> Rule:
  """Of a function of the source's value and the fresh one, and of its text."""
  fn, text = made
  return Rule(source, lambda params, fresh: (fn(params[source], fresh), text))


def _stream(prefix, table, before, now, less_before, less_now):
  """Tables and the first layer of a RowEncoder."""
  take = lambda s, less: [f for f in s.categorical(table) if f.name != less]
  old, new = take(before, less_before), take(now, less_now)
  places = {f.name: i for i, f in enumerate(old)}
  out = {}
  for i, f in enumerate(new):
    path = f"{prefix}/tables/{i}"
    if f.name not in places:
      out[path] = Rule("", None, f"new field {f.name!r}")
      continue
    source = f"{prefix}/tables/{places[f.name]}"
    out[path] = _rule(source, _table(before, now, table, f.name))
  kernel, bias = (f"{prefix}/mlp/layers/0/{x}" for x in ("kernel", "bias"))
  mine, theirs = _inputs(now, table, new), _inputs(before, table, old)
  rescaled = _rescaled(before, now, table)
  rows = _rows(list(theirs), list(mine), f"inputs of {table}", rescaled)
  out[kernel] = _rule(kernel, rows)

  def shifted(params, fresh):
    value = params[bias].copy()
    for at, name in enumerate(theirs):
      if name in rescaled and name in mine:
        value += rescaled[name][1] * params[kernel][at]
    return value, ""

  out[bias] = Rule(bias, shifted)
  return out


def _inputs(schema, table, categorical) -> list[tuple]:
  """Names of the inputs of a RowEncoder, in order."""
  dense = schema.dense(table)
  out = [
    (f.name, type(f).__name__, getattr(f, "transform", ""), j)
    for f in dense
    for j in range(schema_lib.width(f))
  ]
  numeric = (f for f in dense if isinstance(f, schema_lib.Numeric))
  out += [(f.name, "missing", "", 0) for f in numeric if f.nullable]
  out += [
    (f.name, "embedding", "", j)
    for f in categorical
    for j in range(fields.embedding_width(f.size))
  ]
  return out or [("", "constant", "", 0)]


def _rescaled(before, now, table) -> dict[tuple, tuple[float, float]]:
  """{input: (factor, shift)} of numbers whose fitted scale is another one.

  input there = factor * input here + shift.
  """
  old = {f.name: f for f in before.dense(table)}
  out = {}
  for f in now.dense(table):
    g = old.get(f.name)
    both = isinstance(f, schema_lib.Numeric) and isinstance(g, type(f))
    if not both or f.transform != g.transform:
      continue
    if (f.offset, f.divisor) != (g.offset, g.divisor):
      name = (f.name, type(f).__name__, f.transform, 0)
      out[name] = f.divisor / g.divisor, (f.offset - g.offset) / g.divisor
  return out


def _rows(theirs: list, mine: list, what: str, rescaled=None):
  """Rows of a first layer go where their inputs are; new ones are zero."""
  rescaled, places = rescaled or {}, {n: i for i, n in enumerate(theirs)}

  def apply_to(value, fresh):
    out = np.zeros_like(fresh)
    for at, name in enumerate(mine):
      if name in places:
        factor = rescaled.get(name, (1.0, 0.0))[0]
        out[at] = factor * value[places[name]]
    return out

  label = lambda n: n if isinstance(n, str) else n[0]
  added = sorted({label(n) for n in mine if n not in places})
  lost = sorted({label(n) for n in theirs if n not in set(mine)})
  text = "; ".join(
    f"{word} {what} {', '.join(names)}"
    for word, names in (("new", added), ("dropped", lost))
    if names
  )
  if rescaled:
    names = ", ".join(sorted({n[0] for n in rescaled}))
    text = "; ".join(filter(None, [text, f"rescaled {names}"]))
  return apply_to, text


def _table(before, now, table, name, axis=0):
  """Rows of a table, or columns of a head, go where their values are."""
  old = _names(before, table, name)
  new = _names(now, table, name)
  places = {v: i for i, v in enumerate(old)}
  known = [(i, places[v]) for i, v in enumerate(new) if v in places]
  added = [i for i, v in enumerate(new) if v not in places]
  lost = len(set(old) - set(new))

  def apply_to(value, fresh):
    value = np.moveaxis(value, axis, 0)
    out = np.moveaxis(np.array(fresh), axis, 0)
    # A larger vocabulary may have wider vectors: what is more stays fresh, and
    # the first layer's rows of it are zero.
    width = min(value.shape[-1], out.shape[-1]) if out.ndim > 1 else 1
    cut = lambda x: x[..., :width] if x.ndim > 1 else x
    here, there = (np.asarray(x, int) for x in zip(*known))
    cut(out)[here] = cut(value)[there]
    starts = _starts(new, old, added)
    for i in added:
      cut(out)[i] = cut(value)[starts(i)].mean(0)
    return np.moveaxis(out, 0, axis)

  text = "; ".join(
    f"{count:,} {word} values of {name!r}"
    for word, count in (("new", len(added)), ("dropped", lost))
    if count
  )
  return apply_to, text


def _starts(new, old, added):
  """Function: new id -> known ids whose mean it starts from."""
  real = np.arange(schema_lib.FIRST_VALUE, len(old))
  if not len(real):
    real = np.arange(len(old))
  if not added or not isinstance(new[added[0]], tuple):
    return lambda i: real
  parts: dict[Any, list[int]] = {}
  for i in real:
    for part in old[i] if isinstance(old[i], tuple) else ():
      parts.setdefault(part, []).append(i)

  def of(i):
    lists = [parts.get(p, ()) for p in new[i] if p[1]]
    scores: dict[int, int] = {}
    for found in lists:
      for j in found:
        scores[j] = scores.get(j, 0) + 1
    most = max(scores.values(), default=0)
    alike = [j for j, n in scores.items() if n == most]
    return np.asarray(alike or real, int)

  return of


def _names(schema, table, name) -> list:
  """What each id of a field says, equal for equal values of two schemas."""
  f = next(x for x in schema.categorical(table) if x.name == name)
  reserved = [("reserved", str(i)) for i in range(schema_lib.FIRST_VALUE)]
  if isinstance(f, schema_lib.Composite):
    return [
      (("reserved", str(i)),)
      if i < schema_lib.FIRST_VALUE
      else tuple(schema.token(name, i).items())
      for i in range(f.size)
    ]
  if isinstance(f, schema_lib.Categorical):
    return reserved + list(f.values or ())
  ids = range(schema_lib.FIRST_VALUE, f.size)
  return reserved + [f.describe(i) for i in ids]


def _values(before, now, target_before, target_now):
  """The target's vectors, attributes and heads, of recipe "panther"."""
  out = {}
  if target_before != target_now:
    why = f"other target: {target_now!r}, not {target_before!r}"
    for path in ("model/values/table", "model/values/attributes", "bag/table"):
      out[path] = Rule("", None, why)
  else:
    for path in ("model/values/table", "bag/table"):
      out[path] = _rule(path, _table(before, now, "activity", target_now))
    out |= _attributes(before, now, target_now)
  take = lambda s, less: [
    f.name for f in s.categorical("activity") if f.name != less
  ]
  old = take(before, target_before)
  for i, name in enumerate(take(now, target_now)):
    for part in ("kernel", "bias"):
      path = f"attribute_heads/{i}/{part}"
      if name not in old:
        out[path] = Rule("", None, f"new field {name!r}")
        continue
      source = f"attribute_heads/{old.index(name)}/{part}"
      axis = 1 if part == "kernel" else 0
      out[path] = _rule(source, _table(before, now, "activity", name, axis))
  return out


def _habits(schema) -> list:
  """Names of habit statistics, in order (models/event_habits.py)."""
  fields = schema.categorical("activity")
  out: list = ["events", "days"]
  for i in running.counted(schema):
    name = fields[i].name
    out += [(name, v) for v in _names(schema, "activity", name)]
  return out


def _attributes(before, now, target):
  """Attributes are numbers: the same where all known values agree on them."""
  path = "model/values/attributes"
  take = lambda s: next(
    f for f in s.categorical("activity") if f.name == target
  )
  known = lambda f: dict(
    zip(
      getattr(f, "values", None) or (),
      getattr(f, "attributes", None) or (),
      strict=False,
    )
  )
  old, new = known(take(before)), known(take(now))
  same = all(old[v] == new[v] for v in old.keys() & new.keys())
  if not old or not same:
    return {path: Rule("", None, "attributes of values are numbered anew")}

  def apply_to(value, fresh):
    out = np.array(fresh)
    n = min(len(value), len(out))
    out[:n], out[n:] = value[:n], value.mean(0)
    return out

  return {path: _rule(path, (apply_to, ""))}
