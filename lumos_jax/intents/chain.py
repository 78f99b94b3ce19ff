"""The chain: cluster, name, label a sample, distil, label all, sum up.

Files below the folder: clusters.npz, taxonomy.json (as proposed), review.json (for
a person), teacher.parquet and teacher.json, student.npz and student.json, labels/,
intents.json and report.html. Answers of an endpoint are in answers.sqlite.
"""

import dataclasses
import functools
import io
import json
from typing import Any

import numpy as np
import polars as pl
from etils import epath

from lumos_jax.data import records as records_lib
from lumos_jax.intents import (
  batch,
  distill,
  namer,
  prompts,
  rounds,
  stages,
  summary,
)
from lumos_jax.intents import cluster as cluster_lib
from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import student as student_lib
from lumos_jax.intents import taxonomy as taxonomy_lib
from lumos_jax.intents import teacher as teacher_lib
from lumos_jax.llm import client

_A_BATCH = 4  # Clusters of a round.
_ENDPOINT = ("url", "model", "temperature", "seed", "max_tokens")


@dataclasses.dataclass(frozen=True)
class Options:
  """Of a chain.

  Attributes:
    labels: How many.
    k: Clusters; 0 chooses.
    sample: Sessions that are clustered, at most.
    teach: Of these the endpoint labels so many; without one all are labelled.
    workers: Requests at a time.
    hidden, temperature, agree: Of `distill.fit`.
    seed: Of all draws.
    model_hash: Of the vectors' encoder.
  """

  labels: int = 20
  k: int = 0
  sample: int = 20_000
  teach: int = 2000
  workers: int = 4
  hidden: int = 128
  temperature: float = 2.0
  agree: float = 0.8
  seed: int = 0
  model_hash: str = ""

  def __post_init__(self):
    least = dict(labels=2, k=0, sample=1, teach=1, workers=1, hidden=1)
    for name, low in least.items():
      if getattr(self, name) < low:
        raise sessions_lib.IntentError(f"--{name} must be {low} or more")
    if not 0 < self.agree <= 1 or not 0 < self.temperature:
      raise sessions_lib.IntentError(
        "--agree is above 0 and at most 1, --temperature above 0"
      )


