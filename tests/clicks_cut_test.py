"""Where sessions begin and end, how long a page is looked at, who is a bot."""

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep.clicks import cut

SECOND, MINUTE = 1_000_000, 60_000_000


def clicks(*rows, **more):
  """Clicks of (visitor, seconds, user, session)."""
  rows = [(*r, *(None,) * (4 - len(r))) for r in rows]
  names = ("visitor", "seconds", "user", "session")
  kinds = dict(
    visitor=pl.String, seconds=pl.Float64, user=pl.String, session=pl.String
  )
  frame = pl.DataFrame(rows, schema={n: kinds[n] for n in names}, orient="row")
  at = (pl.col("seconds") * SECOND).round().cast(pl.Int64)
  return frame.with_columns(instant=at, **more).drop("seconds")


def groups(frame, **kw):
  """Sessions as sorted lists of seconds."""
  found = cut.sessions(frame, **kw).group_by("key").agg(pl.col("instant"))
  return sorted((np.asarray(x) / SECOND).tolist() for x in found["instant"])


def test_a_pause_longer_than_the_limit_cuts_and_one_of_it_does_not():
  assert groups(clicks(("v", 0.0), ("v", 1800.0))) == [[0, 1800]]
  assert groups(clicks(("v", 0.0), ("v", 1800.000001))) == [[0], [1800.000001]]
  assert groups(clicks(("v", 0.4), ("v", 1800.3))) == [[0.4, 1800.3]]
  assert groups(clicks(("v", 0.0), ("v", 61.0)), pause_minutes=1) == [[0], [61]]


def test_midnight_ends_nothing_and_visitors_do_not_mix():
  day = 86_400
  frame = clicks(("v", day - 5.0), ("w", day - 1.0), ("v", day + 5.0))
  assert groups(frame) == [[day - 5, day + 5], [day - 1]]


def test_any_order_gives_the_same_sessions_and_a_late_click_joins_two():
  rng = np.random.default_rng(0)
  rows = [
    (f"v{rng.integers(5)}", float(rng.integers(0, 40_000))) for _ in range(300)
  ]
  whole = cut.sessions(clicks(*rows))
  for seed in range(3):
    mixed = [rows[i] for i in np.random.default_rng(seed).permutation(300)]
    assert cut.sessions(clicks(*mixed)).equals(whole)
  two = [("v", 0.0), ("v", 3000.0)]
  assert len(groups(clicks(*two))) == 2
  assert groups(clicks(*two, ("v", 1500.0))) == [[0, 1500, 3000]]


def test_day_by_day_equals_one_run():
  rng = np.random.default_rng(1)
  # Nights are as busy as days: sessions lie across midnight.
  n, day = 900, 86_400
  users = np.where(rng.random(n) < 0.3, rng.choice(["a", "b"], n), "")
  rows = [
    (f"v{rng.integers(6)}", float(rng.integers(0, 4 * day)), u or None)
    for u in users
  ]
  whole = cut.sessions(clicks(*rows))
  parts, carried = [], clicks(*rows[:0])
  for d in range(4):
    today = [r for r in rows if d * day <= r[1] < (d + 1) * day]
    frame = pl.concat([carried, clicks(*today)])
    found = cut.sessions(frame)
    over, carried = cut.closed(found, 30, (d + 1) * day * SECOND)
    carried = carried.drop("key")
    parts.append(over)
  parts.append(cut.sessions(carried))
  joined = pl.concat(parts).sort("key", "instant", "user")
  assert joined.equals(whole.sort("key", "instant", "user"))
  assert len(joined) == n and whole["key"].n_unique() > 20
  of_day = pl.col("instant") // (day * SECOND)
  nights = whole.group_by("key").agg(n=of_day.n_unique())
  assert nights.filter(pl.col("n") > 1).height > 2


def test_another_user_ends_a_session_and_a_login_does_not():
  login = clicks(("v", 0.0), ("v", 10.0, "a"), ("v", 20.0), ("v", 30.0, "a"))
  assert groups(login) == [[0, 10, 20, 30]]
  other = clicks(("v", 0.0, "a"), ("v", 10.0), ("v", 20.0, "b"))
  assert groups(other) == [[0, 10], [20]]
  # At one instant: two sessions with two keys.
  keys = cut.sessions(clicks(("v", 0.0, "a"), ("v", 0.0, "b")))["key"]
  assert keys.n_unique() == 2


def test_a_given_session_is_unique_within_its_visitor():
  frame = clicks(
    ("v", 0.0, None, "1"), ("v", 9000.0, None, "1"), ("w", 5.0, None, "1")
  )
  assert groups(frame) == [[0, 9000], [5]]
  assert groups(frame, scope="everywhere") == [[0, 5, 9000]]
  # Ids that would make one text do not make one session.
  frame = clicks(("a/s/b", 0.0, None, "c"), ("a", 5.0, None, "b/s/c"))
  assert len(groups(frame)) == 2


