"""What a model reads of a click: its page, begins of the address, what it was."""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ..clicks import addresses, cut

VIEWS = ("view", "page_view", "pageview", "impression")
HEARTBEATS = ("heartbeat", "ping", "keepalive")
BUCKETS = 512  # Of the hashed begins of addresses.


def page(cleaner: addresses.Cleaner, url: str | None) -> tuple[str | None, ...]:
  """A page's name and its two begins; None for no address."""
  found = cleaner.address(url)
  if found is None:
    return None, None, None
  return "/".join(found) or "/", "/".join(found[:2]), "/".join(found[:3])


def bucket(text: str, buckets: int) -> str:
  """A value of "part1" or "part2"; it depends on the text alone."""
  return f"h{zlib.crc32(text.encode('utf-8', 'replace')) % buckets}"


def kind(event: str) -> str:
  """An event's name: "PageView", "page-view" and "page_view" are one."""
  return re.sub(r"[^a-z0-9]", "", event.lower())


def kinds(events: Sequence[str]) -> list[str]:
  """Names of events, as `kind` has them."""
  return [kind(e) for e in events]


def of_session(
  clicks: Sequence[Mapping[str, Any]],
  instants: Sequence[int],
  options: Mapping[str, Any],
) -> list[dict[str, Any] | None]:
  """Fields of a session's clicks, as preparation makes them.

  Args:
    clicks: {"url", and perhaps "event" and "device"} each, in order.
    instants: Microseconds, never falling.
    options: Of source `clicks`, as the data were prepared.

  Returns:
    {"page", "part1", "part2", "event", "device", "dwell_seconds"} of each; None of
    heartbeats, which are no clicks.
  """
  cleaner = addresses.Cleaner(
    options.get("query_keys", ()), options.get("patterns", ())
  )
  buckets = options.get("buckets", BUCKETS)
  beats = kinds(options.get("heartbeats", HEARTBEATS))
  views = kinds(options.get("views", VIEWS))
  text = lambda x: (cleaner.text(x) or None) if x and x.strip() else None
  out: list[dict[str, Any] | None] = []
  for click in clicks:
    name, one, two = page(cleaner, click["url"])
    event = text(click.get("event"))
    fields = {
      "page": name,
      "part1": None if one is None else bucket(one, buckets),
      "part2": None if two is None else bucket(two, buckets),
      "event": event,
      "device": text(click.get("device")),
    }
    out.append(None if event and kind(event) in beats else fields)
  kept = [i for i, f in enumerate(out) if f is not None]
  # Without events all clicks are views.
  named = any(c.get("event") for c in clicks)
  seen = [not named or kind(out[i]["event"] or "") in views for i in kept]
  frame = pl.DataFrame(
    {
      "key": ["s"] * len(kept),
      "instant": [instants[i] for i in kept],
      "v": seen,
    },
    schema={"key": pl.String, "instant": pl.Int64, "v": pl.Boolean},
  )
  for i, x in zip(kept, cut.dwell(frame, pl.col("v"))["dwell_seconds"]):
    out[i]["dwell_seconds"] = x
  return out
