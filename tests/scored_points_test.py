"""Scored points: what they may know, and that results are of the same ones."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_hybrid

from lumos_jax import evaluators
from lumos_jax.data import scoring
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict

RECORDS = fake_events.Records(users=16)


@pytest.mark.parametrize("unit", ["user", "event"])
@pytest.mark.parametrize("start", [True, False])
def test_inputs_are_as_if_the_data_ended_at_the_point(unit, start):
  """All of them, also when the next event comes, which some models are told."""
  c = tiny_hybrid.config(unit=unit)
  c.model.backbone.data.start_token = start
  inputs = scoring.Scoring(
    c.data, RECORDS, tasks_lib.from_config(c.tasks), c.model.backbone
  )
  later = 0
  for record in RECORDS.users:
    for place in (60,) if unit == "user" else range(0, len(record["day"]), 6):
      cut = int(np.searchsorted(record["day"], 60))
      cut = cut if unit == "user" else place + 1
      names = ("day", "time", "categorical", "numeric")
      ended = dict(record, **{k: record[k][:cut] for k in names})
      later += cut < len(record["day"])
      whole, part = (inputs.example(r, place) for r in (record, ended))
      for name in whole:
        np.testing.assert_array_equal(whole[name], part[name], name)
  assert later > 3


def of_hosts(inputs, monkeypatch, hosts):
  """A part's batches of each host, one host behind the other, as gathered."""
  out = []
  for host in range(hosts):
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    out += list(inputs.eval_batches(RECORDS, "test", 8))
  monkeypatch.undo()
  return out


def test_points_of_a_user_are_paired_however_many_hosts_scored(
  monkeypatch, tmp_path
):
  c = tiny_hybrid.config(unit="event", over=False)
  tasks = tasks_lib.from_config(c.tasks)
  inputs = scoring.Scoring(c.data, RECORDS, tasks)
  column = inputs.context.column("event/amount", "amount")
  amount = lambda _, batch: {"buys": jnp.abs(batch["context"][:, None, column])}
  predictor = predict.Predictor(amount, 8, jax.devices()[:1])
  predictor.inputs = inputs
  kw = dict(type="risk", amount="event/amount", examples=0)
  built = evaluators.build(
    {"risk": kw}, predictor, RECORDS, tasks, c.data, tmp_path
  )
  risk = built["risk"]
  one, two = (predictor({}, of_hosts(inputs, monkeypatch, n)) for n in (1, 2))
  assert len(np.unique(one.key)) < len(one.key) / 2  # Several of a user.
  for a, b in ((one.key, two.key), (one.y, two.y), (one.p, two.p)):
    jax.tree.map(np.testing.assert_array_equal, a, b)
  for found in (one, two):
    risk.predictions = found
    # Each point's own amount, which is what was predicted here.
    np.testing.assert_array_equal(risk._worth(), found.p["buys"])
