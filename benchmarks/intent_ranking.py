r"""Which tile comes next: a ranker with the session's vector, and without.

  python benchmarks/intent_ranking.py --data=complete_journey_baskets --steps=250 \
    --name=intent_ranking_complete_journey
  LUMOS_OULAD_DIR=DIR python benchmarks/intent_ranking.py --data=oulad_clicks \
    --steps=300 --name=intent_ranking_oulad

Complete Journey: the department that leads in a household's next basket; training,
validation and test follow each other in time. OULAD: the kind of page that leads on a
student's next day; other students in later presentations are the test. The ranker is
softmax regression, of the same strengths chosen by validation log loss for all:

- history: counts of the user's sessions before the last one, by category;
- counts: these, and counts of the last session by page and category;
- vector: the last session's vector and the mean of the earlier ones';
- history + vector: what "From Clicks to Intent" adds a session's vector to;
- both: counts and vector.

All end with the last session before the one that is predicted. Gains are relative, in
percent, the mean of the seeds of the encoder, with 95 % intervals over users and
seeds. Runs of benchmarks/intent.py in --out are read, missing ones are trained.
Writes benchmarks/results/NAME.json after every seed.
"""

import argparse
import pathlib
import time

import intent as intent_benchmark
import numpy as np
import results
from absl import logging
from scipy import sparse

from lumos_jax import checkpoint, evaluate, predictor, session_table
from lumos_jax import main as main_lib
from lumos_jax.data import pages as pages_lib
from lumos_jax.evaluators import (
  bootstrap,
  hierarchical,
  predict,
  softmax,
  tiles,
)

METRICS = ("macro_recall@1", "log_loss", "ndcg")
# What is compared with what; the first as published.
PAIRS = (
  ("history + vector", "history"),
  ("both", "counts"),
  ("vector", "counts"),
  ("history + vector", "counts"),
)
_LABEL = "next_tile"
_KEPT = 0.9  # Of older sessions' weight, from session to session.
_DRAWS = 1000


