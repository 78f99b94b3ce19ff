"""A block's raw tables, as Polars frames."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from . import block as block_lib
from . import spec, truth

_DAY_US = 86_400_000_000
_RINGS = 2.0  # Fraud rings a block, on average.
_CONFIRMED_AFTER = 20  # Days, on average.
TABLES = ("activity", "membership", "profile", "span", "labels", "truth")
_ORDER = ("key", "time")


def tables(
  block: block_lib.Block, entries: Sequence[spec.Entry], days: int, users: int
) -> dict[str, pl.DataFrame]:
  """{table: rows} of the block's users below number `users`."""
  n = len(block.segment)
  keys = pl.Series(
    "key", [f"u{i:09d}" for i in range(block.first, block.first + n)]
  )
  bought = _purchases(block)
  fraud, labels = _fraud(block, days)
  events = pl.concat([bought, fraud]).sort(
    ["user", "time"], maintain_order=True
  )
  names = lambda values, i: pl.Series(values).gather(i)
  epoch = np.datetime64(spec.EPOCH, "D")
  date = lambda x: pl.Series(epoch + np.asarray(x, np.int64))
  end = pl.lit(date([days]).item())
  out = {
    "activity": events,
    "membership": _membership(block, entries),
    "profile": pl.DataFrame(
      {
        "user": np.arange(n),
        "segment": names(spec.SEGMENTS, block.segment),
        "region": names(spec.REGIONS, block.region),
        "age": block.age,
      }
    ),
    "span": pl.DataFrame(
      {"user": np.arange(n), "enter": date(np.maximum(block.registered, 0))}
    ).with_columns(exit=end, observed_until=end),
    "labels": labels.with_columns(
      time=pl.lit(epoch.item()) + pl.duration(days=pl.col("time")),
      happened=pl.lit(epoch.item()) + pl.duration(days=pl.col("happened")),
    ),
    "truth": _truth(block, entries, days),
  }
  keep = pl.col("user") < users - block.first
  return {
    name: frame.filter(keep)
    .with_columns(keys.gather(frame.filter(keep)["user"]).alias("key"))
    .select("key", pl.exclude("key", "user"))
    for name, frame in out.items()
  }


def _purchases(block: block_lib.Block) -> pl.DataFrame:
  """A row an item of a visit; the first of a visit counts it."""
  rng = block.rng
  user, day = np.nonzero(block.visit.T)
  items = 1 + rng.poisson(block.items[user])
  hour = np.clip(rng.normal(block.hour[user], 1.5), 0.0, 23.0)
  second = (hour * 3600).astype(np.int64) + rng.integers(0, 3600, len(user))
  channel = _choose(rng, block.channel[user])
  at = np.repeat(np.arange(len(user)), items)
  first = np.r_[True, at[1:] != at[:-1]] if len(at) else np.zeros(0, bool)
  who = user[at]
  category = _choose(rng, block.taste, who)
  # A category's items by rank: the first is bought most.
  item = np.minimum(rng.geometric(0.25, len(at)) - 1, spec.ITEMS - 1)
  amount = spec.PRICES[category] * np.exp(
    block.price[who] + rng.normal(0.0, spec.AMOUNT_SPREAD, len(at))
  )
  device = np.where(rng.random(len(at)) < 0.85, 0, 1)
  redeemed = block.redeemed[day[at], who] & first
  names = [f"{c}-{i:02d}" for c in spec.CATEGORIES for i in range(spec.ITEMS)]
  text = lambda values, i: pl.Series(values, dtype=pl.String).gather(i)
  # A category is sold by merchants of its own.
  merchant = (category * 5 + item % 5) % spec.MERCHANTS
  merchants = [f"m{i:02d}" for i in range(spec.MERCHANTS)]
  frame = pl.DataFrame(
    {
      "user": who,
      "time": _time(day[at], second[at]),
      "category": text(spec.CATEGORIES, category),
      "item": text(names, category * spec.ITEMS + item),
      "channel": text(spec.CHANNELS, channel[at]),
      "merchant": text(merchants, merchant),
      "amount": np.round(amount, 2),
      "visit": first.astype(np.float64),
      "redeemed": redeemed.astype(np.float64),
    }
  )
  number = pl.col("user") + block.first
  return frame.insert_column(
    6,
    frame.select(
      pl.format("d{}-{}", number, pl.Series(device)).alias("device")
    )["device"],
  )


