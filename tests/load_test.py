"""The Python interface, on runs of both recipes."""

import hashlib
import subprocess
import sys

import fake
import fake_events
import numpy as np
import optax
import polars as pl
import pytest

import lumos_jax
from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import evaluate, identity, population, predictor, recipes
from lumos_jax import state as state_lib
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib


def saved(workdir, config, records, step=3):
  """A run with fresh parameters, saved as training would; returns `load`ed."""
  tasks = tasks_lib.from_config(config.tasks)
  recipe = recipes.build(config, records, tasks)
  state = state_lib.init(recipe, optax.identity(), 0, False)
  store = checkpoint_lib.Checkpoints(workdir)
  meta = identity.make_meta(config, records.schema, records.calendar.columns)
  store.save(step, state, "{}", meta)
  store.close()
  (workdir / "config.json").write_text(config.to_json_best_effort())
  return lumos_jax.load(str(workdir)), state["params"], recipe, tasks


@pytest.fixture(scope="module")
def lumos(tmp_path_factory):
  records = fake.Records()
  patch = pytest.MonkeyPatch()
  patch.setattr(records_lib.Records, "open", lambda path: records)
  config = fake.config(**{"eval_batch_size": 4})
  with config.unlocked():
    config.evals.forecast = dict(type="forecast")
  run = saved(tmp_path_factory.mktemp("lumos"), config, records)
  yield records, config, *run
  patch.undo()


@pytest.fixture(scope="module")
def panther(tmp_path_factory):
  records = fake_events.Records()
  config = fake_events.config()
  run = saved(tmp_path_factory.mktemp("panther"), config, records)
  run[0]._opened[""] = records
  return records, config, *run


def test_forecasts_are_the_evaluators_to_the_bit(lumos, tmp_path):
  records, config, run, params, recipe, tasks = lumos
  origin = config.data.test_origin
  found = run.forecast(as_of=origin)
  session = evaluate.Session(
    config, tmp_path, records, recipe, tasks, ["forecast"]
  )
  session.evaluate(3, params, True)
  wanted = session.evaluators["forecast"].predictions
  hashed = predictor.predict.hash_keys(found["key"])
  order = np.argsort(hashed)
  np.testing.assert_array_equal(hashed[order], wanted.key)
  for name, x in wanted.p.items():
    mine = found[name.replace("/", "_")].to_numpy()[order]
    np.testing.assert_array_equal(mine, x)


def test_forecasts_of_few_users_are_those_among_all(lumos):
  _, _, run, *_ = lumos
  whole = run.forecast()
  some = run.forecast(users=whole["key"][5:7].to_list())
  assert some.equals(whole[5:7])
  assert whole.columns[:2] == ["key", "as_of"]
  with pytest.raises(
    predictor.PredictError, match="data: 'nobody' .1 of 2 asked for"
  ):
    run.forecast(users=["nobody", whole["key"][0]])
  with pytest.raises(
    predictor.PredictError, match="data: 'nobody' .1 of 1 asked for"
  ):
    run.forecast(users=["nobody"])


def test_days_are_dates_or_numbers(lumos):
  records, _, run, *_ = lumos
  a = run.forecast(as_of=records.schema.last_day)
  assert run.forecast().equals(a)
  with pytest.raises(predictor.PredictError, match="no date like"):
    run.forecast(as_of="yesterday")
  with pytest.raises(
    predictor.PredictError, match="the data allow day 0 .*to day 140"
  ):
    run.forecast(as_of=records.schema.first_day - 1)
  # Rows of the days between are not there: no activity would be read.
  with pytest.raises(predictor.PredictError, match="day after their last"):
    run.forecast(as_of=records.schema.last_day + 1)


def test_later_rows_change_no_prediction(lumos):
  records, _, run, *_ = lumos
  day = 100
  before = run.forecast(as_of=day), run.embed(as_of=day)
  changed = fake.Records()
  for user in changed.users:
    user["numeric"][user["day"] >= day] += 7
  run._opened["changed"] = changed
  assert run.forecast(as_of=day, data="changed").equals(before[0])
  assert run.embed(as_of=day, data="changed").equals(before[1])


def test_embeddings_of_users_and_days(lumos):
  _, config, run, *_ = lumos
  found = run.embed()
  width = config.model.d_model
  assert found.columns == ["key", "as_of", "ewm", "last", "max", "mean"]
  assert all(
    found[n].dtype == pl.Array(pl.Float32, width) for n in found.columns[2:]
  )
  tokens = run.embed(per_event=True)
  first = tokens.filter(key=found["key"][0])
  mean = first["embedding"].to_numpy().mean(0)
  np.testing.assert_allclose(mean, found["mean"].to_numpy()[0], atol=1e-5)
  np.testing.assert_array_equal(
    first["embedding"].to_numpy()[-1], found["last"].to_numpy()[0]
  )
  assert first["day"].is_sorted()


