"""What is the same for every user of a world: segments, seasons, campaigns.

Rates are visits a day. A lift is a log rate ratio, times the responsiveness of
the user's segment, on each day that a campaign runs for a user who got it.
"""

import dataclasses

import numpy as np

EPOCH = "2022-01-03"  # A Monday: day % 7 is the weekday.
HORIZON_DAYS = 28
SEGMENTS = ("casual", "weekly", "frequent", "seasonal")
SHARES = (0.35, 0.30, 0.20, 0.15)
LOG_RATE = np.log((0.05, 0.13, 0.35, 0.09))  # Median of a segment's users.
RESPONSIVENESS = np.asarray((1.0, 0.8, 0.5, 1.5))
CHURN_HAZARD = np.asarray((1 / 500, 1 / 900, 1 / 1500, 1 / 700))  # A day.
YEARLY_AMPLITUDE = np.asarray((0.15, 0.10, 0.10, 0.70))  # Of the log rate.
YEARLY_PEAK = np.asarray((172, 172, 172, 340))  # Day of the year.
WEEKLY = np.asarray(  # Monday first; each row's mean is 1.
  (
    (0.8, 0.8, 0.8, 0.9, 1.1, 1.5, 1.1),
    (0.7, 0.7, 0.8, 0.8, 1.2, 1.9, 0.9),
    (1.1, 1.1, 1.1, 1.1, 1.2, 0.8, 0.6),
    (0.6, 0.6, 0.6, 0.7, 1.1, 1.8, 1.6),
  )
)
DORMANT_RATE = 0.1  # Of a dormant user, of its own.
FALL_DORMANT, WAKE = 1 / 90, 1 / 30  # A day.
ACTIVE, DORMANT, CHURNED = 0, 1, 2

CATEGORIES = tuple(f"c{i:02d}" for i in range(24))
PRICES = np.exp(np.linspace(0.5, 3.5, len(CATEGORIES)))  # Median of an item.
ITEMS = 20  # Of a category.
MERCHANTS = 40
CHANNELS = ("store", "web", "app")
REGIONS = ("north", "east", "south", "west")
AMOUNT_SPREAD = 0.4  # Deviation of a log amount.

HOLIDAYS = (0, 104, 242, 356, 357)  # Days of a year that begins at the epoch.
ASSIGNMENTS = {
  "holiday": "everyone",
  "sale": "everyone",
  "mail": "at random",
  "coupon": "by activity",
}
LIFTS = {"holiday": -0.7, "sale": 0.4, "mail": 0.9, "coupon": 0.6}
INVITED_AT_RANDOM = 0.35
# Probability of a coupon: sigmoid(a + b log(1 + visits of 56 days)).
PROPENSITY, PROPENSITY_DAYS = (-3.0, 1.5), 56
_DAYS = {"sale": (5, 9), "mail": (14, 14), "coupon": (14, 14)}
_EVERY = {"sale": 56, "mail": 28, "coupon": 28}
_FIRST = {"sale": 20, "mail": 10, "coupon": 3}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A calendar entry; days [start, end), known from `announced` on."""

  kind: str
  group: str  # "" for everyone.
  start: int
  end: int
  announced: int
  discount: float


def generator(seed: int, *place: int) -> np.random.Generator:
  """Random numbers of a place in the world, whatever is drawn elsewhere."""
  return np.random.Generator(
    np.random.Philox(np.random.SeedSequence((seed, *place)))
  )


def calendar(seed: int, days: int) -> list[Entry]:
  """All entries that begin before day `days` + HORIZON_DAYS, by start.

  Campaigns are announced HORIZON_DAYS ahead, so that at an origin all of its
  horizon's are known. Two of a kind never overlap, and each stretch of
  HORIZON_DAYS from a multiple of it on has a mail and a coupon that begin in it.
  """
  rng, out = generator(seed, 0), []
  for kind, every in _EVERY.items():
    # The longest world first: a longer one has the same campaigns.
    for k in range(1, 400):
      start = _FIRST[kind] + every * k + int(rng.integers(0, 14))
      length = int(rng.integers(_DAYS[kind][0], _DAYS[kind][1] + 1))
      discount = round(float(rng.uniform(0.05, 0.3)), 2)
      group = "" if ASSIGNMENTS[kind] == "everyone" else f"{kind}-{k:03d}"
      known = start - HORIZON_DAYS
      out.append(Entry(kind, group, start, start + length, known, discount))
  for year in range(30):
    for day in HOLIDAYS:
      start = 365 * year + day
      out.append(Entry("holiday", "", start, start + 1, -1, 0.0))
  out = [e for e in out if e.start < days + HORIZON_DAYS]
  return sorted(out, key=lambda e: (e.start, e.kind))


def origins(days: int) -> tuple[int, int]:
  """Validation and test origin: the last two whole horizons of the data."""
  return days - 2 * HORIZON_DAYS, days - HORIZON_DAYS


def describe(seed: int, days: int) -> dict:
  """The parameters, for truth.json."""
  per = lambda values: dict(zip(SEGMENTS, map(float, values), strict=True))
  return {
    "seed": seed,
    "epoch": EPOCH,
    "days": days,
    "horizon_days": HORIZON_DAYS,
    "segments": per(SHARES),
    "rate_a_day": per(np.exp(LOG_RATE)),
    "responsiveness": per(RESPONSIVENESS),
    "churn_hazard_a_day": per(CHURN_HAZARD),
    "yearly_amplitude": per(YEARLY_AMPLITUDE),
    "yearly_peak": per(YEARLY_PEAK),
    "weekly": {s: WEEKLY[i].tolist() for i, s in enumerate(SEGMENTS)},
    "dormant": {
      "rate": DORMANT_RATE,
      "fall_a_day": FALL_DORMANT,
      "wake_a_day": WAKE,
    },
    "log_rate_ratio": LIFTS,
    "assignment": ASSIGNMENTS,
    "invited_at_random": INVITED_AT_RANDOM,
    "propensity": {
      "sigmoid_of": "a + b log1p(visits)",
      "a": PROPENSITY[0],
      "b": PROPENSITY[1],
      "days": PROPENSITY_DAYS,
    },
    "calendar": [
      dataclasses.asdict(e) for e in calendar(seed, days) if e.group
    ],
  }