def _fraud(block: block_lib.Block, days: int):
  """Events of rings, and the labels that confirm them later.

  A ring is a few users of the block whose accounts buy gift cards on one device
  at one merchant for some days. Such an event is no visit. The label's time is
  the day of its confirmation; what is confirmed after the data's end is absent.
  """
  rng, parts = block.rng, []
  for ring in range(rng.poisson(_RINGS)):
    members = rng.choice(len(block.segment), rng.integers(3, 7), replace=False)
    start, length = rng.integers(30, days - 10), rng.integers(2, 8)
    merchant = f"m{rng.integers(0, spec.MERCHANTS):02d}"
    count = rng.integers(1, 4, (len(members), length))
    user = np.repeat(members, count.sum(1))
    day = np.concatenate([np.repeat(np.arange(length), c) for c in count])
    parts.append(
      pl.DataFrame(
        {
          "user": user,
          "time": _time(start + day, rng.integers(0, 86_400, len(user))),
          "amount": np.round(np.exp(rng.normal(4.6, 0.3, len(user))), 2),
          "happened": start + day,
          "confirmed": start
          + day
          + rng.geometric(1 / _CONFIRMED_AFTER, len(user)),
        }
      ).with_columns(
        merchant=pl.lit(merchant),
        device=pl.lit(f"r{block.first // len(block.segment)}-{ring}"),
        ring=pl.lit(f"r{block.first // len(block.segment)}-{ring}"),
      )
    )
  frame = pl.concat(parts) if parts else _NO_FRAUD
  frame = frame.filter(
    pl.Series(block.registered).gather(frame["user"]) <= pl.col("happened")
  )
  events = frame.select(
    "user",
    "time",
    category=pl.lit(spec.CATEGORIES[-1]),
    item=pl.lit(f"{spec.CATEGORIES[-1]}-19"),
    channel=pl.lit("web"),
    merchant="merchant",
    device="device",
    amount="amount",
    visit=pl.lit(0.0),
    redeemed=pl.lit(0.0),
  )
  labels = frame.filter(pl.col("confirmed") < days).select(
    "user",
    "happened",
    "ring",
    time="confirmed",
    name=pl.lit("fraud"),
    value=pl.lit(1.0),
  )
  return events, labels.sort("user", "time", "happened")


_NO_FRAUD = pl.DataFrame(
  schema={
    "user": pl.Int64,
    "time": pl.Datetime("us"),
    "amount": pl.Float64,
    "happened": pl.Int64,
    "confirmed": pl.Int64,
    "merchant": pl.String,
    "device": pl.String,
    "ring": pl.String,
  }
)


def _membership(block, entries) -> pl.DataFrame:
  groups = [i for i, e in enumerate(entries) if e.group]
  user, at = np.nonzero(block.invited[groups].T)
  names = pl.Series([entries[i].group for i in groups], dtype=pl.String)
  return pl.DataFrame({"user": user, "group": names.gather(at)})


def _truth(block, entries, days: int) -> pl.DataFrame:
  """What is true at each origin, of users who have registered by then."""
  parts = []
  for origin in spec.origins(days):
    columns = {"user": np.arange(len(block.segment)), "origin": origin}
    columns["state"] = block.state[origin - 1]
    for kind, how in spec.ASSIGNMENTS.items():
      if how != "everyone":
        ahead = slice(origin, origin + spec.HORIZON_DAYS)
        runs = [e.kind == kind for e in entries] & block.running[ahead].any(0)
        columns[f"got_{kind}"] = block.invited[runs].any(0)
    for name, tasks in truth.scenarios(block, entries, origin).items():
      columns |= {f"{t}_{name}" if name else t: x for t, x in tasks.items()}
    there = pl.Series(block.registered <= origin)
    parts.append(pl.DataFrame(columns).filter(there))
  return pl.concat(parts)


def _choose(rng, p: np.ndarray, who: np.ndarray | None = None) -> np.ndarray:
  """A draw of each row of p, or of rows `who` of p."""
  total = np.cumsum(p, 1)
  total[:, -1] = 1.0
  if who is None:
    u = rng.random(len(p))
    return (total < u[:, None]).sum(1)
  # Rows lie one after another on a line: one search for all.
  line = (total + np.arange(len(p))[:, None]).ravel()
  found = np.searchsorted(line, who + rng.random(len(who)), side="left")
  return np.clip(found - who * p.shape[1], 0, p.shape[1] - 1)


def _time(day: np.ndarray, second: np.ndarray) -> pl.Series:
  start = np.datetime64(spec.EPOCH, "us").astype(np.int64)
  micro = start + day.astype(np.int64) * _DAY_US + second * 1_000_000
  return pl.Series(micro).cast(pl.Datetime("us"))
