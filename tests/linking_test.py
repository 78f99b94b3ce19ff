"""Whose an anonymous session is, and from when on that is known."""

import datetime

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import engine, sources

from lumos_jax import linking
from lumos_jax import links as links_lib

DAY = datetime.datetime(2026, 1, 1)


def at(days):
  return None if days is None else DAY + datetime.timedelta(days=days)


def sessions(*rows):
  """Sessions of (key, visitor, user, start in days); an hour each."""
  hour = datetime.timedelta(hours=1)
  return pl.DataFrame(
    {
      "key": [r[0] for r in rows],
      "visitor": [r[1] for r in rows],
      "user": [r[2] for r in rows],
      "start": [at(r[3]) for r in rows],
      "end": [at(r[3]) + hour for r in rows],
      "login": [at(r[3]) if r[2] else None for r in rows],
      "bot": [r[1] == "robot" for r in rows],
    },
    schema_overrides={"user": pl.String, "login": pl.Datetime("us")},
  )


def links(*rows):
  """Links of (visitor, user, start, until)."""
  names = ("visitor", "user", "start", "until")
  rows = [(v, u, at(s), at(e)) for v, u, s, e in rows]
  kinds = dict(start=pl.Datetime("us"), until=pl.Datetime("us"))
  return pl.DataFrame(rows, schema=names, schema_overrides=kinds, orient="row")


def linked(frame, *rows, **kw):
  found, counts = links_lib.link(frame, links_lib.usable(links(*rows))[0], **kw)
  return {k: (u, (t - DAY).days) for k, u, t in found.rows()}, counts


def test_a_session_before_the_login_is_the_users_from_the_login_on():
  frame = sessions(
    ("a", "v", None, 1), ("b", "v", None, 9), ("c", "w", None, 1)
  )
  found, counts = linked(frame, ("v", "u1", 5, None))
  assert found == {"a": ("u1", 5)}
  assert counts["sessions with no later login"] == 2


def test_a_session_long_before_the_login_stays_unknown():
  frame = sessions(("a", "v", None, 1), ("b", "v", None, 30))
  found, counts = linked(frame, ("v", "u1", 40, None))
  assert found == {"b": ("u1", 40)}
  assert counts["sessions too long before the login"] == 1
  assert set(linked(frame, ("v", "u1", 40, None), days=60)[0]) == {"a", "b"}


def test_between_two_users_it_is_of_the_second_only_after_a_logout():
  frame = sessions(("a", "v", None, 4), ("b", "v", None, 6))
  found, counts = linked(frame, ("v", "u1", 3, 5), ("v", "u2", 8, None))
  assert found == {"a": ("u1", 3), "b": ("u2", 8)}
  assert counts["sessions during a link"] == 1
  # Who never logged out may be there still.
  found, counts = linked(frame, ("v", "u1", 3, None), ("v", "u2", 8, None))
  assert not found
  assert counts["sessions that may be another user's, not linked"] == 2
  # The same user on both sides leaves no doubt.
  found, _ = linked(frame, ("v", "u1", 3, None), ("v", "u1", 8, None))
  assert found == {"a": ("u1", 8), "b": ("u1", 8)}


def test_who_logs_in_during_a_session_was_there():
  frame = sessions(("a", "v", None, 1))  # An hour.
  soon, late = 1 + 12 / 24 / 60, 1 + 50 / 24 / 60
  for until in (None, 1 + 20 / 24 / 60):
    found, _ = linked(frame, ("v", "u1", soon, until), ("v", "u2", 2, None))
    assert found == {"a": ("u1", 1)}
  found, counts = linked(frame, ("v", "u1", soon, None))
  assert found == {"a": ("u1", 1)}
  assert counts["sessions with a login in them"] == 1
  # Two in one session, or one before who may be there still: nobody's.
  for more in (("v", "u2", late, None), ("v", "u2", 0, None)):
    found, counts = linked(frame, ("v", "u1", soon, None), more)
    assert not found
    assert counts["sessions that may be another user's, not linked"] == 1
  # The end of a session is before the login, not its begin.
  found, _ = linked(frame, ("v", "u1", 31.03, None))
  assert found == {"a": ("u1", 31)}


