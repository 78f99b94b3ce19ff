r"""What user embeddings know: events, contrast, language models.

  LUMOS_MOVIELENS_DIR=DIR python benchmarks/llm4es.py --data=movielens --users=1000 \
    --steps=150 [--weights=smollm2] [--out=runs/llm4es_table] \
    [--only=names,enriched] [--labels=gender]

Asks gender, age band and occupation group on MovieLens-1M, whether students who are
still there after 18 weeks pass (--data=oulad, LUMOS_OULAD_DIR), and whether clients
default (--data=credit_default, LUMOS_CREDIT_DEFAULT_DIR). The same users and folds
serve all variants: LightGBM as LLM4ES has it on one table after another.

Each variant is a whole run of `main`, in a folder that says what made it:
interrupted ones go on, finished ones and their vectors are read. "distilled" is an
event model that learned from vectors of --taught users who are not in the table.
Writes benchmarks/results/llm4es_DATA.json.
"""

import argparse
import hashlib
import pathlib
import time

import llm4es_users
import numpy as np
import polars as pl
import results
from absl import logging

import lumos_jax
from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax import metric_writer
from lumos_jax.evaluators import bootstrap, probe

EVENTS, COLES, DISTILLED = "own events", "coles", "distilled"
_BASE = {"data.text.base_share": 1.0}
TEXTS = {
  "untouched": _BASE | {"train.steps": 0, "optimizer.warmup_steps": 0},
  "codes": _BASE | {"data.text.names": False},
  "names": _BASE,
  "enriched": {},
}
TEACHER = "enriched"
VARIANTS = (EVENTS, COLES, *TEXTS, DISTILLED)
# Beside each other in one table of features.
JOINED = (
  (DISTILLED, "aggregates"),
  ("enriched", "aggregates"),
  ("enriched", COLES),
  ("enriched", EVENTS),
  ("enriched", EVENTS, "aggregates"),
)
# Whose difference is told, beside that of all from aggregates.
COMPARED = (
  ("codes", "untouched"),
  ("names", "codes"),
  ("enriched", "names"),
  ("enriched", EVENTS),
  (DISTILLED, "enriched"),
  (DISTILLED, EVENTS),
)
_FOLDS = 5
_TOLD_USERS = 32  # Of perplexity.


