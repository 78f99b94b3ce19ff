"""Data sets: where rows come from, what is asked, what is held out, lengths.

Each function sets the keys of config.data that the config's recipe has: those
of days with a calendar (data/pipeline.py), of sequences of events
(data/sequences.py), or of points that are scored (data/scoring.py); and evaluators
of questions that are its own.
"""

import pathlib

from lumos_jax.config import ConfigError


def _forecasts(c) -> bool:
  """Whether the recipe reads days and forecasts tasks."""
  return "history_days" in c.data


def _sequences(c) -> bool:
  """Whether the recipe reads sequences of events."""
  return "overlap" in c.data


def _texts(c) -> bool:
  """Whether the recipe reads users told as text."""
  return "holdout_share" in c.data


def _sessions(c) -> bool:
  """Whether the recipe reads sessions of clicks."""
  return "page_fields" in c.data


def _scores(c) -> bool:
  """Whether the recipe scores points."""
  return "unit" in c.data


def complete_journey(c, path: str = "") -> None:
  """Purchases of 2,469 households in a year; needs no file."""
  del path
  d = c.data
  d.source = "complete_journey"
  # Label windows of 28 days must not overlap: 281 + 28 = 309, 309 + 28 = 337.
  d.validation_origin, d.test_origin = 309, 337
  if _forecasts(c):
    c.tasks = dict(
      churn=dict(kind="binary", field="baskets", reduce="none"),
      redeem=dict(kind="binary", field="redemptions", reduce="any"),
      active7=dict(
        kind="binary", field="baskets", reduce="any", horizon_days=7
      ),
      seafood=dict(kind="binary", field="department=SEAFOOD", reduce="any"),
      spend=dict(kind="regression", field="sales"),
      trips=dict(kind="regression", field="baskets"),
    )
    # Earlier origins than day 84 have too little history to be like the test's.
    d.train_origin_first, d.train_origin_last = 84, 281
    d.history_days, d.eval_history_days = 280, 336
    d.origins_per_example, d.origin_stride_days = 14, 14
    d.origin_jitter_days = 13
    # What if the campaigns of type B that open after the origin came earlier
    # or later? One of them opens two days after it.
    move = dict(op="move", match=dict(type="Type B", start=339), days=7)
    c.evals.what_if = dict(
      type="what_if", edits=[move], sweep_days=(-2, 7, 14, 21), over="changed"
    )
  if _scores(c):
    # After a basket's line: is a coupon redeemed in the week from the next day on?
    c.tasks = dict(
      redeem=dict(
        kind="binary", field="redemptions", reduce="any", horizon_days=7
      )
    )
    d.options, d.unit, d.points_per_user = dict(rows="event"), "event", 20
    d.history_events = 100
    d.train_origin_first, d.train_origin_last = 84, 281
  if _sequences(c):
    d.options = dict(rows="event")
    d.target, d.holdout, d.filter_seen = "token", "time", False
    d.train_origin_last = 309
    d.sequence_length, d.overlap, d.segments = 512, 64, 4
  if _texts(c):
    d.options, d.target = dict(rows="event"), "token"
    d.train_origin_last = 309


def oulad(c, path: str = "") -> None:
  """Online students' clicks, submissions and withdrawal (OULAD)."""
  d = c.data
  d.source = "oulad"
  d.validation_split, d.test_split = "validation", "test"
  if path:
    d.options = dict(path=path)
  if _texts(c):
    # A line a day, without its zeros: a line a page has five times the tokens.
    d.text.form, d.text.forms = "brief", ("brief",)
    # 18 of 38 weeks, of which all presentations have clicks. Who has left by
    # then says so by silence: ask of those who are still there.
    d.train_origin_last = d.validation_origin = d.test_origin = 126
    return
  if not _forecasts(c):
    d.options = dict(d.options, rows="event")
  if _sequences(c):
    d.target, d.holdout, d.filter_seen = "activity_type", "time", False
    # Of other students all is known, to the end of their courses.
    d.train_origin_last, d.validation_origin, d.test_origin = 280, 98, 126
    d.sequence_length, d.overlap, d.segments = 128, 16, 4
    return
  withdrawn = dict(
    kind="binary", label="withdrawn", reduce="any", horizon_days=28
  )
  if _scores(c):
    c.tasks = dict(withdrawn=withdrawn)
    d.train_origin_first, d.train_origin_last = 14, 224
    d.validation_origin = d.test_origin = 98
    d.origin_stride_days, d.last_events, d.history_events = 14, 5, 100
    return
  c.tasks = dict(
    clicks=dict(kind="regression", field="clicks", horizon_days=14),
    submits=dict(
      kind="binary", field="submissions", reduce="any", horizon_days=14
    ),
    withdrawn=withdrawn,
  )
  # Other students, so that label windows of the splits may overlap in days.
  d.train_origin_first, d.train_origin_last = 14, 224
  d.validation_origin = d.test_origin = 98
  d.history_days = d.eval_history_days = 252
  d.origins_per_example, d.origin_stride_days = 16, 14
  d.origin_jitter_days = 13


