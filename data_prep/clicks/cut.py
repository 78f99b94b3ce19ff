"""Cuts a visitor's clicks into sessions, by one rule for every engine.

Instants are microseconds. A pause longer than the limit ends a session, one of
exactly the limit does not; midnight ends nothing. A known user who is not the last
known one ends a session too; a login of somebody unknown so far does not. What a
session is depends on the visitor's clicks alone, not on how they came: in files of
a day, in any order, late.
"""

import urllib.parse

import polars as pl

MINUTE = 60_000_000
# Columns that `sessions` reads; others stay as they are.
_NEEDED = ("visitor", "instant", "user", "session")
# Equal instants are ordered by what stands in the rows.
_ORDER = ("visitor", "instant", "user", "page", "event")


def clocks(
  frame: pl.DataFrame,
  tolerance_seconds: float,
  now: int,
  pause_minutes: float = 30,
) -> tuple[pl.DataFrame, dict[str, int]]:
  """Adds `instant`: the client's time where it agrees with arrival.

  One clock orders all clicks of a visitor between which no arrival is missing for
  longer than the pause: two, click by click, could turn an order on which both agree.

  Args:
    frame: Columns visitor, and time and arrival, int64 microseconds or null.
    tolerance_seconds: What the two may differ by. Where they differ by more for one
      click of a stretch, the stretch's times are arrival's.
    now: Microseconds; a time beyond it, without an arrival that says better, is
      no time: null. An arrival beyond it says nothing.
    pause_minutes: As of `sessions`.

  Returns:
    The frame, and counts.
  """
  time, arrival = pl.col("time"), pl.col("arrival")
  late = (arrival > now).fill_null(False)
  future = late | ((time > now) & arrival.is_null()).fill_null(False)
  both = time.is_not_null() & arrival.is_not_null() & ~late
  off = both & ((time - arrival).abs() > tolerance_seconds * 1e6)
  frame = frame.with_row_index("_row").sort("visitor", "arrival")
  gap = arrival.diff().over("visitor") > int(pause_minutes * MINUTE)
  stretch = gap.fill_null(True).cum_sum().over("visitor")
  frame = frame.with_columns(_stretch=stretch)
  away = off.any().over("visitor", "_stretch")
  frame = frame.with_columns(_away=away).sort("_row")
  away = pl.col("_away")
  instant = (
    pl.when(future)
    .then(None)
    .when(time.is_null() | (both & away))
    .then(arrival)
    .otherwise(time)
  )
  ahead = both & (time - arrival > tolerance_seconds * 1e6)
  counts = frame.select(
    (both & ~away).sum().alias("clicks ordered by the client's clock"),
    (both & away)
    .sum()
    .alias("clicks ordered by arrival, the client's clock being off"),
    ahead.sum().alias("clicks whose client's clock was ahead of arrival"),
    future.sum().alias("clicks with a time in the future"),
  ).row(0, named=True)
  frame = frame.with_columns(instant=instant)
  return frame.drop("_row", "_stretch", "_away"), counts


def sessions(
  frame: pl.DataFrame, pause_minutes: float = 30, scope: str = "visitor"
) -> pl.DataFrame:
  """Adds `key`, the session of each click, and puts clicks in order.

  Args:
    frame: Columns visitor, instant, user and session (null where not given).
    pause_minutes: A longer pause ends a session. Where `session` is given, it is
      the session, whatever pauses it has; another known user ends it, too.
    scope: Whether a given session id is unique within a "visitor" (the rule), or
      "everywhere".

  Returns:
    The rows by key and instant.
  """
  order = [c for c in _ORDER if c in frame.columns]
  frame = frame.sort(order, nulls_last=False, maintain_order=True)
  frame = frame.with_columns(_block=_blocks(pause_minutes))
  # Who was there before a pause says nothing of who came after it.
  known = pl.col("user").forward_fill().over("visitor", "_block")
  frame = frame.with_columns(_known=known)
  before = pl.col("_known").shift(1).over("visitor", "_block")
  other = (pl.col("user") != before).fill_null(False)
  first = pl.int_range(pl.len()).over("visitor", "_block") == 0
  given = pl.col("session").is_not_null()
  frame = frame.with_columns(_new=(first | other))
  number = pl.col("_new").cum_sum().over("visitor")
  frame = frame.with_columns(_number=number)
  start = pl.col("instant").min().over("visitor", "_number")
  frame = frame.with_columns(_start=start)
  # Two users at one instant: the second session's start is the first's.
  twin = pl.col("_number") - pl.col("_number").min().over("visitor", "_start")
  at = pl.col("_start").cast(pl.Datetime("us")).dt.strftime("%Y%m%dT%H%M%S%.6f")
  found = pl.format("{}/{}", _quoted("visitor"), at)
  found = (
    pl.when(twin > 0).then(pl.format("{}/{}", found, twin)).otherwise(found)
  )
  of = ["visitor", "session"]
  own = pl.format("{}/s/{}", _quoted("visitor"), _quoted("session"))
  if scope == "everywhere":
    own, of = pl.format("s/{}", _quoted("session")), ["session"]
  # Who was there last, within a given session.
  mine = pl.col("user").forward_fill().over(of, order_by="instant")
  frame = frame.with_columns(_mine=mine)
  last = pl.col("_mine").shift(1).over(of, order_by="instant")
  passed = (pl.col("user") != last).fill_null(False)
  frame = frame.with_columns(_passed=passed)
  turn = pl.col("_passed").cum_sum().over(of, order_by="instant")
  frame = frame.with_columns(_turn=turn)
  turn = pl.col("_turn")
  own = pl.when(turn > 0).then(pl.format("{}/{}", own, turn)).otherwise(own)
  frame = frame.with_columns(key=pl.when(given).then(own).otherwise(found))
  extra = [c for c in frame.columns if c.startswith("_")]
  return frame.drop(extra).sort("key", "instant", maintain_order=True)


