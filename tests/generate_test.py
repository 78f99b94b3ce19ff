"""A generated world: prefix, parts, seasons, lifts, and truth that holds."""

import json

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import generate, inputs, sources
from lumos_jax.data_prep.world import block as block_lib
from lumos_jax.data_prep.world import spec, tables, truth

DAYS = 392


def read(root, table):
  return pl.read_parquet(root / table / "*.parquet")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
  """The same world with 300 users, twice, and with 1,200 users."""
  root = tmp_path_factory.mktemp("worlds")
  make = lambda users, name: generate.generate(
    users, root / name, seed=3, days=DAYS
  )
  return make(300, "a"), make(300, "b"), make(1200, "c")


def test_equal_seeds_give_equal_bytes_and_others_do_not(worlds, tmp_path):
  a, b, _ = worlds
  files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
  assert len(files) == 10
  for file in files:
    assert (a / file).read_bytes() == (b / file).read_bytes(), file
  other = generate.generate(20, tmp_path / "d", seed=4, days=DAYS)
  mine = read(a, "profile").head(20)
  assert not read(other, "profile").equals(mine)


def test_a_larger_world_begins_with_the_smaller_one(worlds):
  a, _, c = worlds
  for table in tables.TABLES:
    large = read(c, table).filter(pl.col("key") < "u000000300")
    if table != "labels":
      assert len(large) > 0
    assert large.equals(read(a, table)), table
  assert read(c, "profile")["key"].n_unique() == 1200


def test_parts_hold_so_many_users_and_no_more(worlds, tmp_path, monkeypatch):
  monkeypatch.setattr(generate, "_PART_BLOCKS", 1)
  found = generate.generate(1200, tmp_path / "w", seed=3, days=DAYS)
  for table in tables.TABLES:
    parts = sorted((found / table).iterdir())
    assert [p.name for p in parts] == [
      "part-00000.parquet",
      "part-00001.parquet",
    ]
    assert pl.read_parquet(parts[0])["key"].max() < "u000001000"
    assert read(found, table).equals(read(worlds[2], table))


@pytest.fixture(scope="module")
def blocks():
  entries = spec.calendar(0, DAYS)
  return entries, [block_lib.simulate(0, i, DAYS, entries) for i in range(4)]


def _visits_and_expected(entries, blocks, kind, on):
  """Visits of those who had a kind's campaigns (or not) on their days."""
  lived = expected = 0.0
  for b in blocks:
    for i, e in enumerate(entries):
      if e.kind != kind or e.end > DAYS:
        continue
      others = [
        j for j, x in enumerate(entries) if j != i and x.start < e.end
        and x.end > e.start
      ]  # fmt: skip
      days = np.arange(e.start, e.end)
      who = b.invited[i] == on
      alone = ~(
        b.invited[others][:, :, None] & b.running[days][:, others].T[:, None]
      ).any(0)
      scale = block_lib._SCALE[b.state[days]] * (days[:, None] >= b.registered)
      rate = np.exp(b.log_rate[days]) * scale * alone.T * who
      lived += (b.visit[days] * alone.T * who).sum()
      expected += -np.expm1(-rate).sum()
  return lived, expected


def test_lift_of_a_campaign_is_the_true_one(blocks):
  entries, some = blocks
  lived, expected = _visits_and_expected(entries, some, "mail", on=False)
  assert abs(lived / expected - 1) < 0.03
  lived, expected = _visits_and_expected(entries, some, "mail", on=True)
  # Weighted by visits, responsiveness is about .7, and a day has one visit.
  assert 1.4 < lived / expected < np.exp(spec.LIFTS["mail"])


def test_seasons_and_segments_are_there(blocks):
  _, some = blocks
  day = np.arange(DAYS)
  rate = lambda s, days: np.mean(
    [
      b.visit[days][:, (b.segment == s) & (b.registered < 0)].mean()
      for b in some
    ]
  )
  saturday, monday = day[day % 7 == 5], day[day % 7 == 0]
  assert rate(1, saturday) > 1.7 * rate(1, monday)
  assert rate(2, monday) > 1.2 * rate(2, saturday)
  winter, spring = day[325:355], day[145:175]
  seasonal = rate(3, winter) / rate(3, spring)
  assert seasonal > 1.8 > rate(2, winter) / rate(2, spring)
  assert rate(2, day) > 3 * rate(0, day)


