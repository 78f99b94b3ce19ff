r"""Time of an epoch of SASRec against RecBole's, and what both learn in it.

  python -m venv PEER && PEER/bin/pip install torch==2.13.0 recbole==1.2.1 \
    "numpy<2" "pandas<2.3" "scipy<1.14"
  LUMOS_MOVIELENS_DIR=DIR python benchmarks/epoch.py \
    --peer-python=PEER/bin/python

Data: the first 600 users of MovieLens-1M, 90,457 ratings. An epoch has each
training event but a user's first as a target once. RecBole makes a sample of
each target, with the 50 events before it; ours predicts all targets of a
packed row at once, with up to 199 events before them. D, layers, heads, dropout
and the softmax over all items are the same, the rest is each side's own:
RecBole's defaults, configs/sasrec.py with less in a batch. RecBole's batch, 2,048
targets, is made for more data than this; with --peer-batch=256 it learns in fewer
epochs that take as long.

Both train in turns on all cores, in processes of their own, and after each
epoch validation events are ranked among all items. Test events are left alone.
Data preparation and validation are on neither's clock; time to RecBole's best
NDCG@10 is told with our compilation and without. Other programs that take a
part of the cores slow RecBole more, which can fill them all: so the ratio is
also told with its CPU seconds spread over all cores in place of its seconds,
about the least that an undisturbed epoch takes. Writes
benchmarks/results/NAME.json after each of RecBole's epochs.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from lumos_jax.data_prep.sources import movielens  # noqa: E402

from benchmarks import results  # noqa: E402
from lumos_jax import config as config_lib  # noqa: E402
from lumos_jax import main as main_lib  # noqa: E402
from lumos_jax import recipes, train  # noqa: E402
from lumos_jax import state as state_lib  # noqa: E402
from lumos_jax.data import sequences  # noqa: E402
from lumos_jax.evaluators import next_event, predict  # noqa: E402

NAME = "movielens_first"
PEER_CONFIG = (
  "RecBole's defaults but for the batch: D 64, 2 layers, history 50, {:,} "
  "targets a step"
)


def write_data(folder: pathlib.Path, users: int) -> None:
  """The first users' items in order, in our form and as RecBole's .inter."""
  events = movielens.load(attributes=False).activity.collect()
  lists = events.group_by("key", maintain_order=True).agg("item").sort("key")
  (folder / NAME).mkdir()
  with (
    (folder / f"{NAME}.txt").open("w") as ours,
    (folder / NAME / f"{NAME}.inter").open("w") as theirs,
  ):
    theirs.write("user_id:token\titem_id:token\ttimestamp:float\n")
    for key, items in lists.head(users).iter_rows():
      print(key, *items, file=ours)
      # Places instead of times: no tie is left to a sort.
      for place, item in enumerate(items):
        print(key, item, place, sep="\t", file=theirs)


def make_config(folder: pathlib.Path, args, steps: int):
  """configs/sasrec.py with RecBole's widths, on the data of `folder`."""
  c = config_lib.load(f"sasrec:data=movielens,steps={steps},seed={args.seed}")
  with c.unlocked():
    d, m, o, t = c.data, c.model, c.optimizer, c.train
    d.source, d.root = "sequences", str(folder / "prepared")
    d.options = dict(path=str(folder / f"{NAME}.txt"), name=NAME)
    d.filter_seen = False  # As in RecBole, items of the history compete.
    m.d_model, m.d_ff, m.n_heads, m.n_encoder_layers = 64, 256, 2, 2
    m.dropout = 0.5
    t.batch_size, o.learning_rate = args.rows, args.learning_rate
  return c


