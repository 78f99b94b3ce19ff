"""Appended states equal a pass over the whole history, at every length."""

import types

import fake_events
import numpy as np
import pytest
from load_test import saved
from recomputed import Recomputed, first_events

from lumos_jax import recipes
from lumos_jax.data.windows import held_from
from lumos_jax.recipes import lumos as lumos_recipe
from lumos_jax.serving import states as states_lib
from lumos_jax.serving import stored

RAW = ("time", "categorical", "numeric")
CLOSE = dict(rtol=3e-5, atol=3e-5)
# Of what a causal PANTHER can be set to, each at least once.
FORMS = {
  "panther": dict(
    data__holdout="time",
    data__filter_seen=False,
    model__tell_later=True,
    model__time_bias=True,
    model__profile_as="position",
    model__sprm="paper",
    model__cosine=True,
    model__copy=True,
    model__n_encoder_layers=2,
    objective__gap_weight=0.1,
    objective__attribute_weight=0.1,
    objective__bag_width=4,
  ),
  "large": dict(
    model__positions="rotary",
    model__profile_as="token",
    model__sprm="release",
    model__scan_layers=True,
    model__n_encoder_layers=2,
    data__sequence_length=7,
  ),
  "hstu": dict(
    model__attention="pointwise",
    model__positions="sinusoidal",
    model__norm="post",
    model__d_ff=0,
    model__time_bias=True,
    model__target_time=True,
    data__start_token=False,
  ),
}
SLOW_FORMS = {
  "bsarec": dict(model__sprm="bsarec", data__sequence_length=5),
  "tvrec": dict(
    model__sprm="tvrec", model__attention="none", model__positions="none"
  ),
  "sprm alone": dict(
    model__sprm="paper", model__attention="none", model__norm="post"
  ),
  "ids alone": dict(model__use_fields=False, model__use_attributes=False),
  "one row": dict(data__sequence_length=1, data__overlap=0),
  "two rows": dict(data__sequence_length=2, data__overlap=0),
  "bfloat16": dict(model__dtype="bfloat16"),
}


def users(count, most, seed=0):
  """Histories whose events often share an instant."""
  rng = np.random.default_rng(seed)
  out = []
  for i in range(count):
    record = fake_events.record(rng, i, most)
    again = rng.random(most) < 0.25
    for j in np.flatnonzero(again[1:]) + 1:
      record["time"][j] = record["time"][j - 1]
    out.append(record)
  return out


def events(record, start, stop):
  return {name: record[name][start:stop] for name in RAW}


def profile(record):
  return record["profile_categorical"], record["profile_numeric"]


def opened(folder, form, batch_size=4):
  settings = {"data__sequence_length": 6, "data__overlap": 2} | form
  config = fake_events.config(**settings)
  if settings["data__sequence_length"] <= 2:
    with config.unlocked():
      config.data.overlap = 0
  run = saved(folder, config, fake_events.Records(users=4))[0]
  made = states_lib.States(run.predictor, batch_size)
  return made, Recomputed(run.predictor), run.predictor


def probabilities(found, size):
  p = np.zeros((len(found["value"]), size))
  at = np.arange(len(p))[:, None]
  np.add.at(p, (at, found["value"]), found["probability"])
  p[:, 0] = 0
  return p


def check_equal(made, whole, records, states, count, close=CLOSE):
  """States after `count` events say what the histories say."""
  known = [first_events(r, count) for r in records]
  found = made.embedding(states)
  np.testing.assert_allclose(found, whole.embedding(known), **close)
  if not count and not whole.data.start_token:
    with pytest.raises(states_lib.NotAsked, match="has no events"):
      made.next_events(states)
    return
  # The next event, which is not appended yet.
  at = [int(r["time"][count]) for r in records]
  more = [events(r, count, count + 1) for r in records]
  right = whole.asked(known, at, [e["categorical"][0] for e in more])
  found = made.next_events(states, whole.values, at)
  found = probabilities(found, whole.values)
  np.testing.assert_allclose(found, right["probability"], **close)
  found = made.deviation(states, more)
  np.testing.assert_allclose(
    found[:, [0, 2]], right["deviation"][:, [0, 2]], **close
  )
  # Ranks may change where two values are as likely to the last bits.
  np.testing.assert_allclose(found[:, 1], right["deviation"][:, 1], atol=0.8)
  np.testing.assert_allclose(found[:, 3:], right["deviation"][:, 3:], **close)


