"""prepare(): a source and its options -> a complete data directory."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from etils import epath

from lumos_jax import ids
from lumos_jax.data import records as records_lib

from . import builder, engine, sources
from . import fitted as fitted_lib
from . import place as place_lib
from . import room as room_lib
from .inputs import InputError

# Raise it when the same inputs would give other records.
FORMAT = 4


def prepare(
  source: str,
  out: epath.PathLike,
  *,
  overwrite: bool = False,
  num_shards: int | None = None,
  quiet: bool = False,
  fitted: epath.PathLike = "",
  memory_gib: float | None = None,
  hash_ids: bool | None = None,
  k_anonymous: int = 0,
  beam: Sequence[str] | None = None,
  **options: Any,
) -> epath.Path:
  """Prepares a data set, or finds it prepared.

  Args:
    source: Name of a source, see `data_prep.sources.names()`.
    out: Root of data sets; this one becomes a directory of it.
    overwrite: Replaces a data set that stands there with other contents.
    num_shards: Files of each split; by size where None.
    quiet: Says nothing.
    fitted: A data set or a run's workdir whose vocabularies, bins, tokens and
      scales are taken: nothing is fitted, so that its checkpoints read the rows.
    memory_gib: Memory to stay within: an activity table that does not fit is
      prepared in pieces on disk, with the same records. None for half of the
      machine's, 0 for no limit.
    hash_ids: Stores keyed hashes in place of users' ids, in shards and rejects;
      the key is in the environment (lumos_jax/ids.py).
    k_anonymous: A categorical value or a token that fewer training users hold has
      no id of its own, but counts as unknown; 0 for no such rule.
    **options: Of the source; and of every source `until`, the day or ISO date
      from which on rows are left out.

  Returns:
    The data set's directory.

  Raises:
    InputError: Raw data or options cannot be used; names file, column and row.
    OSError: It cannot be written.
  """
  start = time.monotonic()
  if beam is not None and num_shards:
    raise InputError(
      f"num_shards={num_shards}: on Beam there is a shard a piece; --memory_gib "
      "says how large pieces are"
    )
  if beam is not None and "://" in os.fspath(out):
    raise InputError(
      f"{out}: pieces lie beside the data set, in a folder that all workers see "
      "under one name (NFS, Filestore): --out must be such a folder"
    )

  def say(text):
    if not quiet:
      seconds = time.monotonic() - start
      print(f"[{seconds:6.1f} s] {text}", file=sys.stderr, flush=True)

  if memory_gib is not None and not 0 <= memory_gib < math.inf:
    raise InputError(f"memory_gib={memory_gib} must be 0 or more")
  if k_anonymous < 0:
    raise InputError(f"k_anonymous={k_anonymous} must be 0 or more")
  if num_shards is not None and num_shards < 1:
    raise InputError(f"num_shards={num_shards} must be 1 or more")
  path = epath.Path(out) / records_lib.directory_name(source, options)
  say(f"reading {source}")
  raw = sources.load(source, options)
  contents = {
    "source": source,
    "options": {k: v for k, v in sorted(options.items()) if k != "path"},
    "inputs": dict(sorted(raw.pieces.items())),
    "format": FORMAT,
  }
  if hash_ids is None:
    hash_ids = ids.has_salt()
  salt = ids.salt() if hash_ids else None
  if hash_ids:
    contents["ids"] = ids.form(salt)
  if raw.digests:
    contents["digests"] = dict(raw.digests)
  if k_anonymous:
    contents["k_anonymous"] = k_anonymous
  known = None
  if fitted:
    known = fitted_lib.load(fitted)
    contents["fitted"] = known.schema.model_hash
  place_lib.recover(path)
  if _is_there(path, contents, overwrite):
    say(f"{path} is complete: nothing to do")
    with contextlib.suppress(FileExistsError):  # Someone makes another version.
      place_lib.clean(path, say)
    return path
  place_lib.clean(path, say)
  with room_lib.room(raw, path, memory_gib, say, beam) as spill:
    try:
      prepared = engine.prepare(raw, known, spill, salt, k_anonymous)
    except pl.exceptions.PolarsError as e:
      # A file cut short, a CSV line with a cell too many: named by Polars.
      files = ", ".join(raw.pieces)
      raise InputError(f"{source}: cannot read one of {files}: {e}") from e
    say(f"writing {len(prepared.users.keys):,} users to {path}")
    new = path
    if path.exists():
      new = path.parent / f"{path.name}{place_lib.NEW}"
    extra = {"contents": contents}
    stats = builder.write(prepared, new, extra, num_shards, say)
  if new != path:
    place_lib.swap(new, path)
  say(f"done: {path}")
  if not quiet:
    print(summary(stats, time.monotonic() - start), file=sys.stderr)
  return path


def _is_there(path: epath.Path, contents: dict, overwrite: bool) -> bool:
  """Whether the data set stands there already, with the same contents."""
  if not path.exists() or overwrite:
    return False
  try:
    found = json.loads((path / records_lib.STATS).read_text())["contents"]
  except (OSError, ValueError, KeyError) as e:
    raise InputError(
      f"{path} exists and is not a data set of this program: choose another "
      "--out, or give --overwrite"
    ) from e
  contents = json.loads(json.dumps(contents))
  if found == contents:
    try:
      data = records_lib.Records.open(path)
      for split in data.splits:
        data.source(split)
    except records_lib.DataError as e:
      raise InputError(f"{e}; give --overwrite") from e
    return True
  keys = sorted(contents.keys() | found.keys())
  differ = [k for k in keys if contents.get(k) != found.get(k)]
  told = "; ".join(_differ(k, found.get(k), contents.get(k)) for k in differ)
  out = "Choose another --out, or give --overwrite"
  if "ids" in differ and not contents.get("ids"):
    out += f"; for hashed ids, put their key into ${ids.SALT}"
  elif "ids" in differ and not found.get("ids"):
    out += "; --no-hash_ids keeps ids as they are"
  if "appended" in differ:
    out += ", which loses the days that were appended"
  raise InputError(f"{path} was prepared otherwise; {told}. {out}")


def _differ(name: str, there: Any, now: Any) -> str:
  """What differs between two data sets' contents."""
  if name == "ids":
    form = lambda x: "plain" if not x else f"{x['form']} ({x['fingerprint']})"
    return f"ids: {form(there)} there, {form(now)} now"
  if name == "appended":
    return f"{len(there or []):,} batches were appended"
  if isinstance(there, dict) and isinstance(now, dict):
    keys = sorted(there.keys() | now.keys())
    keys = [k for k in keys if there.get(k) != now.get(k)]
    few = [f"{k} {there.get(k)} there, {now.get(k)} now" for k in keys[:5]]
    return f"{name}: {', '.join(few)}"
  return f"{name}: {there} there, {now} now"


