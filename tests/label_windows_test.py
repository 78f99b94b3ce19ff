"""Origins of rows of events, of evaluations, and what excludes each other."""

import fake
import fake_events
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax import evaluators, recipes
from lumos_jax.data import origins as origins_lib
from lumos_jax.data import pipeline
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.models import habits


def busy(a_day):
  """A record of so many events every day, and its data set."""
  records = fake.Records(users=1, rows="event")
  seconds = np.arange(fake.DAYS * a_day) * (86_400 // a_day)
  n = len(seconds)
  record = records.users[0] | {
    "day": (seconds // 86_400).astype(np.int32),
    "time": seconds * 1_000_000,
    "categorical": np.full((n, 1), 2, np.int32),
    "numeric": np.ones((n, 3), np.float32),
  }
  return records, record


@pytest.mark.parametrize("a_day,kept", [(10, 1), (2, 3), (1, 4)])
def test_an_origin_without_its_history_has_no_label(a_day, kept):
  c = fake.config()
  tasks = tasks_lib.from_config(c.tasks)
  records, record = busy(a_day)
  make = pipeline.Example(records.schema, records.calendar, tasks, 56)
  origins = np.asarray([77, 84, 91, 98])
  out = make(record, origins)
  mask = out["label_mask"].all(1)
  assert (mask == out["label_mask"].any(1)).all() and mask.sum() == kept
  for origin, at, known in zip(origins, out["origin"], mask, strict=True):
    held = int(out["history_mask"][:at].sum())
    # Half of the 56 rows, or everything that happened.
    assert known == (held >= min(28, a_day * origin))


def test_a_short_history_is_whole_for_every_origin():
  c = fake.config()
  tasks = tasks_lib.from_config(c.tasks)
  records, record = busy(1)
  make = pipeline.Example(records.schema, records.calendar, tasks, 56)
  out = make(record, np.asarray([0, 7, 14, 21]))
  assert out["label_mask"].all()
  held = [int(out["history_mask"][:at].sum()) for at in out["origin"]]
  assert held == [0, 7, 14, 21]  # The first day had nothing before it.


@pytest.mark.parametrize(
  "overrides,words",
  [
    (
      dict(data__test_origin=111),
      "data.validation_origin = 98 and data.test_origin = 111 are of the same "
      "users, and their label windows of 14 days overlap",
    ),
    (
      dict(data__origins_per_example=9),
      "spans 56 days, and data.history_days = 56 leaves the first origin no",
    ),
  ],
)
def test_windows_that_overlap_are_refused(overrides, words):
  c = fake.config(**overrides)
  tasks = tasks_lib.from_config(c.tasks)
  with pytest.raises(ValueError, match=words):
    origins_lib.check_config(c.data, tasks)
  other = fake.config(data__test_origin=111, data__test_split="other")
  origins_lib.check_config(other.data, tasks)


def test_daily_values_of_a_static_task_are_refused():
  c = fake.config(data__daily_labels=True)
  tasks = [tasks_lib.Task("g", "binary", 14, label="grade", reduce="static")]
  with pytest.raises(ValueError, match=r"tasks \['g'\] with reduce = 'static'"):
    origins_lib.check_config(c.data, tasks)


def built(**settings):
  c, records = fake.config(), fake.Records()
  tasks = tasks_lib.from_config(c.tasks)
  evals = {"it": dict(type="forecast") | settings}
  return evaluators.build(evals, None, records, tasks, c.data, "unused")["it"]


@pytest.mark.parametrize(
  "settings,words",
  [
    (
      dict(origin=97),
      r"config.evals.it.origin = 97 lies inside the label window of the last "
      r"training origin.*set config.evals.it.seen = True",
    ),
    (
      dict(origin=111),
      "it.origin = 111 and data.validation_origin = 98 are of",
    ),
    (
      dict(origin=99, split="validation"),
      "it.origin = 99 and data.test_origin = 112 are of",
    ),
  ],
)
def test_an_origin_that_was_seen_needs_a_word(settings, words):
  with pytest.raises(ValueError, match=words):
    built(**settings)
  assert built(seen=True, **settings).origin == settings["origin"]


def test_origins_after_training_are_free():
  assert built(origin=126).origin == 126
  assert built(origin=98, split="validation").origin == 98


def test_habits_do_not_depend_on_the_length_of_rows():
  """Days since are of one scale, however many rows an evaluation reads."""
  schema, rng = fake.schema(), np.random.default_rng(0)
  habit = habits.Habits(schema, (7, 28), 4, 1, 14, [1], history_days=56)
  n = schema.numeric_width("activity")
  short = rng.integers(0, 2, (2, 56, n)) * 3.0
  calendar = rng.random((2, 120, 4))
  calendar[:, :64] = 0.0

  def features(t):
    wide = lambda x: np.concatenate([np.zeros((2, t - 56, x.shape[2])), x], 1)
    return habit(
      {
        "history_numeric": jnp.asarray(wide(short)),
        "history_mask": jnp.ones((2, t), bool),
        "history_calendar": jnp.asarray(calendar[:, -t:]),
        "future_calendar": jnp.zeros((2, 1, 14, 4)),
        "origin": jnp.full((2, 1), t),
      }
    )

  np.testing.assert_allclose(features(56), features(112), rtol=1e-6)


def test_a_batch_that_is_compared_whole_is_not_cut():
  c = fake_events.config(
    objective__contrastive_weight=0.1,
    model__profile_as="token",
    train__accumulate=2,
  )
  words = "train.accumulate = 2 cuts the batch, and objective.contrastive_w"
  with pytest.raises(ValueError, match=words):
    recipes.build(c, fake_events.Records(), ())
