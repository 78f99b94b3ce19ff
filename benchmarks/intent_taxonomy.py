r"""Do intents recover known categories, and are they stable? Wikispeedia.

  lumos sessions --workdir=RUN --out=SESSIONS
  python benchmarks/intent_taxonomy.py --sessions=SESSIONS --path=DIR [--seeds=5]

Session vectors of a trained run against means of page vectors alone (64 numbers of a
singular value decomposition of the link graph): k-means of both, and the labels that
`lumos intents` gives without a language model, with and without known categories.
NMI and adjusted Rand are with the one of the 15 top categories that most of a
session's pages have, on the test split; whatever is fitted is fitted on the training
split. Seeds are of k-means, namer and student: the encoder is one. Writes
benchmarks/results/NAME.json.
"""

import argparse
import dataclasses
import gzip
import pathlib
import time
import urllib.parse

import numpy as np
import polars as pl
import results

from lumos_jax.intents import cluster, distill, namer, scores, sessions, teacher

_WIDTH = 64


def page_vectors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """{page: float32 [64]} of the link graph: pages that link alike are near."""
  from scipy import sparse
  from scipy.sparse import linalg

  lines = gzip.open(folder / "links.tsv.gz", "rt").read().splitlines()
  links = [x.split("\t") for x in lines if x.count("\t") == 1]
  names = sorted({x for link in links for x in link})
  place = {x: i for i, x in enumerate(names)}
  rows, columns = ([place[link[i]] for link in links] for i in (0, 1))
  size = len(names)
  a = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (size, size))
  # Divided by the roots of both degrees: hubs do not take all directions.
  left, right = (
    sparse.diags(1 / np.sqrt(np.maximum(np.asarray(a.sum(i)).ravel(), 1)))
    for i in (1, 0)
  )
  u, s, v = linalg.svds(left @ a @ right, _WIDTH, random_state=0)
  found = u * s + v.T * s
  found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
  return dict(zip(names, found.astype(np.float32), strict=True))


def mean_vectors(frame: pl.DataFrame, of: dict[str, np.ndarray]) -> np.ndarray:
  """Mean of a session's page vectors, [S, 64]; 0 where none is known."""
  known = dict(of) | {urllib.parse.unquote(k): v for k, v in of.items()}
  none = np.zeros(_WIDTH, np.float32)
  mean = lambda pages: np.mean([known.get(p, none) for p in pages], 0)
  return np.stack([mean(x) for x in frame["pages"].to_list()])


def table(frame: pl.DataFrame, vectors: np.ndarray) -> sessions.Sessions:
  """Sessions in an order drawn by key."""
  order = np.argsort([sessions.place(k, 0) for k in frame["key"]])
  rows = lambda name: [tuple(x for x in v if x) for v in frame[name].to_list()]
  whole = sessions.Sessions(
    tuple(frame["key"]), vectors, tuple(rows("titles")),
    tuple(rows("categories")), {},
  )  # fmt: skip
  return whole.take(order.tolist())


def labelled(train, test, made, labels: int, seed: int, categories: bool):
  """Best labels of test sessions, by the student; its metrics; the taxonomy."""
  shown = train if categories else dataclasses.replace(train, categories=None)
  k = len(made.centers)
  found = namer.name(shown, made.assign(train.vectors), k, labels)
  taught = teacher.by_clusters(found, made, train)
  student, about = distill.fit(
    train.vectors, taught.soft, found.labels, seed=seed
  )
  return student.top(student.confidences(test.vectors)), about["test"], found


def main():
  """Runs all seeds and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--sessions", required=True, help="folder that lumos sessions wrote")
  add("--path", required=True, help="folder of Wikispeedia's files")
  add("--seeds", type=int, default=5, help="of k-means, namer and student")
  add("--labels", type=int, default=15, help="as many as categories")
  add("--clusters", type=int, default=45, help="that labels are joined from")
  add("--sample", type=int, default=20_000, help="training sessions")
  add("--name", default="intent_taxonomy", help="of the result file")
  args = parser.parse_args()
  files = sorted(pathlib.Path(args.sessions).glob("*.parquet"))
  frame = pl.concat([pl.read_parquet(f) for f in files])
  pages = page_vectors(pathlib.Path(args.path))
  parts = {}
  for split in ("train", "test"):
    some = frame.filter(pl.col("split") == split)
    vectors = {
      "encoder": some["embedding"].to_numpy(),
      "page vectors": mean_vectors(some, pages),
    }
    parts[split] = {n: table(some, v) for n, v in vectors.items()}
  rows, runs = [], {}
  for seed in range(args.seeds):
    for name in ("encoder", "page vectors"):
      train, test = parts["train"][name], parts["test"][name]
      train = train.take(range(min(args.sample, len(train))))
      known = test.known()
      begin = time.monotonic()
      few = cluster.fit(train.vectors, args.labels, seed)
      many = cluster.fit(train.vectors, args.clusters, seed)
      found = {
        f"k-means, k={args.labels}": (few.assign(test.vectors).tolist(), {}),
        f"k-means, k={args.clusters}": (many.assign(test.vectors).tolist(), {}),
      }
      for words, categories in (
        ("labels by words", False),
        ("labels by words and categories", True),
      ):
        top, about, made = labelled(
          train, test, many, args.labels, seed, categories
        )
        about = {f"student/{k}": about[k] for k in ("micro_f1", "macro_f1")}
        about["coverage"] = float(np.mean([x != "other" for x in top]))
        sizes = np.unique(top, return_counts=True)[1] / len(top)
        about["largest_share"] = float(sizes.max())
        found[words] = top, about
        if not seed:
          print(name, words, [x.name for x in made.labels], flush=True)
      seconds = time.monotonic() - begin
      for how, (top, about) in found.items():
        scored = scores.agreement(top, known)
        runs.setdefault((name, how), []).append(top)
        kept = [i for i, x in enumerate(top) if x != "other"]
        sure = scores.agreement(
          [top[i] for i in kept], [known[i] for i in kept]
        )
        metrics = {"nmi": scored["nmi"], "ari": scored["ari"], **about}
        metrics["nmi_covered"] = sure["nmi"]
        print(f"{seed} {name:14s}{how:34s}{metrics}", flush=True)
        rows.append(row(train, test, name, how, seed, seconds, metrics))
  for (name, how), every in runs.items():
    mean, least = scores.stability(every)
    found = {"stability": mean, "stability_least": least}
    print(f"{name:14s}{how:34s}{found}", flush=True)
    train = parts["train"][name]
    made = row(train, parts["test"][name], name, how, 0, 0.0, found)
    made["protocol"] = f"adjusted Rand over pairs of {args.seeds} seeds"
    rows.append(made)
  print(results.write(args.name, rows))


def row(train, test, vectors, how, seed, seconds, metrics):
  """A result row."""
  del train
  return dict(
    dataset=f"wikispeedia, {len(test):,} test sessions",
    split="test",
    protocol="agreement with the main top category of a session's pages",
    model=f"{vectors}: {how}",
    seed=seed,
    wall_seconds=seconds,
    metrics=metrics,
  )


if __name__ == "__main__":
  main()
