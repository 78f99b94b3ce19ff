"""Fits the student to the teacher's soft labels, and says how far it agrees.

Sessions come in an order drawn by key: 70 % train, 15 % choose when to stop,
calibration and thresholds, 15 % test.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lumos_jax.intents import scores
from lumos_jax.intents import student as student_lib
from lumos_jax.intents import taxonomy as taxonomy_lib

TEACHER = 0.5  # Confidence at which the teacher gives a label.
_SPLIT = (0.70, 0.85)
_WAIT = 15  # Rounds without a lower loss before training stops.
_TIES, _NEVER = 0.2, 1.01
_LEAST = 30  # Sessions of a part.


class MLP(nnx.Module):
  """Dense layers with ReLU between them."""

  def __init__(self, widths: Sequence[int], rngs: nnx.Rngs):
    pairs = zip(widths[:-1], widths[1:], strict=True)
    self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])

  def __call__(self, x: jax.Array) -> jax.Array:
    """[S, D] -> logits [S, L]."""
    for layer in self.layers[:-1]:
      x = nnx.relu(layer(x))
    return self.layers[-1](x)


def fit(
  vectors: np.ndarray,
  soft: np.ndarray,
  labels: Sequence[taxonomy_lib.Label],
  *,
  hidden: int = 128,
  temperature: float = 2.0,
  agree: float = 0.8,
  rounds: int = 200,
  batch: int = 256,
  rate: float = 2e-3,
  seed: int = 0,
  model_hash: str = "",
  say: Callable[[str], None] = lambda text: None,
) -> tuple[student_lib.Student, dict[str, Any]]:
  """A student and its metrics on the test part.

  Args:
    vectors: [S, D], in an order that was drawn.
    soft: The teacher's confidences [S, L].
    labels: L.
    hidden: Width of the hidden layer.
    temperature: Softens the teacher's and the student's confidences alike while
      training: sigmoid(logit / temperature).
    agree: Share of sessions with a label whose best one the teacher gives too;
      the student abstains from others until it is reached.
    rounds: At most, each over all training sessions.
    batch, rate, seed: Of training.
    model_hash: Of the encoder.
    say: Gets a line now and then.

  Raises:
    ValueError: There are too few sessions.
  """
  if len(vectors) < 4 * _LEAST:
    raise ValueError(
      f"{len(vectors)} labelled sessions are too few for a student: label "
      f"{4 * _LEAST} or more"
    )
  a, b = (int(len(vectors) * x) for x in _SPLIT)
  train, held, test = slice(0, a), slice(a, b), slice(b, None)
  mean, deviation = vectors[train].mean(0), vectors[train].std(0)
  # One scale for all numbers where they are alike; a constant one gives 0.
  scale = np.maximum(deviation, 1e-2 * float(deviation.mean()) + 1e-9)
  x = ((vectors - mean) / scale).astype(np.float32)
  layers, steps = _train(
    x[train],
    soft[train],
    x[held],
    soft[held],
    (x.shape[1], hidden, soft.shape[1]),
    temperature,
    rounds,
    batch,
    rate,
    seed,
    say,
  )
  made = student_lib.Student(
    layers,
    mean.astype(np.float32),
    scale.astype(np.float32),
    1.0,
    0.0,
    TEACHER,
    0.0,
    tuple(x.id for x in labels),
    tuple(x.name for x in labels),
    model_hash,
  )
  slope, shift = _calibrated(made.logits(vectors[held]), soft[held])
  made = dataclasses.replace(made, slope=slope, shift=shift)
  p = made.confidences(vectors[held])
  threshold = _threshold(p, soft[held] >= TEACHER)
  abstain, reached = _abstain(p, soft[held], threshold, agree)
  made = dataclasses.replace(made, threshold=threshold, abstain=abstain)
  found = measure(made, vectors[test], soft[test])
  about = {
    "sessions": len(vectors),
    "steps": steps,
    "seed": seed,
    "temperature": temperature,
    "agreement_asked_for": agree,
    "agreement_reached_on_held_out": reached,
    "test": found,
  }
  return dataclasses.replace(made, about=about), about


def tested(count: int) -> int:
  """Where the test part begins among so many labelled sessions."""
  return int(count * _SPLIT[1])


def measure(
  student: student_lib.Student, vectors: np.ndarray, soft: np.ndarray
) -> dict[str, float]:
  """Student against teacher.

  Returns:
    micro_f1 and macro_f1 of label sets, covered_micro_f1 of sessions that the
    student labels, coverage and teacher_coverage (share that has a label), top
    (share whose best labels agree, of those labelled), log_loss and
    calibration_error of all confidences.
  """
  p = student.confidences(vectors)
  truth, found = soft >= TEACHER, student.chosen(p)
  has = found.any(1)
  out = scores.f1(truth, found)
  out["covered_micro_f1"] = scores.f1(truth[has], found[has])["micro_f1"]
  out["coverage"] = float(has.mean())
  out["teacher_coverage"] = float(truth.any(1).mean())
  out["top"] = float(_same(p, soft)[has].mean()) if has.any() else 0.0
  q = np.clip(p, 1e-6, 1 - 1e-6)
  out["log_loss"] = float(
    -(soft * np.log(q) + (1 - soft) * np.log(1 - q)).mean()
  )
  bins = np.minimum((q * 10).astype(int), 9)
  gaps = [
    abs(q[bins == i].mean() - soft[bins == i].mean()) * (bins == i).mean()
    for i in range(10)
    if (bins == i).any()
  ]
  out["calibration_error"] = float(sum(gaps))
  out["sessions"] = float(len(vectors))
  return out


def _train(
  x, y, held_x, held_y, widths, temperature, rounds, batch, rate, seed, say
):
  """Layers of the lowest held-out loss, and steps."""
  model = MLP(widths, nnx.Rngs(seed))
  graph, params = nnx.split(model)
  per_round = max(len(x) // batch, 1)
  optimizer = optax.adamw(rate, weight_decay=1e-3)
  state = optimizer.init(params)

  def loss_of(params, x, y):
    # The teacher's confidence of 0 or 1 has no finite logit.
    p = jnp.clip(y, 1e-3, 1 - 1e-3)
    soft = jax.nn.sigmoid((jnp.log(p) - jnp.log1p(-p)) / temperature)
    logits = nnx.merge(graph, params)(x) / temperature
    each = optax.sigmoid_binary_cross_entropy(logits, soft)
    return each.mean() * temperature**2

  @jax.jit
  def one_round(params, state, x, y):
    def step(carry, some):
      params, state = carry
      grads = jax.grad(loss_of)(params, *some)
      updates, state = optimizer.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), (x, y))[0]

  held_loss = jax.jit(loss_of)
  rng = np.random.default_rng(seed)
  size = min(batch, len(x))
  best, lowest, waited, steps = params, np.inf, 0, 0
  for n in range(rounds):
    order = rng.permutation(len(x))[: per_round * size].reshape(per_round, size)
    params, state = one_round(params, state, x[order], y[order])
    steps += per_round
    loss = float(held_loss(params, held_x, held_y))
    if loss < lowest - 2e-4:
      best, lowest, waited = params, loss, 0
    else:
      waited += 1
    if n % 10 == 9:
      say(f"round {n + 1} of at most {rounds}: held-out loss {loss:.4f}")
    if waited >= _WAIT:
      break
  made = nnx.merge(graph, best)
  layers = [(x.kernel[...], x.bias[...]) for x in made.layers]
  return tuple(
    (np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers
  ), steps


def _calibrated(logits: np.ndarray, soft: np.ndarray) -> tuple[float, float]:
  """Slope and shift of the lowest log loss; the slope stays positive."""
  from scipy import optimize

  z, y = logits.astype(np.float64), soft.astype(np.float64)

  def loss(at):
    found = np.exp(at[0]) * z + at[1]
    return float((np.logaddexp(0.0, found) - y * found).mean())

  made = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead")
  return float(np.exp(made.x[0])), float(made.x[1])


def _threshold(p: np.ndarray, truth: np.ndarray) -> float:
  """Of the best micro F1; the lowest among equals."""
  grid = np.linspace(0.05, 0.95, 91)
  found = [scores.f1(truth, p >= t)["micro_f1"] for t in grid]
  return float(grid[int(np.argmax(found))])


def _same(p: np.ndarray, soft: np.ndarray) -> np.ndarray:
  """Whether the student's best label is one that the teacher gives, [S]."""
  return soft[np.arange(len(p)), p.argmax(1)] >= TEACHER


def _abstain(p, soft, threshold: float, agree: float) -> tuple[float, float]:
  """The least top confidence from which on enough agree, and how many do.

  Where no confidence is enough, that of the surest tenth, if there is one.
  """
  top, same = p.max(1), _same(p, soft)
  t, share = threshold, 0.0
  for q in np.linspace(0.0, 0.9, 91):
    at = max(float(np.quantile(top, q)), threshold)
    kept = top >= at
    if not kept.any():
      break
    t, share = at, float(same[kept].mean())
    if share >= agree:
      return t, share
  if (top >= t).mean() > _TIES:
    return _NEVER, share  # Confidences do not tell sessions apart at all.
  return t, share
