"""Sessions of a few topics, and a model that sorts them, for tests of intents."""

import json

import fake_endpoint
import numpy as np
import polars as pl

TOPICS = ("animals", "maths", "music", "travel")
WORDS = {
  "animals": ("lion", "tiger", "whale", "otter", "heron"),
  "maths": ("algebra", "geometry", "calculus", "number", "proof"),
  "music": ("piano", "opera", "violin", "choir", "ballad"),
  "travel": ("flight", "hotel", "island", "ferry", "museum"),
}
WIDTH = 8


def tables(count=400, seed=0):
  """(vectors, texts, topic of each) of sessions."""
  rng = np.random.default_rng(seed)
  topic = rng.integers(0, len(TOPICS), count)
  centers = 4.0 * np.eye(WIDTH)[: len(TOPICS)]
  vectors = centers[topic] + rng.normal(0, 0.7, (count, WIDTH))
  keys = [f"s{i}" for i in range(count)]
  pages = [[f"the {w}" for w in rng.choice(WORDS[TOPICS[t]], 3)] for t in topic]
  known = [[TOPICS[t]] * 3 for t in topic]
  kind = pl.Array(pl.Float32, WIDTH)
  made = pl.Series("embedding", vectors.astype(np.float32), dtype=kind)
  texts = pl.DataFrame({"key": keys, "titles": pages, "categories": known})
  return (
    pl.DataFrame({"key": keys, "embedding": made}),
    texts,
    [TOPICS[t] for t in topic],
  )


def written(folder, **kw):
  """Paths of the two tables."""
  vectors, texts, _ = tables(**kw)
  vectors.write_parquet(folder / "vectors.parquet")
  texts.write_parquet(folder / "texts.parquet")
  return folder / "vectors.parquet", folder / "texts.parquet"


def topic_of(pages):
  """The topic that most pages are of; None where they are of none."""
  text = " ".join(pages)
  found = {t: sum(w in text for w in ws) for t, ws in WORDS.items()}
  best = max(found, key=found.get)
  return best if found[best] else None


def answer(sent):
  """What a good model answers."""
  asked = next(m for m in sent["messages"] if m["role"] == "user")
  asked = json.loads(asked["content"])
  system = sent["messages"][0]["content"]
  known = {x["name"]: x["id"] for x in asked["labels"]}
  if "for each visit" in system:
    rows = []
    for x in asked["sessions"]:
      topic = topic_of(x["pages"])
      found = [{"id": known[topic], "confidence": 0.9}] * (topic in known)
      rows.append({"number": x["number"], "labels": found})
    return {"id": asked["id"], "sessions": rows}
  topics = [
    x for x in map(topic_of, (s["pages"] for s in asked["sessions"])) if x
  ]
  names = list(dict.fromkeys([*known, *topics]))
  rows = [
    {"id": known.get(n, ""), "name": n, "definition": f"About {n}."}
    for n in names
  ]
  return {"id": asked["id"], "labels": rows}


def behave(sent, number):
  """Of a good endpoint."""
  return fake_endpoint.reply(json.dumps(answer(sent)))
