"""Reads a compiled program's text: collectives and memory traffic.

Bodies of loops count as often as XLA says that they run.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_BITS = {"pred": 8, "token": 0, "tuple": 0}
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}])([a-z][a-z0-9\-]*)\(")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
  "ragged-all-to-all",
)
# Names for values that are somewhere already, or whose bodies count instead.
_FREE = frozenset(
  "parameter constant tuple get-tuple-element bitcast while conditional call "
  "after-all partition-id replica-id opt-barrier iota".split()
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """Equal collectives of a program.

  Attributes:
    kind: Of COLLECTIVES.
    count: Runs of it in a step.
    bytes: That one chip ends up with (all-gather) or gives (others), in a step.
    group: Chips that take part in one.
    crosses: Between slices.
  """

  kind: str
  count: int
  bytes: int
  group: int
  crosses: bool = False

  def sent(self) -> float:
    """Bytes that a chip sends in a step, by a ring's count."""
    share = (self.group - 1) / max(self.group, 1)
    if self.kind == "collective-permute":
      return float(self.bytes)
    return self.bytes * share * (2.0 if self.kind == "all-reduce" else 1.0)


@dataclasses.dataclass
class _Instruction:
  name: str
  shape: str
  opcode: str
  operands: list[str]
  rest: str
  inside: str = ""


def _size(text: str, memory: bool = False) -> int:
  """Bytes of all shapes of a text; with `memory`, of those in HBM only."""
  total = 0
  for kind, dims, layout in _SHAPE.findall(text):
    digits = re.match(r"[a-z]+(\d+)", kind)
    if kind not in _BITS and not digits:
      continue
    # S(1) and on are other memories than HBM.
    if memory and re.search(r"S\([1-9]", layout or ""):
      continue
    bits = _BITS.get(kind) or int(digits[1]) if digits else _BITS[kind]
    total += bits * math.prod(int(d) for d in dims.split(",") if d) // 8
  return total


