"""Whether session vectors fall into intents: known categories, stability, student.

U sessions, E embedding width, L labels.
"""

import jax
import numpy as np
from absl import logging

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import sessions
from lumos_jax.evaluators import base, predict

FOLDER = "intents"  # Of `lumos intents`, below the workdir.


class Intent(base.Evaluator):
  """Clusters of the split's sessions, and the student where there is one.

  Yields "clusters/stability" (adjusted Rand index of the split's clusters over pairs
  of seeds, mean) and "clusters/stability_least"; where the data know categories of
  pages, "clusters/nmi" and "clusters/ari" with the category that most of a session's
  pages have, means over seeds. k-means is fitted on the training split.

  After `lumos intents`, for the checkpoint that it was made for: "student/coverage"
  (share of sessions with a label), "student/nmi" and "student/ari" of the best label,
  and "student/micro_f1", "student/macro_f1" against the teacher, on sessions of the
  split that the student was not fitted on.
  """

  slow = True
  without = ("origin", "seen", "mean_tasks")

  def __init__(
    self, *args, k: int = 16, seeds: int = 5, sample: int = 5000, **kw
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      k: Clusters.
      seeds: Of k-means.
      sample: Training sessions that clusters are fitted on, at most.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    key = f"config.evals.{self.name}"
    for name, value, least in (("k", k, 2), ("seeds", seeds, 2)):
      if value < least:
        raise ValueError(f"{key}.{name} = {value} must be {least} or more")
    if sample < k:
      raise ValueError(f"{key}.sample = {sample} must be k = {k} or more")
    if self.predictor is not None and self.predictor.inputs is not sessions:
      raise ValueError(f"{key}.type = 'intent' is of recipe 'intent'")
    self._k, self._seeds, self._sample = k, seeds, sample

  def run(self, params) -> base.Metrics:
    """Yields metrics; needs the `baselines` extra."""
    if jax.process_count() > 1:
      raise ValueError(f"config.evals.{self.name}: it runs on one process")
    from lumos_jax.intents import cluster, scores

    train = self._vectors(params, "train")
    found = self._vectors(params, self.split_name)
    vectors = found.p["embedding"]
    # Keys are hashes: their order is that of a draw.
    some = train.p["embedding"][np.argsort(train.key)[: self._sample]]
    known = self._known(found.key)
    yield "sessions", float(len(vectors))
    runs, agree = [], []
    for seed in range(self._seeds):
      made = cluster.fit(some, self._k, seed)
      runs.append(made.assign(vectors).tolist())
      if known:
        agree.append(scores.agreement(runs[-1], known))
    yield "clusters", float(len(made.centers))
    mean, least = scores.stability(runs)
    yield "clusters/stability", mean
    yield "clusters/stability_least", least
    for metric in ("nmi", "ari"):
      if agree and metric in agree[0]:
        yield f"clusters/{metric}", float(np.mean([x[metric] for x in agree]))
    yield from self._student(params, found.key, vectors, known)

  def _vectors(self, params, split: str) -> predict.Predictions:
    embedder = self.predictor.embedder
    batches = sessions.embed_batches(
      self.records, self.data_cfg, split, embedder.batch_size
    )
    return embedder(params, batches)

  def _known(self, keys: np.ndarray) -> list[str] | None:
    """The category of each session, "" where none is known; None without any."""
    from lumos_jax.intents import sessions as session_texts

    pages = pages_lib.Pages.load(self.records.path)
    if pages is None or not any(pages.category):
      return None
    column = sessions.target_column(self.records.schema, self.data_cfg)
    source = self.records.source(self.split)
    found = {}
    for block in sessions.blocks(source, self.predictor.batch_size):
      hashed = predict.hash_keys([r["key"] for r in block]).tolist()
      for key, record in zip(hashed, block, strict=True):
        names = pages.category[record["categorical"][:, column]]
        found[key] = session_texts.main_category([str(x) for x in names])
    return [found[k] for k in keys.tolist()]

  def _student(self, params, keys, vectors, known) -> base.Metrics:
    import polars as pl

    from lumos_jax.intents import distill, scores
    from lumos_jax.intents import student as student_lib

    folder = self.workdir / FOLDER
    if not (folder / student_lib.ABOUT).exists():
      return
    made, place = (
      student_lib.Student.load(folder),
      self.predictor.embedder.place,
    )
    if made.model_hash != predict.params_hash(place(params)):
      logging.info(
        "%s: intents are of another checkpoint, and not evaluated", self.name
      )
      return
    p = made.confidences(vectors)
    chosen = made.chosen(p)
    yield "student/coverage", float(chosen.any(1).mean())
    if known:
      for metric, value in scores.agreement(made.top(p), known).items():
        if metric != "sessions":
          yield f"student/{metric}", value
    frame = pl.read_parquet((folder / "teacher.parquet").read_bytes())
    frame = frame[distill.tested(len(frame)) :]
    place = {k: i for i, k in enumerate(keys.tolist())}
    asked = predict.hash_keys(frame["key"].to_list()).tolist()
    rows = [(n, place[k]) for n, k in enumerate(asked) if k in place]
    yield "student/tested", float(len(rows))
    if rows:
      a, b = map(list, zip(*rows, strict=True))
      soft = frame.select(made.ids).to_numpy()[a]
      truth = soft >= distill.TEACHER
      for metric, value in scores.f1(truth, chosen[b]).items():
        yield f"student/{metric}", value
