"""Whose sessions are, by links between visitors and users.

A visitor is a cookie or device; who was there is known from logins alone.
"""

import datetime

import polars as pl

_LINKS = ("visitor", "user", "start")
_SESSIONS = ("key", "visitor", "user", "start", "end", "login", "bot")
_NEVER = datetime.datetime(9999, 1, 1)  # Of a logout that is not known.


def logins(sessions: pl.DataFrame) -> pl.DataFrame:
  """The link table that the log itself gives: visitor, user and start."""
  known = sessions.filter(pl.col("user").is_not_null() & ~pl.col("bot"))
  return known.select("visitor", "user", start="login")


def usable(links: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
  """Links by visitor and start, in which a visitor has one user at a time.

  Args:
    links: Columns visitor, user, start (of the login) and perhaps until (the
      logout, exclusive; null where it is not known). Ids are taken as text, times
      as in UTC where they name no zone.

  Returns:
    The same with `until`, the latest of the user's links until then, cut where
    another user's login came sooner; and counts.

  Raises:
    ValueError: A column is absent or no time, or two users log in at one instant.
  """
  lost = [c for c in _LINKS if c not in links.columns]
  if lost:
    raise ValueError(f"the link table lacks {lost}; it has {links.columns}")
  if "until" not in links.columns:
    links = links.with_columns(until=pl.lit(None, pl.Datetime("us")))
  links = links.with_columns(
    pl.col("visitor", "user").cast(pl.String),
    moment(links, "start", "the link table"),
    moment(links, "until", "the link table"),
  )
  whole = links.drop_nulls(_LINKS)
  backward = (pl.col("until") <= pl.col("start")).fill_null(False)
  counts = {
    "links without visitor, user or start, left out": len(links) - len(whole),
    "links that end before they start, left out": int(
      whole.select(backward.sum()).item()
    ),
  }
  whole = whole.filter(~backward).unique().sort("visitor", "start", "user")
  twice = whole.group_by("visitor", "start").agg(pl.col("user").n_unique())
  if twice.filter(pl.col("user") > 1).height:
    n = twice.filter(pl.col("user") > 1).height
    raise ValueError(
      f"the link table has {n:,} instants at which one visitor is two users: "
      "keep one of them"
    )
  whole = whole.with_columns(_run=_runs())
  # Who logged in twice has left when the last of both has ended.
  latest = pl.col("until").fill_null(_NEVER).cum_max().over("visitor", "_run")
  end = pl.when(latest == _NEVER).then(None).otherwise(latest)
  whole = whole.with_columns(until=end)
  ends = pl.col("_run").shift(-1).over("visitor") != pl.col("_run")
  after = pl.col("start").shift(-1).over("visitor")
  whole = whole.with_columns(_next=pl.when(ends).then(after))
  following = pl.col("_next").backward_fill().over("visitor", "_run")
  clash = (pl.col("until") > following).fill_null(False)
  counts["links cut where another user logged in"] = int(
    whole.select(clash.sum()).item()
  )
  cut = pl.when(clash).then(following).otherwise(pl.col("until"))
  return whole.with_columns(until=cut).drop("_run", "_next"), counts


def _runs() -> pl.Expr:
  """Number of each stretch of a visitor's sorted links that are one user's."""
  other = pl.col("user") != pl.col("user").shift(1).over("visitor")
  return other.fill_null(True).cum_sum().over("visitor")


def moment(frame: pl.DataFrame, name: str, where: str) -> pl.Expr:
  """A column as times in UTC without a zone, in microseconds.

  Raises:
    ValueError: It is none.
  """
  kind, at = frame[name].dtype, pl.col(name)
  if kind == pl.String:
    try:
      at = at.str.to_datetime(time_unit="us", time_zone="UTC")
      kind = frame.select(at).to_series().dtype
    except pl.exceptions.PolarsError as e:
      raise ValueError(
        f"column {name!r} of {where} holds a text that is no time: {e}"
      ) from e
  if isinstance(kind, pl.Datetime) and kind.time_zone:
    at = at.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
  elif not isinstance(kind, pl.Datetime | pl.Date | pl.Null):
    raise ValueError(
      f"column {name!r} of {where} is {kind}, no date or time: read it as one"
    )
  return at.cast(pl.Datetime("us")).alias(name)


def link(
  sessions: pl.DataFrame, links: pl.DataFrame, days: float = 30
) -> tuple[pl.DataFrame, dict[str, int]]:
  """Whose each session is, and since when that is known.

  A session in which somebody was logged in is theirs, by the log or by the links:
  who logged in during it, or had and logged out later. Another anonymous one is of
  the visitor's next login, if it is at most `days` ahead. Always nobody else may
  have been there: before it nobody was known, or the same user, or the other one
  had logged out. All others stay without a user, as do sessions of bots.

  Args:
    sessions: sessions.parquet of a data set of source `clicks`.
    links: Of `usable`.
    days: From a session's end to the login.

  Returns:
    Columns key, user, known_at, of linked sessions; and counts.
  """
  lost = [c for c in _SESSIONS if c not in sessions.columns]
  if lost:
    raise ValueError(f"the table of sessions lacks {lost}")
  people = sessions.filter(~pl.col("bot"))
  own = people.filter(pl.col("user").is_not_null())
  unknown = people.filter(pl.col("user").is_null()).drop("user")
  links = links.sort("visitor", "start").with_columns(_run=_runs())
  links = links.sort("start")
  near_by = dict(by="visitor", check_sortedness=False)
  # The first login from the session's begin on, the last until its end, and the
  # last before it.
  found = unknown.sort("start").join_asof(
    links.select(
      "visitor", next_user="user", known_at="start", next_run="_run"
    ),
    left_on="start", right_on="known_at", strategy="forward", **near_by,
  )  # fmt: skip
  found = found.sort("end").join_asof(
    links.select("visitor", end_start="start", end_run="_run"),
    left_on="end", right_on="end_start", strategy="backward", **near_by,
  )  # fmt: skip
  found = found.sort("start").join_asof(
    links.select(
      "visitor", last_user="user", last_start="start", last_until="until"
    ),
    left_on="start", right_on="last_start", strategy="backward",
    allow_exact_matches=False, **near_by,
  )  # fmt: skip
  inside = (pl.col("known_at") <= pl.col("end")).fill_null(False)
  during = (pl.col("start") < pl.col("last_until")).fill_null(False) & ~inside
  near = pl.col("known_at") - pl.col("end") <= pl.duration(
    seconds=days * 86_400
  )
  free = (
    pl.col("last_user").is_null()
    | (pl.col("last_user") == pl.col("next_user"))
    | (pl.col("last_until") <= pl.col("start")).fill_null(False)
  )
  alone = ~inside | (pl.col("next_run") == pl.col("end_run"))
  some = pl.col("next_user").is_not_null()
  later = some & ~during
  linked = later & near & free & alone
  counts = {
    "sessions of bots, not linked": len(sessions) - len(people),
    "sessions of a known user": len(own),
    **found.select(
      during.sum().alias("sessions during a link"),
      (linked & inside).sum().alias("sessions with a login in them"),
      (linked & ~inside).sum().alias("sessions linked to a later login"),
      (~some & ~during).sum().alias("sessions with no later login"),
      (later & ~near).sum().alias("sessions too long before the login"),
      (later & near & ~(free & alone))
      .sum()
      .alias("sessions that may be another user's, not linked"),
    ).row(0, named=True),
  }
  whose = (
    pl.when(during).then(pl.col("last_user")).otherwise(pl.col("next_user"))
  )
  since = (
    pl.when(during).then(pl.col("last_start")).otherwise(pl.col("known_at"))
  )
  theirs = found.filter(linked | during).select(
    "key", user=whose, known_at=since
  )
  mine = own.select("key", "user", known_at="login")
  return pl.concat([mine, theirs]).sort("key"), counts
