"""Confidences of labels for a sample: by a language model, or by clusters."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from lumos_jax.intents import cluster as cluster_lib
from lumos_jax.intents import prompts, rounds
from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import taxonomy as taxonomy_lib

MODEL, CLUSTERS = "model", "clusters"
A_REQUEST = 8  # Sessions of a request.
_USELESS = 5  # Requests without any answer of use, before no more are asked.


@dataclasses.dataclass(frozen=True)
class Taught:
  """Soft labels.

  Attributes:
    keys: [S].
    ids: Of the labels [L].
    soft: Confidences in 0..1, float32 [S, L].
    source: MODEL or CLUSTERS.
    counts: What was asked, and what gave no labels.
  """

  keys: tuple[str, ...]
  ids: tuple[str, ...]
  soft: np.ndarray
  source: str
  counts: dict[str, int]

  def frame(self) -> pl.DataFrame:
    """Columns key and one a label, by id."""
    columns = {i: self.soft[:, n] for n, i in enumerate(self.ids)}
    return pl.DataFrame(
      {"key": self.keys, **columns},
      {"key": pl.String} | dict.fromkeys(self.ids, pl.Float32),
    )


def by_clusters(
  taxonomy: taxonomy_lib.Taxonomy,
  clusters: cluster_lib.Clusters,
  sessions: sessions_lib.Sessions,
) -> Taught:
  """A label's confidence is the sum of its clusters'."""
  p = clusters.soft(sessions.vectors)
  soft = [p[:, list(x.clusters)].sum(1) for x in taxonomy.labels]
  counts = {"sessions": len(sessions)}
  without = sum(not x.clusters for x in taxonomy.labels)
  if without:
    counts["labels without clusters"] = without
  found = np.stack(soft, 1).astype(np.float32)
  return Taught(sessions.keys, taxonomy.ids, found, CLUSTERS, counts)


def by_model(
  asker: rounds.Asker,
  taxonomy: taxonomy_lib.Taxonomy,
  sessions: sessions_lib.Sessions,
  workers: int = 4,
  say: Callable[[str], None] = lambda text: None,
) -> Taught:
  """Confidences that a model gives; sessions without texts are left out.

  A request without an answer of use is asked again in halves, so that one hostile
  session costs no other its labels.

  Raises:
    EndpointError, LimitError: No more can be asked; answers are kept.
    IntentError: No session got labels.
  """
  rows = [i for i, pages in enumerate(sessions.pages) if pages]
  counts: collections.Counter = collections.Counter()
  counts["sessions"] = len(sessions)
  counts["without texts"] = len(sessions) - len(rows)
  batches = [rows[i : i + A_REQUEST] for i in range(0, len(rows), A_REQUEST)]
  found: dict[int, dict[str, float]] = {}
  with concurrent.futures.ThreadPoolExecutor(max(workers, 1)) as pool:
    jobs = [pool.submit(_ask, asker, taxonomy, sessions, b) for b in batches]
    try:
      for n, job in enumerate(jobs):
        made, unknown = job.result()
        found |= made
        counts["unknown labels"] += unknown
        if n + 1 == _USELESS and not found:
          raise sessions_lib.IntentError(
            f"the model labelled none of the first {_USELESS * A_REQUEST} sessions "
            f"({dict(asker.counts)}): what was asked is paid and kept; use another "
            "model, or none"
          )
        say(f"{n + 1:,} of {len(jobs):,} requests labelled")
    finally:
      for job in jobs:
        job.cancel()
  counts["without an answer"] = len(rows) - len(found)
  if not found:
    raise sessions_lib.IntentError(
      f"the model labelled no session ({dict(asker.counts)}): use another model, "
      "or none"
    )
  kept = sorted(found)
  place = {key: n for n, key in enumerate(taxonomy.ids)}
  soft = np.zeros((len(kept), len(taxonomy)), np.float32)
  for row, i in enumerate(kept):
    for key, value in found[i].items():
      soft[row, place[key]] = value
  keys = tuple(sessions.keys[i] for i in kept)
  told = {k: v for k, v in counts.items() if v}
  return Taught(keys, taxonomy.ids, soft, MODEL, told)


def request(taxonomy, sessions, rows: Sequence[int]) -> prompts.Request:
  """The question about sessions at the given positions."""
  pages = [sessions.pages[i] for i in rows]
  return prompts.request(prompts.LABEL, taxonomy.labels, pages)


def _ask(asker, taxonomy, sessions, rows):
  """{position: confidences} of those that got an answer; unknown labels."""
  asked = request(taxonomy, sessions, rows)
  parse = lambda text, name: prompts.confidences(
    text, name, len(rows), taxonomy.ids
  )
  found = asker.read(asked, parse)
  if found is not None:
    return dict(zip(rows, found[0], strict=True)), found[1]
  if len(rows) == 1:
    return {}, 0
  half = len(rows) // 2
  a, m = _ask(asker, taxonomy, sessions, rows[:half])
  b, n = _ask(asker, taxonomy, sessions, rows[half:])
  return a | b, m + n
