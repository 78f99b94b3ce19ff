"""What a resume may change, what it must not, and what it chooses."""

import json
import shutil

import fake
import jax
import numpy as np
import pytest
from train_test import assert_equal, build

from lumos_jax import best as best_lib
from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import evaluate, identity, lock, main, optimizer, train

VALIDATION = dict(type="forecast", split="validation", every_steps=2)
BEST = dict(metric="validation/mean_auc", mode="max")


def run(workdir, evaluate=None, **overrides):
  c, records, recipe, tasks = build(**overrides)
  devices = jax.devices()[:1]
  return train.train(c, workdir, records, recipe, tasks, evaluate, devices)


def steps_of(workdir):
  return checkpoint_lib.Checkpoints(workdir, read_only=True).steps


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(x) for x in text.splitlines()]


def scores(*values):
  """An evaluate function that gives each value at its evaluation, by step."""
  seen = []

  def evaluate(step, params, last):
    seen.append((step, last))
    if not step or (step % 2 and not last):
      return {}
    at = min(max(step // 2 - 1, 0), len(values) - 1)
    return {"validation/mean_auc": values[at]}

  return evaluate, seen


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory):
  """Workdir of a finished run; copy it before you write there."""
  workdir = tmp_path_factory.mktemp("six")
  run(workdir, train__steps=6)
  return workdir


def copied(workdir, to):
  return shutil.copytree(workdir, to, dirs_exist_ok=True)


def test_more_steps_go_on_with_the_schedule_of_the_new_total(
  tmp_path, caplog, six_steps
):
  copied(six_steps, tmp_path)
  with caplog.at_level("WARNING"):
    state = run(tmp_path, train__steps=12)
  assert int(state["step"]) == 12
  c = fake.config()
  rate = lambda n, steps: float(optimizer.schedule(c.optimizer, steps)(n))
  rates = {x["step"]: x["learning_rate"] for x in lines(tmp_path)}
  # Step n + 1 is taken at the rate of n steps done.
  np.testing.assert_allclose(rates[6], rate(5, 6), rtol=1e-5)
  np.testing.assert_allclose(rates[7], rate(6, 12), rtol=1e-5)
  np.testing.assert_allclose(rates[12], rate(11, 12), rtol=1e-5)
  said = " ".join(caplog.messages)
  assert "train.steps was 6 and is 12" in said
  assert f"from {rate(6, 6):.3g} to {rate(6, 12):.3g}" in said


def test_fewer_steps_than_done_are_refused(six_steps):
  with pytest.raises(ValueError, match="train.steps = 4, .* is at step 6"):
    run(six_steps, train__steps=4)


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(train__batch_size=16), "train.batch_size: 16 against 8"),
    (dict(seed=3), "seed: 3 against 0"),
    (dict(optimizer__b2=0.5), "optimizer.b2: 0.5 against 0.99"),
    (dict(model__dropout=0.5), "model.dropout: 0.5 against 0.0"),
    (dict(data__train_origin_last=83), "data.train_origin_last: 83 against"),
  ],
)
def test_the_checkpoint_itself_knows_whose_it_is(tmp_path, overrides, words):
  c, records, *_ = build()
  meta = identity.make_meta(
    c, records.schema, records.calendar.columns, "content"
  )
  check = lambda c, content="content": identity.check_meta(
    json.loads(json.dumps(meta)),
    c,
    records.schema,
    records.calendar.columns,
    True,
    content,
  )
  check(c)
  moved = dict(
    data__root="elsewhere", train__steps=99, train__keep=1, mesh__fsdp=2
  )
  check(fake.config(**moved))
  with pytest.raises(checkpoint_lib.CheckpointError, match=words):
    check(fake.config(**overrides))
  with pytest.raises(checkpoint_lib.CheckpointError, match="records are not"):
    check(c, "other")


def test_a_lost_config_changes_nothing(six_steps):
  with pytest.raises(checkpoint_lib.CheckpointError, match="batch_size: 16"):
    run(six_steps, train__steps=8, train__batch_size=16)


def test_keys_that_came_later_have_their_default():
  mine = identity.plain(fake.config())
  theirs = json.loads(json.dumps(mine))
  del theirs["train"]["accumulate"], theirs["init_from"]
  assert identity.differences(mine, theirs) == []
  mine["train"]["accumulate"] = 2
  assert identity.differences(mine, theirs) == ["train.accumulate: 2 against 1"]
  mine["tasks"]["more"] = {"kind": "binary"}
  found = identity.differences(mine, theirs)
  assert found[0] == "tasks.more.kind: 'binary' against None"


def test_content_follows_the_shards_and_not_where_they_lie():
  stats = {
    "shards": {"a": {"sha256": "1"}, "b": {"sha256": "2"}},
    "splits": {"train": {"shards": ["a"]}, "test": {"shards": ["b"]}},
  }
  moved = {
    "shards": {"x": {"sha256": "1"}, "b": {"sha256": "2"}},
    "splits": {"train": {"shards": ["x"]}, "test": {"shards": ["b"]}},
  }
  assert identity.content(stats) == identity.content(moved) != ""
  moved["shards"]["x"]["sha256"] = "3"
  assert identity.content(stats) != identity.content(moved)
  assert identity.content({}) == ""


