"""A block of users: what they are, and what happens to them day by day.

A block's random numbers depend on the world's seed and the block's number alone,
and always are those of BLOCK users: a user is the same in a world of any size.
Letters: B users of a block, D days, E entries of the calendar.
"""

import dataclasses

import numpy as np

from . import spec

BLOCK = 1000


@dataclasses.dataclass
class Block:
  """B users, simulated.

  Attributes:
    first: Number of the first user.
    segment, region, age, registered: [B].
    items: Mean items of a visit beyond the first [B].
    redeems: Probability that a visit redeems a running coupon [B].
    price: Log of a user's own price level [B].
    taste: Probabilities of categories [B, categories].
    hour: Of most visits [B].
    channel: Probabilities [B, channels].
    log_rate: Of visits without campaigns that are not everyone's [D, B].
    churn: Hazard a day [B].
    invited: bool [E, B]; everyone's entries are all True.
    lift: float [E], of the log rate at responsiveness 1.
    running: bool [D, E].
    state: int8 [D, B], after the day's transition.
    visit, redeemed: bool [D, B].
    rng: For what is drawn from here on.
  """

  first: int
  segment: np.ndarray
  region: np.ndarray
  age: np.ndarray
  registered: np.ndarray
  items: np.ndarray
  redeems: np.ndarray
  price: np.ndarray
  taste: np.ndarray
  hour: np.ndarray
  channel: np.ndarray
  log_rate: np.ndarray
  churn: np.ndarray
  invited: np.ndarray
  lift: np.ndarray
  running: np.ndarray
  state: np.ndarray
  visit: np.ndarray
  redeemed: np.ndarray
  rng: np.random.Generator

  @property
  def responsiveness(self) -> np.ndarray:
    """Of each user [B]."""
    return spec.RESPONSIVENESS[self.segment]


def simulate(seed: int, number: int, days: int, entries) -> Block:
  """The users of a block over `days` days.

  Args:
    seed: Of the world.
    number: Of the block.
    days: D.
    entries: Of `spec.calendar`.
  """
  rng, n = spec.generator(seed, 1 + number), BLOCK
  segment = rng.choice(len(spec.SEGMENTS), n, p=spec.SHARES)
  old = rng.random(n) < 0.7
  registered = np.where(
    old, -rng.integers(1, 700, n), rng.integers(0, days * 3 // 4, n)
  )
  own = rng.normal(0.0, 0.5, n)  # Log rate beside the segment's.
  trend = rng.normal(0.0, 0.4, n)  # Of the log rate, a year.
  favourite = rng.integers(0, 7, n)
  churn = spec.CHURN_HAZARD[segment] * np.exp(rng.normal(0.0, 0.4, n))
  center = rng.dirichlet(np.ones(len(spec.CATEGORIES)) * 0.3, n)
  # A segment's users share half of their taste.
  shared = spec.generator(seed, 0, 1).dirichlet(
    np.ones(len(spec.CATEGORIES)) * 0.5, len(spec.SEGMENTS)
  )
  taste = 0.5 * center + 0.5 * shared[segment]
  day = np.arange(days)
  season = np.cos(
    2 * np.pi * (day[:, None] - spec.YEARLY_PEAK[segment]) / 365.25
  )
  week = spec.WEEKLY[segment].T[day % 7]
  # One day in seven is twice as likely; the mean over the week stays.
  week = week * np.where(favourite == (day % 7)[:, None], 2.0, 1.0) * 7 / 8
  log_rate = spec.LOG_RATE[segment] + own + trend * (day[:, None] / 365.25)
  log_rate = log_rate + spec.YEARLY_AMPLITUDE[segment] * season + np.log(week)
  lift = np.asarray([spec.LIFTS[e.kind] for e in entries])
  running = np.stack([(day >= e.start) & (day < e.end) for e in entries], 1)
  block = Block(
    first=number * n,
    segment=segment,
    region=rng.integers(0, len(spec.REGIONS), n),
    age=rng.integers(18, 80, n),
    registered=registered,
    items=rng.uniform(0.3, 2.0, n),
    redeems=rng.beta(2.0, 3.0, n),
    price=rng.normal(0.0, 0.3, n),
    taste=taste,
    hour=np.clip(rng.normal(14.0, 3.0, n), 8, 20),
    channel=rng.dirichlet(np.ones(len(spec.CHANNELS)), n),
    log_rate=log_rate,
    churn=churn,
    invited=np.ones((len(entries), n), bool),
    lift=lift,
    running=running,
    state=np.zeros((days, n), np.int8),
    visit=np.zeros((days, n), bool),
    redeemed=np.zeros((days, n), bool),
    rng=rng,
  )
  _live(block, entries, days)
  return block


def _live(block: Block, entries, days: int) -> None:
  """Fills invitations, states and visits, day by day."""
  rng, n = block.rng, len(block.segment)
  draw = rng.random((len(entries), n))
  moves = rng.random((days, n), np.float32)
  visits = rng.random((days, n), np.float32)
  redeems = rng.random((days, n), np.float32)
  rate = np.exp(block.log_rate)
  everyone = [i for i, e in enumerate(entries) if not e.group]
  rate *= (
    np.exp(block.running[:, everyone] @ block.lift[everyone])[:, None]
    ** block.responsiveness
  )
  announced: dict[int, list[int]] = {}
  for i, e in enumerate(entries):
    if e.group:
      announced.setdefault(max(e.announced, 0), []).append(i)
  coupon = np.zeros((days, n), bool)
  state = np.full(n, spec.ACTIVE, np.int8)
  fall, wake = np.float32(spec.FALL_DORMANT), np.float32(spec.WAKE)
  for d in range(days):
    for i in announced.get(d, ()):
      invited = draw[i] < _propensity(block, entries[i].kind, d)
      invited &= block.registered <= d
      block.invited[i] = invited
      on = block.running[:, i]
      factor = np.exp(block.lift[i] * block.responsiveness)
      rate[on] *= np.where(invited, factor, 1.0)
      if entries[i].kind == "coupon":
        coupon[on] |= invited
    there = block.registered <= d
    u = moves[d]
    gone = u < block.churn
    turn = u > 1 - np.where(state == spec.ACTIVE, fall, wake)
    state = np.where(turn & (state != spec.CHURNED), 1 - state, state)
    state = np.where(gone | (state == spec.CHURNED), spec.CHURNED, state)
    state = np.where(there, state, spec.ACTIVE).astype(np.int8)
    block.state[d] = state
    scale = _SCALE[state] * there
    p = -np.expm1(-rate[d] * scale)
    block.visit[d] = visits[d] < p
  block.redeemed[...] = block.visit & coupon & (redeems < block.redeems)


_SCALE = np.asarray((1.0, spec.DORMANT_RATE, 0.0))


def _propensity(block: Block, kind: str, day: int):
  """Probability of an invitation on the day that a campaign is announced."""
  if kind == "mail":
    return spec.INVITED_AT_RANDOM
  before = block.visit[max(0, day - spec.PROPENSITY_DAYS) : day].sum(0)
  a, b = spec.PROPENSITY
  return 1 / (1 + np.exp(-(a + b * np.log1p(before))))
