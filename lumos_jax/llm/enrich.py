r"""Writes texts of users to train a language model on: base, mixed, rewritten.

  python -m lumos_jax.llm.enrich --data=data/shop --split=train --out=texts \
    [--endpoint --price_in=0.15 --price_out=0.6 --max_cost=5]
  python -m lumos_jax.llm.enrich --config=llm4es:data=oulad --out=texts

--out gets Parquet files with the columns key, form, text and source ("base",
"offline", "endpoint"), and manifest.json, which counts what was told, cut and
dropped. With --endpoint a model behind $OPENAI_BASE_URL ($OPENAI_MODEL, key
$OPENAI_API_KEY) rewrites each user's base text: texts of users leave this machine.
It tells what that may cost before it starts, and never spends more than
--max_cost. Answers are kept in --answers: the same command resumes where it was
stopped, and pays no answer twice.
"""

import argparse
import collections
import dataclasses
import datetime
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
from absl import app
from absl.flags import argparse_flags
from etils import epath

from lumos_jax import files
from lumos_jax.config import errors as config_errors
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.llm import answers as answers_lib
from lumos_jax.llm import client, offline, prepared
from lumos_jax.llm import rewriter as rewriter_lib
from lumos_jax.llm import text as text_lib

BASE, OFFLINE = "base", "offline"
_TEXTS_A_PART = 8192
# What a user can mend: printed as one line, without a traceback.
ERRORS = (
  config_errors.ConfigError,
  answers_lib.CacheError,
  client.EndpointError,
  answers_lib.LimitError,
  records_lib.DataError,
  schema_lib.SchemaError,
  text_lib.TextError,
)
Row = rewriter_lib.Row


