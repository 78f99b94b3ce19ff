"""Loader workers: every user once an epoch, and nothing left behind."""

import collections
import pathlib
import subprocess
import sys

import fake
import fake_events
import numpy as np
import pytest

from lumos_jax.data import hosts, pipeline, sequences
from lumos_jax.data import tasks as tasks_lib

HERE = pathlib.Path(__file__).parent
USERS = 25


class Source(list):
  """Users that are read many at a time."""

  def __getitems__(self, positions):
    return [self[i] for i in positions]


class Records(fake.Records):
  """Users of different length."""

  def source(self, split):
    return Source(self.users)


def days(workers, batches):
  """Users of each batch of the pipeline of days."""
  c = fake.config(data__workers=workers)
  tasks = tasks_lib.from_config(c.tasks)
  records = fake.Records(users=USERS)
  iterator = pipeline.train_iterator(records, c.data, tasks, 5, 0)
  try:
    return [
      next(iterator)["profile_numeric"][:, 0].tolist() for _ in range(batches)
    ]
  finally:
    hosts.close(iterator)


def packed(workers, batches, monkeypatch):
  """Users of each batch of the pipeline of events, by segment."""
  monkeypatch.setattr(sequences, "_BLOCK_USERS", 4)
  c = fake_events.config(data__workers=workers)
  with c.unlocked():
    c.data.target, c.data.sequence_length = "channel", 64
    c.data.segments, c.data.overlap = 4, 8
  records = Records(users=USERS, rows="event")
  for i, user in enumerate(records.users):
    keep = 8 + 2 * i
    for name in ("day", "time", "categorical", "numeric"):
      user[name] = user[name][:keep]
  iterator = sequences.train_iterator(records, c.data, (), 2, 0)
  out = []
  try:
    for _ in range(batches):
      batch = next(iterator)
      used = batch["segment"].max(1)
      out.append(
        [
          float(batch["profile_numeric"][row, s, 0])
          for row in range(2)
          for s in range(used[row])
        ]
      )
    return out
  finally:
    hosts.close(iterator)


def test_every_user_is_seen_once_an_epoch_by_days():
  one = days(0, 15)
  for epoch in range(3):
    seen = sum(one[5 * epoch : 5 * epoch + 5], [])
    assert sorted(seen) == [20.0 + i for i in range(USERS)]
  for workers in (2, 3):
    assert days(workers, 15) == one


def test_every_user_is_seen_once_an_epoch_by_events(monkeypatch):
  one = packed(0, 20, monkeypatch)
  seen = collections.Counter(sum(one[:19], []))
  # All windows are of one segment, so that an epoch is a user each.
  assert len(seen) == USERS and max(seen.values()) - min(seen.values()) <= 1
  for workers in (2, 3):
    assert packed(workers, 20, monkeypatch) == one


def test_a_position_among_workers_resumes_exactly():
  c = fake.config(data__workers=2)
  tasks = tasks_lib.from_config(c.tasks)
  make = lambda: pipeline.train_iterator(
    fake.Records(users=USERS), c.data, tasks, 5, 0
  )
  first = make()
  for _ in range(3):
    next(first)
  position = first.get_state()
  after = [next(first)["profile_numeric"] for _ in range(2)]
  hosts.close(first)
  second = make()
  second.set_state(position)
  for x in after:
    np.testing.assert_array_equal(x, next(second)["profile_numeric"])
  hosts.close(second)


@pytest.mark.parametrize("steps", [3])
def test_a_run_with_workers_leaves_no_shared_memory(tmp_path, steps):
  script = tmp_path / "run.py"
  script.write_text(
    "import sys\n"
    f"sys.path.insert(0, {str(HERE)!r})\n"
    "if __name__ == '__main__':\n"
    "  import conftest, train_test\n"
    f"  train_test.run({str(tmp_path / 'run')!r}, train__steps={steps}, "
    "data__workers=2)\n"
  )
  done = subprocess.run(
    [sys.executable, str(script)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert "leaked" not in done.stderr