def test_the_best_step_stays_and_is_what_is_reported(tmp_path):
  evaluate, seen = scores(0.6, 0.9, 0.5, 0.4)
  overrides = dict(
    evals=dict(validation=VALIDATION),
    train__steps=8,
    train__checkpoint_every=3,
    train__keep=1,
    train__best=BEST,
    train__evaluate_best=True,
  )
  run(tmp_path, evaluate, **overrides)
  assert steps_of(tmp_path) == [4, 8]
  found = best_lib.read(tmp_path)
  assert (found["step"], found["value"]) == (4, 0.9)
  assert [n for n, _ in found["evaluations"]] == [2, 4, 6, 8]
  assert seen[-1] == (4, True)  # The last evaluation is of the best step.
  # The same command again: nothing is trained, the same step is reported.
  evaluate, seen = scores(0.6, 0.9, 0.5, 0.4)
  run(tmp_path, evaluate, **overrides)
  assert seen == [(8, False), (4, True)] and steps_of(tmp_path) == [4, 8]


def test_patience_stops_early(tmp_path, caplog):
  evaluate, seen = scores(0.3, 0.2, 0.4, 0.5, 0.6)
  state = run(
    tmp_path,
    evaluate,
    evals=dict(validation=VALIDATION),
    train__steps=20,
    train__best=BEST | dict(mode="min"),
    train__patience=2,
  )
  assert int(state["step"]) == 8 and seen[-1] == (8, True)
  assert steps_of(tmp_path)[-1] == 8 and 4 in steps_of(tmp_path)
  assert "stopped early at step 8" in " ".join(caplog.messages)


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(train__patience=2), "train.patience = 2 needs train.best.metric"),
    (dict(train__best=dict(metric="x/auc", mode="max")), "EVALUATOR/METRIC"),
    (dict(train__best=BEST | dict(mode="most")), "mode = 'most'"),
    (
      dict(evals=dict(validation=dict(type="forecast")), train__best=BEST),
      "set config.evals.validation.every_steps",
    ),
  ],
)
def test_a_metric_that_cannot_be_followed_is_named(overrides, words):
  overrides = dict(evals=dict(validation=VALIDATION)) | overrides
  with pytest.raises(ValueError, match=words):
    best_lib.check_config(fake.config(**overrides))


def test_a_metric_that_is_not_yielded_is_named(tmp_path):
  c = fake.config(evals=dict(validation=VALIDATION), train__best=BEST)
  best = best_lib.Best(c, tmp_path, 0)
  assert not best.note(2, {"loss": 1.0})
  with pytest.raises(ValueError, match="did you mean 'validation/mean_wape'"):
    best.note(2, {"validation/mean_wape": 1.0})
  assert best.note(2, {"validation/mean_auc": float("nan")}) is False
  assert best.note(4, {"validation/mean_auc": 0.5}) is True


def test_evaluate_takes_the_best_step():
  assert evaluate._step("best") == "best"
  assert evaluate._step("40") == 40
  with pytest.raises(ValueError, match="best.json is absent"):
    best_lib.read("nowhere")


def test_a_second_run_is_refused(tmp_path):
  with lock.locked(tmp_path / "run"):
    with pytest.raises(lock.WorkdirBusy, match=r"another run .*\(process \d+"):
      with lock.locked(tmp_path / "run"):
        pass
  with lock.locked(tmp_path / "run"):  # Free again, and so is a dead one's.
    pass
  (tmp_path / "run" / lock.FILE).write_text("{")
  with lock.locked(tmp_path / "run"):
    pass
  assert lock.WorkdirBusy in main.ERRORS


def test_a_damaged_newest_step_is_told_and_the_one_before_is_used(
  tmp_path, caplog
):
  whole = run(tmp_path / "a", train__steps=9)
  copied(tmp_path / "a", tmp_path / "b")
  # The meta of the newest step is cut in its middle.
  found = tmp_path / "b" / "checkpoints" / "9" / "meta" / "metadata"
  found.write_bytes(found.read_bytes()[:40])
  with caplog.at_level("WARNING"):
    resumed = run(tmp_path / "b", train__steps=9)
  said = [x for x in caplog.messages if "cannot be read" in x]
  assert len(said) == 1 and "checkpoints/9 cannot be read" in said[0]
  assert_equal(*(jax.device_get(x["params"]) for x in (whole, resumed)))
  assert steps_of(tmp_path / "b") == [3, 6, 9]
  assert (tmp_path / "b" / checkpoint_lib.DAMAGED / "9").exists()


def test_damage_to_numbers_is_found_and_none_usable_is_an_error(
  tmp_path, caplog, six_steps
):
  copied(six_steps, tmp_path)
  folder = tmp_path / "checkpoints"
  c, _, recipe, _ = build()
  abstract = train.Trainer(c, recipe, jax.devices()[:1]).abstract["params"]
  store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
  read = lambda n: store.restore_params(abstract, n)
  for step, used in ((6, 3), (3, None)):
    data = [p for p in (folder / str(step) / "state").rglob("*") if p.is_file()]
    for path in data:
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if used is None:
      with pytest.raises(checkpoint_lib.CheckpointError):
        store.newest(read)
    elif used:
      assert store.newest(read)[0] == used
