r"""What user embeddings know: events, contrast, language models; MovieLens-1M.

  LUMOS_MOVIELENS_DIR=DIR python benchmarks/llm4es.py --users=1000 --steps=150 \
    [--weights=smollm2] [--out=runs/llm4es_table] [--only=names,enriched]

Each variant is a whole run of `main`; those that were interrupted go on, finished
ones and their vectors are read. The same users and folds serve all: LightGBM as
LLM4ES has it on one table after another, five stratified folds. Users of the
table are drawn by id, `--users` of them; all users train. Writes
benchmarks/results/llm4es.json.
"""

import argparse
import hashlib
import pathlib
import time

import numpy as np
import polars as pl
import results
from absl import logging

import lumos_jax
from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax.evaluators import probe

# {variant: config file's arguments, config keys}.
EVENTS = {
  "own events": ("panther:data=movielens,ids,bag=64", {}),
  "coles": (
    "panther:data=movielens,ids",
    {"objective.coles_weight": 1.0, "data.overlap": 0},
  ),
}
_BASE = {"data.text.base_share": 1.0}
TEXTS = {
  "untouched": _BASE | {"train.steps": 0},
  "codes": _BASE | {"data.text.names": False},
  "names": _BASE,
  "enriched": {},
}
# An event model that learns to meet a text variant's vectors: of the table's
# users alone, whom it then describes without a language model.
DISTILLED = {"distilled": "enriched"}
# Beside each other in one table of features.
JOINED = (
  ("distilled", "aggregates"),
  ("enriched", "aggregates"),
  ("enriched", "coles"),
  ("enriched", "own events"),
  ("enriched", "own events", "aggregates"),
)
# MovieLens' 21 occupations.
_GROUPS = {
  "student": (4, 10),
  "technical": (12, 15, 17),
  "business": (3, 5, 7, 11, 14, 16),
  "education, arts, health": (1, 2, 6, 20),
}
_FOLDS = 5


def make_config(name, args):
  """The config of a variant."""
  if name in DISTILLED:
    file, keys = EVENTS["own events"]
    teacher = vectors_file(DISTILLED[name], args)
    if not teacher.exists():
      raise SystemExit(f"{name} learns from {teacher}: run its variant first")
    width = len(pl.scan_parquet(teacher).head(1).collect()["embedding"][0])
    keys = keys | {
      "data.teacher": str(teacher),
      "objective.distill_weight": 0.5,
      "objective.distill_width": width,
    }
    c = config_lib.load(f"{file},steps={args.event_steps}")
  elif name in EVENTS:
    file, keys = EVENTS[name]
    c = config_lib.load(f"{file},steps={args.event_steps}")
  else:
    keys = TEXTS[name]
    c = config_lib.load(
      f"llm4es:weights={args.weights},length={args.length},steps={args.steps},"
      f"batch={args.batch}" + (",smoke" if args.smoke else "")
    )
  with c.unlocked():
    c.update_from_flattened_dict(keys)
    c.data.root, c.report, c.seed = args.root, False, args.seed
    keep = ("perplexity", "next_event")
    for e in [k for k in c.evals if k not in keep]:
      del c.evals[e]
    if name == "untouched":
      c.optimizer.warmup_steps = 0
  return c


def vectors_file(name, args) -> pathlib.Path:
  """Where a variant's vectors lie."""
  workdir = pathlib.Path(args.out) / name.replace(" ", "_")
  return workdir / f"vectors_{args.users}.parquet"


def vectors(name, args, keys):
  """Float32 [U, W] of users, from a file where they are there already."""
  file = vectors_file(name, args)
  workdir = file.parent
  begin = time.monotonic()
  if not file.exists():
    main_lib.run(make_config(name, args), str(workdir))
    frame = lumos_jax.load(str(workdir)).embed(users=keys)
    frame.select("key", "embedding").write_parquet(file)
  found = pl.read_parquet(file)
  order = pl.DataFrame({"key": keys})
  found = order.join(found, on="key", how="left", maintain_order="left")
  if found["embedding"].null_count():
    raise SystemExit(f"{file} lacks users: remove it")
  return found["embedding"].to_numpy(), time.monotonic() - begin