def _blocks(pause_minutes: float) -> pl.Expr:
  """Number of each stretch of a visitor's sorted clicks without a long pause."""
  gap = pl.col("instant").diff().over("visitor")
  long = (gap > int(pause_minutes * MINUTE)).fill_null(True)
  return long.cum_sum().over("visitor")


def _quoted(name: str) -> pl.Expr:
  """A part of a key, in which no "/" stands for itself."""
  quote = lambda s: urllib.parse.quote(s, safe=" :@,+=~!*'()")
  return pl.col(name).map_elements(quote, return_dtype=pl.String)


def dwell(frame: pl.DataFrame, views: pl.Expr) -> pl.DataFrame:
  """Adds `dwell_seconds` of page views: until the session's next page view.

  Views of one instant share the time until the next; the last ones' is missing,
  as it is of all that is no page view.
  """
  own = frame.filter(views).group_by("key", "instant").len("_views")
  own = own.sort("key", "instant")
  after = pl.col("instant").shift(-1).over("key") - pl.col("instant")
  own = own.with_columns(_dwell=after / 1e6 / pl.col("_views"))
  frame = frame.join(
    own, on=["key", "instant"], how="left", maintain_order="left"
  )
  seconds = pl.when(views).then(pl.col("_dwell")).cast(pl.Float64)
  return frame.with_columns(dwell_seconds=seconds).drop("_views", "_dwell")


def bots(
  frame: pl.DataFrame, clicks_per_minute: int, hours: float
) -> pl.Series:
  """Visitors that are no people, by rule.

  Args:
    frame: Columns visitor, key and instant.
    clicks_per_minute: More within any 60 seconds are too fast.
    hours: A session that goes on for longer never ends.

  Returns:
    Their ids, sorted.
  """
  frame = frame.sort("visitor", "instant")
  back = pl.col("instant").shift(clicks_per_minute).over("visitor")
  fast = frame.filter((pl.col("instant") - back) < MINUTE)
  span = frame.group_by("visitor", "key").agg(
    (pl.col("instant").max() - pl.col("instant").min()).alias("span")
  )
  endless = span.filter(pl.col("span") > hours * 60 * MINUTE)
  found = pl.concat([fast["visitor"], endless["visitor"]])
  return found.unique().sort()


def closed(
  frame: pl.DataFrame, pause_minutes: float, watermark: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
  """Parts clicks whose sessions have ended from those that may go on.

  For who builds sessions day by day: the second part is carried to the next day
  and cut again with it. Sessions are then those of one run, as long as no click
  comes that is older than the watermark, and no session id is given: of such a
  session no pause says that it is over.

  Args:
    frame: Clicks with `key`.
    pause_minutes: As of `sessions`.
    watermark: Microseconds; every click before it is there.
  """
  frame = frame.sort("visitor", "instant", maintain_order=True)
  frame = frame.with_columns(_block=_blocks(pause_minutes))
  last = pl.col("instant").max().over("visitor", "_block")
  over = last + int(pause_minutes * MINUTE) < watermark
  found = frame.filter(over), frame.filter(~over)
  return tuple(f.drop("_block") for f in found)