class Program:
  """A compiled module's text, as computations of instructions."""

  def __init__(self, text: str):
    """`text` is of `compiled.as_text()`."""
    self._computations: dict[str, list[_Instruction]] = {}
    self._entry, now = "", None
    for line in text.splitlines():
      head = _HEAD.match(line)
      if head and "=" not in line.split("(")[0]:
        now = self._computations.setdefault(head[2], [])
        if head[1]:
          self._entry = head[2]
      elif line.rstrip() == "}":  # A kernel's own text has lines that go on.
        now = None
      elif now is not None and (found := _LINE.match(line)):
        now.append(_parse(*found.groups()))

  def runs(self) -> dict[str, int]:
    """{computation: how often a step runs it}, of those that are no fusion."""
    out: collections.Counter = collections.Counter()

    def visit(name, times):
      out[name] += times
      for i in self._computations.get(name, ()):
        if i.opcode == "while":
          body = re.search(r"body=%?([\w.\-]+)", i.rest)
          visit(body[1], times * (self._trips(name, i) or 1))
        elif i.opcode in ("call", "conditional", "async-start"):
          for inner in _called(i.rest):
            visit(inner, times)

    visit(self._entry, 1)
    return dict(out)

  def unknown_loops(self) -> int:
    """Loops whose length the text does not give; their bodies count once."""
    return sum(
      i.opcode == "while" and self._trips(name, i) is None
      for name in self.runs()
      for i in self._computations.get(name, ())
    )

  def _trips(self, name: str, loop: _Instruction) -> int | None:
    """How often a loop of a computation runs; None if unknown.

    XLA says it, or (for TPU) its condition compares a counter with a constant.
    """
    told = re.search(r"known_trip_count[^\d]+(\d+)", loop.rest)
    if told:
      return int(told[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    body = self._computations.get(condition[1], ()) if condition else ()
    inner = {i.name: i for i in body}
    root = body[-1] if body else None
    if root is None or root.opcode != "compare" or len(root.operands) != 2:
      return None
    if "direction=LT" not in root.rest:
      return None
    counter, limit = (inner.get(o) for o in root.operands)
    index = counter and re.search(r"index=(\d+)", counter.rest)
    if not index or limit is None or limit.opcode != "constant":
      return None
    outer = {i.name: i for i in self._computations[name]}
    start = outer.get(loop.operands[0])
    if start is not None and start.opcode == "tuple":
      start = outer.get(start.operands[int(index[1])])
    while start is not None and start.opcode in ("copy", "bitcast"):
      start = outer.get(start.operands[0])
    known = start is not None and start.opcode == "constant"
    # Scans count from 0, wherever that constant went.
    return int(limit.inside) - (int(start.inside) if known else 0)

  def _all(self) -> Iterator[tuple[_Instruction, dict[str, str], int]]:
    for name, times in self.runs().items():
      body = self._computations.get(name, [])
      shapes = {i.name: i.shape for i in body}
      for i in body:
        yield i, shapes, times

  def collectives(self, per_slice: int = 0) -> list[Collective]:
    """Collectives of a step, the dearest first.

    Args:
      per_slice: Devices of a slice; 0 where there is one slice.
    """
    found: collections.Counter = collections.Counter()
    count: collections.Counter = collections.Counter()
    for kind, i, shapes, times in self._exchanges():
      between = _between_slices(i)
      groups = [[*range(between[1])]] if between else _groups(i.rest)
      crosses = bool(between) or (
        bool(per_slice)
        and any(len({d // per_slice for d in g}) > 1 for g in groups)
      )
      given = sum(_size(shapes.get(o, "")) for o in i.operands)
      # Every chip ends up with all parts.
      size = len(groups[0]) if groups else 1
      moved = given * size if kind == "all-gather" else given
      key = kind, size, crosses
      found[key] += moved * times
      count[key] += times
    out = [
      Collective(kind, count[kind, g, c], moved, g, c)
      for (kind, g, c), moved in found.items()
    ]
    return sorted(out, key=lambda c: -c.sent())

  def _exchanges(self):
    """(kind, collective, shapes around it, runs) of each, once.

    What TPU programs overlap with computation stands in fusions: its beginning,
    some of its steps and its end, all of one channel.
    """
    for name, times in self.runs().items():
      body, seen = self._computations.get(name, []), set()
      for outer in body:
        called = _called(outer.rest) if outer.opcode == "fusion" else []
        inner = self._computations.get(called[0], []) if called else [outer]
        shapes = {i.name: i.shape for i in (inner if called else body)}
        for i in inner:
          kind = i.opcode.removesuffix("-start")
          if between := _between_slices(i):
            yield between[0], i, shapes, times
          if kind not in COLLECTIVES:
            continue
          channel = re.search(r"channel_id=(\d+)", i.rest)
          if called and channel:
            if channel[1] in seen:
              continue
            seen.add(channel[1])
          if kind == "all-reduce" and inner[-1].opcode == "dynamic-slice":
            kind = "reduce-scatter"
          yield kind, i, shapes, times

  def traffic(self) -> int:
    """Bytes that the instructions read from and write to HBM, about.

    Operands and results of each fusion count in full, but for what it slices or
    updates in place: a scan takes a layer of a stack at a time.
    """
    total = 0
    for i, shapes, times in self._all():
      if i.opcode in _FREE or i.opcode.endswith("-done"):
        continue
      given = [shapes.get(o, "") for o in i.operands]
      if i.opcode == "fusion":
        sizes = self._fusion(i, given)
      else:
        sizes = [
          *(_touched(i, at, shape, shapes) for at, shape in enumerate(given)),
          _written(i, shapes),
        ]
      total += times * sum(sizes)
    return total

  def _fusion(self, fusion: _Instruction, given: list[str]) -> Iterator[int]:
    """Bytes that a fusion reads of each operand, and writes."""
    called = _called(fusion.rest)
    body = self._computations.get(called[0], []) if called else []
    shapes = {i.name: i.shape for i in body}
    places = {int(i.inside): i.name for i in body if i.opcode == "parameter"}
    for at, shape in enumerate(given):
      name = places.get(at)
      uses = [
        _touched(i, i.operands.index(name), shape, shapes)
        for i in body
        if name in i.operands
      ]
      # Slices inside have no layout of their own: the operand says where it is.
      whole = _size(shape, True)
      yield min(whole, sum(uses)) if whole and uses else whole
    if body and body[-1].opcode == "dynamic-update-slice":
      whole = _size(fusion.shape, True)
      yield min(whole, _size(shapes.get(body[-1].operands[1], "")))
    else:
      yield _size(fusion.shape, True)


def _touched(i: _Instruction, at: int, shape: str, shapes) -> int:
  """Bytes that an instruction reads of its operand `at`."""
  if at == 0 and i.opcode in ("dynamic-slice", "slice", "gather"):
    return _size(i.shape)
  if at == 0 and i.opcode == "dynamic-update-slice":
    return 0
  return _size(shapes.get(i.operands[at], "") or shape, True)


def _written(i: _Instruction, shapes) -> int:
  """Bytes that an instruction that is no fusion writes."""
  if i.opcode == "dynamic-update-slice":
    return _size(shapes.get(i.operands[1], ""), True)
  return _size(i.shape, True)


def _parse(name: str, text: str) -> _Instruction:
  found = _OPCODE.search(text)
  if not found:
    return _Instruction(name, text, "", [], "")
  shape, inside = text[: found.start(1)], text[found.end() :]
  depth, end = 1, len(inside)
  for at, c in enumerate(inside):
    depth += (c == "(") - (c == ")")
    if not depth:
      end = at
      break
  operands = re.findall(r"%([\w.\-]+)", inside[:end])
  given = inside[:end]
  return _Instruction(name, shape, found[1], operands, inside[end:], given)


def _called(rest: str) -> list[str]:
  """Computations that a call or a conditional names."""
  out = re.findall(
    r"(?:to_apply|calls|true_computation|false_computation)"
    r"=%?([\w.\-]+)",
    rest,
  )
  branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
  if branches:
    out += re.findall(r"%?([\w.\-]+)", branches[1])
  return out


def _between_slices(i: _Instruction) -> tuple[str, int] | None:
  """(kind, slices) of what a program hands to the hosts' network to exchange.

  There a collective over slices is a send and a receive, which name it.
  """
  if i.opcode != "send":
    return None
  kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', i.rest)
  target = re.search(r'_xla_megascale_target="\{([\d,]*)\}', i.rest)
  if not kind or not target:
    return None
  kind = (
    kind[1]
    .lower()
    .replace("_", "-")
    .replace("one-to-one", "collective-permute")
  )
  return kind, len(target[1].split(","))


def _groups(rest: str) -> list[list[int]]:
  """Devices of each group of a collective; of a permute its pairs."""
  short = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest
  )
  numbers = lambda s: [int(n) for n in s.split(",")]
  if short:
    ids = np.arange(math.prod(numbers(short[2]))).reshape(numbers(short[2]))
    if short[3]:
      ids = ids.transpose(numbers(short[3]))
    return ids.reshape(numbers(short[1])).tolist()
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", rest)
  if mesh:
    return _mesh_groups(mesh[1], mesh[3])
  long = re.search(
    r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", rest
  )
  if long:
    return [numbers(g) for g in re.findall(r"\{([\d,]+)\}", long[1])]
  return []


def _mesh_groups(mesh: str, over: str) -> list[list[int]]:
  """Groups written as axes of a mesh: "'a'=4,'b'=2" and "'b'", "'a':(1)2".

  A part of an axis, ":(before)size", is what is left when the axis is cut into
  (before, size, rest).
  """
  sizes = {k: int(n) for k, n in re.findall(r"'([^']+)'=(\d+)", mesh)}
  chosen: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
  for k, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over):
    chosen[k].append((int(before or 1), int(size or sizes[k])))
  shape, inside = [], []
  for k, n in sizes.items():
    done = 1
    for before, size in sorted(chosen[k]):
      shape += [before // done, size]
      inside += [False, True]
      done = before * size
    shape.append(n // done)
    inside.append(False)
  ids = np.arange(math.prod(shape)).reshape(shape)
  order = sorted(range(len(shape)), key=lambda i: inside[i])
  size = math.prod(n for n, i in zip(shape, inside) if i)
  return ids.transpose(order).reshape(-1, size).tolist()