class Questions:
  """All sessions in order of user and time, and what is asked of them.

  N sessions, V pages, G categories.

  Attributes:
    records: N of them; a user's sessions follow each other.
    user, split: text [N].
    tile: int [N], of the next session with one; -1 where there is none.
    pages: sparse [N, V], counts of the session.
    last: float [N, 2 G + 2], the session by category.
    history: float [N, 4 G + 1], the user's sessions before it.
  """

  def __init__(self, records, config, users: int = 0):
    """Reads a data set; its sessions' keys are USER/SESSION.

    Args:
      records: An open data set.
      config: Of a run on it.
      users: How many, drawn by a hash; 0 for all.
    """
    schema, rows = records.schema, []
    names = [f.name for f in schema.categorical("activity")]
    column = names.index(config.data.target)
    label = [x.name for x in schema.labels].index(_LABEL)
    for split in records.splits:
      source = records.source(split)
      for start in range(0, len(source), 4096):
        stop = min(start + 4096, len(source))
        for r in source.__getitems__(range(start, stop)):
          rows.append((user_of(r["key"]), int(r["time"][-1]), split, r))
    everyone = sorted({r[0] for r in rows})
    order = np.argsort(predict.hash_keys(everyone))[: users or None]
    kept = {everyone[i] for i in order}
    rows = [r for r in rows if r[0] in kept]
    rows.sort(key=lambda r: (*r[:2], r[3]["key"]))
    self.records = [r[3] for r in rows]
    self.user, self.split = (np.asarray([r[i] for r in rows]) for i in (0, 2))
    mine = [r["label_value"][r["label_id"] == label] for r in self.records]
    self.tile = np.asarray([int(x[-1]) if len(x) else -1 for x in mine])
    size = [len(r["day"]) for r in self.records]
    at = np.repeat(np.arange(len(rows)), size)
    page = np.concatenate([r["categorical"][:, column] for r in self.records])
    amount = np.concatenate([r["numeric"][:, 0] for r in self.records])
    amount = np.nan_to_num(amount)
    of = pages_lib.Pages.load(records.path).category
    kinds, of_page = np.unique(of, return_inverse=True)
    table = lambda columns, values, width: sparse.csr_matrix(
      (values.astype(np.float32), (at, columns)), (len(rows), width)
    )
    ones, width = np.ones(len(page)), len(of)
    self.pages = table(page, ones, width)
    # Amounts (sales, clicks) lead a session, as they do the tile.
    by_kind = table(of_page[page], ones, len(kinds)).toarray()
    amounts = table(of_page[page], np.maximum(amount, 0), len(kinds)).toarray()
    whole = np.stack([by_kind.sum(1), amounts.sum(1)], 1)
    self.last = np.log1p(np.concatenate([by_kind, amounts, whole], 1))
    # Which tile led each session, as the label tells it of the next one.
    shown = amounts * np.isin(kinds, schema.labels[label].values)
    leads = np.eye(len(kinds))[shown.argmax(1)] * (shown.sum(1) > 0)[:, None]
    self.history = self._history(by_kind, amounts, leads)

  def _history(self, by_kind, amounts, leads):
    begins = self.begins()
    count = np.arange(len(begins)) - begins
    share = lambda x: self.before(x) / np.maximum(count, 1)[:, None]
    faded = np.zeros(amounts.shape)
    for i in range(1, len(begins)):
      if begins[i] < i:
        faded[i] = _KEPT * faded[i - 1] + amounts[i - 1]
    parts = [share(by_kind), share(amounts), faded]
    parts = [np.log1p(x) for x in parts]
    parts += [share(leads), np.log1p(count)[:, None]]
    return np.concatenate(parts, 1)

  def begins(self) -> np.ndarray:
    """Place of the first session of each one's user, int [N]."""
    first = np.r_[True, self.user[1:] != self.user[:-1]]
    return np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))

  def before(self, x: np.ndarray) -> np.ndarray:
    """Sums over the sessions of the same user before each, [N, W]."""
    total = np.cumsum(np.concatenate([np.zeros((1, x.shape[1])), x]), 0)[:-1]
    return total - total[self.begins()]

  def features(self, vectors: np.ndarray | None):
    """{name: blocks [N, W]}; without vectors those of counts alone."""
    if vectors is None:
      counts = (self.pages, self.last, self.history)
      return {"history": (self.history,), "counts": counts}
    count = np.arange(len(vectors)) - self.begins()
    mean = self.before(vectors) / np.maximum(count, 1)[:, None]
    own = np.concatenate([vectors, mean, np.log1p(count)[:, None]], 1)
    return {
      "history + vector": (self.history, vectors),
      "vector": (own,),
      "both": (self.pages, self.last, self.history, own),
    }

  def parts(self, most: int) -> list[np.ndarray]:
    """Places of training, validation and test questions; at most so many."""
    rng, found = np.random.default_rng(0), []
    for split in ("train", "validation", "test"):
      at = np.flatnonzero((self.split == split) & (self.tile >= 0))
      if split != "test" and len(at) > most:
        at = np.sort(rng.choice(at, most, replace=False))
      found.append(at)
    return found


def ranked(questions, features, parts, outcomes: int):
  """{features: (probabilities [U, K] of the test, strength)}."""
  found = {}
  for name, blocks in features.items():
    tables = [([x[at] for x in blocks], questions.tile[at]) for at in parts]
    begin = time.monotonic()
    found[name] = softmax.chosen(tables, outcomes)
    print(f"{name:18s}{time.monotonic() - begin:8.0f} s", flush=True)
  return found


def trained(workdir: pathlib.Path, steps: int) -> bool:
  """Whether a run has its last step."""
  try:
    store = checkpoint.Checkpoints(workdir, read_only=True)
    return store.newest(store.meta)[0] == steps
  except (OSError, checkpoint.CheckpointError):
    return False


def user_of(key: str) -> str:
  """Whose a session is."""
  return key.rpartition("/")[0]


def vectors_of(workdir: pathlib.Path, records) -> np.ndarray:
  """Vectors [N, E] of sessions, by a run."""
  model = predictor.Predictor(workdir)
  return session_table.vectors(model, records).astype(np.float64)


