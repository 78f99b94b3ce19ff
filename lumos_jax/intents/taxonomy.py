"""Labels with definitions, and the file in which a person edits them.

Labels live by id: names, definitions and order are free. The file is JSON:

  {"labels": [{"id": "i01", "name": ..., "definition": ..., "merges": []}, ...]}

A label that is taken out is gone, and what was its own becomes "other" unless
another label lists its id under `merges`. A label without an id is new.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from lumos_jax.intents import sessions as sessions_lib

OTHER = "other"  # What no label fits; no label has this id.
MOST_NAME, MOST_DEFINITION = 80, 400
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_KEYS = {"id", "name", "definition", "merges", "sessions", "examples"}


@dataclasses.dataclass(frozen=True)
class Label:
  """An intent.

  Attributes:
    id: Never changes.
    name, definition: For people and for language models.
    clusters: Whose sessions are of it; the deterministic namer's alone.
    merges: Ids of labels that it took in.
  """

  id: str
  name: str
  definition: str
  clusters: tuple[int, ...] = ()
  merges: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Taxonomy:
  """Labels in the order in which they are shown."""

  labels: tuple[Label, ...]

  def __post_init__(self):
    ids = [x.id for x in self.labels]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice or OTHER in ids:
      raise sessions_lib.IntentError(
        f"label ids {twice or [OTHER]} are taken twice, or not to be had"
      )

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def ids(self) -> tuple[str, ...]:
    """Of the labels."""
    return tuple(x.id for x in self.labels)

  @property
  def digest(self) -> str:
    """Names a state of the taxonomy; order does not change it."""
    rows = sorted(json.dumps(dataclasses.asdict(x)) for x in self.labels)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

  def dump(self) -> str:
    """JSON, with all that is known of a label."""
    rows = [dataclasses.asdict(x) for x in self.labels]
    return json.dumps({"labels": rows}, indent=1)

  @classmethod
  def parse(cls, text: str) -> "Taxonomy":
    """What `dump` made."""
    rows = json.loads(text)["labels"]
    tuples = ("clusters", "merges")
    made = [x | {n: tuple(x[n]) for n in tuples} for x in rows]
    return cls(tuple(Label(**x) for x in made))


def number(taken: Sequence[str]) -> str:
  """An id that no label has: "i01", "i02", ..."""
  used = {x for x in taken if x}
  n = len(used) + 1
  while f"i{n:02d}" in used:
    n += 1
  return f"i{n:02d}"


def write_review(
  path: epath.Path,
  taxonomy: Taxonomy,
  sizes: dict[str, int] | None = None,
  examples: dict[str, list[str]] | None = None,
) -> None:
  """Writes the file for a person; sizes and examples are there to read only."""
  rows = []
  for x in taxonomy.labels:
    row: dict[str, Any] = {
      "id": x.id,
      "name": x.name,
      "definition": x.definition,
      "merges": list(x.merges),
    }
    if sizes:
      row["sessions"] = sizes.get(x.id, 0)
    if examples:
      row["examples"] = examples.get(x.id, [])
    rows.append(row)
  aside = path.parent / f".{path.name}.new"
  aside.write_text(
    json.dumps({"labels": rows}, indent=1, ensure_ascii=False) + "\n"
  )
  aside.replace(path)


def read_review(
  path: epath.Path, proposed: Taxonomy
) -> tuple[Taxonomy, list[str]]:
  """The taxonomy as a person left it, and what was changed, in words.

  Args:
    path: Of the file.
    proposed: What the file was written from.

  Raises:
    IntentError: It is no such file; names the label and the key.
  """
  try:
    doc = json.loads(path.read_text())
  except ValueError as e:
    raise sessions_lib.IntentError(f"{path} is no JSON: {e}") from e
  rows = doc.get("labels") if isinstance(doc, dict) else None
  if not isinstance(rows, list) or not rows:
    raise sessions_lib.IntentError(f'{path} has no list "labels", or no label')
  before = {x.id: x for x in proposed.labels}
  labels: list[Label] = []
  for i, row in enumerate(rows):
    label = _label(row, f"{path}: label {i + 1}")
    if not label.id:
      # Not the id of one that was taken out, either.
      taken = [*before, *(x.get("id", "") for x in rows if isinstance(x, dict))]
      label = dataclasses.replace(
        label, id=number([*taken, *(x.id for x in labels)])
      )
    labels.append(label)
  return _joined(labels, before, path)


def _joined(labels, before, path) -> tuple[Taxonomy, list[str]]:
  """Gives labels the clusters of what they merge; tells what has changed."""
  ids, told, taken = {x.id for x in labels}, [], {}
  out = []
  for x in labels:
    own = list(before[x.id].clusters) if x.id in before else []
    for other in x.merges:
      if other in ids or (other not in before) or other in taken:
        raise sessions_lib.IntentError(
          f"{path}: {x.id} merges {other!r}, which is no label that was taken "
          "out, or is merged twice"
        )
      taken[other] = x.id
      own += before[other].clusters
    if x.id not in before:
      told.append(f"new: {x.id} {x.name!r}")
    elif x.name != before[x.id].name:
      told.append(f"renamed: {x.id} {before[x.id].name!r} to {x.name!r}")
    elif x.definition != before[x.id].definition:
      told.append(f"redefined: {x.id} {x.name!r}")
    out.append(dataclasses.replace(x, clusters=tuple(sorted(own))))
  for key, x in before.items():
    if key not in ids:
      into = f"merged into {taken[key]}" if key in taken else "removed"
      told.append(f"{into}: {key} {x.name!r}")
  return Taxonomy(tuple(out)), told


def _label(row: Any, where: str) -> Label:
  if not isinstance(row, dict) or set(row) - _KEYS:
    raise sessions_lib.IntentError(f"{where} has other keys than {_KEYS}")
  texts = {}
  for name, most in (("name", MOST_NAME), ("definition", MOST_DEFINITION)):
    value = row.get(name)
    found = sessions_lib.clean(value) if isinstance(value, str) else ""
    if not found or len(found) > most:
      raise sessions_lib.IntentError(
        f'{where}: "{name}" must be a text of 1 to {most} characters'
      )
    texts[name] = found
  key, merges = row.get("id", ""), row.get("merges", [])
  if not isinstance(key, str) or (key and not _ID.fullmatch(key)):
    raise sessions_lib.IntentError(
      f'{where}: "id" must be of at most 32 letters, digits, _ and -, or absent '
      "where the label is new"
    )
  if not isinstance(merges, list) or not all(
    isinstance(x, str) for x in merges
  ):
    raise sessions_lib.IntentError(f'{where}: "merges" must be a list of ids')
  return Label(key, **texts, merges=tuple(merges))
