"""A raw click log: who clicked what and when; sessions are cut from it.

One row a click: visitor (a cookie or device), time and url at least; arrival (when
the server saw it), user (who was logged in), session, title, event and device where
there are such. A record is a session; the rules stand in docs/clicks.md.
"""

import datetime
import hashlib
import pathlib
from collections.abc import Sequence

import polars as pl

from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib

from .. import times
from ..clicks import addresses, cut
from ..clicks import fields as fields_lib
from ..inputs import InputError, Inputs, missing_column
from ..pages import Pages
from ..readers import files

_OPTIONAL = ("arrival", "user", "session", "title", "event", "device")
_SCOPES = ("visitor", "everywhere")
_HELD_OUT = 80, 90  # Of a hundred visitors: validation and test.


def load(
  *,
  path: str = "",
  file: str | Sequence[str] = "*",
  visitor: str = "visitor",
  time: str = "time",
  url: str = "url",
  arrival: str = "arrival",
  user: str = "user",
  session: str = "session",
  title: str = "title",
  event: str = "event",
  device: str = "device",
  time_zone: str = "",
  pause_minutes: float = 30,
  session_scope: str = "visitor",
  views: Sequence[str] = fields_lib.VIEWS,
  heartbeats: Sequence[str] = fields_lib.HEARTBEATS,
  clock_tolerance_seconds: float = 300,
  now: str = "",
  bot_clicks_per_minute: int = 60,
  bot_hours: float = 12,
  query_keys: Sequence[str] = (),
  patterns: Sequence[str] = (),
  max_pages: int = 50_000,
  buckets: int = fields_lib.BUCKETS,
  texts: str = "words",
  train_until: str = "",
) -> Inputs:
  """Reads the log.

  Args:
    path: Folder of the files, or the file.
    file: Patterns below the folder.
    visitor, time, url: Columns that must be there.
    arrival, user, session, title, event, device: Columns that may be absent.
    time_zone: Of times without a zone; "" for UTC.
    pause_minutes: A longer pause ends a session.
    session_scope: Where a given session id is unique: "visitor", "everywhere".
    views: Events that are page views; without a column `event`, all clicks are.
    heartbeats: Events that are no clicks: left out, and counted.
    clock_tolerance_seconds: Between the client's time and arrival.
    now: ISO time; later times are none. Default the moment of preparation.
    bot_clicks_per_minute, bot_hours: More in any minute, or a longer session: the
      visitor is a bot. Its sessions are of split "bots".
    query_keys: Keys of the query that are kept.
    patterns: Regular expressions to mask in addresses and titles, too.
    max_pages: Pages in the vocabulary, by training frequency.
    buckets: Of the hashed parts of addresses.
    texts: Encoder of the titles, see `lumos_jax.llm.sentences.encoder`.
    train_until: Date from which on rows fit nothing; "" for none.
  """
  if not path:
    raise InputError("source 'clicks' needs path=FOLDER, of the click log")
  if session_scope not in _SCOPES:
    raise InputError(f"session_scope={session_scope!r}: use one of {_SCOPES}")
  if pause_minutes <= 0 or bot_clicks_per_minute < 1 or buckets < 1:
    raise InputError(
      "pause_minutes must be above 0, bot_clicks_per_minute and buckets 1 or more"
    )
  names = dict(
    visitor=visitor, time=time, url=url, arrival=arrival, user=user,
    session=session, title=title, event=event, device=device,
  )  # fmt: skip
  read = _read(path, file, names)
  try:
    cleaner = addresses.Cleaner(query_keys, patterns)
  except ValueError as e:
    raise InputError(str(e)) from e
  raw, where = _columns(read, names, time_zone)
  total = len(raw)
  raw = _pages(raw, cleaner)
  # As fields.kind has it.
  kind = pl.col("event").str.to_lowercase().str.replace_all(r"[^a-z0-9]", "")
  beat = kind.is_in(fields_lib.kinds(heartbeats)).fill_null(False)
  beats = int(raw.select(beat.sum()).item())
  raw = raw.filter(~beat)
  reference = _now(now)
  raw, notes = cut.clocks(
    raw, clock_tolerance_seconds, reference, pause_minutes
  )
  usable = pl.col("instant").is_not_null() & pl.col("visitor").is_not_null()
  clicks, broken = raw.filter(usable), raw.filter(~usable)
  if not len(clicks):
    raise InputError(
      f"{where}: none of {total:,} rows has a visitor and a readable time"
    )
  clicks = cut.sessions(clicks, pause_minutes, session_scope)
  has_events = event in read.frame.collect_schema().names()
  seen = kind.is_in(fields_lib.kinds(views)).fill_null(False)
  seen = seen if has_events else pl.lit(True)
  clicks = cut.dwell(clicks, seen)
  marked = cut.bots(clicks, bot_clicks_per_minute, bot_hours)
  split = _splits(clicks, marked)
  bot = clicks["visitor"].is_in(marked.implode())
  notes = {
    "clicks read": total,
    "heartbeats left out": beats,
    **notes,
    "clicks without an address": int(clicks["page"].is_null().sum()),
    "clicks without a title": int(clicks["title"].is_null().sum()),
    "clicks that are no page view (option views), without a dwell": int(
      clicks.select((~seen).sum()).item()
    ),
    "sessions": clicks["key"].n_unique(),
    "sessions of one click": int(
      (clicks["key"].value_counts()["count"] == 1).sum()
    ),
    "visitors marked as bots": len(marked),
    "sessions of bots": clicks.filter(bot)["key"].n_unique(),
    "clicks of bots": int(bot.sum()),
    **{
      f"addresses and titles: {k}": v for k, v in sorted(cleaner.counts.items())
    },
  }
  clicks = _parts(clicks, buckets)
  activity = pl.concat(
    [
      clicks.with_columns(time=pl.col("instant").cast(pl.Datetime("us"))),
      _parts(broken, buckets).with_columns(
        key=pl.col("visitor"), time=pl.lit(None, pl.Datetime("us"))
      ),
    ],
    how="diagonal",
  )
  hashed = tuple(f"h{i}" for i in range(buckets))
  fields = [
    schema_lib.Categorical("page", max_values=max_pages),
    schema_lib.Categorical("part1", max_values=buckets, values=hashed),
    schema_lib.Categorical("part2", max_values=buckets, values=hashed),
    schema_lib.Categorical("event", max_values=200),
    schema_lib.Categorical("device", max_values=200),
    schema_lib.Numeric("dwell_seconds", nullable=True),
  ]
  schema = schema_lib.Schema(
    name="clicks",
    activity=tuple(fields),
    rows="event",
    epoch="1970-01-01",
    train_until=_day(train_until, clicks),
  )
  columns = [f.name for f in fields]
  return Inputs(
    schema=schema,
    activity=activity.select("key", "time", *columns).lazy(),
    split=split,
    pages=Pages("page", _titles(clicks, split), texts),
    sessions=_sessions(clicks, marked),
    files={"activity": where},
    notes=read.notes | notes,
    pieces=read.pieces,
  )