def test_what_if_is_the_edited_calendars_forecast(lumos):
  records, _, run, *_ = lumos
  kind = records.schema.calendar[0]
  edit = dict(op="add", start=140, end=147, values={kind.name: kind.values[0]})
  found = run.what_if([edit], as_of=139)
  assert found["task"].unique().sort().to_list() == sorted(
    t.name for t in run.predictor.tasks
  )
  np.testing.assert_allclose(
    found["effect"], found["edited"] - found["forecast"]
  )
  assert found["effect"].abs().max() > 0
  with pytest.raises(predictor.PredictError, match="no key 'begin'.*start"):
    run.what_if([dict(op="add", begin=3)])


def test_next_events_are_readable_unseen_and_sum_to_at_most_one(panther):
  records, _, run, *_ = panther
  found = run.next_events(k=50)
  assert found.columns == ["key", "as_of", "rank", "item", "probability"]
  items = records.schema.activity[0].values
  for user in records.users:
    mine = found.filter(key=user["key"])
    seen = {items[i - 2] for i in user["categorical"][:, 0] if i > 1}
    assert not seen & set(mine["item"])
    # Fewer candidates than k: fewer rows.
    assert len(mine) == len(items) - len(seen)
    assert mine["probability"].is_sorted(descending=True)
    np.testing.assert_allclose(mine["probability"].sum(), 1, atol=1e-4)
    assert mine["rank"].to_list() == [*range(1, len(mine) + 1)]
  top = run.next_events(k=3)
  assert top.equals(found.filter(pl.col("rank") <= 3))


def test_events_after_the_day_are_not_known(panther):
  records, _, run, *_ = panther
  found = run.next_events(k=5, as_of=50)
  changed = fake_events.Records()
  for user in changed.users:
    user["categorical"][user["day"] >= 50] = 3
    user["time"][user["day"] >= 50] += 1000
  run._opened["changed"] = changed
  assert run.next_events(k=5, as_of=50, data="changed").equals(found)
  before = run.embed(as_of=50)
  assert run.embed(as_of=50, data="changed").equals(before)


def test_embeddings_of_events_and_their_users(panther):
  records, config, run, *_ = panther
  users, events = run.embed(), run.embed(per_event=True)
  count = {u["key"]: len(u["day"]) for u in records.users}
  assert dict(events["key"].value_counts().iter_rows()) == {
    k: n for k, n in count.items() if n
  }
  d = config.model.d_model
  for user in records.users[:8]:
    mine = events.filter(key=user["key"])
    days = mine["day"].to_numpy().astype("datetime64[D]")
    zero = np.datetime64(records.schema.epoch)
    np.testing.assert_array_equal((days - zero).astype(int), user["day"])
    if len(mine):
      whole = users.filter(key=user["key"])["embedding"].to_numpy()[0]
      mean = mine["embedding"].to_numpy().mean(0)
      np.testing.assert_allclose(mean, whole[:d], atol=1e-5)


def test_a_recipe_says_what_it_cannot_do(lumos, panther):
  with pytest.raises(
    predictor.PredictError, match="'lumos' gives forecasts and"
  ):
    lumos[2].next_events()
  with pytest.raises(
    predictor.PredictError, match="'panther' gives embed.*no f"
  ):
    panther[2].forecast()
  assert "gives=['embeddings', 'next_events']" in repr(panther[2])


def test_users_are_found_by_bisection_and_by_reading(panther):
  records = panther[0]

  class Shards(fake_events.Users):
    ordered_by_hash = True

  class Sorted:
    splits = ["train"]

    def source(self, split):
      digest = lambda u: hashlib.sha256(u["key"].encode()).digest()
      return Shards(sorted(records.users, key=digest))

  people = population.Population(Sorted())
  wanted = [records.users[3]["key"], "nobody"]
  for keys in (wanted, [*wanted, *(u["key"] for u in records.users)]):
    found, unknown = people.find(keys)
    assert unknown == ["nobody"]
    assert {r["key"] for r in people.read(found)} == set(keys) - {"nobody"}


def test_importing_the_package_is_light():
  code = (
    "import sys, lumos_jax; "
    "heavy = {'jax', 'polars', 'numpy', 'flax'} & set(sys.modules); "
    "assert not heavy, heavy; lumos_jax.load"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