_RARE = (
  "in training, but not in the vocabulary (max_values, or declared values)"
)


def rejected(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
  """Lines about rejected rows, of {table: {reason: rows}}."""
  return [
    f"  rejected {table} rows: {count:,} {reason}"
    for table, reasons in counts.items()
    for reason, count in reasons.items()
  ]


def summary(stats: dict, seconds: float) -> str:
  """What was prepared, in a few lines."""
  lines = [
    f"{stats['users']:,} users ({stats['users_without_activity']:,} without "
    f"activity), {stats['rows']:,} rows of {stats['activity_rows_read']:,} read, "
    f"days {stats['first_day']} to {stats['last_day'] - 1}, "
    f"{stats['calendar_entries']:,} calendar entries, {seconds:.1f} s"
  ]
  for name, split in stats["splits"].items():
    size = sum(stats["shards"][f]["bytes"] for f in split["shards"])
    lines.append(
      f"  split {name}: {split['users']:,} users, {split['rows']:,} rows, "
      f"{size / 1e6:,.1f} MB in {len(split['shards'])} shards"
    )
  lines += rejected(stats["rejected"])
  if stats["users_without_profile"]:
    lines.append(
      f"  users without a profile row: {stats['users_without_profile']:,}"
    )
  if stats["users_without_split"]:
    lines.append(f"  users in no split: {stats['users_without_split']:,}")
  if ids.hashed(stats):
    lines.append(
      f"  users' ids are keyed hashes (key {stats['ids']['fingerprint']})"
    )
  else:
    lines.append(
      f"  users' ids are as in the raw tables; with a key in ${ids.SALT} or "
      f"${ids.SALT_FILE} they are keyed hashes"
    )
  lines.append(_entries(stats))
  unknown = {} if "fitted" in stats else stats["unknown_categories"]
  for table, fields in unknown.items():
    for field, counts in fields.items():
      for kind in ("unseen", "rare"):
        if counts[kind]:
          word = "not in training" if kind == "unseen" else _RARE
          lines.append(f"  {table}.{field}: {counts[kind]:,} rows {word}")
  for name, c in stats["composites"].items():
    if "tokens" not in c:  # Nothing was fitted.
      lines.append(
        f"  {name}: {c['rows_backoff']:,} rows have a smaller token, "
        f"{c['rows_unknown']:,} are unknown"
      )
      continue
    lines.append(
      f"  {name}: {c['tokens']:,} tokens of {c['products']:,} products cover "
      f"{c['coverage']:.2%} of training rows; {c['rows_backoff']:,} rows have "
      f"one of {c['backoff_tokens']:,} smaller tokens, {c['rows_unknown']:,} "
      "are unknown"
    )
    if c.get("backoff_idle"):
      lines.append(
        f"  {name}: every product has a token, so that no row is left to learn "
        "smaller ones from and new products are unknown: raise min_count"
      )
  for table, fields in stats.get("k_anonymous", {}).get("withheld", {}).items():
    for name, count in fields.items():
      lines.append(
        f"  {table}.{name}: {count:,} values that fewer than "
        f"{stats['k_anonymous']['k']} training users hold count as unknown"
      )
  for name, c in stats.get("inexact", {}).items():
    if "rank_error" in c:
      lines.append(
        f"  {name}: too many different numbers to keep apart: quantiles are off "
        f"by {c['rank_error']:,} of {c['rows']:,} ranks at most"
      )
    else:
      lines.append(
        f"  {name}: too many different values to keep apart: counts are short by "
        f"{c['count_short_by']:,} rows at most"
      )
  if "fitted" in stats:
    lines.append(f"  encoded as fitted by {stats['fitted']['by']}")
    lines += fitted_lib.drift(stats["fitted"]["outside"])
  for what, count in stats["notes"].items():
    lines.append(f"  {what}: {count:,}")
  return "\n".join(lines)


def _entries(stats: dict) -> str:
  """A line about when users come to be at risk."""
  found, days = stats["entries"], stats["last_day"] - stats["first_day"]
  text = (
    f"  at risk from a declared day: {found['declared']:,} users; from the day "
    f"after the first event: {found['after_first_event']:,}"
  )
  if found["never"]:
    text += f"; never, with neither: {found['never']:,}"
  share = found["user_days_before"] / max(1, stats["users"] * days)
  return f"{text}; {share:.1%} of all user-days lie before and have no labels"
