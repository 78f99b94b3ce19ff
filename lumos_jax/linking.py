r"""Links sessions of unknown visitors to the users who log in later.

  lumos link --data_dir=data/clicks --vectors=sessions --out=rows.parquet \
    [--links=links.parquet] [--days=30]

--vectors is a table of `lumos sessions`. The result has a row a linked session: key
(the user), time, session and the vector, ready to stand among a user's rows as a
`Vector` field. `time` is when the row was known: the session's end or, if later,
the login that tells whose it was. A model that reads rows before its origin
therefore sees only links that were known by then.

With --events=FILE (--key=, --time= name its columns) the result is that table with two
columns more: session_vector, the mean vector of the user's sessions that were known
before the event, and session_count. Source `tables` reads it.
"""

import argparse
import sys
from collections.abc import Sequence

import polars as pl
from absl import app
from absl.flags import argparse_flags
from etils import epath

from lumos_jax import session_table
from lumos_jax.data import records as records_lib

ERRORS = (ValueError, OSError)
_LINKS = ("visitor", "user", "start")
VECTOR, COUNT = "session_vector", "session_count"  # Columns of events.
_SESSIONS = ("key", "visitor", "user", "start", "end", "login", "bot")


def logins(sessions: pl.DataFrame) -> pl.DataFrame:
  """The link table that the log itself gives: visitor, user and start."""
  known = sessions.filter(pl.col("user").is_not_null() & ~pl.col("bot"))
  return known.select("visitor", "user", start="login")