def _read(path: str, file, names) -> files.Read:
  root = pathlib.Path(path)
  if root.is_file():
    root, file = root.parent, root.name
  text = {v for k, v in names.items() if k not in ("time", "arrival")}
  try:
    return files.read(root, "clicks", {"file": file}, text)
  except InputError:
    # One cell that is no time makes a file's column text: then all are read as
    # text, and what is no time is rejected by its row.
    times_too = text | {names["time"], names["arrival"]}
    try:
      return files.read(root, "clicks", {"file": file}, times_too)
    except InputError:
      pass
    raise


def _columns(read: files.Read, names, time_zone: str):
  """The log with this module's names: times in microseconds, the rest as text."""
  there = read.frame.collect_schema().names()
  for name in ("visitor", "time", "url"):
    if names[name] not in there:
      raise missing_column(read.name, names[name], there, f"option {name}")
  at = lambda n: (
    times.moment(
      read.frame, names[n], time_zone, "1970-01-01", read.name
    ).instant
  )
  text = lambda n: pl.col(names[n]).cast(pl.String)
  exprs = {"visitor": text("visitor"), "url": text("url"), "time": at("time")}
  for name in _OPTIONAL:
    if names[name] not in there:
      dtype = pl.Int64 if name == "arrival" else pl.String
      exprs[name] = pl.lit(None, dtype)
    else:
      exprs[name] = at(name) if name == "arrival" else text(name)
  frame = read.frame.select(**exprs).collect()
  # Empty text is no id: all who have none would be one visitor.
  blank = ("visitor", "user", "session", "title", "event", "device")
  return frame.with_columns(
    pl.when(pl.col(c).str.strip_chars() != "").then(pl.col(c)).alias(c)
    for c in blank
  ), read.name


