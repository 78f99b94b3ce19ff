"""A hybrid scores kept states as it scores whole windows, at every length."""

import fake_events
import jax
import numpy as np
import pytest
import tiny_hybrid
from load_test import saved

from lumos_jax.data import instants
from lumos_jax.serving import states as states_lib

RAW = ("time", "categorical", "numeric")
WINDOW = 8
# Units, ways of tuning, and what a backbone may be told or point at, each once.
FORMS = {
  "events": (
    dict(unit="event"),
    dict(
      data__start_token=True,
      data__filter_seen=False,
      model__profile_as="position",
      model__sprm="paper",
      model__copy=True,
      model__time_bias=True,
      model__target_time=True,
      objective__gap_weight=0.1,
      objective__attribute_weight=0.1,
    ),
  ),
  "users": (
    dict(unit="user", tune="lora"),
    dict(
      data__start_token=True,
      model__profile_as="token",
      model__sprm="release",
      model__n_encoder_layers=2,
    ),
  ),
  "no start": (
    dict(unit="event", tune="full"),
    dict(
      data__start_token=False,
      data__holdout="time",
      model__positions="rotary",
      model__tell_later=True,
    ),
  ),
}


def opened(folder, form):
  settings, backbone = form
  config = tiny_hybrid.config(**settings, data__history_events=WINDOW)
  with config.unlocked():
    over = fake_events.config(**{"data__sequence_length": 20} | backbone)
    config.model.backbone = over.to_dict()
    config.model.cnn_events = 5
  run = saved(folder, config, fake_events.Records(users=4))[0]
  return run.predictor, states_lib.States(run.predictor, batch_size=3)


@pytest.fixture(scope="module", params=list(FORMS))
def form(request, tmp_path_factory):
  return opened(tmp_path_factory.mktemp("hybrid"), FORMS[request.param])


def events(record, start, stop):
  return {name: record[name][start:stop] for name in RAW}


def test_kept_states_score_as_whole_windows(form):
  predictor, states = form
  recipe = predictor.recipe
  inputs, whole = recipe.inputs, jax.jit(predictor.alone(recipe.predict))
  rng = np.random.default_rng(0)
  records = [fake_events.record(rng, i, 24) for i in range(3)]
  profiles = [(r["profile_categorical"], r["profile_numeric"]) for r in records]
  kept, compared = [states.new(p) for p in profiles], 0
  looks = None
  for count in range(23):
    if kept[0].rows:
      if inputs.users:  # As of the first day after `count` events.
        places = [int(instants.days(r)[count]) for r in records]
        told = [inputs.events_before(r, n) for r, n in zip(records, places)]
        known = [states.rebuild([events(r, 0, n)], [p])[0]
                 for r, n, p in zip(records, told, profiles)]  # fmt: skip
        some = [k if n == count else s
                for k, s, n in zip(kept, known, told)]  # fmt: skip
        more = None
      else:
        places, some = [count] * 3, kept
        more = [events(r, count, count + 1) for r in records]
      parts = [inputs.example(r, n) for r, n in zip(records, places)]
      batch = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
      at = [n * instants.DAY_SECONDS * 1_000_000 for n in places]
      right = whole(batch)["buys"][:, 0]
      found = states.risk(some, at, batch["context"], more)["buys"]
      np.testing.assert_allclose(found, right, rtol=2e-4, atol=2e-5)
      assert np.ptp(found) > 1e-4
      compared += 1
      if states.direct:
        if some is not kept:
          _, looks = states.append_looks(some, [events(records[0], 0, 0)] * 3)
        given = some, at, batch["context"], more, looks
        again = states.risk(*given)["buys"]
        np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-6)
    more = [events(r, count, count + 1) for r in records]
    if states.direct:
      kept, looks = states.append_looks(kept, more)
    else:
      kept = states.append(kept, more)
  assert compared >= 22


def test_a_user_without_events_is_read_beside_others_that_were_looked_at(
  tmp_path,
):
  # A start token is as old as the event after it.
  start = dict(data__start_token=True, model__time_bias=True)
  predictor, states = opened(tmp_path, (dict(unit="event"), start))
  assert states.direct
  record = fake_events.record(np.random.default_rng(2), 0, 9)
  one = states.append([states.new()], [events(record, 0, 8)])[0]
  some, looks = states.append_looks(
    [states.new(), one], [events(record, 0, 0)] * 2
  )
  more = [events(record, 0, 1), events(record, 8, 9)]
  context = np.zeros((2, len(predictor.recipe.inputs.context.names)))
  wanted = states.risk(some, [0, 0], context, more)["buys"]
  found = states.risk(some, [0, 0], context, more, looks)["buys"]
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  # Without a look at the second either.
  alone = states.risk([one], [0], context[:1], more[1:])["buys"]
  np.testing.assert_allclose(found[1:], alone, rtol=1e-4)
  assert abs(found[0] - found[1]) > 1e-5


def test_a_window_begins_where_a_kept_state_does(form):
  predictor, states = form
  inputs = predictor.recipe.inputs
  record = fake_events.record(np.random.default_rng(1), 0, 40)
  token = int(inputs.sequences.cfg.start_token)
  state = states.new()
  for cut in range(1, 40):
    state = states.append([state], [events(record, cut - 1, cut)])[0]
    assert inputs.sequences.held(cut) == state.begin - token
    assert state.held <= WINDOW