def movielens(c, path: str = "") -> None:
  """MovieLens-1M: a million ratings by 6,040 users, whose gender is known."""
  d = c.data
  d.source = "movielens"
  d.options = dict(path=path) if path else {}
  d.target = "item"
  if _sequences(c):
    d.holdout = "last"
    d.sequence_length, d.overlap, d.segments = 200, 40, 8
  c.evals.gender = dict(type="probe", label="gender")


def tabformer(c, path: str = "") -> None:
  """Credit-card payments; `path` is card_transaction.v1.csv."""
  d = c.data
  d.source = "tabformer"
  d.options = dict(path=path)
  # Days from 1990 on: 2018-01-01, until which the source fits, and 2019-01-01.
  d.train_origin_last = d.validation_origin = 10227
  d.test_origin = 10592
  if _scores(c):
    c.tasks = dict(fraud=dict(kind="binary", label="fraud", reduce="event"))
    d.unit, d.last_events, d.history_events = "event", 2, 100
    c.evals.risk = dict(type="risk", amount="event/amount")
    return
  d.target, d.holdout, d.filter_seen = "token", "time", False
  d.sequence_length, d.overlap, d.segments = 256, 32, 4


def credit_default(c, path: str = "") -> None:
  """Six monthly statements of credit-card clients, then default or not (UCI)."""
  d = c.data
  d.source = "credit_default"
  d.options = dict(path=path) if path else {}
  d.validation_split, d.test_split = "validation", "test"
  if _sequences(c):
    d.target, d.holdout, d.filter_seen = "token", "time", False
    # Of training clients all statements; of others the last two are ranked.
    d.train_origin_last, d.validation_origin, d.test_origin = 183, 152, 182
    d.sequence_length, d.overlap, d.segments = 64, 1, 12
    return
  if _texts(c):
    d.target = "status"
    d.text.fields = ("status", "billed", "paid", "billed_share", "paid_share")
    d.train_origin_last = d.validation_origin = d.test_origin = 183
    d.sequence_length = 320  # Six statements in any form.
    c.evals.default = dict(type="probe", label="default")
    return
  # As of the 1st of October; clients are held out, not days.
  c.tasks = dict(
    default=dict(kind="binary", label="default", reduce="any", horizon_days=31)
  )
  d.train_origin_first = d.train_origin_last = 183
  d.validation_origin = d.test_origin = 183
  d.last_events, d.history_events = 6, 8  # All there are.


def _published(c, path: str, name: str, file: str) -> None:
  """Item sequences with attributes, without times, in `path`."""
  d = c.data
  d.source = "sequences"
  d.options = dict(
    path=str(pathlib.Path(path) / f"{file}.txt.gz"),
    attributes=f"{file}_item2attributes.json.gz",
    name=name,
  )
  d.target, d.holdout = "item", "last"
  d.sequence_length, d.overlap, d.segments = 64, 8, 32


def beauty(c, path: str = "") -> None:
  """Amazon Beauty: 22,363 users, 12,101 items."""
  _published(c, path, "beauty", "Beauty")


def sports(c, path: str = "") -> None:
  """Amazon Sports and Outdoors."""
  _published(c, path, "sports", "Sports_and_Outdoors")


def toys(c, path: str = "") -> None:
  """Amazon Toys and Games."""
  _published(c, path, "toys", "Toys_and_Games")


