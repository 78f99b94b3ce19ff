"""Intents: clusters, names, review, answers of models, teacher and student."""

import dataclasses
import json

import fake_intents
import numpy as np
import polars as pl
import pytest

from lumos_jax.intents import (
  batch,
  cluster,
  distill,
  namer,
  scores,
  sessions,
  student,
  taxonomy,
  teacher,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return sessions.Source(*fake_intents.written(tmp_path_factory.mktemp("s")))


@pytest.fixture(scope="module")
def sample(source):
  return source.sample(400, 0)


@pytest.fixture(scope="module")
def clusters(sample):
  return cluster.fit(sample.vectors, 6)


@pytest.fixture(scope="module")
def labels(sample, clusters):
  assigned = clusters.assign(sample.vectors)
  return namer.name(sample, assigned, len(clusters.centers), 4)


@pytest.fixture(scope="module")
def taught(labels, clusters, sample):
  return teacher.by_clusters(labels, clusters, sample)


@pytest.fixture(scope="module")
def learned(taught, sample, labels):
  return distill.fit(sample.vectors, taught.soft, labels.labels, rounds=60)


# Sessions.


def test_a_sample_depends_on_keys_and_not_on_order(source, sample, tmp_path):
  vectors, texts, _ = fake_intents.tables()
  vectors = vectors.reverse()
  vectors[:150].write_parquet(tmp_path / "a.parquet")
  vectors[150:].write_parquet(tmp_path / "b.parquet")
  (tmp_path / "t").mkdir()
  texts.sample(fraction=1.0, shuffle=True).write_parquet(
    tmp_path / "t/x.parquet"
  )
  (tmp_path / "v").mkdir()
  for name in "ab":
    (tmp_path / f"{name}.parquet").rename(tmp_path / f"v/{name}.parquet")
  other = sessions.Source(tmp_path / "v", tmp_path / "t").sample(100, 0)
  assert other.keys == sample.keys[:100]
  assert other.pages == sample.pages[:100]
  np.testing.assert_array_equal(other.vectors, sample.vectors[:100])
  assert source.sample(100, 1).keys != other.keys


def test_what_cannot_be_used_is_counted(tmp_path):
  vectors = pl.DataFrame(
    {
      "key": list("abc"),
      "embedding": [[1.0, 2.0], [float("nan"), 0.0], [3.0, None]],
    }
  )
  texts = pl.DataFrame(
    {"key": ["a", "b"], "pages": [["x\u202e\n y", None, ""], ["z"]]}
  )
  vectors.write_parquet(tmp_path / "v.parquet")
  texts.write_parquet(tmp_path / "t.parquet")
  found = sessions.Source(
    tmp_path / "v.parquet", tmp_path / "t.parquet"
  ).sample(9, 0)
  assert found.keys == ("a",) and found.pages == (("x y",),)
  assert found.categories is None and found.known() is None
  assert found.counts == {
    "sessions": 3, "vectors not finite": 2, "pages without a text": 2,
  }  # fmt: skip


@pytest.mark.parametrize(
  "change, text",
  [
    (lambda v, t: (v.drop("embedding"), t), "no column 'embedding'"),
    (lambda v, t: (v.cast({"key": pl.Categorical}), t), "column 'key'"),
    (lambda v, t: (v, t.drop("titles")), "no column 'pages'"),
    (lambda v, t: (pl.concat([v, v[:1]]), t), "comes twice"),
    (lambda v, t: (v, pl.concat([t, t[:1]])), "comes twice"),
    (lambda v, t: (v[:0], t), "no session"),
  ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, change, text):
  vectors, texts, _ = fake_intents.tables(20)
  vectors, texts = change(vectors, texts)
  vectors.write_parquet(tmp_path / "v.parquet")
  texts.write_parquet(tmp_path / "t.parquet")
  with pytest.raises(sessions.IntentError, match=text):
    found = sessions.Source(tmp_path / "v.parquet", tmp_path / "t.parquet")
    found.sample(50, 0)


def test_a_known_category_is_the_most_frequent_first_visited():
  of = lambda *x: dataclasses.replace(
    sessions.Sessions(("a",), np.zeros((1, 2)), ((),), (x,), {})
  ).known()
  assert of("b", "a", "a", "b") == ["b"]
  assert of("b", "a", "a") == ["a"] and of() == [""]


# Clusters.


def test_clusters_find_topics_and_k(sample):
  found = cluster.fit(sample.vectors, 0, least=4)
  assert (
    len(found.centers) == 4 == max(found.silhouettes, key=found.silhouettes.get)
  )
  assigned = found.assign(sample.vectors)
  assert scores.agreement(assigned.tolist(), sample.known())["nmi"] > 0.95
  p = found.soft(sample.vectors)
  np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-6)
  assert (p.argmax(1) == assigned).all()
  again = cluster.Clusters.load(found.save())
  np.testing.assert_array_equal(again.soft(sample.vectors), p)
  assert again.silhouettes == found.silhouettes


def test_a_lower_top_confidence_than_certainty(sample):
  rng = np.random.default_rng(0)
  found = cluster.fit(rng.normal(size=(500, 6)), 8)
  top = found.soft(rng.normal(size=(500, 6))).max(1).mean()
  assert 0.6 < top < 0.8


@pytest.mark.parametrize("k", (0, 10))
def test_fewer_distinct_sessions_than_clusters_are_told(k):
  vectors = np.repeat(np.eye(3), 5, 0)
  found = cluster.fit(vectors, k, least=8)
  assert len(found.centers) == 3
  assert any("3 distinct sessions" in x for x in found.told)
  same = cluster.fit(np.ones((9, 4)), 5)
  assert len(same.centers) == 1
  assert np.isfinite(same.soft(np.ones((2, 4)))).all()


def test_representatives_differ_and_have_texts(sample, clusters):
  blank = dataclasses.replace(sample, pages=((),) * 10 + sample.pages[10:])
  found = cluster.representatives(clusters, blank, 4)
  d = clusters.distances(sample.vectors)
  for k, rows in enumerate(found):
    assert len({blank.pages[i] for i in rows}) == len(rows) == 4
    assert all(i >= 10 for i in rows)
    assert (d[rows].argmin(1) == k).all()
    assert (np.diff(d[rows, k]) >= 0).all()


# Names without a model.


def test_names_are_of_words_and_categories(sample, clusters, labels):
  assert len(labels) == 4
  assert sorted(k for x in labels.labels for k in x.clusters) == list(range(6))
  for x in labels.labels:
    topic, _, words = x.name.partition(": ")
    assert all(w in fake_intents.WORDS[topic] for w in words.split(", "))
  assigned = clusters.assign(sample.vectors)
  bare = dataclasses.replace(sample, categories=None)
  found = namer.name(bare, assigned, 6, 4)
  for x in found.labels:
    of = {fake_intents.topic_of([w]) for w in x.name.split(", ")}
    assert len(of) == 1
  assert found == namer.name(bare, assigned, 6, 4)


def test_names_never_repeat_nor_fail(sample, clusters):
  assigned = clusters.assign(sample.vectors)
  one = dataclasses.replace(
    sample, pages=(("same page",),) * len(sample), categories=None
  )
  found = namer.name(one, assigned, 6, 6)
  assert len({x.name for x in found.labels}) == 6
  none = dataclasses.replace(one, pages=((),) * len(sample))
  found = namer.name(none, assigned, 6, 6)
  assert [x.name for x in found.labels] == ["pages without texts"]


# Review.


def test_a_review_goes_by_id(labels, tmp_path):
  path = tmp_path / "review.json"
  taxonomy.write_review(path, labels)
  assert taxonomy.read_review(path, labels) == (labels, [])
  doc = json.loads(path.read_text())
  a, b, c, d = doc["labels"]
  doc["labels"] = [
    d | {"name": "other words"},
    {"name": "new one", "definition": "Not there before."},
    a | {"merges": [b["id"]]},
  ]
  path.write_text(json.dumps(doc))
  found, told = taxonomy.read_review(path, labels)
  old = {x.id: x for x in labels.labels}
  assert [x.id for x in found.labels] == [d["id"], "i05", a["id"]]
  assert found.labels[0].clusters == old[d["id"]].clusters
  assert found.labels[1].clusters == ()
  both = old[a["id"]].clusters + old[b["id"]].clusters
  assert found.labels[2].clusters == tuple(sorted(both))
  assert [x.split(":")[0] for x in told] == [
    "renamed", "new", f"merged into {a['id']}", "removed",
  ]  # fmt: skip
  assert c["id"] in told[-1]
  assert taxonomy.Taxonomy.parse(found.dump()) == found


@pytest.mark.parametrize(
  "change, text",
  [
    (lambda r: r[0].update(name=" "), 'label 1: "name"'),
    (lambda r: r[1].update(id="i01"), "taken twice"),
    (lambda r: r[1].update(id="other"), "not to be had"),
    (lambda r: r[1].update(nmae="x"), "label 2 has other keys"),
    (lambda r: r[1].update(merges=["i01"]), "merges 'i01'"),
    (lambda r: r[1].update(id="a b"), '"id" must be'),
    (lambda r: r.clear(), "no label"),
  ],
)
def test_a_review_that_cannot_be_read_says_where(
  labels, tmp_path, change, text
):
  path = tmp_path / "review.json"
  taxonomy.write_review(path, labels)
  doc = json.loads(path.read_text())
  change(doc["labels"])
  path.write_text(json.dumps(doc))
  with pytest.raises(sessions.IntentError, match=text):
    taxonomy.read_review(path, labels)


# Teacher and student.


def test_clusters_teach_what_their_labels_hold(taught, labels, sample):
  np.testing.assert_allclose(taught.soft.sum(1), 1.0, rtol=1e-5)
  found = [labels.labels[i].name.split(":")[0] for i in taught.soft.argmax(1)]
  assert np.mean([a == b for a, b in zip(found, sample.known())]) > 0.97


def test_the_student_agrees_with_the_teacher(learned, taught, sample):
  made, about = learned
  test = about["test"]
  assert test["micro_f1"] > 0.9 and test["macro_f1"] > 0.9
  assert test["covered_micro_f1"] >= test["micro_f1"] - 0.02
  assert test["calibration_error"] < 0.05
  p = made.confidences(sample.vectors)
  again = made.confidences(sample.vectors[::-1])[::-1]
  np.testing.assert_allclose(again, p, rtol=1e-5, atol=1e-6)
  one = [made.confidences(x[None])[0] for x in sample.vectors[:5]]
  np.testing.assert_allclose(one, p[:5], rtol=1e-5, atol=1e-6)


def test_a_student_without_signal_abstains():
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(600, 4)).astype(np.float32)
  soft = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 600)]
  rows = tuple(taxonomy.Label(x, x, x) for x in "abc")
  made, about = distill.fit(vectors, soft, rows, rounds=20, agree=0.95)
  assert about["test"]["coverage"] < 0.3
  assert about["agreement_reached_on_held_out"] < 0.95