class Chain:
  """One folder's intents."""

  def __init__(
    self,
    folder: epath.PathLike,
    source: sessions_lib.Source,
    options: Options,
    ask: client.Client | None = None,
    say: stages.Say | None = None,
  ):
    """`ask` is of the endpoint; without it no model is asked."""
    self.folder, self.source, self.options = epath.Path(folder), source, options
    self.say = say or stages.Say()
    self.stages = stages.Stages(self.folder, self.say)
    self.asker = None if ask is None else rounds.Asker(ask)

  @functools.cached_property
  def sample(self) -> sessions_lib.Sessions:
    """What is clustered, in an order that was drawn."""
    return self.source.sample(self.options.sample, self.options.seed)

  @functools.cached_property
  def clusters(self) -> cluster_lib.Clusters:
    """After their stage."""
    content = (self.folder / "clusters.npz").read_bytes()
    return cluster_lib.Clusters.load(content)

  @functools.cached_property
  def _endpoint(self) -> dict[str, Any]:
    """Of the endpoint, what answers depend on."""
    if self.asker is None:
      return {}
    return {n: getattr(self.asker.ask.endpoint, n) for n in _ENDPOINT}

  def run(self, until_review: bool = False) -> dict[str, Any] | None:
    """Does what is not done.

    Args:
      until_review: Stops when the review file is there.

    Returns:
      The summary, or None where it stopped before.

    Raises:
      IntentError: It cannot go on; says what to do.
      EndpointError, LimitError: No more can be asked; answers are kept.
    """
    o, run = self.options, self.stages.run
    files = {
      str(n): [records_lib.checksum(epath.Path(p)) for p in paths]
      for n, paths in enumerate((self.source.files, self.source.texts))
    }
    inputs = {"files": files, "sample": o.sample, "seed": o.seed}
    inputs["k"] = o.k or [0, o.labels]
    done = run("cluster", inputs, ["clusters.npz"], self._cluster)
    inputs = {"of": done, "labels": o.labels, "endpoint": self._endpoint}
    named = run("name", inputs, ["taxonomy.json", "naming.json"], self._name)
    taxonomy, changes = self._reviewed()
    if until_review:
      self.say(
        f"edit {self.folder / 'review.json'} and run the command without --review"
      )
      return None
    inputs = {
      "of": done,
      "taxonomy": taxonomy.digest,
      "endpoint": self._endpoint,
    }
    inputs["teach"] = o.teach if self.asker else 0
    make = lambda: self._teach(taxonomy)
    done = run("label", inputs, ["teacher.parquet", "teacher.json"], make)
    own = ("hidden", "temperature", "agree", "seed", "model_hash")
    inputs = {"of": done, **{n: getattr(o, n) for n in own}}
    # Names stand in the student's file, beside the ids that it learned.
    inputs["names"] = [[x.id, x.name] for x in taxonomy.labels]
    make = lambda: self._distil(taxonomy)
    files_made = [student_lib.ARRAYS, student_lib.ABOUT]
    done = run("distil", inputs, files_made, make)
    inputs = {"of": done, "files": files["0"]}
    name = stages.digest(inputs)
    make = lambda: self._label_all(name)
    labels = lambda: batch.files(self.folder / "labels")
    done = run("label all", inputs, labels, make)
    inputs = {"of": done, "changes": changes, "named": named}
    inputs["order"] = list(taxonomy.ids)
    make = lambda: summary.write(self, taxonomy, changes)
    run("report", inputs, [summary.FILE, summary.PAGE], make)
    return json.loads((self.folder / summary.FILE).read_text())

  def _cluster(self) -> None:
    o = self.options
    # No fewer than labels, where there are sessions enough.
    made = cluster_lib.fit(self.sample.vectors, o.k, o.seed, o.labels)
    stages.write(self.folder / "clusters.npz", made.save())
    self.__dict__.pop("clusters", None)
    for text in (f"{len(made.centers)} clusters", *made.told):
      self.say(f"  {text}")

  def _name(self) -> None:
    sessions, clusters = self.sample, self.clusters
    told: list[str] = []
    if self.asker is None:
      assigned = clusters.assign(sessions.vectors)
      found = namer.name(
        sessions, assigned, len(clusters.centers), self.options.labels
      )
      if len(found) != self.options.labels:
        told.append(
          f"{len(found)} labels, {self.options.labels} were asked for"
        )
    else:
      groups = cluster_lib.representatives(clusters, sessions)
      groups = [[sessions.pages[i] for i in g] for g in groups if g]
      batches = [
        sum(groups[i : i + _A_BATCH], [])
        for i in range(0, len(groups), _A_BATCH)
      ]
      found, told = rounds.build(
        self.asker, batches, self.options.labels, lambda x: self.say(f"  {x}")
      )
    for text in told:
      self.say(f"  {text}")
    counts = dict(self.asker.counts) if self.asker else {}
    doc = {"told": told, "counts": counts} | self._shown(found)
    stages.write(self.folder / "naming.json", json.dumps(doc, indent=1))
    stages.write(self.folder / "taxonomy.json", found.dump())

  def _shown(self, taxonomy: taxonomy_lib.Taxonomy) -> dict[str, Any]:
    """Sizes and examples of labels for the person who reviews them.

    Nothing of labels that a model gave: no session has one yet.
    """
    if self.asker is not None:
      return {}
    near = cluster_lib.representatives(self.clusters, self.sample, 2)
    size = np.bincount(
      self.clusters.assign(self.sample.vectors), minlength=len(near)
    )
    told = lambda i: " > ".join(prompts.told(self.sample.pages[i]))
    rows = taxonomy.labels
    return {
      "sizes": {x.id: int(size[list(x.clusters)].sum()) for x in rows},
      "examples": {
        x.id: [told(i) for k in x.clusters for i in near[k]] for x in rows
      },
    }

  def _reviewed(self) -> tuple[taxonomy_lib.Taxonomy, list[str]]:
    """The taxonomy as a person left it; writes the file where there is none."""
    text = (self.folder / "taxonomy.json").read_text()
    proposed = taxonomy_lib.Taxonomy.parse(text)
    path, mark = self.folder / "review.json", self.folder / ".review"
    # What the present file was written from, and whether a person changed it.
    written = json.loads(mark.read_text()) if mark.exists() else {}
    if path.exists() and written.get("of") != proposed.digest:
      if records_lib.checksum(path) != written.get("sum"):
        raise sessions_lib.IntentError(
          f"{path} was edited for another taxonomy than this one, or lost its "
          f"{mark.name}: move it away, and a new one is written"
        )
      path.unlink()
    if not path.exists():
      shown = json.loads((self.folder / "naming.json").read_text())
      aside = path.with_name(".review.json.new")
      taxonomy_lib.write_review(
        aside, proposed, shown.get("sizes"), shown.get("examples")
      )
      # The mark first: a kill between the two leaves no file that looks edited.
      doc = {"of": proposed.digest, "sum": records_lib.checksum(aside)}
      stages.write(mark, json.dumps(doc))
      aside.replace(path)
    found, changes = taxonomy_lib.read_review(path, proposed)
    for text in changes:
      self.say(f"  review: {text}")
    return found, changes

  def _teach(self, taxonomy: taxonomy_lib.Taxonomy) -> None:
    if self.asker is None:
      taught = teacher_lib.by_clusters(taxonomy, self.clusters, self.sample)
    else:
      some = range(min(self.options.teach, len(self.sample)))
      taught = teacher_lib.by_model(
        self.asker,
        taxonomy,
        self.sample.take(some),
        self.options.workers,
        self.say.now_and_then,
      )
    buffer = io.BytesIO()
    taught.frame().write_parquet(buffer)
    doc = {
      "source": taught.source,
      "counts": taught.counts,
      "answers": dict(self.asker.counts) if self.asker else {},
    }
    stages.write(self.folder / "teacher.json", json.dumps(doc, indent=1))
    stages.write(self.folder / "teacher.parquet", buffer.getvalue())
    self.say(f"  {taught.counts}")

  def taught(self) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys, vectors [S, D] and soft labels [S, L] of the teacher's sessions."""
    frame = pl.read_parquet((self.folder / "teacher.parquet").read_bytes())
    place = {key: i for i, key in enumerate(self.sample.keys)}
    keys = frame["key"].to_list()
    vectors = self.sample.vectors[[place[key] for key in keys]]
    return keys, vectors, frame.drop("key").to_numpy()

  def _distil(self, taxonomy: taxonomy_lib.Taxonomy) -> None:
    o = self.options
    _, vectors, soft = self.taught()
    columns = pl.read_parquet_schema(
      io.BytesIO((self.folder / "teacher.parquet").read_bytes())
    )
    order = [n for n in columns if n != "key"]
    labels = {x.id: x for x in taxonomy.labels}
    try:
      made, about = distill.fit(
        vectors,
        soft,
        [labels[n] for n in order],
        hidden=o.hidden,
        temperature=o.temperature,
        agree=o.agree,
        seed=o.seed,
        model_hash=o.model_hash,
        say=self.say.now_and_then,
      )
    except ValueError as e:
      raise sessions_lib.IntentError(f"{e} (--sample, --teach)") from e
    made.save(self.folder)
    found = about["test"]
    self.say(
      f"  against the teacher on {found['sessions']:.0f} held-out sessions: micro "
      f"F1 {found['micro_f1']:.3f}, macro F1 {found['macro_f1']:.3f}, coverage "
      f"{found['coverage']:.3f}"
    )

  def _label_all(self, name: str) -> None:
    made = student_lib.Student.load(self.folder)
    batch.write(
      made, name, self.source, self.folder / "labels", self.say.now_and_then
    )
