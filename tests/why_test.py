"""Parts of a score add up, padding has none, and what they name matters."""

import functools

import fake_events
import jax
import numpy as np
import pytest
import tiny_hybrid

from lumos_jax import recipes, train, why
from lumos_jax.data import tasks as tasks_lib

RECORDS = fake_events.Records(users=16)
LONG = 7  # A user of 40 events.


@functools.cache
def explained(unit="event"):
  """A model that has learned a little."""
  c = tiny_hybrid.config("full", unit, optimizer__learning_rate=0.01)
  tasks = tasks_lib.from_config(c.tasks)
  recipe = recipes.build(c, RECORDS, tasks)
  trainer = train.Trainer(c, recipe, jax.devices()[:1])
  batches = recipe.inputs.train_iterator(RECORDS, c.data, tasks, 8, 0)
  state = trainer.init([next(batches) for _ in range(2)])
  for _ in range(15):
    state, _ = trainer.step(state, trainer.put(next(batches)))
  return why.Why(recipe, state["params"])


@pytest.mark.parametrize(
  "unit,place",
  [
    ("event", 30),
    pytest.param("user", 60, marks=pytest.mark.slow),
  ],
)
def test_parts_add_up_to_the_difference(unit, place):
  found = explained(unit).gradients(RECORDS.users[LONG], place)
  total = found.of_events.sum() + sum(found.of_context.values())
  total += found.of_profile
  whole = found.score - found.baseline
  assert found.residual == pytest.approx(whole - total, abs=1e-5)
  sizes = np.abs(found.of_events).sum() + abs(found.of_profile)
  sizes += sum(map(abs, found.of_context.values()))
  assert abs(found.residual) < 0.03 * sizes
  score = explained(unit).score(RECORDS.users[LONG], place)
  assert found.score == pytest.approx(score, abs=1e-5)
  # Amounts, profile and counts move along the line, too.
  assert found.of_profile != 0 and np.abs(found.of_events).min() > 0
  context = [k for k, v in found.of_context.items() if v]
  assert "profile/age" in context
  if unit == "event":
    assert "event/amount" in context


def test_padding_has_exactly_nothing():
  w, record = explained(), RECORDS.users[LONG]
  example = w._recipe.inputs.example(record, 5)
  batch = {k: np.asarray(v)[None] for k, v in example.items()}
  each, *_ = w._path(w._params, batch, w._blank(batch), 0)
  padding = batch["segment"][0] == 0
  assert padding.any()
  tokens = np.asarray(each["tokens"][0])
  assert (tokens[padding] == 0).all() and (tokens[~padding] != 0).any()
  found = w.gradients(record, 5)
  np.testing.assert_array_equal(found.events, np.arange(5))


def test_without_an_event_is_the_score_without_it():
  w, record = explained(), RECORDS.users[LONG]
  found = w.without(record, 20, most=12)
  np.testing.assert_array_equal(found.events, np.arange(8, 20))
  for i in (0, 11):
    less, place, begin = w.removed(record, 20, [found.events[i]])
    assert place == 19 and len(less["time"]) == len(record["time"]) - 1
    moved = found.score - w.score(less, place, begin)
    assert found.of_events[i] == pytest.approx(moved, abs=1e-5)


def test_events_that_are_named_move_the_score_more_than_random_ones():
  """Faithfulness: the top 3 are taken out together, against 3 at random."""
  w, rng = explained(), np.random.default_rng(0)
  named, random = [], []
  for user, place in ((7, 20), (7, 30), (7, 38), (15, 25), (15, 35), (6, 16)):
    record = RECORDS.users[user]
    found = w.without(record, place, most=12)
    # Those that move it in one direction do not cancel.
    sign = np.sign(found.of_events[np.argmax(np.abs(found.of_events))])
    top = found.events[np.argsort(-sign * found.of_events)[:3]]
    drawn = [rng.choice(found.events, 3, replace=False) for _ in range(4)]
    moved = [
      abs(found.score - w.score(*w.removed(record, place, events)))
      for events in (top, *drawn)
    ]
    named.append(moved[0])
    random += moved[1:]
  assert np.mean(named) > 1.2 * np.mean(random)


def test_other_recipes_are_refused():
  recipe = recipes.build(tiny_hybrid.backbone(), RECORDS, ())
  with pytest.raises(ValueError, match="only runs of recipe 'hybrid'"):
    why.Why(recipe, {})
  with pytest.raises(ValueError, match="no task 'rent'"):
    explained().score(RECORDS.users[LONG], 5, task="rent")
