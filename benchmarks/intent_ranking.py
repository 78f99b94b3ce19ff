r"""Which tile comes next: a ranker with the session's vector, and without.

  python benchmarks/intent_ranking.py --data=complete_journey_baskets --steps=250 \
    --name=intent_ranking_complete_journey
  LUMOS_OULAD_DIR=DIR python benchmarks/intent_ranking.py --data=oulad_clicks \
    --steps=300 --name=intent_ranking_oulad --conversion=intent_oulad

Complete Journey: the department that leads in a household's next basket; training,
validation and test follow each other in time. OULAD: the kind of page that leads on a
student's next day; other students in later presentations are the test; --conversion
asks with the same features, beside it, whether they hand something in within 7 days,
and names that result file. The ranker is softmax regression, of the same strengths
chosen by validation log loss for all:

- history: counts of the user's sessions before the last one, by category;
- counts: these, and counts of the last session by page and category;
- vector: the last session's vector and the mean of the earlier ones';
- history + vector: what "From Clicks to Intent" adds a session's vector to;
- both: counts and vector.

All end with the last session before the one that is predicted. Gains are relative, in
percent (of conversion: differences), the mean of the seeds of the encoder, with 95 %
intervals over users and seeds. Runs of benchmarks/intent.py in --out are read, missing
ones are trained. Writes benchmarks/results/NAME.json after every seed.
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
  metrics,
  predict,
  softmax,
  tiles,
)

# What is compared with what; the first as published.
PAIRS = (
  ("history + vector", "history"),
  ("both", "counts"),
  ("vector", "counts"),
  ("history + vector", "counts"),
)
_TILE, _CONVERSION = "next_tile", "submits"
_KEPT = 0.9  # Of older sessions' weight, from session to session.
_DRAWS = 1000


class Questions:
  """All sessions in order of user and time, and what is asked of them.

  N sessions, V pages, G categories.

  Attributes:
    records: N of them; a user's sessions follow each other.
    user, split: text [N].
    outcome: {label: int [N]}, of what comes next; -1 where it is not known.
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
    labels = {x.name: i for i, x in enumerate(schema.labels)}
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
    self.outcome = {}
    for name, i in labels.items():
      mine = [r["label_value"][r["label_id"] == i] for r in self.records]
      mine = [int(x[-1]) if len(x) else -1 for x in mine]
      self.outcome[name] = np.asarray(mine)
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
    shown = amounts * np.isin(kinds, schema.labels[labels[_TILE]].values)
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

  def parts(self, label: str, most: int) -> list[np.ndarray]:
    """Places of training, validation and test questions; at most so many."""
    known = self.outcome[label] >= 0
    rng, found = np.random.default_rng(0), []
    for split in ("train", "validation", "test"):
      at = np.flatnonzero((self.split == split) & known)
      if split != "test" and len(at) > most:
        at = np.sort(rng.choice(at, most, replace=False))
      found.append(at)
    return found