def check_every_length(made, whole, records, close=CLOSE):
  most = len(records[0]["time"]) - 1
  states = [made.new(profile(r)) for r in records]
  for count in range(most + 1):
    check_equal(made, whole, records, states, count, close)
    assert {s.count for s in states} == {count}
    assert {s.rows - s.begin <= whole.data.sequence_length for s in states} == {
      True
    }
    if count < most:
      more = [events(r, count, count + 1) for r in records]
      states = made.append(states, more)


@pytest.fixture(scope="module", params=list(FORMS))
def form(request, tmp_path_factory):
  return opened(tmp_path_factory.mktemp("form"), FORMS[request.param])


def test_events_one_by_one_equal_the_whole_history(form):
  made, whole, _ = form
  check_every_length(made, whole, users(4, 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SLOW_FORMS))
def test_other_forms_equal_the_whole_history(name, tmp_path):
  made, whole, _ = opened(tmp_path, SLOW_FORMS[name])
  close = CLOSE if name != "bfloat16" else dict(rtol=0.1, atol=0.1)
  check_every_length(made, whole, users(4, 16), close)


@pytest.mark.slow
def test_a_thousand_histories(tmp_path):
  form = FORMS["panther"] | {"data__sequence_length": 12}
  made, whole, _ = opened(tmp_path, form, batch_size=64)
  rng = np.random.default_rng(3)
  records, steps = users(1000, 41, seed=1), []
  states = [made.new(profile(r)) for r in records]
  at = np.zeros(1000, int)
  while (at < 40).any():
    # Each user goes on by its own number of events, none included.
    by = np.minimum(rng.choice([0, 1, 1, 1, 2, 7, 19], 1000), 40 - at)
    more = [events(r, a, a + b) for r, a, b in zip(records, at, by)]
    states, at = made.append(states, more), at + by
    steps += by.tolist()
    known = [first_events(r, a) for r, a in zip(records, at)]
    # All windows of all users again: of some users at each length.
    some = slice(rng.integers(4), None, 4)
    found = made.embedding(states[some])
    np.testing.assert_allclose(found, whole.embedding(known[some]), **CLOSE)
    when = [int(r["time"][a]) for r, a in zip(records, at)]
    found = made.next_events(states, whole.values, when)
    ids = [r["categorical"][a] for r, a in zip(records, at)]
    right = whole.asked(known, when, ids)["probability"]
    np.testing.assert_allclose(
      probabilities(found, whole.values), right, **CLOSE
    )
  found = made.embedding(states)
  np.testing.assert_allclose(found, whole.embedding(known), **CLOSE)
  assert set(steps) >= {0, 1, 2, 7, 19}


def same(made, a, b, close=CLOSE):
  assert [s.count for s in a] == [s.count for s in b]
  np.testing.assert_allclose(made.embedding(a), made.embedding(b), **close)
  x, y = (made.expect(s, [s.last_time + 1 for s in s]) for s in (a, b))
  for name in x:
    np.testing.assert_allclose(x[name], y[name], **close)


def test_pieces_of_any_size_give_the_same_state(form):
  made, _, _ = form
  (record,) = users(1, 17, seed=5)
  (once,) = made.rebuild([record], [profile(record)])
  for sizes in ((3, 14), (7, 1, 9), (1, 5, 5, 6), (16, 1), (0, 17)):
    (state,), at = [made.new(profile(record))], 0
    for size in sizes:
      (state,) = made.append([state], [events(record, at, at + size)])
      at += size
    same(made, [once], [state])