@dataclasses.dataclass
class Job:
  """What is asked for.

  Attributes:
    records: An open data set.
    split: Of it.
    cfg: Keys of `rows.Options` and `offline.Mix`.
    until: Events before this day; of all where it is 0.
    epochs: Offline texts a user.
    users: At most so many users, in the order of the split; 0 for all.
    seed: Of what is drawn.
    room: Most tokens of a text, by `count`; 0 for no limit.
    count: Text -> tokens; a byte has at most one.
  """

  records: Any
  split: str
  cfg: dict[str, Any]
  until: int = 0
  epochs: int = 1
  users: int = 0
  seed: int = 0
  room: int = 0
  count: Callable[[str], int] = lambda text: -(-len(text.encode()) // 3)

  def __post_init__(self):
    self.base = self._teller()
    mix = {**self.cfg, "base_share": 0.0}
    self.mixer = offline.Mixer(self.records.schema, mix, self.seed)
    self.source = self.records.source(self.split)

  def _teller(self, **changed) -> text_lib.Teller:
    options = text_lib.Options.of(offline.parted(self.cfg)[0])
    options = dataclasses.replace(options, **changed)
    return text_lib.Teller(self.records.schema, options)

  @property
  def fit(self) -> dict[str, Any]:
    """Arguments of `Teller.tell` that limit a text."""
    limit = {"count": self.count, "room": self.room} if self.room else {}
    return {"until": self.until, **limit}

  def each(
    self, teller: text_lib.Teller | None = None
  ) -> Iterator[tuple[dict, text_lib.Told]]:
    """Records of users with an event, and their texts.

    Args:
      teller: Of the texts; default one that tells tables alone, as a model is
        asked to rewrite them.
    """
    teller = teller or self._teller(form="table", profile=())
    count = len(self.source)
    for i in range(min(self.users, count) if self.users else count):
      record = self.source[i]
      told = teller.tell(record, **self.fit)
      if told.kept:
        yield record, told


def offline_rows(job: Job) -> Iterator[Row]:
  """Base texts, and offline texts of each epoch, user by user."""
  for record, told in job.each(job.base):
    yield _row(record, told, BASE)
    for epoch in range(job.epochs):
      yield _row(record, job.mixer.tell(record, epoch, **job.fit), OFFLINE)


def _row(record, told: text_lib.Told, source: str) -> Row:
  return {
    "key": record["key"],
    "form": told.form,
    "text": told.text,
    "source": source,
  }


def write(
  job: Job, out: epath.PathLike, rewriter: rewriter_lib.Rewriter | None = None
) -> dict[str, Any]:
  """Writes texts of a split; see the module's text.

  Returns:
    The manifest.

  Raises:
    EndpointError, LimitError: The endpoint's part is not complete; what was
      rewritten until then is written, and the manifest says so.
  """
  out, stopped = epath.Path(out), None
  out.mkdir(parents=True, exist_ok=True)
  file = out / prepared.MANIFEST
  if file.exists() and prepared.manifest(out).get("split") != job.split:
    raise records_lib.DataError(
      f"{out} holds texts of split {prepared.manifest(out).get('split')!r}: give "
      f"those of {job.split!r} a folder of their own"
    )
  file.unlink(missing_ok=True)
  # Of an earlier run, perhaps a killed one: by our names alone.
  own = re.compile(rf"{re.escape(job.split)}-\d{{5}}\.parquet(\.part)?")
  for old in out.iterdir():
    if own.fullmatch(old.name):
      old.unlink()
  counts: collections.Counter = collections.Counter()
  parts = _Parts(out, job.split)
  for row in offline_rows(job):
    parts.add(row)
    counts[row["source"]] += 1
  if rewriter is not None:
    try:
      for row in rewriter.run(job.each()):
        parts.add(row)
        counts[rewriter_lib.ENDPOINT] += 1
    except (client.EndpointError, answers_lib.LimitError) as e:
      stopped = e
  parts.close()
  manifest = {
    "complete": stopped is None,
    "data": job.records.schema.name,
    "schema_hash": job.records.schema.hash,
    "split": job.split,
    "until_day": job.until,
    "seed": job.seed,
    "text": dataclasses.asdict(job.base.options),
    "mix": dataclasses.asdict(job.mixer.mix),
    "untold": job.base.rows.untold,
    "texts": dict(counts),
    "base": dict(job.base.counts),
    "offline": dict(job.mixer.teller.counts),
    "endpoint": dict(sorted(rewriter.counts.items())) if rewriter else {},
    "files": parts.files,
  }
  if rewriter:
    manifest["model"] = rewriter.ask.endpoint.model
    manifest["spent"] = rewriter.ask.answers.spent()
  with files.naming(file):
    file.write_text(json.dumps(manifest, indent=1))
  if stopped is not None:
    raise stopped
  return manifest


class _Parts:
  """Rows to Parquet files of a few thousand texts; a file is whole or absent."""

  def __init__(self, out: epath.Path, split: str):
    self.out, self.split = out, split
    self.files: dict[str, str] = {}  # sha256 of each.
    self._rows: list[Row] = []

  def add(self, row: Row) -> None:
    self._rows.append(row)
    if len(self._rows) >= _TEXTS_A_PART:
      self.close()

  def close(self) -> None:
    if not self._rows and self.files:
      return
    name = f"{self.split}-{len(self.files):05d}.parquet"
    schema = dict.fromkeys(prepared.COLUMNS, pl.String)
    frame = pl.DataFrame(self._rows, schema)
    data = io.BytesIO()
    frame.write_parquet(data)
    part = self.out / f"{name}.part"
    with files.naming(part):
      part.write_bytes(data.getvalue())
      part.replace(self.out / name)
    self.files[name] = hashlib.sha256(data.getvalue()).hexdigest()
    self._rows = []


def _day(text: str | None, schema: schema_lib.Schema) -> int:
  if text is None:
    return schema.train_until
  try:
    day = int(text)
  except ValueError:
    try:
      day = datetime.date.fromisoformat(text)
      day = (day - datetime.date.fromisoformat(schema.epoch)).days
    except ValueError as e:
      raise text_lib.TextError(
        f"--until={text} is neither a day number nor a date, or the data have no "
        "dates"
      ) from e
  if not day:  # It would stand for all days.
    raise text_lib.TextError(
      f"--until={text} is day 0 of the data: give a later day"
    )
  return day


def _count(text: str) -> int:
  """A whole number, 0 or more."""
  if int(text) < 0:
    raise argparse.ArgumentTypeError(f"{text} is below 0")
  return int(text)


def _positive(text: str) -> int:
  """A whole number above 0."""
  if int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text} is below 1")
  return int(text)


def _amount(text: str) -> float:
  """A finite number, 0 or more: a limit that is none would bound nothing."""
  if not 0 <= float(text) < math.inf:
    raise argparse.ArgumentTypeError(f"{text} is no amount of 0 or more")
  return float(text)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="python -m lumos_jax.llm.enrich",
    description="Writes texts of users to train a language model on.",
    conflict_handler="resolve",
  )
  add = parser.add_argument
  add("--data", help="a prepared data set; default that of --config")
  add(
    "--config",
    help="of the run that is to train on the texts: its data, split, last day and "
    "text options",
  )
  add("--split", help="whose users are told; default train")
  add("--out", required=True, help="folder to write to")
  add("--until", help="day or date; default where the data's training ends")
  add("--text", help='JSON of text options, e.g. \'{"time": "day"}\'')
  add("--epochs", type=_count, default=1, help="offline texts a user")
  add("--users", type=_count, default=0, help="at most so many; 0 for all")
  add("--seed", type=int, default=0, help="of forms and names")
  add(
    "--room",
    type=_count,
    default=0,
    help="most tokens a text, by three bytes each",
  )
  add("--endpoint", action="store_true", help="rewrite texts by a model, too")
  add("--answers", help="file of paid answers; default OUT/answers.sqlite")
  add("--price_in", type=_amount, help="of a million tokens sent")
  add("--price_out", type=_amount, help="of a million tokens received")
  add(
    "--max_cost",
    type=_amount,
    default=0.0,
    help="most to spend, all runs together",
  )
  add("--max_tokens", type=_positive, default=4096, help="of an answer")
  add("--per_minute", type=_count, default=60, help="requests; 0 for no limit")
  add("--workers", type=_positive, default=4, help="requests at a time")
  add("--timeout", type=_amount, default=120.0, help="seconds without a byte")
  add("--temperature", type=_amount, default=0.7, help="sent with each request")
  add("--estimate", action="store_true", help="tell the cost and stop")
  return parser.parse_args(argv[1:])


