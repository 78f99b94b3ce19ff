"""A plain PyTorch train step of SASRec or HSTU, timed on demand.

Both have the full softmax over all items. Run by benchmarks/speed.py in an
environment that has PyTorch: reads one line of JSON with the shape, then for each
line "N" takes N steps and prints the seconds, and for "loss" the loss of a step
without dropout.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
  """Pre-norm attention and feed-forward."""

  def __init__(self, d, d_ff, heads, dropout):
    super().__init__()
    self.heads, self.rate = heads, dropout
    self.norm, self.norm_ff = nn.LayerNorm(d), nn.LayerNorm(d)
    self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
    self.ff_in, self.ff_out = nn.Linear(d, d_ff), nn.Linear(d_ff, d)

  def forward(self, x):
    """[B, T, D] -> [B, T, D]."""
    b, t, d = x.shape
    drop = lambda y: functional.dropout(y, self.rate, self.training)
    split = lambda y: y.view(b, t, self.heads, -1).transpose(1, 2)
    q, k, v = map(split, self.qkv(self.norm(x)).split(d, -1))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + drop(self.out(y.transpose(1, 2).reshape(b, t, d)))
    h = functional.gelu(self.ff_in(self.norm_ff(x)), approximate="tanh")
    return x + drop(self.ff_out(drop(h)))


class PointwiseLayer(nn.Module):
  """HSTU's layer (arXiv 2402.17152, eq. 1-3), with biases by position."""

  def __init__(self, d, length, heads, dropout):
    super().__init__()
    self.heads, self.rate = heads, dropout
    self.norm, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d)
    self.inner, self.out = nn.Linear(d, 4 * d), nn.Linear(d, d)
    self.bias = nn.Parameter(torch.zeros(heads, 2 * length - 1))
    step = torch.arange(length)
    self.register_buffer("away", step[:, None] - step[None] + length - 1)
    self.register_buffer("before", step[:, None] >= step[None])

  def forward(self, x):
    """[B, T, D] -> [B, T, D]."""
    b, t, d = x.shape
    split = lambda y: y.view(b, t, self.heads, -1).transpose(1, 2)
    parts = functional.silu(self.inner(self.norm(x))).split(d, -1)
    gate, (q, k, v) = parts[0], map(split, parts[1:])
    scores = q @ k.transpose(-1, -2) + self.bias[:, self.away]
    scores = functional.silu(scores) / t * self.before
    y = (scores @ v).transpose(1, 2).reshape(b, t, d)
    y = self.out(self.norm_out(y) * gate)
    return x + functional.dropout(y, self.rate, self.training)


class Model(nn.Module):
  """States [B, T, D] of item ids [B, T]; the table is tied to the output."""

  def __init__(self, v, t, d, d_ff, heads, layers, dropout, attention):
    super().__init__()
    self.items, self.positions = nn.Embedding(v, d), nn.Embedding(t, d)
    for table in (self.items, self.positions):
      nn.init.normal_(table.weight, std=0.02)
    make = {
      "softmax": lambda: Layer(d, d_ff, heads, dropout),
      "pointwise": lambda: PointwiseLayer(d, t, heads, dropout),
    }[attention]
    self.layers = nn.ModuleList(make() for _ in range(layers))
    self.norm, self.rate, self.scale = nn.LayerNorm(d), dropout, d**0.5

  def forward(self, ids):
    """int [B, T] -> [B, T, D]."""
    x = self.items(ids) * self.scale + self.positions.weight[None]
    x = functional.dropout(x, self.rate, self.training)
    for layer in self.layers:
      x = layer(x)
    return self.norm(x)


def main():
  """Serves lines of standard input."""
  shape = json.loads(sys.stdin.readline())
  torch.set_num_threads(shape["threads"])
  torch.manual_seed(0)
  b, t, v = shape["batch"], shape["length"], shape["vocabulary"]
  more = ("d", "d_ff", "heads", "layers", "dropout", "attention")
  model = Model(v, t, **{k: shape[k] for k in more})
  tx = torch.optim.AdamW(model.parameters(), 1e-3)
  ids, target = (torch.randint(2, v, (b, t)) for _ in range(2))

  def loss():
    states = model(ids).reshape(-1, shape["d"])
    logits = states @ model.items.weight.T
    return functional.cross_entropy(logits, target.reshape(-1))

  for line in sys.stdin:
    if line.strip() == "loss":
      model.eval()
      print(loss().item(), flush=True)
      model.train()
      continue
    start = time.perf_counter()
    for _ in range(int(line)):
      tx.zero_grad(set_to_none=True)
      value = loss()
      value.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      tx.step()
    print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
  main()