def test_coupons_go_to_the_active_and_mail_to_anyone(blocks):
  entries, some = blocks
  gap = {}
  for kind in ("mail", "coupon"):
    i = max(j for j, e in enumerate(entries) if e.kind == kind and e.end < DAYS)
    a, means = entries[i].announced, []
    for b in some:
      there = b.registered <= a - 56
      before = b.visit[a - 56 : a].sum(0)
      means.append(
        [before[there & (b.invited[i] == v)].mean() for v in (True, False)]
      )
    invited, others = np.mean(means, 0)
    gap[kind] = invited / others
  assert abs(gap["mail"] - 1) < 0.15
  assert gap["coupon"] > 3


def test_truth_is_what_happens(blocks):
  """Outcomes of the last horizon agree with their probabilities."""
  entries, some = blocks
  origin = spec.origins(DAYS)[1]
  ahead = slice(origin, origin + spec.HORIZON_DAYS)
  p, y = {}, {}
  for b in some:
    there = b.registered <= origin
    happened = {
      "active": b.visit[ahead].any(0),
      "active7": b.visit[origin : origin + 7].any(0),
      "redeem": b.redeemed[ahead].any(0),
      "visits": b.visit[ahead].sum(0),
    }
    for task, x in happened.items():
      y.setdefault(task, []).append(x[there].astype(float))
      found = truth.scenarios(b, entries, origin)[""][task]
      p.setdefault(task, []).append(found[there])
  for task in p:
    a, b = np.concatenate(p[task]), np.concatenate(y[task])
    error = (b - a).std() / np.sqrt(len(a))
    assert abs((b - a).mean()) < 3.5 * error, task
    # Calibrated where it is high, too.
    top = a > np.quantile(a, 0.8)
    error = (b - a)[top].std() / np.sqrt(top.sum())
    assert abs((b - a)[top].mean()) < 3.5 * error, task


def test_with_and_without_differ_by_the_campaign_alone(blocks):
  entries, some = blocks
  found = truth.scenarios(some[0], entries, spec.origins(DAYS)[1])
  there = some[0].state[spec.origins(DAYS)[1] - 1] != spec.CHURNED
  for kind in ("mail", "coupon"):
    with_it, without = found[f"with_{kind}"], found[f"without_{kind}"]
    assert (with_it["active"] >= without["active"] - 1e-12).all()
    assert (with_it["visits"] > without["visits"])[there].all()
    was = found[""]["visits"]
    # A window may hold two of a kind, of which a user had one.
    assert (without["visits"] - 1e-9 <= was).all()
    assert (was <= with_it["visits"] + 1e-9).all()
  assert (found["without_coupon"]["redeem"] < 1e-9).all()


def test_told_effects_and_the_description(worlds):
  _, _, root = worlds
  told = json.loads((root / "truth.json").read_text())
  frame = read(root, "truth").filter(pl.col("origin") == DAYS - 28)
  effect = frame["active_with_mail"] - frame["active_without_mail"]
  found = told["effects"][str(DAYS - 28)]["mail/active"]
  np.testing.assert_allclose(found["mean"], effect.mean(), rtol=1e-9)
  assert found["users"] == len(frame) and 0.02 < found["mean"] < 0.2
  assert told["rows"]["activity"] == len(read(root, "activity"))
  raw = sources.load("tables", {"schema": str(root / "world.py")})
  assert raw.activity.collect().height == told["rows"]["activity"]
  assert raw.calendar.height == len(spec.calendar(3, DAYS))
  labels = read(root, "labels")
  assert (labels["time"] > labels["happened"]).all()


def test_rings_share_a_device_that_no_other_user_has(worlds):
  # Rings lie in blocks, of which the last is cut off.
  events = read(worlds[2], "activity").filter(pl.col("key") < "u000001000")
  users = events.group_by("device").agg(pl.col("key").n_unique())
  rings = users.filter(pl.col("device").str.starts_with("r"))
  own = users.filter(pl.col("device").str.starts_with("d"))
  assert len(rings) and (rings["key"] >= 2).all() and (own["key"] == 1).all()


def test_what_cannot_be_is_refused(tmp_path):
  with pytest.raises(inputs.InputError, match="days=100 must be a multiple"):
    generate.generate(5, tmp_path / "w", days=100)
  (tmp_path / "w").mkdir()
  (tmp_path / "w" / "thesis.txt").write_text("years of work")
  with pytest.raises(inputs.InputError, match="something else"):
    generate.generate(5, tmp_path / "w", overwrite=True)
  assert (tmp_path / "w" / "thesis.txt").exists()
