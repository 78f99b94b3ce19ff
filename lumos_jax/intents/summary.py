"""What a folder's intents are: intents.json, and its page."""

import collections
import json
from typing import Any

import numpy as np

from lumos_jax.intents import batch, cluster, scores, stages
from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import student as student_lib

FILE, PAGE = "intents.json", "report.html"
_MAP = 1000  # Sessions of the map.
_EXAMPLES = 3


def write(chain: Any, taxonomy, changes: list[str]) -> None:
  """Writes intents.json and report.html of a chain whose labels are there."""
  doc = of(chain, taxonomy, changes)
  stages.write(chain.folder / FILE, json.dumps(doc, indent=1))
  from lumos_jax.report import intents as page

  stages.write(chain.folder / PAGE, page.document(doc))


def of(chain: Any, taxonomy, changes: list[str]) -> dict[str, Any]:
  """The summary, of JSON's values."""
  sample, folder = chain.sample, chain.folder
  made = student_lib.Student.load(folder)
  read = lambda name: json.loads((folder / name).read_text())
  manifest = read(f"labels/{batch.MANIFEST}")
  naming, teacher = read("naming.json"), read("teacher.json")
  p = made.confidences(sample.vectors)
  top = made.top(p)
  place = {key: n for n, key in enumerate(made.ids)}
  labels = []
  for x in taxonomy.labels:
    labels.append(
      {
        "id": x.id,
        "name": x.name,
        "definition": x.definition,
        "sessions": manifest["sizes"].get(x.id, 0),
        "examples": _examples(sample, p[:, place[x.id]], x.id, top),
      }
    )
  known = sample.known()
  clusters = chain.clusters
  assigned = clusters.assign(sample.vectors)
  agreement = {}
  if known is not None and any(known):
    agreement = {
      "labels": scores.agreement(top, known),
      "clusters": scores.agreement(assigned.tolist(), known),
    }
  return {
    "labels": labels,
    "sessions": manifest["sessions"],
    "other": manifest["sizes"].get("other", 0),
    "coverage": manifest["coverage"],
    "clusters": len(clusters.centers),
    "silhouettes": {str(k): v for k, v in clusters.silhouettes.items()},
    "teacher": teacher["source"],
    "student": made.about,
    "threshold": made.threshold,
    "abstain": made.abstain,
    "agreement": agreement,
    "told": [*clusters.told, *naming["told"]],
    "changes": changes,
    "counts": {
      "sessions": sample.counts,
      "naming": naming["counts"],
      "teacher": teacher["counts"],
      "answers": teacher["answers"],
    },
    "map": _map(sample, clusters, top, chain.options.seed),
  }


def _examples(sample, p: np.ndarray, label: str, top: list[str]):
  """Page texts of the sessions of the highest confidence that differ."""
  rows = [i for i, x in enumerate(top) if x == label and sample.pages[i]]
  rows.sort(key=lambda i: -p[i])
  found = dict.fromkeys(sample.pages[i] for i in rows[:200])
  shown = [_short(pages) for pages in list(found)[:_EXAMPLES]]
  return shown


def _short(pages) -> list[str]:
  pages = pages if len(pages) <= 8 else (*pages[:7], pages[-1])
  return [sessions_lib.clean(x)[:60] for x in pages]


def _map(sample, clusters, top: list[str], seed: int) -> dict[str, Any]:
  """Two coordinates of some sessions: t-SNE, or PCA where they are few."""
  z = cluster.normal(sample.vectors[:_MAP], clusters.mean)
  count = len(z)
  if count >= 50 and len(np.unique(z, axis=0)) >= 50:
    from sklearn import manifold

    # Neighbours are what a map is read for; clusters' distances are not.
    made = manifold.TSNE(2, init="pca", random_state=seed, max_iter=500)
    xy, kind = made.fit_transform(z), "t-SNE"
  else:
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    xy, kind = np.zeros((count, 2)), "PCA"
    width = min(2, len(s))
    xy[:, :width] = (u * s)[:, :width]
  return {
    "kind": kind,
    "x": [round(float(v), 4) for v in xy[:, 0]],
    "y": [round(float(v), 4) for v in xy[:, 1]],
    "intent": top[:count],
    "shown": dict(collections.Counter(top[:count])),
  }
