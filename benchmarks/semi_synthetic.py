"""Real histories with a known effect of a calendar entry planted in them.

Households of Complete Journey keep their days; in place of its calendar stand
campaigns of one kind, a new one every 28 days, each for some of the households.
On each day that one runs for an invited household, a visit is added with a known
probability where there was none. What that does to an outcome is known from the
real days: nothing is simulated but the campaigns.
"""

import dataclasses

import numpy as np

from lumos_jax import config as config_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib

KIND = "trial"
LENGTH_DAYS = 14
EVERY_DAYS = 28
ASSIGNMENTS = ("at random", "by activity")
FIELD = "baskets"
OPTIONS = dict(
  fields="sales,quantity,baskets", promotions=False, holidays=False
)


def config(root: str, own_window: bool = True):
  """A small model of three tasks, two of which have windows of 14 days.

  Args:
    root: Of data sets.
    own_window: Whether a task sees the calendar of its own window alone.
  """
  c = config_lib.default("lumos")
  c.name = "semi_synthetic" if own_window else "semi_synthetic_whole_calendar"
  c.model.own_window = own_window
  c.tasks = dict(
    active7=dict(kind="binary", field=FIELD, reduce="any", horizon_days=7),
    active14=dict(kind="binary", field=FIELD, reduce="any", horizon_days=14),
    trips=dict(kind="regression", field=FIELD, horizon_days=14),
  )
  d = c.data
  d.source, d.root, d.options = "complete_journey", root, OPTIONS
  d.train_origin_first, d.train_origin_last = 84, 281
  d.validation_origin, d.test_origin = 309, 337
  d.history_days, d.eval_history_days = 140, 140
  d.origins_per_example, d.origin_stride_days = 10, 14
  d.origin_jitter_days = 13
  config_lib.set_size(c, "tiny")
  m = c.model
  m.patch_days, m.habit_days = 7, (7, 28, 112)
  o = c.optimizer
  o.learning_rate, o.warmup_steps = 3e-3, 20
  c.train.batch_size, c.train.ema_decay = 32, 0.98
  return c


class Planted:
  """A prepared data set with campaigns planted; offers what `Records` does.

  Attributes:
    invited: bool [users, campaigns].
    rate: Probability of an added visit on a day without one.
    starts: First day of each campaign.
  """

  def __init__(self, records, assignment: str, seed: int):
    """Plants campaigns in the users of split "train".

    Args:
      records: An open `Records` of rows of days.
      assignment: One of ASSIGNMENTS.
      seed: Of campaigns, invitations and visits.
    """
    if assignment not in ASSIGNMENTS:
      raise ValueError(f"assignment {assignment!r}; use one of {ASSIGNMENTS}")
    rng = np.random.default_rng((seed, ASSIGNMENTS.index(assignment)))
    self.stats, self.path, self.splits = records.stats, records.path, ["train"]
    self.schema = dataclasses.replace(
      records.schema,
      calendar=(schema_lib.Categorical("type", values=(KIND,)),),
    )
    self._column = self.schema.numeric_column("activity", FIELD)
    self.real = [dict(r) for r in records.source("train")]
    last = self.schema.last_day
    self.starts = np.arange(1, last, EVERY_DAYS)
    # Near the front of a window, so that a week's task has something to see.
    self.starts += rng.integers(0, 4, len(self.starts))
    self.rate = float(rng.uniform(0.01, 0.05))
    n, groups = len(self.real), len(self.starts)
    self.calendar = calendar_lib.Calendar(
      self.schema,
      ("", *(f"{KIND}{i}" for i in range(groups))),
      group=np.arange(1, groups + 1),
      start=self.starts,
      end=self.starts + LENGTH_DAYS,
      announced=np.full(groups, calendar_lib.ALWAYS_KNOWN),
      categorical=np.full((groups, 1), schema_lib.FIRST_VALUE),
      numeric=np.zeros((groups, 0)),
    )
    # Visits of each day [users, days], as they were.
    self.visits = np.zeros((n, last), bool)
    for i, r in enumerate(self.real):
      self.visits[i, r["day"]] = r["numeric"][:, self._column] > 0
    self.invited = np.stack(
      [self._invite(rng, assignment, s) for s in self.starts], 1
    )
    lived = self.visits.copy()
    for g, start in enumerate(self.starts):
      days = slice(start, min(start + LENGTH_DAYS, last))
      more = rng.random(lived[:, days].shape) < self.rate
      lived[:, days] |= more & self.invited[:, [g]]
    self.users = [self._user(rng, i, lived[i]) for i in range(n)]

  def _invite(self, rng, assignment: str, start: int) -> np.ndarray:
    n = len(self.real)
    if assignment == "at random":
      return rng.random(n) < 0.5
    before = np.log1p(self.visits[:, max(0, start - 56) : start].sum(1))
    z = (before - before.mean()) / max(before.std(), 1e-9)
    return rng.random(n) < 1 / (1 + np.exp(-1.5 * z))

  def _user(self, rng, i: int, lived: np.ndarray) -> dict:
    """The record with rows of the added visits: copies of rows of its own."""
    r = self.real[i]
    added = np.flatnonzero(lived & ~self.visits[i]).astype(np.int32)
    out = {
      **r,
      "groups": (1 + np.flatnonzero(self.invited[i])).astype(np.int32),
    }
    own = np.flatnonzero(r["numeric"][:, self._column] > 0)
    if not len(added) or not len(own):
      return out
    rows = rng.choice(own, len(added))
    numeric = r["numeric"][rows].copy()
    numeric[:, self._column] = 1.0
    keep = ~np.isin(r["day"], added)  # A day of coupons alone has a row.
    day = np.concatenate([r["day"][keep], added])
    at = np.argsort(day, kind="stable")
    join = lambda a, b: np.concatenate([a[keep], b])[at]
    return out | {
      "day": day[at],
      "numeric": join(r["numeric"], numeric),
      "categorical": join(r["categorical"], r["categorical"][rows]),
    }

  def source(self, split: str) -> list[dict]:
    """All users."""
    del split
    return self.users

  def resampled(self, seed: int) -> "Resampled":
    """As many users, drawn with replacement."""
    return Resampled(self, seed)

  def effect(self, task, origin: int) -> np.ndarray:
    """What the campaigns of a task's window did to its outcome, float [users].

    The expectation over the added visits, given the real days.
    """
    days = np.arange(origin, origin + task.horizon_days)
    chance = np.zeros((len(self.real), len(days)))
    for g, start in enumerate(self.starts):
      on = (days >= start) & (days < start + LENGTH_DAYS)
      chance[:, on] = self.rate * self.invited[:, [g]]
    was = self.visits[:, days[0] : days[-1] + 1]
    chance = np.where(was, 0.0, chance)
    if task.kind == "regression":
      return chance.sum(1)
    return np.where(was.any(1), 0.0, 1 - np.prod(1 - chance, 1))


class Resampled:
  """Planted data with another sample of its users, to train a member on."""

  def __init__(self, planted: Planted, seed: int):
    self.schema, self.calendar = planted.schema, planted.calendar
    self.stats, self.path = planted.stats, planted.path
    self.splits = planted.splits
    users = planted.source("train")
    rng = np.random.default_rng(seed)
    self._users = [users[i] for i in rng.integers(0, len(users), len(users))]

  def source(self, split: str) -> list[dict]:
    """The drawn users."""
    del split
    return self._users