def gains(y, user, runs):
  """Relative gains of the first of each pair on the second, in percent.

  Args:
    y: int [U], tiles.
    user: [U], whose questions these are.
    runs: {features: probabilities [U, K]} of each seed.
  """
  of = [{n: tiles.statistics(y, p) for n, p in run.items()} for run in runs]
  weights = list(bootstrap.draws_by_user(user, _DRAWS, 0))
  one, found = np.ones((1, len(y))), {}
  for a, b in PAIRS:
    for m in METRICS:
      gain = lambda w, f, a=a, b=b, m=m: 100 * (f[a][m](w) / f[b][m](w) - 1)
      point = np.asarray([[gain(one, f)[0] for f in of]])
      drawn = [np.stack([gain(w, f) for f in of], 1) for w in weights]
      by_user = np.concatenate(drawn)[:, None]  # [R, 1, seeds].
      found.setdefault(f"{a} on {b}", {})[f"{m}_gain_percent"] = (
        hierarchical.interval(point, by_user)
      )
  return found


def row(args, seed, model, protocol, seconds, metrics):
  """A result row."""
  return dict(
    dataset=args.data,
    split="test",
    protocol=protocol,
    model=model,
    config=args.form,
    seed=seed,
    steps=args.steps,
    wall_seconds=seconds,
    metrics=metrics,
  )


def main():
  """Runs all seeds and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--data", default="complete_journey_baskets", help="or oulad_clicks")
  add("--form", default="words", help="as of benchmarks/intent.py")
  add("--seeds", type=int, default=3, help="of the encoder")
  add("--steps", type=int, default=250)
  add("--users", type=int, default=0, help="that are asked; default all")
  add("--most", type=int, default=40_000, help="questions that fit the ranker")
  add("--out", default="runs/intent_ranking", help="of the runs")
  add("--root", default="data", help="of prepared data")
  add("--name", required=True, help="of the result file")
  args = parser.parse_args()
  args.models, args.ablate = "logistic", False
  logging.set_verbosity(logging.INFO)
  rows, runs, counts, questions = [], [], None, None
  for seed in range(args.seeds):
    begin = time.monotonic()
    config = intent_benchmark.make_config(args.form, args, seed)
    with config.unlocked():
      config.evals = {}
    workdir = pathlib.Path(args.out) / intent_benchmark.folder(args.form, seed)
    if not trained(workdir, args.steps):
      main_lib.run(config, str(workdir))
    if questions is None:
      records = evaluate.open_data(config)
      questions = Questions(records, config, args.users)
      parts = questions.parts(args.most)
      label = [x for x in records.schema.labels if x.name == _LABEL][0]
      outcomes = len(label.values)
      y = questions.tile[parts[-1]]
      user = questions.user[parts[-1]]
      user = np.asarray([u.rpartition("/")[2] for u in user.tolist()])
      counts = ranked(questions, questions.features(None), parts, outcomes)
      shares = np.bincount(questions.tile[parts[0]], minlength=outcomes) + 1.0
      shares = np.tile(shares / shares.sum(), (len(y), 1))
      counts = {"shares of tiles": (shares, 0.0), **counts}
      protocol = (
        f"{_LABEL} of {outcomes}, {len(y):,} sessions of "
        f"{len(np.unique(user)):,} users; {len(parts[0]):,} fit the ranker"
      )
    vectors = vectors_of(workdir, questions.records)
    found = ranked(questions, questions.features(vectors), parts, outcomes)
    found = (counts if not seed else {}) | found
    one, seconds = np.ones((1, len(y))), time.monotonic() - begin
    for model, (p, strength) in found.items():
      values = {k: float(f(one)[0]) for k, f in tiles.statistics(y, p).items()}
      values["strength"] = strength
      print(f"{seed} {model:18s}{values}", flush=True)
      rows.append(row(args, seed, model, protocol, seconds, values))
    runs.append({n: p for n, (p, _) in (counts | found).items()})
    many = f"{protocol}; mean of {len(runs)} seeds"
    told = [
      row(args, 0, model, many, 0.0, bootstrap.flat(values))
      for model, values in gains(y, user, runs).items()
    ]
    print(results.write(args.name, rows + told), flush=True)


if __name__ == "__main__":
  main()
