"""Windows, packing and hold-outs: every event counts once, none leaks."""

import collections

import fake_events
import numpy as np
import pytest

from lumos_jax.data import instants, sequences
from lumos_jax.data import schema as schema_lib


def make(**overrides):
  cfg = fake_events.config(**overrides).data
  records = fake_events.Records()
  return records, cfg, sequences.Sequences(records.schema, cfg)


def targets(windows):
  return [t for w in windows for t in w["target"].tolist() if t]


@pytest.mark.parametrize("holdout", sequences.HOLDOUTS)
@pytest.mark.parametrize("start_token", (True, False))
def test_windows_predict_every_training_event_once(holdout, start_token):
  records, _, cut = make(data__holdout=holdout, data__start_token=start_token)
  for record in records.users:
    n = cut.training_events(record)
    expected = record["categorical"][:n, 0].tolist()
    found = cut.windows(record)
    assert targets(found) == expected[0 if start_token else 1 :]
    for w in found:
      assert 1 <= len(w["target"]) <= 12
      assert len({len(w[k]) for k in w if not k.startswith("profile")}) == 1
      # The row at t holds the event before its target.
      known = (w["target"] > 0) & (w["ids"][:, 0] > 0)
      at = {(a, b) for a, b in zip(expected, expected[1:])}
      pairs = zip(w["ids"][known, 0].tolist(), w["target"][known].tolist())
      assert set(pairs) <= at


def test_windows_overlap_and_repeat_no_target():
  records, cfg, cut = make()
  longest = max(records.users, key=lambda r: len(r["time"]))
  found = cut.windows(longest)
  assert len(found) > 2
  for a, b in zip(found, found[1:]):
    np.testing.assert_array_equal(
      a["ids"][-cfg.overlap :], b["ids"][: cfg.overlap]
    )
    assert not b["target"][: cfg.overlap].any()


def test_what_the_vocabulary_lacks_is_context_and_no_target():
  records, _, cut = make()
  record = dict(records.users[5])
  record["categorical"] = record["categorical"].copy()
  record["categorical"][[1, 3], 0] = schema_lib.UNKNOWN, schema_lib.MISSING
  found = cut.windows(record)
  expected = record["categorical"][:7, 0]
  assert targets(found) == expected[expected >= 2].tolist()
  assert schema_lib.UNKNOWN in found[0]["ids"][:, 0]


def test_holdout_last_keeps_two_events_of_each_user_out():
  records, _, cut = make()
  for record in records.users:
    n = len(record["time"])
    if n < 3:
      assert cut.cut(record, "test") is None
      assert cut.training_events(record) == n
    else:
      assert cut.cut(record, "test") == n - 1
      assert cut.cut(record, "validation") == n - 2
      assert cut.training_events(record) == n - 2


def test_holdout_time_takes_the_first_event_after_the_origin():
  records, cfg, cut = make(data__holdout="time")
  some = 0
  for record in records.users:
    day = record["day"]
    assert (day[: cut.training_events(record)] < cfg.train_origin_last).all()
    at = cut.cut(record, "test")
    if at is None:
      assert not (day >= cfg.test_origin).any()
    else:
      some += 1
      assert (day[:at] < cfg.test_origin).all() and day[at] >= cfg.test_origin
    at = cut.cut(record, "validation")
    if at is not None:
      assert cfg.validation_origin <= day[at] < cfg.test_origin
  assert some


def test_floors_count_what_is_asked():
  """By time, a target is later than all before it: so are events counted."""
  record = dict(fake_events.Records().users[5])
  record["categorical"] = np.asarray([[2, 2], [3, 2], [2, 2], [0, 2], [2, 2]])
  record |= fake_events.times([0, 0, 9, 9, 86_400 * 90])
  asked = {}
  for holdout in sequences.HOLDOUTS:
    _, _, cut = make(data__holdout=holdout)
    asked[holdout] = cut.asked(record).tolist()
  assert asked["last"] == [True, True, True, False, True]
  assert asked["time"] == [True, False, True, False, True]
  found = cut.example(record, "test")
  assert (found["seen"].tolist(), found["often"].tolist()) == (
    [3, 2, 0],
    [0, 2, 0],
  )
  assert found["next"] == 2 and found["history"] == 4


