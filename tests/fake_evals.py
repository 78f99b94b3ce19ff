"""A forecast in place of a model, and evaluators of it, for tests."""

import dataclasses

import fake
import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax import evaluators, recipes
from lumos_jax.data import pipeline
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict

EVALS = dict(
  validation=dict(type="forecast", split="validation", every_steps=2),
  forecast=dict(type="forecast"),
  baseline_lightgbm=dict(type="baseline_lightgbm", n_origins=4, rounds=5),
  baseline_naive=dict(type="baseline_naive"),
  ablation=dict(type="ablation", ablations=["no_future"], n_resamples=20),
  what_if=dict(
    type="what_if",
    edits=[dict(op="move", match=dict(type="sale"), days=4)],
    sweep_days=(-8,),
    n_resamples=20,
  ),
)


def build(records=None, **overrides):
  c = fake.config(**overrides)
  with c.unlocked():
    c.evals = EVALS
    c.eval_batch_size = 4
  records = records or fake.Records()
  tasks = tasks_lib.from_config(c.tasks)
  return c, records, tasks, recipes.build(c, records, tasks)


def simple(params, batch):
  """A forecast that reads all that a model may read."""
  past = jnp.nan_to_num(batch["history_numeric"]).sum((1, 2))
  context = batch["history_calendar"].sum((1, 2)) + batch["origin_day"][:, 0]
  future = batch["future_calendar"].sum((1, 2, 3))
  x = params["w"] * (past + context + 10.0 * future)[:, None]
  return {"active": jax.nn.sigmoid(x / 1e3), "churn": -x, "spend": x}


PARAMS = {"w": jnp.ones(())}


def batches(size, records=None, origin=112):
  c, records, tasks, _ = build(records)
  return pipeline.eval_batches(records, c.data, tasks, "train", origin, size)


def assert_same(a, b, tolerance=0.0):
  for x, y in zip(
    jax.tree.leaves(dataclasses.asdict(a)),
    jax.tree.leaves(dataclasses.asdict(b)),
    strict=True,
  ):
    if x.dtype == np.float32:
      np.testing.assert_allclose(x, y, rtol=tolerance, atol=0)
    else:
      np.testing.assert_array_equal(x, y)


def evaluator(name, predict_fn=simple, tmp_path="unused", records=None, **kw):
  c, records, tasks, _ = build(records)
  predictor = predict.Predictor(predict_fn, 3)
  evals = {name: EVALS.get(name, dict(type=name)) | kw}
  built = evaluators.build(evals, predictor, records, tasks, c.data, tmp_path)
  return built[name]