def test_users_of_a_batch_do_not_meet(form):
  made, _, _ = form
  records = users(7, 9, seed=6)
  profiles = [profile(r) for r in records]
  together = made.rebuild(records, profiles)
  alone = [made.rebuild([r], [p])[0] for r, p in zip(records, profiles)]
  same(made, together, alone)


def test_a_state_may_be_appended_to_twice(form):
  """A what-if does not change the state that it begins with."""
  made, _, _ = form
  a, b = users(2, 12, seed=7)
  b["time"] = np.maximum(b["time"], a["time"][8])
  # Within a window, and where one begins.
  for count, more in ((1, 2), (9, 3)):
    (state,) = made.rebuild([first_events(a, count)], [profile(a)])
    before = made.to_bytes(state)
    (one,) = made.append([state], [events(a, count, count + more)])
    after = made.to_bytes(one)
    (other,) = made.append([state], [events(b, count, count + more)])
    assert made.to_bytes(state) == before
    assert made.to_bytes(one) == after
    (again,) = made.append([state], [events(a, count, count + more)])
    assert made.to_bytes(again) == after
    assert not np.allclose(made.embedding([one]), made.embedding([other]))


def test_bytes_bring_a_state_back(form):
  made, _, _ = form
  records = users(3, 14, seed=8)
  for count in (0, 1, 6, 13):
    parts = [first_events(r, count) for r in records]
    states = made.rebuild(parts, [profile(r) for r in records])
    stored_ = [made.to_bytes(s) for s in states]
    back = [made.from_bytes(x) for x in stored_]
    assert [made.to_bytes(s) for s in back] == stored_
    np.testing.assert_array_equal(made.embedding(back), made.embedding(states))
    more = [events(r, count, 14) for r in records]
    same(
      made,
      made.append(back, more),
      made.append(states, more),
      dict(rtol=0, atol=0),
    )


def test_bytes_of_another_model_or_format_are_stale(form):
  made, _, _ = form
  (state,) = made.rebuild(users(1, 5))
  found = made.to_bytes(state)
  assert stored.model_of(found) == made.model_hash
  assert stored.model_of(b"LJ") == stored.model_of(b"x" * 99) == ""
  other = stored.to_bytes(state, "0" * 16)
  with pytest.raises(states_lib.StaleState, match="of model 0000000000000000"):
    made.from_bytes(other)
  later = found[:4] + b"\x63\x00" + found[6:]
  with pytest.raises(states_lib.StaleState, match="format 99"):
    made.from_bytes(later)
  for damaged in (
    b"",
    found[:20],
    found[:-1],
    found + b"\0",
    b"not a state of anybody at all, and long",
    found[:60] + bytes([found[60] ^ 1]) + found[61:],
  ):
    with pytest.raises(states_lib.StaleState):
      made.from_bytes(damaged)


def test_older_events_are_named_and_change_nobody(form):
  made, _, _ = form
  a, b = users(2, 6, seed=9)
  states = made.rebuild([first_events(a, 4), first_events(b, 4)])
  before = [made.to_bytes(s) for s in states]
  late = {**events(b, 4, 6)}
  late["time"] = np.asarray([b["time"][3], b["time"][0] - 1])
  with pytest.raises(states_lib.OutOfOrder, match="user 1: event 1 is older"):
    made.append(states, [events(a, 4, 6), late])
  late["time"] = np.asarray([b["time"][3] - 1, b["time"][3]])
  with pytest.raises(states_lib.OutOfOrder, match="user 1: event 0 is older"):
    made.append(states, [events(a, 4, 6), late])
  with pytest.raises(states_lib.OutOfOrder, match="user 0: event 0"):
    made.deviation(states[1:], [{k: x[:1] for k, x in late.items()}])
  assert [made.to_bytes(s) for s in states] == before


def test_events_of_other_columns_are_named(form):
  made, _, _ = form
  (record,) = users(1, 4)
  for name in ("categorical", "numeric"):
    for bad in (record[name][:3], record[name][:, :0], record[name][:, 0]):
      with pytest.raises(ValueError, match=f"user 0: {name} has shape"):
        made.append([made.new()], [record | {name: bad}])