class Question:
  """A label's rankers: what all seeds have in common, and each seed's."""

  def __init__(self, args, questions: Questions, schema, label: str, name: str):
    """Fits the rankers without vectors."""
    self.args, self.name, self.rows, self.runs = args, name, [], []
    self._parts = questions.parts(label, args.most)
    self._outcome = questions.outcome[label]
    values = next(x.values for x in schema.labels if x.name == label)
    self._outcomes = len(values)
    self._y = self._outcome[self._parts[-1]]
    user = questions.user[self._parts[-1]].tolist()
    self._user = np.asarray([u.rpartition("/")[2] for u in user])
    self._protocol = (
      f"{label} of {len(values)}, {len(user):,} sessions of "
      f"{len(np.unique(self._user)):,} users; {len(self._parts[0]):,} fit the "
      "ranker"
    )
    shares = np.bincount(self._outcome[self._parts[0]], minlength=len(values))
    shares = np.tile((shares + 1) / (shares + 1).sum(), (len(user), 1))
    self._counts = {"shares": (shares, 0.0)}
    self._counts |= self._ranked(questions.features(None))

  def _ranked(self, features):
    """{features: (probabilities [U, K] of the test, strength)}."""
    found = {}
    for name, blocks in features.items():
      tables = [
        ([x[at] for x in blocks], self._outcome[at]) for at in self._parts
      ]
      begin = time.monotonic()
      found[name] = softmax.chosen(tables, self._outcomes)
      print(f"{name:18s}{time.monotonic() - begin:8.0f} s", flush=True)
    return found

  def add(self, seed: int, features, begin: float):
    """Fits a seed's rankers and writes the file."""
    found = self._ranked(features)
    own = (self._counts if not seed else {}) | found
    for model, (p, strength) in own.items():
      one = np.ones((1, len(self._y)))
      told = statistics(self._y, p).items()
      values = {k: float(f(one)[0]) for k, f in told} | {"strength": strength}
      print(f"{seed} {model:18s}{values}", flush=True)
      self.rows.append(self._row(seed, model, self._protocol, begin, values))
    self.runs.append({n: p for n, (p, _) in (self._counts | found).items()})
    many = f"{self._protocol}; mean of {len(self.runs)} seeds"
    told = [
      self._row(0, model, many, begin, bootstrap.flat(values))
      for model, values in gains(self._y, self._user, self.runs).items()
    ]
    print(results.write(self.name, self.rows + told), flush=True)

  def _row(self, seed, model, protocol, begin, values):
    return dict(
      dataset=self.args.data,
      split="test",
      protocol=protocol,
      model=model,
      config=self.args.form,
      seed=seed,
      steps=self.args.steps,
      wall_seconds=time.monotonic() - begin,
      metrics=values,
    )


def statistics(y, p):
  """{metric: weights [R, U] -> values [R]} of outcomes and probabilities."""
  found = tiles.statistics(y, p)
  if p.shape[1] > 2:
    return {k: found[k] for k in ("macro_recall@1", "log_loss", "ndcg")}
  auc = metrics.statistic("auc", y * 1.0, p[:, 1], np.ones(len(y), bool))
  return {
    "auc": auc,
    "log_loss": found["log_loss"],
    "micro_f1": found["recall@1"],  # Of both outcomes, one of which each has.
  }


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
  """Gains of the first of each pair on the second: of tiles in percent.

  Args:
    y: int [U], outcomes.
    user: [U], whose questions these are.
    runs: {features: probabilities [U, K]} of each seed.
  """
  of = [{n: statistics(y, p) for n, p in run.items()} for run in runs]
  relative = runs[0]["counts"].shape[1] > 2
  weights = list(bootstrap.draws_by_user(user, _DRAWS, 0))
  one, found = np.ones((1, len(y))), {}
  for a, b in PAIRS:
    for m in of[0][a]:
      gain = lambda w, f, a=a, b=b, m=m: f[a][m](w) - f[b][m](w)
      if relative:
        gain = lambda w, f, a=a, b=b, m=m: 100 * (f[a][m](w) / f[b][m](w) - 1)
      point = np.asarray([[gain(one, f)[0] for f in of]])
      drawn = [np.stack([gain(w, f) for f in of], 1) for w in weights]
      by_user = np.concatenate(drawn)[:, None]  # [R, 1, seeds].
      found.setdefault(f"{a} on {b}", {})[
        f"{m}_gain_percent" if relative else m
      ] = hierarchical.interval(point, by_user)
  return found


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
  add("--conversion", default="", help="result file of label submits")
  args = parser.parse_args()
  args.models, args.ablate = "logistic", False
  logging.set_verbosity(logging.INFO)
  questions, asked = None, []
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
      of = lambda label, name, q=questions, r=records: Question(
        args, q, r.schema, label, name
      )
      asked = [of(_TILE, args.name)]
      if args.conversion:
        asked.append(of(_CONVERSION, args.conversion))
    vectors = vectors_of(workdir, questions.records)
    for question in asked:
      question.add(seed, questions.features(vectors), begin)


if __name__ == "__main__":
  main()