def test_the_temperature_changes_what_is_learned(sample, taught, labels):
  a, b = (
    distill.fit(
      sample.vectors, taught.soft, labels.labels, temperature=t, rounds=5
    )[0]
    for t in (1.0, 4.0)
  )
  assert not np.allclose(a.layers[0][0], b.layers[0][0])


def test_numpy_equals_the_module(learned, sample):
  from flax import nnx

  made, _ = learned
  widths = (made.width, 128, len(made.ids))
  module = distill.MLP(widths, nnx.Rngs(0))
  for layer, (w, b) in zip(module.layers, made.layers, strict=True):
    layer.kernel[...], layer.bias[...] = w, b
  x = (sample.vectors - made.mean) / made.scale
  np.testing.assert_allclose(
    made.logits(sample.vectors), module(x), rtol=1e-3, atol=1e-4
  )


def test_a_student_is_stored_without_pickle(learned, sample, tmp_path):
  made, _ = learned
  made.save(tmp_path)
  again = student.Student.load(tmp_path)
  p = made.confidences(sample.vectors)
  np.testing.assert_array_equal(again.confidences(sample.vectors), p)
  assert again.top(p) == made.top(p) and again.names == made.names
  evil = tmp_path / student.ARRAYS
  np.savez(evil.open("wb"), mean=np.array([{}], object))
  with pytest.raises(sessions.IntentError, match="damaged"):
    student.Student.load(tmp_path)
  with pytest.raises(sessions.IntentError, match="run lumos intents"):
    student.Student.load(tmp_path / "none")
  with pytest.raises(sessions.IntentError, match="vectors of 8 numbers"):
    made.confidences(np.zeros((1, 3)))