def chosen(records, count: int):
  """Records of `count` users of the data, drawn by id."""
  source = records.source("train")
  number = lambda r: hashlib.sha256(r["key"].encode()).digest()
  every = sorted((source[i] for i in range(len(source))), key=number)
  return every[:count] if count else every


def questions(records, users):
  """{label: classes int [U]}."""
  names = [f.name for f in records.schema.categorical("profile")]
  out = {}
  for label in ("gender", "age", "occupation"):
    at = names.index(label)
    values = records.schema.categorical("profile")[at].values
    ids = np.asarray([r["profile_categorical"][at] for r in users])
    if label == "occupation":
      codes = [int(values[i - 2]) if i > 1 else -1 for i in ids]
      ids = [_group(code) for code in codes]
    out[label] = np.unique(ids, return_inverse=True)[1]
  return out


def _group(code: int) -> int:
  """Number of an occupation's group; 0 for others."""
  found = [n for n, of in enumerate(_GROUPS.values(), 1) if code in of]
  return found[0] if found else 0


def aggregates(records, users, target: str):
  """How often each value of the target occurs: sparse [U, V]."""
  from scipy import sparse

  fields = [f.name for f in records.schema.categorical("activity")]
  column = fields.index(target)
  size = records.schema.categorical("activity")[column].size
  ids = [r["categorical"][:, column] for r in users]
  rows = np.repeat(np.arange(len(users)), [len(x) for x in ids])
  ones = np.ones(len(rows), np.float32)
  return sparse.csr_matrix(
    (ones, (rows, np.concatenate(ids))), (len(users), size)
  )


def scores(x, y, seed: int):
  """Out-of-fold AUC (two classes) or accuracy: of each fold."""
  from sklearn import metrics, model_selection

  folds = model_selection.StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
  found = []
  for train, test in folds.split(np.zeros(len(y)), y):
    p = probe.fit("lightgbm_llm4es", x, y, train, seed)(x, test)
    if y.max() == 1:
      found.append(metrics.roc_auc_score(y[test], p[:, 1]))
    else:
      found.append(np.mean(p.argmax(1) == y[test]))
  return np.asarray(found)


def main():
  """Runs what is missing and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--users", type=int, default=1000, help="of the table; 0 for all")
  add("--steps", type=int, default=150, help="of fine-tuning")
  add("--event-steps", type=int, default=3000, help="of the event recipe")
  add("--batch", type=int, default=8, help="rows of a step")
  add("--length", type=int, default=512, help="tokens of a row")
  add("--weights", default="smollm2", help="as model.weights")
  add("--out", default="runs/llm4es_table", help="of the runs")
  add("--root", default="data", help="of prepared data")
  add("--seed", type=int, default=0, help="of all runs")
  add("--only", default="", help="variants, separated by commas")
  add("--smoke", action="store_true", help="a tiny model: does it run?")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  names = [*EVENTS, *TEXTS, *DISTILLED]
  if args.only:
    names = [n for n in names if n in args.only.split(",")]
  records = main_lib.open_data(make_config(names[0], args))
  users = chosen(records, args.users)
  keys = [r["key"] for r in users]
  tables = {"aggregates": aggregates(records, users, "item")}
  seconds = {"aggregates": 0.0}
  for name in names:
    tables[name], seconds[name] = vectors(name, args, keys)
  whole = {(n,): (tables[n],) for n in tables}
  whole |= {
    j: tuple(tables[n] for n in j) for j in JOINED if set(j) <= set(tables)
  }
  rows = []
  for label, y in questions(records, users).items():
    metric = "auc" if y.max() == 1 else "accuracy"
    for parts, x in whole.items():
      found = scores(x, y, args.seed)
      said = " + ".join(parts)
      print(f"{label:12s}{said:40s}{found.mean():.4f} +- {found.std():.4f}")
      rows.append(
        dict(
          dataset=f"movielens_1m, {len(users):,} users drawn by id",
          split=f"{_FOLDS} stratified folds",
          protocol=f"{label}, {metric}; LightGBM of 500 trees",
          model=said,
          config=f"weights={args.weights}, length={args.length}",
          seed=args.seed,
          steps=args.steps,
          wall_seconds=sum(seconds[p] for p in parts),
          metrics={
            metric: float(found.mean()),
            f"{metric}_deviation": float(found.std()),
          },
        )
      )
  if not args.smoke:
    print(results.write("llm4es", rows))


if __name__ == "__main__":
  main()