def _pages(frame: pl.DataFrame, cleaner: addresses.Cleaner) -> pl.DataFrame:
  """Puts `page`, `one` and `two` (begin of the address) in the place of url."""
  urls = frame["url"].unique().drop_nulls().sort()
  found = [fields_lib.page(cleaner, u) for u in urls]
  table = pl.DataFrame(
    {
      "url": urls,
      "page": [p for p, _, _ in found],
      "one": [one for _, one, _ in found],
      "two": [two for _, _, two in found],
    },
    schema=dict.fromkeys(("url", "page", "one", "two"), pl.String),
  )
  frame = frame.join(table, on="url", how="left", maintain_order="left")
  for column in ("title", "event", "device"):
    texts = frame[column].unique().drop_nulls().sort()
    if len(texts):
      clean = [cleaner.text(t) or None for t in texts]
      frame = frame.with_columns(
        pl.col(column).replace_strict(
          texts, pl.Series(clean, dtype=pl.String), default=None
        )
      )
  return frame.drop("url")


def _parts(frame: pl.DataFrame, buckets: int) -> pl.DataFrame:
  """Hashes the begins of addresses; a bucket depends on the text alone."""
  bucket = lambda s: fields_lib.bucket(s, buckets)
  return frame.with_columns(
    pl.col(old).map_elements(bucket, return_dtype=pl.String).alias(new)
    for old, new in (("one", "part1"), ("two", "part2"))
  )


def _splits(clicks: pl.DataFrame, marked: pl.Series) -> pl.DataFrame:
  """A split for each session, by a hash of the visitor; bots have their own."""

  def place(visitor: str) -> str:
    digest = hashlib.sha256(b"split\0" + visitor.encode()).digest()
    share = int.from_bytes(digest[:8], "big") % 100
    if share < _HELD_OUT[0]:
      return "train"
    return "validation" if share < _HELD_OUT[1] else "test"

  frame = clicks.select("key", "visitor").unique("key", keep="first")
  found = pl.col("visitor").map_elements(place, return_dtype=pl.String)
  bot = pl.col("visitor").is_in(marked.implode())
  return frame.select(
    "key", split=pl.when(bot).then(pl.lit(records_lib.BOTS)).otherwise(found)
  ).sort("key")


def _titles(clicks: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
  """The most frequent title of each page in training, ties by the text."""
  train = split.filter(pl.col("split") == "train")
  own = clicks.join(train, on="key", how="semi").drop_nulls("page")
  count = own.drop_nulls("title").group_by("page", "title").len()
  best = count.sort("page", "len", "title", descending=[False, True, False])
  best = best.unique("page", keep="first", maintain_order=True)
  every = own.select(pl.col("page").unique().sort())
  return every.join(best, on="page", how="left").select(
    "page", "title", category=pl.lit("")
  )


def _sessions(clicks: pl.DataFrame, marked: pl.Series) -> pl.DataFrame:
  """A row a session: whose, from when to when; for links to users."""
  return (
    clicks.group_by("key")
    .agg(
      pl.col("visitor").first(),
      pl.col("user").drop_nulls().first(),
      pl.col("instant").min().cast(pl.Datetime("us")).alias("start"),
      pl.col("instant").max().cast(pl.Datetime("us")).alias("end"),
      pl.col("instant")
      .filter(pl.col("user").is_not_null())
      .min()
      .cast(pl.Datetime("us"))
      .alias("login"),
      pl.len().alias("clicks"),
    )
    .with_columns(bot=pl.col("visitor").is_in(marked.implode()))
    .sort("key")
  )


def _now(text: str) -> int:
  if not text:
    now = datetime.datetime.now(datetime.UTC)
  else:
    try:
      now = datetime.datetime.fromisoformat(text)
    except ValueError as e:
      raise InputError(f"now={text!r}: write a time, 2026-01-31T12:00") from e
    if now.tzinfo is None:
      now = now.replace(tzinfo=datetime.UTC)
  return int(now.timestamp() * 1e6)


def _day(text: str, clicks: pl.DataFrame) -> int:
  if not text:  # All rows fit; the splits say whose.
    return int(clicks["instant"].max()) // times.DAY + 1
  try:
    return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
  except ValueError as e:
    raise InputError(f"train_until={text!r}: write a date, 2026-01-31") from e