def test_only_page_views_end_a_dwell_and_equal_times_share_it():
  rows = [("v", t) for t in (0.0, 10.0, 10.0, 20.0, 50.0, 90.0)]
  event = ["view", "view", "view", "add", "view", "add"]
  frame = cut.sessions(clicks(*rows, event=pl.Series(event)))
  found = cut.dwell(frame, pl.col("event") == "view")
  dwell = found.sort("instant", "event")["dwell_seconds"].to_list()
  assert dwell == [10, 20, 20, None, None, None]
  assert min(d for d in dwell if d is not None) >= 0


def test_bots_are_too_fast_or_never_end():
  fast = [("fast", 3600 + i * 0.9) for i in range(62)]
  # A click more than so many within a minute, not at its end.
  slow = [("slow", i * 60.0 / 60) for i in range(61)]
  endless = [("endless", i * 1500.0) for i in range(40)]
  frame = cut.sessions(clicks(*fast, *slow, *endless))
  found = cut.bots(frame, 60, 12).to_list()
  assert found == ["endless", "fast"]
  assert cut.bots(frame, 59, 24).to_list() == ["fast", "slow"]


def test_the_clients_clock_counts_where_it_agrees_with_arrival():
  frame = pl.DataFrame(
    {
      "time": [0, 10, 10_000, 5, None, 99_999, None],
      "arrival": [1, 5, 20, None, 7, None, None],
    }
  ).with_columns(pl.all() * SECOND, visitor=pl.Series(list("vvwvvvv")))
  found, counts = cut.clocks(frame, 60, now=50_000 * SECOND)
  expected = [0, 10, 20, 5, 7, None, None]
  assert [x and x // SECOND for x in found["instant"]] == expected
  assert counts["clicks ordered by the client's clock"] == 2
  assert counts["clicks with a time in the future"] == 1
  assert counts["clicks whose client's clock was ahead of arrival"] == 1
  by = "clicks ordered by arrival, the client's clock being off"
  assert counts[by] == 1


def test_one_clock_orders_what_belongs_together():
  # Client and arrival agree on the order; the client's is at the tolerance's edge.
  frame = pl.DataFrame(
    {
      "visitor": ["v", "v", "v", "w", "v"],
      "time": [701, 709, 721, 701, 90_000],
      "arrival": [1000, 1010, 1020, 1000, 90_010],
    }
  ).with_columns(pl.col("time", "arrival") * SECOND)
  found, counts = cut.clocks(frame, 300, now=10**18)
  instants = [x // SECOND for x in found["instant"]]
  assert instants == [1000, 1010, 1020, 701, 90_000]
  off = "clicks ordered by arrival, the client's clock being off"
  assert counts[off] == 3


def test_no_time_in_the_future_counts_whoever_says_it():
  frame = pl.DataFrame(
    {
      "visitor": ["v"] * 4,
      "time": [5, 2000, 2000, None],
      "arrival": [2000, 2000, 7, 2000],
    }
  ).with_columns(pl.col("time", "arrival") * SECOND)
  found, counts = cut.clocks(frame, 300, now=1000 * SECOND)
  assert found["instant"].to_list() == [None, None, 7 * SECOND, None]
  assert counts["clicks with a time in the future"] == 3


def test_another_user_ends_a_given_session_too():
  frame = clicks(
    ("v", 0.0, None, "1"), ("v", 1.0, "a", "1"), ("v", 2.0, None, "1"),
    ("v", 3.0, "b", "1"), ("v", 4.0, None, "1"), ("v", 5.0, "a", "1"),
  )  # fmt: skip
  found = cut.sessions(frame)
  assert found["key"].to_list() == [
    "v/s/1", "v/s/1", "v/s/1", "v/s/1/1", "v/s/1/1", "v/s/1/2",
  ]  # fmt: skip
  frame = clicks(("w", 0.0, "a", "1"), ("v", 1.0, "b", "1"))
  assert len(groups(frame, scope="everywhere")) == 2


def test_keys_do_not_change_as_later_clicks_come():
  first = cut.sessions(clicks(("v", 0.0), ("v", 5000.0)))["key"].to_list()
  more = cut.sessions(clicks(("v", 0.0), ("v", 5000.0), ("v", 9000.0)))
  assert more["key"].to_list()[:2] == first
  with pytest.raises(pl.exceptions.ColumnNotFoundError):
    cut.sessions(pl.DataFrame({"visitor": ["v"]}))
