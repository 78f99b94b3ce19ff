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
      elif line.startswith("}"):
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
          trips = re.search(r"known_trip_count[^\d]+(\d+)", i.rest)
          body = re.search(r"body=%?([\w.\-]+)", i.rest)
          visit(body[1], times * (int(trips[1]) if trips else 1))
        elif i.opcode in ("call", "conditional", "async-start"):
          for inner in _called(i.rest):
            visit(inner, times)

    visit(self._entry, 1)
    return dict(out)

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
    for i, shapes, times in self._all():
      kind = i.opcode.removesuffix("-start")
      if kind not in COLLECTIVES:
        continue
      groups = _groups(i.rest)
      crosses = bool(per_slice) and any(
        len({d // per_slice for d in g}) > 1 for g in groups
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

  def traffic(self) -> int:
    """Bytes that the instructions read from and write to HBM, about.

    Operands and results of each fusion count in full, also where it touches a
    part of them.
    """
    total = 0
    for i, shapes, times in self._all():
      if i.opcode in _FREE or i.opcode.endswith("-done"):
        continue
      # A slice touches as much as it gives, an update as much as it takes.
      parts = [i.shape, *(shapes.get(o, "") for o in i.operands)]
      if i.opcode in ("dynamic-slice", "slice", "gather"):
        parts = [i.shape, i.shape]
      total += times * sum(_size(p, True) for p in parts)
    return total


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
  return _Instruction(name, shape, found[1], operands, inside[end:])


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
