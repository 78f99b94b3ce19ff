"""No time of a MovieLens history comes from a later event."""

import polars as pl
from event_sources_test import movielens, prepare

COLUMNS = "user_id movie_id rating timestamp ts_exact sas_user pos".split()
EPOCH = 946_684_800  # 2000-01-01, from which records count.
# User 1: an interpolated stamp first, one between, and one before the held-out
# event; exact stamps that fall once.
ROWS = [
  (1, 1, 3, 95, False, 1, 0),
  (1, 2, 3, 100, True, 1, 1),
  (1, 1, 3, 150, False, 1, 2),
  (1, 2, 3, 200, True, 1, 3),
  (1, 1, 3, 190, True, 1, 4),
  (1, 2, 3, 350, False, 1, 5),
  (1, 1, 3, 500, True, 1, 6),
  (2, 1, 3, 90, True, 2, 0),
  (2, 2, 3, 91, True, 2, 1),
  (2, 1, 3, 92, True, 2, 2),
]


def seconds(tmp_path, name, rows):
  folder = movielens(tmp_path / name)
  (tmp_path / name / "ratings.dat").unlink()
  frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
  frame.write_parquet(tmp_path / name / "ml1m_sequences.parquet")
  data, users = prepare(
    "movielens", tmp_path, path=folder, min_events=1, attributes=False
  )
  return data, {k: u["time"] // 1_000_000 for k, u in users.items()}


def test_times_are_carried_forward_from_the_last_exact_one(tmp_path):
  rows = [(*r[:3], r[3] + EPOCH, *r[4:]) for r in ROWS]
  data, found = seconds(tmp_path, "a", rows)
  # Before any exact stamp: the first of the whole file, user 2's.
  assert found["1"].tolist() == [90, 100, 100, 200, 200, 200, 500]
  assert found["2"].tolist() == [90, 91, 92]
  notes = data.stats["notes"]
  assert notes["interpolated times, replaced by the last exact one"] == 3
  assert notes["of these, before a user's first exact one"] == 1


def test_no_time_depends_on_the_held_out_event(tmp_path):
  """Its stamp, and all that the file made of it, move; the history's stay."""
  rows = [(*r[:3], r[3] + EPOCH, *r[4:]) for r in ROWS]
  _, before = seconds(tmp_path, "b", rows)
  moved = list(rows)
  moved[5] = (1, 2, 3, EPOCH + 600, False, 1, 5)
  moved[6] = (1, 1, 3, EPOCH + 1000, True, 1, 6)
  (tmp_path / "more").mkdir()
  _, after = seconds(tmp_path / "more", "b", moved)
  assert before["1"][:6].tolist() == after["1"][:6].tolist()
  assert after["1"][6] == 1000