class Ours:
  """Our train step over packed batches."""

  def __init__(self, folder: pathlib.Path, args):
    """Prepares the data, and compiles; see `compile_seconds`."""
    config = make_config(folder, args, 1)
    self.data = main_lib.open_data(config)
    inputs = sequences.Sequences(self.data.schema, config.data)
    source = self.data.source(config.data.train_split)
    records = [source[i] for i in range(len(source))]
    windows = [w for r in records for w in inputs.windows(r)]
    self.targets = sum(int((w["target"] > 0).sum()) for w in windows)
    self.items = len(self.data.schema.activity[0].values)
    self.users = sum(inputs.cut(r, "validation") is not None for r in records)
    # How many targets a batch holds is known once batches are packed.
    batches = self._read(config)
    mean = np.mean([self._count(next(batches)) for _ in range(50)])
    self.steps = math.ceil(args.epochs * self.targets / mean)
    self.config = config = make_config(folder, args, self.steps)
    recipe = recipes.build(config, self.data, ())
    start = time.perf_counter()
    self._trainer = trainer = train.Trainer(config, recipe)
    batch = next(self._read(config))
    first = trainer.init([batch])
    jax.block_until_ready(trainer.step(first, trainer.put(batch)))
    self.compile_seconds = time.perf_counter() - start
    self._state, self._iterator = trainer.init([batch]), self._read(config)
    self.parameters = state_lib.count(trainer.abstract["params"])
    self._rank = jax.jit(
      lambda params, b: recipe.predict(
        state_lib.merge(trainer.graph, params), b
      )
    )
    self._seen = self.steps_done = self.epochs_done = 0

  def _read(self, config):
    t = config.train
    return sequences.train_iterator(
      self.data, config.data, (), t.batch_size, config.seed
    )

  @staticmethod
  def _count(batch) -> int:
    return int((batch["target"] > 0).sum())

  def epoch(self) -> dict[str, float]:
    """Seconds and CPU seconds of an epoch: as many targets as there are."""
    self.epochs_done += 1
    start, cpu = time.perf_counter(), time.process_time()
    while self._seen < self.epochs_done * self.targets:
      batch = next(self._iterator)
      self._seen += self._count(batch)
      self._state, metrics = self._trainer.step(
        self._state, self._trainer.put(batch)
      )
      self.steps_done += 1
    jax.block_until_ready(metrics)
    return dict(
      seconds=time.perf_counter() - start,
      cpu_seconds=time.process_time() - cpu,
    )

  def validate(self) -> dict[str, float]:
    """NDCG@10 and HitRate@10 of the validation events."""
    params, ranks = state_lib.eval_params(self._state), []
    for batch in sequences.eval_batches(
      self.data, self.config.data, "validation", self.config.eval_batch_size
    ):
      inputs = {k: v for k, v in batch.items() if k not in predict.HOST}
      found = self._rank(params, self._trainer.put(inputs))["rank"][:, 0]
      ranks.append(np.asarray(found)[batch["user_mask"]])
    found = dict(next_event.of_ranks(np.concatenate(ranks)))
    return {k: found[k] for k in ("ndcg@10", "hit_rate@10")}