def test_packed_rows_hold_each_epoch_whole():
  records, cfg, cut = make()
  expected = collections.Counter(
    t for r in records.users for t in targets(cut.windows(r))
  )
  whole = sum(expected.values())
  iterator = sequences.train_iterator(records, cfg, (), 4, 0)
  found, epochs = [], 6
  while len(found) < epochs * whole:
    batch = next(iterator)
    assert batch["time"].shape == (4, 12, 3)
    assert batch["profile_categorical"].shape == (4, cfg.segments, 1)
    found += batch["target"][batch["target"] > 0].tolist()
    for segment, position in zip(batch["segment"], batch["position"]):
      used = segment > 0
      # Segments count up without a gap, padding comes last.
      assert (np.diff(segment[used]) >= 0).all() and used[: used.sum()].all()
      assert segment.max() <= cfg.segments
      starts = np.flatnonzero(np.diff(segment[used], prepend=0))
      assert (position[starts] == 0).all()
  # Blocks of users may mix two epochs, so counts agree up to one epoch.
  count = collections.Counter(found)
  for item, n in expected.items():
    assert (epochs - 2) * n <= count[item] <= (epochs + 2) * n


def test_position_restores_to_the_same_batches():
  records, cfg, _ = make()
  iterator = sequences.train_iterator(records, cfg, (), 4, 3)
  for _ in range(7):
    next(iterator)
  state = iterator.get_state()
  expected = [next(iterator) for _ in range(9)]
  again = sequences.train_iterator(records, cfg, (), 4, 3)
  again.set_state(state)
  for batch in expected:
    found = next(again)
    for name, value in batch.items():
      np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_eval_batches_cover_every_user_with_a_target_once():
  records, cfg, cut = make()
  keys, shown = [], {}
  for batch in sequences.eval_batches(records, cfg, "test", 16):
    for i in np.flatnonzero(batch["user_mask"]):
      keys.append(str(batch["key"][i]))
      shown[keys[-1]] = {k: v[i] for k, v in batch.items()}
  expected = [r["key"] for r in records.users if len(r["time"]) > 2]
  assert sorted(keys) == sorted(expected)
  for record in records.users:
    if record["key"] not in shown:
      continue
    row = shown[record["key"]]
    ids = record["categorical"][:, 0]
    assert row["next"] == ids[-1]
    assert row["ids"][row["last"], 0] == ids[-2]
    assert set(row["seen"][row["seen"] > 0]) == set(ids[:-1])
    last = instants.split(record["time"][-1])
    np.testing.assert_array_equal(row["next_time"][row["last"]], last)
    assert row["labels"][0].tolist() == [ids[-1], len(ids) - 1]
    # Nothing of the target or after it is shown.
    assert row["segment"].sum() == row["last"] + 1


def test_users_without_history_are_scored_from_the_start_token():
  records, cfg, cut = make(data__holdout="time")
  record = dict(records.users[4])
  for name in ("categorical", "numeric"):
    record[name] = record[name][:1]
  record |= fake_events.times([90 * 86_400])
  row = cut.example(record, "test")
  assert row["last"] == 0 and row["history"] == 0 and not row["ids"].any()
  assert cut.windows(record) == []
  _, _, without = make(data__holdout="time", data__start_token=False)
  assert without.example(record, "test") is None


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(data__overlap=12), "data.overlap = 12 must be"),
    (dict(data__holdout="random"), "use one of"),
    (
      dict(data__holdout="time", data__test_origin=60),
      "data.train_origin_last <= validation_origin",
    ),
    (dict(data__target="itm"), r"has the fields \['item', 'channel'\]"),
  ],
)
def test_mistakes_are_named(overrides, words):
  with pytest.raises(ValueError, match=words):
    make(**overrides)


def test_rows_of_days_are_refused():
  import fake

  cfg = fake_events.config(data__target="channel").data
  with pytest.raises(schema_lib.SchemaError, match="rows=event"):
    sequences.Sequences(fake.schema(), cfg)


@pytest.mark.parametrize(
  "length,start_token,words",
  [(1, False, "two events or more"), (0, True, "an event or more")],
)
def test_nothing_to_train_on_is_said_at_once(length, start_token, words):
  cfg = fake_events.config(data__start_token=start_token).data
  records = fake_events.Records(lengths=[length] * 5)
  with pytest.raises(
    ValueError, match=f"nothing to train on.*5 users.*{words}"
  ):
    sequences.train_iterator(records, cfg, (), 4, 0)


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(data__holdout="last"), "three events or more"),
    (
      dict(
        data__holdout="time",
        data__train_origin_last=9000,
        data__validation_origin=9000,
        data__test_origin=9001,
      ),
      "the data span days",
    ),
  ],
)
def test_nothing_to_predict_is_said_at_once(overrides, words):
  cfg = fake_events.config(**overrides).data
  records = fake_events.Records(lengths=[2] * 5)
  with pytest.raises(ValueError, match=f"5 users has an event.*{words}"):
    sequences.some_example(records, cfg, "test")