def _rewriter(args: argparse.Namespace) -> rewriter_lib.Rewriter:
  if args.price_in is None or args.price_out is None:
    raise client.EndpointError(
      "say what the endpoint costs: --price_in=, --price_out= a million tokens "
      "(0 and 0 where it is free)"
    )
  endpoint = client.Endpoint.of_environment(
    price_in=args.price_in,
    price_out=args.price_out,
    limit=args.max_cost,
    max_tokens=args.max_tokens,
    per_minute=args.per_minute,
    timeout_seconds=args.timeout,
    temperature=args.temperature,
    seed=args.seed,
  )
  place = args.answers or str(epath.Path(args.out) / "answers.sqlite")
  ask = client.Client(endpoint, answers_lib.Answers(place))
  return rewriter_lib.Rewriter(ask, args.seed, args.workers)


def _tell_cost(rewriter: rewriter_lib.Rewriter, job: Job) -> None:
  e, found = rewriter.ask.endpoint, rewriter.estimate(job.each())
  spent = rewriter.ask.answers.spent()
  print(
    f"{found['texts']:,} texts to rewrite, {found['known']:,} of them paid before; "
    f"about {found['tokens_in']:,.0f} tokens to send and {found['tokens_out']:,.0f} "
    f"to receive; about {found['cost']:.2f}, at most {found['most']:.2f}; spent "
    f"until now {spent:.2f}, limit {e.limit:.2f}",
    file=sys.stderr,
  )
  if spent + found["cost"] > e.limit:
    raise answers_lib.LimitError(
      f"this would cost about {found['cost']:.2f}, and {e.limit - spent:.2f} is left "
      "of --max_cost: raise it, or ask for fewer with --users; nothing was asked"
    )


def _read(args: argparse.Namespace) -> tuple[Any, str, dict[str, Any], int]:
  """Data set, split, text options and day, of --config where there is one."""
  from lumos_jax import config as config_lib
  from lumos_jax import evaluate
  from lumos_jax.llm import inputs

  split, cfg, until = args.split or "train", {}, None
  if args.config:
    config = config_lib.load(args.config)
    if config.recipe != "llm4es":
      raise text_lib.TextError(
        f"--config={args.config} is of recipe {config.recipe!r}, not 'llm4es'"
      )
    records = evaluate.open_data(config, args.data)
    split = args.split or config.data.train_split
    cfg = {k: config.data.text[k] for k in inputs.TEXT}
    until = config.data.train_origin_last
  elif args.data:
    records = records_lib.Records.open(args.data)
  else:
    raise text_lib.TextError("give --data=FOLDER or --config=FILE or NAME")
  if args.text is not None:
    try:
      more = json.loads(args.text)
      if not isinstance(more, dict):
        raise ValueError(f"it is a {type(more).__name__}")
    except ValueError as e:
      raise text_lib.TextError(f"--text is no JSON object: {e}") from e
    cfg |= more
  if args.until is not None or until is None:
    until = _day(args.until, records.schema)
  return records, split, cfg, until


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  try:
    records, split, cfg, until = _read(args)
    job = Job(
      records,
      split,
      cfg,
      until=until,
      epochs=args.epochs,
      users=args.users,
      seed=args.seed,
      room=args.room,
    )
    asks = args.endpoint or args.estimate
    rewriter = _rewriter(args) if asks else None
    if rewriter:
      _tell_cost(rewriter, job)
      if args.estimate:
        return
    manifest = write(job, args.out, rewriter)
  except KeyboardInterrupt:
    print("interrupted: the same command goes on", file=sys.stderr)
    sys.exit(130)
  except ERRORS as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  print(json.dumps({k: manifest[k] for k in ("texts", "base", "endpoint")}))


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