class RecBole:
  """RecBole's trainer in another process, stopped while it is not asked."""

  def __init__(self, python: str, folder: pathlib.Path, args):
    peers = pathlib.Path(__file__).resolve().parent / "peers"
    script = str(peers / "recbole_sasrec.py")
    self._process = subprocess.Popen(
      [python, "-W", "ignore::FutureWarning", script],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=folder,  # It leaves logs where it runs.
      # Ours are not its packages.
      env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    asked = dict(folder=str(folder), name=NAME, seed=args.seed)
    asked |= dict(threads=results.machine()["cores"], batch=args.peer_batch)
    self.about = self._ask(json.dumps(asked))

  def _ask(self, line: str) -> dict:
    self._process.stdin.write(line + "\n")
    self._process.stdin.flush()
    found = self._process.stdout.readline()
    if not found:
      raise RuntimeError("the peer ended; what it said stands above")
    return json.loads(found)

  def epoch(self) -> dict[str, float]:
    """As Ours."""
    return self._ask("epoch")

  def validate(self) -> dict[str, float]:
    """As Ours."""
    return self._ask("validate")

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()


class Course:
  """Seconds and validation of each epoch of one side."""

  def __init__(self, name: str, side):
    self.name, self._side = name, side
    self.seconds: list[float] = []
    self.cpu_seconds: list[float] = []
    self.found: list[dict[str, float]] = []

  def step(self) -> None:
    """An epoch and its validation."""
    took = self._side.epoch()
    self.seconds.append(took["seconds"])
    self.cpu_seconds.append(took["cpu_seconds"])
    self.found.append(self._side.validate())
    shown = " ".join(f"{k} {v:.4f}" for k, v in self.found[-1].items())
    print(
      f"{self.name}, epoch {len(self.found)}: {self.seconds[-1]:.2f} s, CPU "
      f"{self.cpu_seconds[-1]:.2f} s, {shown}",
      flush=True,
    )

  @property
  def best(self) -> int:
    """The epoch of the best NDCG@10, from 0."""
    return max(range(len(self.found)), key=lambda i: self.found[i]["ndcg@10"])

  def reached(self, value: float) -> int | None:
    """The first epoch that is as good, from 0; None where none is."""
    good = (i for i, f in enumerate(self.found) if f["ndcg@10"] >= value)
    return next(good, None)

  def metrics(self) -> dict[str, float]:
    """For a result row."""
    out = {
      "epochs": len(self.found),
      "epoch_seconds": statistics.median(self.seconds),
      "epoch_cpu_seconds": statistics.median(self.cpu_seconds),
      "best_epoch": self.best + 1,
      **{f"best/{k}": v for k, v in self.found[self.best].items()},
      **{f"last/{k}": v for k, v in self.found[-1].items()},
    }
    for i, found in enumerate(self.found, 1):
      out[f"epoch_{i}/ndcg@10"] = found["ndcg@10"]
    return out


def ratios(ours: Course, peer: Course, compile_seconds: float):
  """Metrics of ours against the peer's, of epochs and of time to its best.

  Keys "least_..." have the peer's CPU seconds over all cores for its seconds.
  """
  cores = results.machine()["cores"]
  out = {"compile_seconds": compile_seconds}
  at = ours.reached(peer.found[peer.best]["ndcg@10"])
  if at is not None:
    out["epochs_to_peer_best"] = at + 1
    out["seconds_to_peer_best"] = sum(ours.seconds[: at + 1])
  for prefix, theirs in (
    ("", peer.seconds),
    ("least_", [s / cores for s in peer.cpu_seconds]),
  ):
    out[f"{prefix}times_peer_epochs_per_second"] = statistics.median(
      theirs
    ) / statistics.median(ours.seconds)
    if at is not None:
      spent, mine = sum(theirs[: peer.best + 1]), sum(ours.seconds[: at + 1])
      name = f"{prefix}times_faster_to_peer_best"
      out[name] = spent / mine
      out[f"{name}_with_compilation"] = spent / (mine + compile_seconds)
  return out


def main():
  """Trains both in turns and writes the result."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--peer-python", required=True, help="with RecBole")
  parser.add_argument("--peer-epochs", type=int, default=3, help="RecBole's")
  parser.add_argument(
    "--peer-batch", type=int, default=2048, help="targets a step of RecBole"
  )
  parser.add_argument("--epochs", type=int, default=15, help="ours")
  parser.add_argument("--users", type=int, default=600, help="of MovieLens-1M")
  parser.add_argument("--rows", type=int, default=8, help="of our batches")
  parser.add_argument("--learning-rate", type=float, default=3e-3, help="ours")
  parser.add_argument("--seed", type=int, default=0, help="of both sides")
  parser.add_argument("--name", default="epoch", help="of the result file")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_data(folder, args.users)
    ours = Ours(folder, args)
    peer = RecBole(args.peer_python, folder, args)
    for what in ("targets", "users", "items"):
      assert getattr(ours, what) == peer.about[what], (what, peer.about)
    print(
      f"{ours.targets:,} targets, {ours.items:,} items; parameters: ours "
      f"{ours.parameters:,}, RecBole {peer.about['parameters']:,}; compilation "
      f"{ours.compile_seconds:.1f} s",
      flush=True,
    )
    ours_course = Course("lumos_jax", ours)
    peer_course = Course("RecBole", peer)
    for turn in range(args.peer_epochs):
      peer_course.step()
      # Spread over the peer's epochs: what else runs meets both.
      while ours.epochs_done < args.epochs * (turn + 1) // args.peer_epochs:
        ours_course.step()
      if ours_course.found:
        write(args, ours, peer, ours_course, peer_course)
    peer.close()


def write(args, ours, peer, ours_course, peer_course) -> None:
  """The result file, as far as both have come."""
  found = ratios(ours_course, peer_course, ours.compile_seconds)
  counts = dict(targets=ours.targets, users=ours.users, items=ours.items)
  common = dict(
    dataset=f"movielens_1m, first {args.users} users",
    split="validation",
    protocol="leave-one-out: last event test, the one before validation; all "
    "items ranked, all compete; epochs in turns, ratio of their medians",
    seed=args.seed,
  )
  config = ours.config
  rows = [
    dict(
      **common,
      model="RecBole SASRec",
      config=PEER_CONFIG.format(args.peer_batch),
      steps=len(peer_course.found) * peer.about["steps"],
      wall_seconds=sum(peer_course.seconds),
      metrics=counts
      | {"parameters": peer.about["parameters"]}
      | peer_course.metrics(),
    ),
    dict(
      **common,
      model="lumos_jax SASRec",
      config=f"configs/sasrec.py with D 64, 2 layers, dropout .5, rows of "
      f"{config.data.sequence_length}, {args.rows} a step, learning rate "
      f"{args.learning_rate:g}",
      steps=ours.steps_done,
      wall_seconds=sum(ours_course.seconds),
      metrics=counts
      | {"parameters": ours.parameters}
      | ours_course.metrics()
      | found,
    ),
  ]
  print(results.write(args.name, rows, peer.about["versions"]), flush=True)


if __name__ == "__main__":
  main()
