r"""Tokens/s of a train step against PyTorch's: same shape, exact full softmax.

  python -m venv PEER && PEER/bin/pip install torch
  python benchmarks/speed.py --peer-python=PEER/bin/python

SASRec, and HSTU with biases by position: 128 rows of 50 items, D 64, 12,101 items,
2 layers, AdamW with clipping, dropout .2, float32, all cores. All processes take
turns, so that whatever else the machine does meets all. Input is in memory. Writes
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

_PEER = "PyTorch, full softmax"
SHAPE = dict(
  batch=128,
  length=50,
  vocabulary=12_101,
  d=64,
  heads=2,
  layers=2,
  dropout=0.2,
)
# HSTU's gate takes the place of a feed-forward layer.
MODELS = {
  "SASRec": dict(attention="softmax", d_ff=256),
  "HSTU": dict(attention="pointwise", d_ff=0),
}


def ours(model, loss):
  """(state, step function, batch) of our train step."""
  s = SHAPE | MODELS[model]
  c = config_lib.default("panther")
  c.data.target, c.data.sequence_length = "item", s["length"]
  c.data.start_token = False
  m = c.model
  m.d_model, m.d_ff, m.n_heads = s["d"], s["d_ff"], s["heads"]
  m.n_encoder_layers, m.dropout = s["layers"], s["dropout"]
  m.attention, m.positions, m.activation = s["attention"], "learned", "gelu"
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

  def __init__(self, model, loss):
    self.state, self.step, self.batch = ours(model, loss)

  def __call__(self, count):
    """Seconds of `count` steps."""
    start = time.perf_counter()
    for _ in range(count):
      self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready(metrics)
    return time.perf_counter() - start


class Torch:
  """The same in another process, stopped while it is not asked."""

  def __init__(self, python, model):
    script = pathlib.Path(__file__).parent / "peers" / "torch_steps.py"
    self.process = subprocess.Popen(
      [python, str(script)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    asked = SHAPE | MODELS[model] | {"threads": os.cpu_count()}
    self._ask(json.dumps(asked), False)
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
  parser.add_argument("--peer-python", required=True, help="with PyTorch")
  parser.add_argument("--rounds", type=int, default=7, help="turns of each")
  parser.add_argument("--steps", type=int, default=3, help="of a round")
  args = parser.parse_args()
  takes = {}
  for model in MODELS:
    takes[model, _PEER] = Torch(args.peer_python, model)
    takes[model, "lumos_jax, full softmax"] = Ours(model, "softmax")
    takes[model, "lumos_jax, 1,024 negatives"] = Ours(model, "sampled")
  seconds = {key: [] for key in takes}
  for take in takes.values():
    take(2)  # Compiles.
  for _ in range(args.rounds):
    for key, take in takes.items():
      seconds[key].append(take(args.steps))
  tokens = SHAPE["batch"] * SHAPE["length"] * args.steps
  rows = []
  for (model, name), found in seconds.items():
    peer = seconds[model, _PEER]
    ratio = statistics.median(p / s for p, s in zip(peer, found))
    rate = tokens / statistics.median(found)
    print(model, name, f"{rate:,.0f} tokens/s", ratio)
    rows.append(
      dict(
        dataset="random ids in memory",
        protocol="train steps in turns; median of the rounds' ratios",
        model=name,
        config=f"{model}, B 128, T 50, D 64, V 12,101, 2 layers",
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