def yelp(c, path: str = "") -> None:
  """Yelp's reviews."""
  _published(c, path, "yelp", "Yelp")
  c.data.filter_seen = False  # Users come back to a place.


def _pages(c, source: str, path: str, length: int, segments: int) -> None:
  """Sessions of pages: their source, T, and sessions in a row of T."""
  d = c.data
  d.source, d.target = source, "page"
  d.options = dict(path=path) if path else {}
  d.validation_split, d.test_split = "validation", "test"
  d.sequence_length, d.segments = length, segments


def wikispeedia(c, path: str = "") -> None:
  """Wikispeedia: 76 thousand click paths between Wikipedia's articles."""
  _pages(c, "wikispeedia", path, 32, 8)
  # Will it reach its target? The first four pages say.
  c.evals.conversion = dict(type="conversion", label="finished", clicks=4)
  # Do sessions fall into the categories of their pages?
  c.evals.intent = dict(type="intent")


def complete_journey_baskets(c, path: str = "") -> None:
  """Complete Journey's baskets as sessions, and the next one's department."""
  _pages(c, "complete_journey_baskets", path, 64, 12)
  c.evals.ranking = dict(type="tiles", label="next_tile")


def oulad_clicks(c, path: str = "") -> None:
  """OULAD's days as sessions: submissions ahead, the next day's tile."""
  _pages(c, "oulad_clicks", path, 32, 12)
  c.evals.conversion = dict(type="conversion", label="submits")
  c.evals.ranking = dict(type="tiles", label="next_tile")


def msweb(c, path: str = "") -> None:
  """Visits to areas of a web site, in no order: hidden pages, no positions."""
  _pages(c, "msweb", path, 40, 16)
  c.model.positions = "none"


def diginetica(c, path: str = "") -> None:
  """Diginetica's click sessions: the next item of each prefix (causal)."""
  _pages(c, "diginetica", path, 32, 12)


def clicks(c, path: str = "") -> None:
  """A raw click log in `path`: visitor, time and url a row (docs/clicks.md)."""
  _pages(c, "clicks", path, 64, 16)
  c.data.page_fields = ("part1", "part2")


# By what a recipe reads; a data set may serve both.
DAYS = dict(complete_journey=complete_journey, oulad=oulad)
SEQUENCES = dict(
  complete_journey=complete_journey,
  credit_default=credit_default,
  movielens=movielens,
  oulad=oulad,
  tabformer=tabformer,
  beauty=beauty,
  sports=sports,
  toys=toys,
  yelp=yelp,
)
SCORED = dict(
  credit_default=credit_default,
  oulad=oulad,
  complete_journey=complete_journey,
  tabformer=tabformer,
)
SESSIONS = dict(
  clicks=clicks,
  complete_journey_baskets=complete_journey_baskets,
  diginetica=diginetica,
  msweb=msweb,
  oulad_clicks=oulad_clicks,
  wikispeedia=wikispeedia,
)
# Clicks of a session in no known order.
UNORDERED = ("complete_journey_baskets", "msweb", "oulad_clicks")
# Pages without a text.
UNTITLED = ("diginetica",)
TEXTS = dict(
  complete_journey=complete_journey,
  credit_default=credit_default,
  movielens=movielens,
  oulad=oulad,
)
# Sequences whose events have times, and their users profiles.
TIMED = (
  "complete_journey",
  "credit_default",
  "movielens",
  "oulad",
  "tabformer",
)


def use(c, name: str, path: str = "") -> None:
  """Sets config.data, the tasks of a recipe that forecasts, own evaluators.

  Args:
    c: A default config of any recipe, not locked.
    name: Of the data set.
    path: Of its files, where it takes one.

  Raises:
    ConfigError: There is no such data set for what the recipe reads.
  """
  known = (DAYS if _forecasts(c) else {}) | (SEQUENCES if _sequences(c) else {})
  known |= SCORED if _scores(c) else {}
  known |= TEXTS if _texts(c) else {}
  known |= SESSIONS if _sessions(c) else {}
  if name not in known:
    raise ConfigError(
      f"config argument data={name!r} is unknown; for recipe {c.recipe!r} there "
      f"are {list(known)}"
    )
  known[name](c, path)