def test_too_few_sessions_are_refused(sample, taught, labels):
  with pytest.raises(ValueError, match="too few"):
    distill.fit(sample.vectors[:50], taught.soft[:50], labels.labels)


def test_batch_labels(learned, sample):
  made, _ = learned
  vectors = sample.vectors.copy()
  vectors[3] = np.nan
  frame = batch.label(made, list(sample.keys), vectors)
  p = made.confidences(vectors)
  assert frame["intent"].to_list() == made.top(p)
  assert frame["intent"][3] == "other" and frame["intents"][3].to_list() == []
  for row, sure in zip(frame.iter_rows(named=True), p, strict=True):
    place = [made.ids.index(i) for i in row["intents"]]
    np.testing.assert_array_equal(row["confidences"], sure[place])
    assert (np.diff(row["confidences"]) <= 0).all()
    assert row["intent"] == (row["intents"] or ["other"])[0]


def test_scores():
  a = np.array([[1, 0], [1, 1], [0, 0]], bool)
  b = np.array([[1, 0], [0, 1], [0, 1]], bool)
  found = scores.f1(a, b)
  assert found["micro_f1"] == pytest.approx(2 * 2 / 6)
  assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
  assert scores.f1(a & False, b & False) == {"micro_f1": 0.0, "macro_f1": 0.0}
  assert scores.agreement([0, 0, 1], ["x", "x", "y"])["ari"] == 1.0
  assert scores.agreement([0, 1], ["", ""]) == {"sessions": 0.0}
  assert scores.stability([[0, 1, 1], [1, 0, 0], [0, 0, 1]])[1] < 1.0
