"""The benchmark of rankers: features end before what is predicted."""

import pathlib
import runpy
import types

import fake_events
import fake_sessions
import numpy as np
import pytest

from lumos_jax.data import schema as schema_lib

SCRIPTS = pathlib.Path(__file__).parents[1] / "benchmarks"
USERS, DAYS = 4, 6


@pytest.fixture(name="ranking")
def script(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  found = runpy.run_path(str(SCRIPTS / "intent_ranking.py"))
  return types.SimpleNamespace(**found)


class Records(fake_sessions.Records):
  """Users of six sessions each; the last one of each is the test."""

  def __init__(self, path, topic=None):
    super().__init__(str(path), sessions=USERS * DAYS)
    rng = np.random.default_rng(5)
    tile = schema_lib.Label("next_tile", values=("topic 0", "topic 1"))
    labels = (tile,)
    object.__setattr__(self.schema, "labels", labels)
    everyone = [r for users in self._users.values() for r in users]
    for i, r in enumerate(everyone):
      r["key"] = f"u{i // DAYS}/{i % DAYS}"
      r["time"] = r["time"] * 0 + i % DAYS
      r["numeric"] = rng.exponential(size=(len(r["day"]), 1)).astype("f4")
      r["label_id"] = np.zeros(1, np.int32)
      r["label_value"] = rng.integers(0, 2, 1).astype(np.float32)
      if topic is not None and i % DAYS == DAYS - 2:
        r["categorical"][:, 0] = topic * 8 + 2
    last = [i % DAYS == DAYS - 1 for i in range(len(everyone))]
    pick = lambda held: [
      r for r, x in zip(everyone, last, strict=True) if x == held
    ]
    self._users = {"train": pick(False), "test": pick(True)}

  def source(self, split):
    return fake_events.Users(self._users[split])


def test_features_end_with_the_session_that_asks(ranking, tmp_path):
  fake_sessions.pages(tmp_path)
  config = fake_sessions.config()
  a, b = (
    ranking.Questions(Records(tmp_path, topic), config) for topic in (0, 2)
  )
  assert len(a.records) == USERS * DAYS
  assert [r["key"] for r in a.records[:2]] == ["u0/0", "u0/1"]
  # Session 4 of each user differs: nothing before it knows, all after it do.
  at = np.arange(USERS * DAYS) % DAYS
  vectors = np.random.default_rng(0).normal(size=(USERS * DAYS, 3))
  other = vectors.copy()
  other[at == 4] += 1.0
  changed = dict(history=[5], counts=[4, 5], vector=[4, 5])
  changed["history + vector"] = [4, 5]
  found = a.features(None) | a.features(vectors)
  moved = b.features(None) | b.features(other)
  for name, days in changed.items():
    rows = lambda blocks: np.concatenate(
      [x.toarray() if hasattr(x, "toarray") else x for x in blocks], 1
    )
    same = np.isclose(rows(found[name]), rows(moved[name]), atol=1e-6)
    differs = ~same.all(1)
    assert set(at[differs]) == set(days), name
  # The first session of a user has no history, whoever comes before.
  assert not a.history[at == 0].any()
  few = ranking.Questions(Records(tmp_path), config, users=2)
  assert len(few.records) == 2 * DAYS


def test_gains_are_relative_and_paired(ranking):
  rng = np.random.default_rng(0)
  y, user = rng.integers(0, 3, 300), np.repeat(np.arange(60), 5)
  flat = np.full((300, 3), 1 / 3)
  near = 0.9 * flat + 0.1 * np.eye(3)[rng.integers(0, 3, 300)]
  sharp = 0.5 * flat + 0.5 * np.eye(3)[y]
  names = ("history + vector", "both", "vector")
  run = dict.fromkeys(names, sharp) | dict(history=near, counts=sharp)
  found = ranking.gains(y, user, [run, run])
  gain = found["history + vector on history"]["log_loss_gain_percent"]
  loss = lambda p: -np.log(p[np.arange(300), y]).mean()
  assert gain.value == pytest.approx(100 * (loss(sharp) / loss(near) - 1))
  assert gain.low < gain.value < gain.high < 0
  assert found["both on counts"]["ndcg_gain_percent"] == (0, 0, 0)
