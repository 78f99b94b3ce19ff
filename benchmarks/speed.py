r"""Tokens/s of a train step against PyTorch's: same shape, exact full softmax.

  python -m venv PEER && PEER/bin/pip install torch
  python benchmarks/speed.py --peer-python=PEER/bin/python

SASRec: 128 rows of 50 items, D 64, 12,101 items, 2 layers, AdamW with clipping,
dropout .2, float32, all cores. Both processes take turns, so that whatever else
the machine does meets both. Input is in memory in both. Writes
benchmarks/results/speed.json.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time
import types

import jax
import numpy as np
import results

from lumos_jax import config as config_lib
from lumos_jax import recipes, train
from lumos_jax.data import schema as schema_lib

SHAPE = dict(
  batch=128,
  length=50,
  vocabulary=12_101,
  d=64,
  d_ff=256,
  heads=2,
  layers=2,
  dropout=0.2,
)


def ours(loss):
  """(state, step function, batch) of our train step."""
  s = SHAPE
  c = config_lib.default()
  c.recipe = "panther"
  c.data.target, c.data.sequence_length = "item", s["length"]
  c.data.start_token = False
  m = c.model
  m.d_model, m.d_ff, m.n_heads = s["d"], s["d_ff"], s["heads"]
  m.n_encoder_layers, m.dropout = s["layers"], s["dropout"]
  m.positions, m.activation = "learned", "gelu"
  m.use_fields = m.use_attributes = False
  c.objective.loss, c.objective.negatives = loss, 1024
  c.train.batch_size = s["batch"]
  values = tuple(map(str, range(s["vocabulary"] - schema_lib.FIRST_VALUE)))
  item = schema_lib.Categorical("item", s["vocabulary"], values=values)
  schema = schema_lib.Schema("speed", (item,), rows="event")
  recipe = recipes.build(c, types.SimpleNamespace(schema=schema), ())
  trainer = train.Trainer(c, recipe)
  rng = np.random.default_rng(0)
  shape = s["batch"], s["length"]
  draw = lambda: rng.integers(2, s["vocabulary"], shape).astype(np.int32)
  steps = np.broadcast_to(np.arange(s["length"], dtype=np.int32), shape)
  batch = dict(
    ids=draw()[..., None],
    target=draw(),
    time=steps,
    position=steps,
    segment=np.ones(shape, np.int32),
  )
  return trainer.init([batch]), trainer.step, trainer.put(batch)


class Ours:
  """Takes steps and tells seconds."""

  def __init__(self, loss):
    self.state, self.step, self.batch = ours(loss)

  def __call__(self, count):
    """Seconds of `count` steps."""
    start = time.perf_counter()
    for _ in range(count):
      self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready(metrics)
    return time.perf_counter() - start


class Torch:
  """The same in another process, stopped while it is not asked."""

  def __init__(self, python):
    script = pathlib.Path(__file__).parent / "peers" / "torch_sasrec.py"
    self.process = subprocess.Popen(
      [python, str(script)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._ask(json.dumps(SHAPE | {"threads": os.cpu_count()}), False)
    # A table of small entries knows nothing yet: both losses are log V.
    loss = float(self._ask("loss"))
    assert abs(loss - np.log(SHAPE["vocabulary"])) < 0.1, loss

  def _ask(self, line, answer=True):
    self.process.stdin.write(line + "\n")
    self.process.stdin.flush()
    return self.process.stdout.readline() if answer else ""

  def __call__(self, count):
    """Seconds of `count` steps."""
    return float(self._ask(str(count)))


def main():
  """Times all in turns and writes the result."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--peer-python", required=True)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--steps", type=int, default=3, help="of a round")
  args = parser.parse_args()
  models = {
    "PyTorch, full softmax": Torch(args.peer_python),
    "lumos_jax, full softmax": Ours("softmax"),
    "lumos_jax, 1,024 negatives": Ours("sampled"),
  }
  seconds = {name: [] for name in models}
  for take in models.values():
    take(2)  # Compiles.
  for _ in range(args.rounds):
    for name, take in models.items():
      seconds[name].append(take(args.steps))
  peer = seconds["PyTorch, full softmax"]
  tokens = SHAPE["batch"] * SHAPE["length"] * args.steps
  rows = []
  for name, found in seconds.items():
    ratio = statistics.median(p / s for p, s in zip(peer, found))
    print(name, f"{tokens / statistics.median(found):,.0f} tokens/s", ratio)
    rows.append(
      dict(
        dataset="random ids in memory",
        protocol="train steps in turns; median of the rounds' ratios",
        model=name,
        config="B 128, T 50, D 64, V 12,101, 2 layers",
        steps=args.steps * args.rounds,
        wall_seconds=sum(found),
        metrics={"times_peer_tokens_per_second": ratio},
      )
    )
  package = subprocess.run(
    [args.peer_python, "-c", "import torch; print(torch.__version__)"],
    capture_output=True,
    text=True,
    check=True,
  )
  print(results.write("speed", rows, {"torch": package.stdout.strip()}))


if __name__ == "__main__":
  main()