class Bench:
  """Variants of one data set, and where their vectors lie."""

  def __init__(self, args):
    """Opens the data and draws the users."""
    self.args, self.data = args, llm4es_users.DATASETS[args.data]
    self._smoke = ",smoke" if args.smoke else ""
    self._text_file = (
      f"llm4es:data={args.data},weights={args.weights},length={args.length},"
      f"steps={args.steps},batch={args.batch}{self._smoke}"
    )
    config = config_lib.load(self._text_file)
    with config.unlocked():
      config.data.root = args.root
    self.day = config.data.test_origin  # 0: all is known.
    records = main_lib.open_data(config)
    self.schema, self._trained_on = records.schema, len(records.source("train"))
    self.users, self.taught = llm4es_users.chosen(
      records, self.data, args.users, args.taught or args.users, self.day
    )
    self._seconds: dict[str, list[float]] = {}

  def config(self, name: str):
    """Of a variant."""
    arg, keys = self._made(name)
    c = config_lib.load(arg)
    with c.unlocked():
      c.update_from_flattened_dict(keys)
      c.data.root, c.report, c.seed = self.args.root, False, self.args.seed
      # Ranking takes longer than training, and nothing here asks for it.
      c.evals = {}
      if name in TEXTS:
        # Perplexity of a few users, before and after.
        d = c.data
        d.validation_split = d.test_split = d.train_split
        d.holdout_share = min(0.5, _TOLD_USERS / self._trained_on)
        c.evals = dict(perplexity=dict(type="perplexity", at_start=True))
        c.train.checkpoint_every = max(1, c.train.steps // 4)
        c.train.keep = 1  # A checkpoint has three times the weights.
        c.model.remat = "none"  # Rows are few and short.
    return c

  def _made(self, name: str):
    """A variant's config file with arguments, and keys beside them."""
    args = self.args
    if name in TEXTS:
      # A short run takes larger steps, and few of them to warm up.
      warm = min(20, args.steps // 8)
      own = {"optimizer.warmup_steps": warm} | TEXTS[name]
      return self._text_file, own | {"optimizer.learning_rate": args.rate}
    file, keys = self.data.events, {}
    if name == COLES:
      file = self.data.contrast
      keys = {"objective.coles_weight": 1.0, "data.overlap": 0}
    if name == DISTILLED:
      keys = self._teacher()
    if self.day:
      keys |= {"data.train_origin_last": self.day}
    return f"{file},steps={args.event_steps}{self._smoke}", keys

  def _teacher(self):
    """Keys to learn from vectors; the table's users are not among them."""
    file = self.file(TEACHER)
    if not file.exists():
      raise SystemExit(f"{DISTILLED} learns from {file}: run {TEACHER} first")
    part = file.with_name(f"teacher_{file.name}")
    found = pl.read_parquet(file)
    found.filter(pl.col("key").is_in(self.taught)).write_parquet(part)
    return {
      "data.teacher": str(part),
      "objective.distill_weight": 0.5,
      "objective.distill_width": found["embedding"].dtype.size,
    }

  def workdir(self, name: str) -> pathlib.Path:
    """Named by what made it: dials, and a digest of all that is set here."""
    args = self.args
    arg, keys = self._made(name)
    said = [name.replace(" ", "_")]
    if name in TEXTS:
      steps = keys.get("train.steps", args.steps)
      weights = pathlib.Path(args.weights).name
      said += [f"steps={steps}", f"length={args.length}", f"batch={args.batch}"]
      said += [f"rate={args.rate:g}", weights]
    else:
      said += [f"steps={args.event_steps}"]
    made = repr((arg, sorted(keys.items()), self.day, args.seed))
    digest = hashlib.sha256(made.encode()).hexdigest()[:8]
    return pathlib.Path(args.out) / args.data / "-".join([*said, digest])

  def file(self, name: str) -> pathlib.Path:
    """Where a variant's vectors lie."""
    keys = self._keys(name)
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    return self.workdir(name) / f"vectors_{len(keys)}_{digest[:8]}.parquet"

  def _keys(self, name: str) -> list[str]:
    more = self.taught if name == TEACHER else []
    return [r["key"] for r in self.users] + more

  def vectors(self, name: str) -> np.ndarray:
    """Float32 [U, W] of the table's users, made where they are not there yet."""
    file = self.file(name)
    if not file.exists():
      begin = time.monotonic()
      main_lib.run(self.config(name), str(file.parent))
      run = lumos_jax.load(str(file.parent))
      frame = run.embed(as_of=self.day or None, users=self._keys(name))
      # Whole or not at all: the next start reads what is there.
      part = file.with_suffix(".part")
      frame.select("key", "embedding").write_parquet(part)
      part.rename(file)
      self._seconds.setdefault(_kind(name), []).append(time.monotonic() - begin)
    found = pl.read_parquet(file)
    order = pl.DataFrame({"key": [r["key"] for r in self.users]})
    found = order.join(found, on="key", how="left", maintain_order="left")
    if found["embedding"].null_count():
      raise SystemExit(f"{file} lacks users: remove it")
    return found["embedding"].to_numpy()

  def told(self, name: str) -> dict[str, float]:
    """Seconds of training, and perplexity before and after it."""
    lines = metric_writer.read(self.workdir(name))
    out = {"seconds": max((x.get("elapsed", 0.0) for x in lines), default=0.0)}
    found = [
      x["perplexity/perplexity"] for x in lines if "perplexity/perplexity" in x
    ]
    if found:
      out |= {"perplexity_before": found[0], "perplexity_after": found[-1]}
    return out

  def left(self, names) -> str:
    """How long variants will take that have no vectors yet, in words."""
    minutes, unknown = 0.0, []
    for name in names:
      # What distils needs its teacher's vectors even to be named.
      ready = name != DISTILLED or self.file(TEACHER).exists()
      if ready and self.file(name).exists():
        continue
      seen = self._seconds.get(_kind(name))
      if seen:
        minutes += np.mean(seen) / 60
      else:
        unknown.append(name)
    said = [f"about {minutes:.0f} minutes left"] if minutes else []
    if unknown:
      said.append(f"not known of {', '.join(unknown)}")
    return "time: " + (" and ".join(said) or "all is there")


def _kind(name: str) -> str:
  return "untouched" if name == "untouched" else str(name in TEXTS)


def score(bench: Bench, tables: dict, seconds: dict) -> list[dict]:
  """Rows of results: a model each, with all labels and differences."""
  args = bench.args
  whole = {(n,): (tables[n],) for n in tables}
  whole |= {
    j: tuple(tables[n] for n in j) for j in JOINED if set(j) <= set(tables)
  }
  metrics: dict[str, dict] = {" + ".join(parts): {} for parts in whole}
  asked = bench.data.questions(bench.schema, bench.users)
  wanted = args.labels.split(",") if args.labels else list(asked)
  if unknown := set(wanted) - set(asked):
    raise SystemExit(f"--labels: no {unknown}; there are {list(asked)}")
  for label in wanted:
    ids = asked[label]
    y, known = _classes(label, ids)
    folds = list(probe.splits(y, _FOLDS))
    tests, scores = [test for _, test in folds], {}
    for parts, x in whole.items():
      name = " + ".join(parts)
      x = tuple(part[known] for part in x)
      metric, found, scores[name] = probe.out_of_fold(
        "lightgbm_llm4es", x, y, folds, args.seed
      )
      print(f"{label:12s}{name:40s}{found.mean():.4f} +- {found.std():.4f}")
      metrics[name] |= {
        f"{label}/users": len(y),
        f"{label}/{metric}": float(found.mean()),
        f"{label}/{metric}_deviation": float(found.std()),
      }
    pairs = [(n, "aggregates") for n in scores if n != "aggregates"]
    for name, other in [*pairs, *COMPARED]:
      if name in scores and other in scores:
        found = probe.difference(metric, y, tests, scores[name], scores[other])
        shown = f"{label}_vs_{other.replace(' ', '_')}/{metric}"
        metrics[name] |= bootstrap.flat({shown: found})
  weights = pathlib.Path(args.weights).name
  text = f"weights={weights}, length={args.length}, batch={args.batch}"
  text = f"{text}, rate={args.rate:g}"
  return [
    dict(
      dataset=f"{bench.data.shown}, {len(bench.users):,} users drawn by id",
      split=f"{_FOLDS} stratified folds",
      protocol="LightGBM of 500 trees; the distilled model learned from vectors "
      f"of {len(bench.taught):,} users outside the table",
      model=name,
      config=f"{text}; event models of {args.event_steps:,} steps",
      seed=args.seed,
      steps=args.steps,
      wall_seconds=sum(seconds[p] for p in parts),
      metrics=metrics[name] | (bench.told(name) if name in TEXTS else {}),
    )
    for parts, name in zip(whole, metrics, strict=True)
  ]


def _classes(label: str, ids: np.ndarray):
  """Classes from 0 of users that are known, and which users these are."""
  values, counts = np.unique(ids, return_counts=True)
  enough = [v for v, n in zip(values, counts) if v >= 0 and n >= _FOLDS]
  known = np.isin(ids, enough)
  if (~known).any():
    print(
      f"{label}: {(~known).sum()} users left out, without a value or with one "
      f"that fewer than {_FOLDS} have"
    )
  if len(enough) < 2:
    raise SystemExit(f"{label}: these users have one class: take more --users")
  return np.unique(ids[known], return_inverse=True)[1], known


def main():
  """Runs what is missing and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--data", default="movielens", choices=llm4es_users.DATASETS)
  add("--users", type=int, default=1000, help="of the table; 0 for all")
  add("--taught", type=int, default=0, help="others to distil; 0: as many")
  add("--steps", type=int, default=150, help="of fine-tuning")
  add("--event-steps", type=int, default=1000, help="of event models")
  add("--rate", type=float, default=1e-5, help="of learning, as published")
  add("--batch", type=int, default=8, help="rows of a step")
  add("--length", type=int, default=512, help="tokens of a row")
  add("--weights", default="smollm2", help="as model.weights")
  add("--out", default="runs/llm4es_table", help="of the runs")
  add("--root", default="data", help="of prepared data")
  add("--seed", type=int, default=0, help="of all runs")
  add("--only", default="", help="variants, separated by commas")
  add("--labels", default="", help="what is asked, with commas; default all")
  add("--smoke", action="store_true", help="tiny models: does it run?")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  wanted = args.only.split(",") if args.only else VARIANTS
  if unknown := set(wanted) - set(VARIANTS):
    raise SystemExit(f"--only: no variant {unknown}; there are {VARIANTS}")
  bench = Bench(args)
  names = [n for n in VARIANTS if n in wanted]
  if not bench.taught:
    print(
      "distilled is left out: there is nobody outside the table to learn from"
    )
    names = [n for n in names if n != DISTILLED]
  tables = {
    "aggregates": llm4es_users.aggregates(
      bench.schema, bench.users, bench.data, bench.day
    )
  }
  seconds = {"aggregates": 0.0}
  for name in names:
    print(f"{args.data}: {name}; {bench.left(names)}", flush=True)
    tables[name] = bench.vectors(name)
    seconds[name] = bench.told(name)["seconds"]
  rows = score(bench, tables, seconds)
  if not args.smoke:
    print(results.write(f"llm4es_{args.data}", rows))


if __name__ == "__main__":
  main()