def usable(links: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
  """Links by visitor and start, in which a visitor has one user at a time.

  Args:
    links: Columns visitor, user, start (of the login) and perhaps until (the
      logout, exclusive; null where it is not known).

  Returns:
    The same with `until`, cut where another user's login came sooner; and counts.

  Raises:
    ValueError: A column is absent, or two users log in at one instant.
  """
  lost = [c for c in _LINKS if c not in links.columns]
  if lost:
    raise ValueError(f"the link table lacks {lost}; it has {links.columns}")
  if "until" not in links.columns:
    links = links.with_columns(until=pl.lit(None, links["start"].dtype))
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
  following = pl.col("start").shift(-1).over("visitor")
  other = pl.col("user").shift(-1).over("visitor") != pl.col("user")
  clash = (other & (pl.col("until") > following)).fill_null(False)
  counts["links cut where another user logged in"] = int(
    whole.select(clash.sum()).item()
  )
  return whole.with_columns(
    until=pl.when(clash).then(following).otherwise(pl.col("until"))
  ), counts


def link(
  sessions: pl.DataFrame, links: pl.DataFrame, days: float = 30
) -> tuple[pl.DataFrame, dict[str, int]]:
  """Whose each session is, and since when that is known.

  A session in which somebody was logged in is theirs. An anonymous one is of the
  visitor's next login, if it is at most `days` ahead and nobody else can have been
  there: before it nobody was known, or the same user, or the other one had logged
  out. All others stay without a user, as do sessions of bots.

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
  links = links.sort("start")
  after = unknown.sort("end").join_asof(
    links.select("visitor", next_user="user", known_at="start"),
    left_on="end", right_on="known_at", by="visitor", strategy="forward",
    check_sortedness=False,
  )  # fmt: skip
  both = after.sort("start").join_asof(
    links.select(
      "visitor", last_user="user", last_start="start", last_until="until"
    ),
    left_on="start", right_on="last_start", by="visitor", strategy="backward",
    check_sortedness=False,
  )  # fmt: skip
  near = pl.col("known_at") - pl.col("end") <= pl.duration(
    seconds=days * 86_400
  )
  free = (
    pl.col("last_user").is_null()
    | (pl.col("last_user") == pl.col("next_user"))
    | (pl.col("last_until") <= pl.col("start")).fill_null(False)
  )
  some = pl.col("next_user").is_not_null()
  counts = {
    "sessions of bots, not linked": len(sessions) - len(people),
    "sessions of a known user": len(own),
    **both.select(
      (some & near & free).sum().alias("sessions linked to a later login"),
      (~some).sum().alias("sessions with no later login"),
      (some & ~near).sum().alias("sessions too long before the login"),
      (some & near & ~free)
      .sum()
      .alias("sessions that may be another user's, not linked"),
    ).row(0, named=True),
  }
  found = both.filter(some & near & free).select(
    "key", user="next_user", known_at="known_at"
  )
  mine = own.select("key", "user", known_at="login")
  return pl.concat([mine, found]).sort("key"), counts


def rows(
  sessions: pl.DataFrame, linked: pl.DataFrame, vectors: pl.DataFrame
) -> pl.DataFrame:
  """Rows of users: key, time, session and vector, by user and time.

  Args:
    sessions: As of `link`.
    linked: Of `link`.
    vectors: Columns key and embedding.

  Raises:
    ValueError: A linked session has no vector.
  """
  found = linked.join(sessions.select("key", "end"), on="key").join(
    vectors.select("key", "embedding"), on="key", how="left"
  )
  lost = found["embedding"].null_count()
  if lost:
    raise ValueError(
      f"{lost:,} of {len(found):,} linked sessions have no vector: write the table "
      "of all sessions (lumos sessions without --first) of the same data set"
    )
  width = found["embedding"].dtype.size
  return found.select(
    key="user",
    time=pl.max_horizontal("end", "known_at"),
    session="key",
    vector=pl.col("embedding").cast(pl.List(pl.Float32))
    if width is None
    else pl.col("embedding").arr.to_list(),
  ).sort("key", "time", "session")


def features(found: pl.DataFrame, moments: pl.DataFrame) -> pl.DataFrame:
  """The mean vector of each user's sessions that were known by a moment.

  Args:
    found: Of `rows`.
    moments: Columns key and as_of (exclusive); one row a question.

  Returns:
    `moments` in their order with sessions (how many), and vector; null without.
  """
  width = int(found["vector"].list.len().max() or 0)
  names = [f"_{i}" for i in range(width)]
  number = pl.int_range(1, pl.len() + 1).over("key").alias("sessions")
  total = lambda i: (
    pl.col("vector").list.get(i).cast(pl.Float64).cum_sum().over("key")
  )
  sums = found.sort("key", "time").select(
    "key",
    pl.col("time").alias("_time"),
    number,
    *(total(i).alias(n) for i, n in enumerate(names)),
  )
  asked = moments.with_row_index("_row").sort("as_of", maintain_order=True)
  out = asked.join_asof(
    sums.sort("_time", maintain_order=True),
    left_on="as_of", right_on="_time", by="key", strategy="backward",
    allow_exact_matches=False, check_sortedness=False,
  ).sort("_row")  # fmt: skip
  mean = pl.lit(None, pl.List(pl.Float32))
  if names:
    mean = pl.concat_list(pl.col(n) / pl.col("sessions") for n in names)
    mean = mean.cast(pl.List(pl.Float32))
  known = pl.col("sessions").is_not_null()
  return out.select(
    *moments.columns,
    pl.col("sessions").fill_null(0).cast(pl.UInt32),
    pl.when(known).then(mean).alias("vector"),
  )


def joined(
  events: pl.DataFrame,
  found: pl.DataFrame,
  key: str = "key",
  time: str = "time",
) -> tuple[pl.DataFrame, dict[str, int]]:
  """A user's events, each with what their sessions say by its time.

  For a description of tables (source `tables`) with the fields
  Vector("session_vector", size=E) and Numeric("session_count"). A session counts
  from the moment on at which it had ended and its user was known: an event knows
  none of a later login.

  Args:
    events: Users' rows, with columns of these names.
    found: Of `rows`.
    key, time: Columns of the user's id and of the time, a date or datetime.

  Returns:
    The events in their order with session_vector (null before the first session)
    and session_count; and counts.

  Raises:
    ValueError: A column is absent, taken or no time.
  """
  lost = [c for c in (key, time) if c not in events.columns]
  if lost:
    raise ValueError(f"the events lack {lost}; they have {events.columns}")
  taken = [c for c in (VECTOR, COUNT) if c in events.columns]
  if taken:
    raise ValueError(
      f"the events have a column {taken[0]!r} already: rename it"
    )
  kind = events[time].dtype
  if not isinstance(kind, pl.Datetime | pl.Date):
    raise ValueError(
      f"column {time!r} of the events is {kind}, no date or time: read it as one"
    )
  at = pl.col(time)
  if isinstance(kind, pl.Datetime) and kind.time_zone:
    at = at.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
  asked = events.select(
    key=pl.col(key).cast(pl.String), as_of=at.cast(found["time"].dtype)
  )
  made = features(found, asked)
  out = events.with_columns(
    made["vector"].alias(VECTOR), made["sessions"].alias(COUNT)
  )
  users = asked["key"].unique()
  counts = {
    "events": len(out),
    "events of a user with a session before": int((out[COUNT] > 0).sum()),
    "linked sessions of users without an event": int(
      (~found["key"].is_in(users.implode())).sum()
    ),
  }
  return out, counts


def write(
  data_dir: epath.PathLike,
  vectors: epath.PathLike,
  out: epath.PathLike,
  links: epath.PathLike | None = None,
  days: float = 30,
  events: epath.PathLike | None = None,
  key: str = "key",
  time: str = "time",
) -> dict[str, int]:
  """Writes the users' rows, or their events; see the module's text. Returns counts.

  Raises:
    ValueError: The data set knows no visitors, or the tables do not fit.
  """
  path = epath.Path(data_dir) / records_lib.SESSIONS
  if not path.exists():
    raise ValueError(
      f"{data_dir} has no {records_lib.SESSIONS}: only source 'clicks' knows whose "
      "sessions are"
    )
  sessions = pl.read_parquet(str(path))
  given = logins(sessions) if links is None else pl.read_parquet(str(links))
  given, counts = usable(given)
  linked, more = link(sessions, given, days)
  table = rows(sessions, linked, session_table.read(vectors))
  if events is not None:
    table, told = joined(pl.read_parquet(str(events)), table, key, time)
    more |= told
  with epath.Path(out).open("wb") as f:
    table.write_parquet(f)
  return counts | more


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="lumos link", description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add("--data_dir", required=True, help="a data set of source clicks")
  add("--vectors", required=True, help="a table of lumos sessions")
  add("--out", required=True, help="Parquet file to write")
  add("--links", help="Parquet: visitor, user, start, until; default the log's")
  add("--events", help="Parquet of users' rows, to which vectors are joined")
  add("--key", default="key", help="column of the user's id in --events")
  add("--time", default="time", help="column of the time in --events")
  add("--days", type=float, default=30, help="from a session to the login")
  return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  try:
    counts = write(
      args.data_dir,
      args.vectors,
      args.out,
      args.links,
      args.days,
      args.events,
      args.key,
      args.time,
    )
  except ERRORS as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  for what, count in counts.items():
    print(f"{count:>12,} {what}", file=sys.stderr)


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
