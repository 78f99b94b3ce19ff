r"""Memory and time of SPRM and of self-attention by length of the history.

  python benchmarks/sprm.py [--lengths=1024,2048,4096,8192] [--repeats=5]

A whole PANTHER layer with its feed-forward part, forward and backward, one row of
T tokens, mixing by attention alone, by SPRM alone, and by both. Memory is what the
compiled program needs beside its arguments (`memory_analysis`); times are ratios to
attention at the shortest length, medians. Writes benchmarks/results/sprm.json.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import results
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax import state as state_lib
from lumos_jax.models import attention, panther

FORMS = {
  "attention": dict(attention="softmax", sprm="none"),
  "SPRM alone": dict(attention="none", sprm="paper"),
  "attention + SPRM": dict(attention="softmax", sprm="paper"),
}


def measure(form: dict, length: int, width: int, heads: int, repeats: int):
  """Bytes beside the arguments, and seconds of the median step."""
  cfg = config_lib.default("panther").model
  cfg.update(form)
  cfg.update(d_model=width, d_ff=4 * width, n_heads=heads, dropout=0.0)
  cfg.positions = "learned"
  layer = panther.Layer(cfg, length, dtype=jnp.float32, rngs=nnx.Rngs(0))
  graph, params = state_lib.split(layer)
  segment = jnp.ones((1, length), jnp.int32)
  place = jnp.arange(length)[None]
  days = jnp.zeros((1, length))

  def loss(params, x):
    look = attention.Look(segment, segment, causal=True)
    module = state_lib.merge(graph, params)
    return jnp.sum(module(x, look, days, None, place, None) ** 2)

  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, length, width)))
  x = x.astype(jnp.float32)
  step = jax.jit(jax.grad(loss)).lower(params, x).compile()
  jax.block_until_ready(step(params, x))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(step(params, x))
    times.append(time.perf_counter() - start)
  return step.memory_analysis().temp_size_in_bytes, statistics.median(times)


def main():
  """Measures and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--lengths",
    default="1024,2048,4096,8192",
    help="tokens of a row, with commas",
  )
  parser.add_argument("--width", type=int, default=64, help="D of the layer")
  parser.add_argument("--heads", type=int, default=2, help="of attention")
  parser.add_argument(
    "--repeats", type=int, default=5, help="steps whose median counts"
  )
  args = parser.parse_args()
  rows, unit = [], None
  for length in map(int, args.lengths.split(",")):
    for name, form in FORMS.items():
      size, seconds = measure(
        form, length, args.width, args.heads, args.repeats
      )
      unit = unit or seconds
      rows.append(
        dict(
          dataset="random numbers",
          protocol=f"one layer, D {args.width}, {args.heads} heads, forward and "
          "backward, one row",
          model=name,
          config=f"T = {length:,}",
          metrics={
            "memory_mib": size / 2**20,
            "time_to_shortest_attention": seconds / unit,
          },
        )
      )
      print(f"{length} {name}: {size / 2**20:.0f} MiB, {seconds / unit:.2f}")
  print(results.write("sprm", rows))


if __name__ == "__main__":
  main()
