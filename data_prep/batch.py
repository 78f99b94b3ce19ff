"""A batch of new days, encoded: what it holds, and how it is told from others."""

import hashlib

import numpy as np

from lumos_jax.data import records as records_lib

from . import encode, engine
from .inputs import InputError

ROWS = ("day", "time", "categorical", "numeric")
LABELS = (
  "label_id",
  "label_time",
  "label_value",
  "label_event",
  "label_known",
)


class Batch:
  """Encoded records of a batch, by key.

  Attributes:
    records: {key: record}.
    split: {key: split}.
    fingerprint: Of the rows and labels, whatever files they came in.
    rows: Left by `cut`.
  """

  def __init__(self, prepared: engine.Prepared, data: records_lib.Records):
    if records_lib.stored(prepared.schema) != records_lib.stored(data.schema):
      raise InputError(
        f"records of the batch would hold "
        f"{records_lib.stored(prepared.schema)}, those of {data.path} hold "
        f"{records_lib.stored(data.schema)}: bring the same kinds of labels"
      )
    users = prepared.users
    found = encode.records(users, range(len(users.keys)))
    self.records = {r["key"]: r for r in found}
    self.split = {
      users.keys[u]: name
      for name, at in prepared.splits.items()
      for u in at.tolist()
    }
    digest = hashlib.sha256()
    for key in sorted(self.records):
      digest.update(key.encode())
      for name in (*ROWS, *LABELS):
        if name in self.records[key]:
          x = self.records[key][name]
          digest.update(f"{name}{x.shape}".encode() + x.tobytes())
    self.fingerprint = digest.hexdigest()[:32]
    self.rows = sum(len(r["day"]) for r in self.records.values())

  def cut(self, first: int) -> int:
    """Leaves out rows before a day; how many there were."""
    late = 0
    for key, record in self.records.items():
      keep = record["day"] >= first
      if keep.all():
        continue
      late += int((~keep).sum())
      record |= {n: record[n][keep] for n in ROWS if n in record}
      # A label of an event goes with it; the others count from the first left.
      event = record["label_event"]
      dropped = int((~keep).sum())
      stays = (event < 0) | (event >= dropped)
      record |= {n: record[n][stays] for n in LABELS}
      event = record["label_event"]
      record["label_event"] = np.where(event < 0, event, event - dropped)
      self.records[key] = record
    self.rows -= late
    return late