def test_of_two_links_of_a_user_the_later_end_counts():
  frame = sessions(("a", "v", None, 3.5))
  given = ("v", "u1", 1, 20), ("v", "u1", 2, 3)
  found, _ = linked(frame, *given, ("v", "u2", 5, None))
  assert found == {"a": ("u1", 2)}
  ends, counts = links_lib.usable(links(*given, ("v", "u2", 5, None)))
  assert ends["until"].to_list() == [at(5), at(5), None]
  assert counts["links cut where another user logged in"] == 2


def test_link_tables_come_in_many_types():
  given = links(("1", "7", 5, None), ("2", "8", 1, 3))
  frame = sessions(("a", "1", None, 4), ("b", "2", None, 2))
  wanted, _ = links_lib.link(frame, links_lib.usable(given)[0])
  assert wanted["user"].to_list() == ["7", "8"]
  whole = lambda c: given.with_columns(pl.col(c).cast(pl.Int64))
  made = [
    whole("visitor"),
    whole("user"),
    given.with_columns(pl.col("start", "until").cast(pl.Datetime("ns"))),
    given.with_columns(
      pl.col("start")
      .dt.replace_time_zone("UTC")
      .dt.convert_time_zone("Asia/Tokyo")
    ),
    given.with_columns(pl.col("start").cast(pl.Date)),
    given.with_columns(pl.col("start").dt.strftime("%Y-%m-%dT%H:%M:%S")),
  ]
  for table in made:
    found, _ = links_lib.link(frame, links_lib.usable(table)[0])
    assert found.equals(wanted)
  bad = given.with_columns(start=pl.lit("soon"))
  with pytest.raises(
    ValueError, match="'start' of the link table holds a text"
  ):
    links_lib.usable(bad)
  with pytest.raises(ValueError, match="'start' of the link table is Int64"):
    links_lib.usable(given.with_columns(start=pl.lit(3, pl.Int64)))


def test_a_visitor_is_one_user_at_a_time():
  found, counts = links_lib.usable(
    links(
      ("v", "u1", 3, 9),
      ("v", "u2", 5, None),
      ("v", None, 5, None),
      ("w", "u1", 5, 4),
    )
  )
  assert found["until"].to_list() == [at(5), None]
  assert list(counts.values()) == [1, 1, 1]
  with pytest.raises(
    ValueError, match="1 instants at which one visitor is two"
  ):
    links_lib.usable(links(("v", "u1", 3, None), ("v", "u2", 3, None)))
  with pytest.raises(ValueError, match=r"lacks \['user'\]"):
    links_lib.usable(links().drop("user"))


def test_rows_come_when_they_are_known_and_features_know_no_later_ones():
  frame = sessions(
    ("a", "v", None, 1), ("b", "v", "u1", 5), ("c", "robot", None, 1),
    ("d", "x", None, 2),
  )  # fmt: skip
  given, _ = links_lib.usable(links_lib.logins(frame))
  found, counts = links_lib.link(frame, given)
  assert counts["sessions of bots, not linked"] == 1
  vectors = pl.DataFrame(
    {
      "key": list("abcd"),
      "embedding": [[1.0, 3.0], [3.0, 5.0], [9.0] * 2, [9.0] * 2],
    },
    schema_overrides={"embedding": pl.Array(pl.Float32, 2)},
  )
  rows = linking.rows(frame, found, vectors)
  assert rows["session"].to_list() == ["a", "b"]
  # Session "a" ended on day 1, and is the user's since the login on day 5.
  assert rows["time"][0] == at(5) and rows["time"][1] > at(5)
  moments = pl.DataFrame(
    {"key": ["u1", "u1", "u1", "u9"], "as_of": [at(5), at(5.01), at(6), at(6)]}
  )
  out = linking.features(rows, moments)
  assert out["sessions"].to_list() == [0, 1, 2, 0]
  assert out["vector"].to_list() == [None, [1.0, 3.0], [2.0, 4.0], None]
  with pytest.raises(ValueError, match="2 of 2 linked sessions have no vector"):
    linking.rows(frame, found, vectors.filter(pl.col("key") == "c"))


