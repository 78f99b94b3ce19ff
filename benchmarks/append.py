r"""Time of appending an event to a user's state against reading its history again.

  python benchmarks/append.py [--users=1,16] [--rounds=20] [--root=data]

The model of configs/panther.py on Complete Journey, with fresh parameters, whose
windows have 512 tokens: the start token and 511 events. One event is appended to
states, until they hold 511; and the histories of 511 events are read from the
start. Both end with the users' embeddings, which agree. Both are timed as a
service has them, from encoded events in memory to numbers in memory, and as the
compiled programs alone ("program"), from arrays that lie ready; for one user and
for a batch. They take turns of five calls, and the best of all calls counts: a
busy machine slows both. "restart" is the append to a full window, which reads 256
events again; "mean" is of the 256 appends from one restart to the next. Writes
benchmarks/results/append.json.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
import optax

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import results  # noqa: E402
from lumos_jax import (  # noqa: E402
  checkpoint,
  identity,
  main,
  predictor,
  recipes,  # noqa: E402
)
from lumos_jax import config as config_lib  # noqa: E402
from lumos_jax import state as state_lib  # noqa: E402
from lumos_jax.data import sequences  # noqa: E402
from lumos_jax.evaluators import probe  # noqa: E402
from lumos_jax.serving import states as states_lib  # noqa: E402

CALLS = 5  # Of a turn.
RAW = ("day", "time", "categorical", "numeric")


def opened(config, records, folder: pathlib.Path) -> predictor.Predictor:
  """A run with fresh parameters, as training would leave it."""
  recipe = recipes.build(config, records, ())
  ema = bool(config.train.ema_decay)
  state = state_lib.init(recipe, optax.identity(), 0, ema)
  columns = records.calendar.columns
  meta = identity.make_meta(config, records.schema, columns)
  with checkpoint.Checkpoints(folder) as store:
    store.save(1, state, "{}", meta)
  (folder / "config.json").write_text(config.to_json_best_effort())
  return predictor.Predictor(folder)


def part(record, start: int, stop: int):
  """Events [start, stop) of a record."""
  return record | {k: record[k][start:stop] for k in RAW}


def histories(records, split: str, count: int, events: int):
  """Records of so many events, of users who have them."""
  source, found = records.source(split), []
  for i in range(len(source)):
    record = source[i]
    if len(record["time"]) >= events:
      found.append(part(record, 0, events))
    if len(found) == count:
      return found
  raise ValueError(
    f"{len(found)} users have {events} events; {count} asked for"
  )


class Whole:
  """Reads histories from the start: rows, a compiled pass, embeddings."""

  def __init__(self, model: predictor.Predictor, users: int):
    self._cut = sequences.Sequences(model.schema, model.config.data)
    self._params = jax.device_put(
      {k: np.asarray(v) for k, v in model.parameters.items()}, jax.devices()[0]
    )
    self._users = users
    self._run = jax.jit(
      lambda p, batch: model.recipe.embed(model.module(p), batch)
    )

  def batch(self, found):
    """Arrays of whole histories, one window each."""
    rows = [row for record in found for row in self._cut.whole(record)]
    if len(rows) != self._users:
      raise ValueError(f"{len(rows)} windows of {self._users} users")
    batch = sequences.row_batch([("", row) for row in rows], self._users)
    others = ("key", "user_mask", "labels", "label_mask")
    return {k: v for k, v in batch.items() if k not in others}

  def program(self, batch):
    """The pass alone."""
    return jax.block_until_ready(self._run(self._params, batch))

  def __call__(self, found) -> np.ndarray:
    """Embeddings [users, E]."""
    found = jax.device_get(self.program(self.batch(found)))
    return probe.pooled(found["sums"], found["tokens"])


def best(rounds: int, **ways) -> dict[str, float]:
  """Least milliseconds of each, in turns of a few calls."""
  least = dict.fromkeys(ways, float("inf"))
  for _ in range(rounds):
    for name, run in ways.items():
      for _ in range(CALLS):
        start = time.perf_counter()
        run()
        least[name] = min(least[name], time.perf_counter() - start)
  return {name: 1e3 * x for name, x in least.items()}


def measure(model, found, rounds: int) -> dict[str, float]:
  """Milliseconds and ratios of some users together."""
  users, length = len(found), model.config.data.sequence_length
  events = length - 1
  states = states_lib.States(model, users)
  whole = Whole(model, users)
  profiles = [(r["profile_categorical"], r["profile_numeric"]) for r in found]
  history = [part(r, 0, events) for r in found]
  more = [[part(r, i, i + 1) for r in found] for i in range(events)]
  first = events - rounds * CALLS

  class Chain:
    """States that go on by an event at each call."""

    def __init__(self):
      parts = [part(r, 0, first) for r in found]
      self.now, self._next = states.rebuild(parts, profiles), first

    def append(self):
      self.now = states.append(self.now, more[self._next])
      self._next += 1

    def append_embedding(self):
      self.now, _ = states.append_embedding(self.now, more[self._next])
      self._next += 1

    def append_then_embedding(self):
      self.append()
      states.embedding(self.now)

  chains = Chain(), Chain(), Chain()
  # The compiled program of an append, on what the last one gets.
  before = states.rebuild([part(r, 0, events - 1) for r in found], profiles)
  rows = [states._last(s, int(e["time"][0])) for s, e in zip(before, more[-1])]
  reader = states._reader
  size = 1 if len(rows) == 1 else reader.batch_size
  batch, past = reader._batch(rows, 1, size), reader._past(rows, size)
  states.embedding(before)  # Compiles.
  program = reader._programs["extend", size, 1]
  arrays = jax.device_put((batch, past))
  given = jax.device_put(whole.batch(history))
  whole(history)
  out = best(
    rounds,
    append=chains[0].append,
    append_embedding=chains[1].append_embedding,
    append_then_embedding=chains[2].append_then_embedding,
    recompute=lambda: whole(history),
    append_program=lambda: jax.block_until_ready(
      program(reader._large, reader._table, *arrays)
    ),
    recompute_program=lambda: whole.program(given),
  )
  np.testing.assert_allclose(
    states.embedding(chains[0].now), whole(history), rtol=1e-3, atol=1e-3
  )
  out = {f"{name}_ms": x for name, x in out.items()}
  ratio = lambda slow, fast: out[f"{slow}_ms"] / out[f"{fast}_ms"]
  out["ratio"] = ratio("recompute", "append")
  out["embedding_ratio"] = ratio("recompute", "append_embedding")
  out["program_ratio"] = ratio("recompute_program", "append_program")
  # The next event of a full window begins another one.
  full, later = chains[0].now, [_later(e) for e in more[-1]]
  states.append(full, later)  # Compiles.
  restart = best(rounds, restart=lambda: states.append(full, later))
  out["restart_ms"] = restart["restart"]
  every = length - length // 2  # Appends from one restart to the next.
  out["mean_ms"] = out["append_ms"] + out["restart_ms"] / every
  out["mean_ratio"] = ratio("recompute", "mean")
  out["state_bytes"] = float(len(states.to_bytes(before[0])))
  return out


def _later(record):
  return record | {"time": record["time"] + 3_600_000_000}


def run():
  """Measures and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--users", default="1,16", help="a batch, with commas")
  parser.add_argument(
    "--rounds", type=int, default=20, help="turns whose best counts"
  )
  parser.add_argument("--root", default="data", help="data.root")
  parser.add_argument("--out", default="", help="folder of the result file")
  args = parser.parse_args()
  config = config_lib.load("panther")
  with config.unlocked():
    config.data.root = args.root
  records = main.open_data(config)
  length, rows = config.data.sequence_length, []
  with tempfile.TemporaryDirectory() as folder:
    model = opened(config, records, pathlib.Path(folder))
    for users in map(int, args.users.split(",")):
      split = config.data.train_split
      found = histories(records, split, users, length - 1)
      start = time.perf_counter()
      metrics = measure(model, found, args.rounds)
      m = config.model
      rows.append(
        dict(
          dataset="complete_journey",
          protocol=f"history of {length} tokens, best of {args.rounds} turns",
          model="PANTHER",
          config=f"configs/panther.py, D {m.d_model}, {m.n_encoder_layers} "
          f"layers; {users} users a batch",
          wall_seconds=time.perf_counter() - start,
          metrics=metrics,
        )
      )
      print(users, {k: round(v, 3) for k, v in metrics.items()}, flush=True)
  out = pathlib.Path(args.out) if args.out else None
  print(results.write("append", rows, folder=out))


if __name__ == "__main__":
  run()