def test_ties_keep_data_preps_order_where_it_is_known(form):
  made, _, _ = form
  (record,) = users(1, 3)
  record["time"][:] = record["time"][0]
  tied = lambda i, tie: (
    events(record, i, i + 1) | {"tie": np.asarray([tie], np.uint64)}
  )
  (state,) = made.append([made.new()], [tied(0, 5)])
  made.append([state], [tied(1, 5)])
  made.append([state], [events(record, 1, 2)])
  with pytest.raises(states_lib.OutOfOrder, match="instant of the last one"):
    made.append([state], [tied(1, 4)])


def test_an_expectation_is_fixed_before_the_event_is_seen(form):
  made, _, predictor = form
  records = users(3, 8, seed=10)
  states = made.rebuild([first_events(r, 7) for r in records])
  seen = []
  for item in (2, 9, 20):
    more = [events(r, 7, 8) for r in records]
    for e in more:
      e["categorical"] = np.full_like(e["categorical"], item)
    found = made.deviation(states, more)
    seen.append(found[:, made.features.index("entropy")])
  np.testing.assert_array_equal(seen[0], seen[1])
  np.testing.assert_array_equal(seen[0], seen[2])
  at = [int(r["time"][7]) for r in records]
  np.testing.assert_array_equal(made.expect(states, at)["entropy"], seen[0])
  # One state, several events of a call.
  twice = made.deviation(
    [states[0]] * 3, [events(r, 7, 8) for r in records[:1]] * 3
  )
  np.testing.assert_array_equal(twice[0], twice[2])
  if predictor.config.model.target_time:
    with pytest.raises(states_lib.NotAsked, match="model.target_time"):
      made.next_events(states)
  else:
    assert made.next_events(states, 3)["value"].shape == (3, 3)


def test_nothing_compiles_once_all_is_compiled(form):
  made, _, _ = form
  made.compile(k=3, seen=32)
  programs = made._reader._programs
  before = {name: f._cache_size() for name, f in programs.items()}
  assert set(before.values()) == {1}
  records = users(5, 30, seed=11)
  for count, some in ((4, records), (30, records[:1]), (11, records[:3])):
    parts = [first_events(r, count) for r in some]
    states = made.rebuild(parts, [profile(r) for r in some])
    made.next_events(states, 3, [s.last_time for s in states])
    made.embedding(states)
    made.deviation(states, [events(r, count - 1, count) for r in some])
  assert {name: f._cache_size() for name, f in programs.items()} == before


def test_a_user_whose_numbers_are_none_harms_no_other(form):
  made, _, _ = form
  records = users(4, 5, seed=12)
  states = made.rebuild(records)
  before = made.embedding(states)
  bad = {**records[0], "numeric": np.full((5, 1), np.inf, np.float32)}
  broken = made.rebuild([bad] * 4)
  assert not np.isfinite(made.embedding(broken)).all()
  short = made.rebuild([first_events(r, 1) for r in records])
  more = [events(r, 1, 5) for r in records]
  after = made.embedding(made.append(short, more))
  np.testing.assert_allclose(after, before, **CLOSE)


def test_windows_begin_where_the_number_of_rows_says():
  for length in (1, 2, 5, 6):
    begins = [held_from(rows, length) for rows in range(40)]
    assert begins[: length + 1] == [0] * (length + 1)
    held = np.arange(length + 1, 40) - np.asarray(begins[length + 1 :])
    assert held.max() <= length and held.min() == length // 2 + 1
    assert begins == sorted(begins)


def test_what_cannot_go_on_is_refused_by_name():
  lumos = types.SimpleNamespace(recipe=lumos_recipe.Lumos)
  with pytest.raises(states_lib.CannotAppend, match="recipe 'lumos'"):
    states_lib.States(lumos)
  config = fake_events.config(model__masked=True, model__use_fields=False)
  recipe = recipes.build(config, fake_events.Records(users=4), ())
  with pytest.raises(states_lib.CannotAppend, match="model.masked = True"):
    states_lib.States(types.SimpleNamespace(recipe=recipe))