def known_rows():
  """Sessions of u1, known on days 2 and 5, and of u2, on day 3."""
  return pl.DataFrame(
    {
      "key": ["u1", "u1", "u2"],
      "time": [at(5), at(2), at(3)],
      "session": ["b", "a", "c"],
      "vector": [[3.0, 5.0], [1.0, 3.0], [7.0, 7.0]],
    },
    schema_overrides={
      "time": pl.Datetime("us"), "vector": pl.List(pl.Float32)
    },
  )  # fmt: skip


def test_an_event_has_what_was_known_before_it():
  events = pl.DataFrame(
    {
      "client": ["u1", "u2", "u1", "u1", "u3", "u1"],
      "day": [at(d) for d in (6, 1, 2, 2.001, 9, 5)],
      "amount": range(6),
    }
  )
  out, counts = linking.joined(events, known_rows(), "client", "day")
  assert out["amount"].to_list() == list(range(6))
  assert out["session_count"].to_list() == [2, 0, 0, 1, 0, 1]
  # At the very moment that a session is known it is not used yet.
  assert out["session_vector"].to_list() == [
    [2.0, 4.0], None, None, [1.0, 3.0], None, [1.0, 3.0],
  ]  # fmt: skip
  assert counts["linked sessions of users without an event"] == 0
  assert counts["events of a user with a session before"] == 3
  # Nothing that becomes known at an event or later changes it.
  for i, (user, day) in enumerate(events.select("client", "day").rows()):
    later = (pl.col("key") == user) & (pl.col("time") >= day)
    rows = known_rows().with_columns(
      vector=pl.when(later)
      .then(pl.lit([99.0, 99.0], pl.List(pl.Float32)))
      .otherwise("vector")
    )
    again, _ = linking.joined(events, rows, "client", "day")
    assert again.row(i) == out.row(i)
  with pytest.raises(ValueError, match=r"lack \['user'\]"):
    linking.joined(events, known_rows(), "user", "day")
  with pytest.raises(ValueError, match="'amount' of the events is Int64"):
    linking.joined(events, known_rows(), "client", "amount")
  with pytest.raises(ValueError, match="'session_vector' already"):
    linking.joined(out, known_rows(), "client", "day")


def test_times_of_events_may_have_a_zone_or_be_days():
  when = pl.Series([datetime.date(2026, 1, 3), datetime.date(2026, 1, 4)])
  days = pl.DataFrame({"key": ["u1", "u1"], "time": when})
  out, _ = linking.joined(days, known_rows())
  assert out["session_count"].to_list() == [0, 1]
  zoned = days.with_columns(
    pl.col("time").cast(pl.Datetime("us", "UTC")) + pl.duration(hours=1)
  ).with_columns(pl.col("time").dt.convert_time_zone("Asia/Tokyo"))
  out, _ = linking.joined(zoned, known_rows())
  assert out["session_count"].to_list() == [1, 1]
  none, _ = linking.joined(zoned, known_rows().head(0))
  assert none["session_vector"].to_list() == [None, None]


@pytest.mark.parametrize("rows", ["event", "day"])
def test_events_with_vectors_are_a_data_set(rows, tmp_path):
  """Source `tables` reads what `joined` made, as events or as days."""
  events = pl.DataFrame(
    {"key": ["u1"] * 3, "time": [at(1), at(3), at(6)], "x": [1.0, 2.0, 3.0]}
  )
  linking.joined(events, known_rows())[0].write_parquet(tmp_path / "e.parquet")
  (tmp_path / "t.py").write_text(
    "from lumos_jax.data.schema import Numeric, Schema, Vector\n"
    "SCHEMA = Schema('t', (Numeric('x'), Numeric('session_count'),\n"
    f"  Vector('session_vector', size=2)), rows='{rows}')\n"
    "TABLES = {'activity': {'file': 'e.parquet'}}\n"
    "TRAIN_UNTIL = '2030-01-01'\n"
  )
  raw = sources.load("tables", {"schema": str(tmp_path / "t.py")})
  found = engine.prepare(raw).users.rows["numeric"][:, -2:]
  assert np.isnan(found[0]).all() or not found[0].any()
  np.testing.assert_allclose(found[[-2, -1]], [[1, 3], [2, 4]])
