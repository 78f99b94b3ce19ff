"""TabM: k multilayer perceptrons in one (Gorishniy et al., arXiv 2410.24210).

Submodels share the weights W of each layer and have scales r, s and a bias b of
their own, as in BatchEnsemble (their eq. 3): s * (W (r * x)) + b. Numbers are
encoded piecewise linearly between quantiles (arXiv 2203.05556, eq. 1). B rows,
F features, P columns, k submodels, H hidden units, J outputs.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Encoding:
  """Columns of features; each is a piece of a number, a gap or an id's value.

  Attributes:
    source: int [P], the feature of each column; pieces first, then gaps, then
      values.
    low, width: float32 of the pieces: 0 below `low`, 1 above `low + width`.
    value: float32 of the ids' columns.
  """

  source: np.ndarray
  low: np.ndarray
  width: np.ndarray
  value: np.ndarray

  @classmethod
  def of(cls, x: np.ndarray, ids: Sequence[int], pieces: int) -> "Encoding":
    """Quantiles of training rows [N, F]; at most so many pieces a number."""
    source, low, width, gaps, owner, value = [], [], [], [], [], []
    for i in range(x.shape[1]):
      known = x[~np.isnan(x[:, i]), i]
      if i in ids:
        values = np.unique(known)
        owner += [i] * len(values)
        value.append(values)
        continue
      if 0 < len(known) < len(x):
        gaps.append(i)
      if not len(known):
        continue
      edges = np.unique(np.quantile(known, np.linspace(0, 1, pieces + 1)))
      source += [i] * (len(edges) - 1)
      low.append(edges[:-1])
      width.append(np.diff(edges))
    flat = lambda parts: np.concatenate([*parts, np.zeros(0)]).astype("f4")
    places = np.asarray([*source, *gaps, *owner], np.int32)
    return cls(places, flat(low), flat(width), flat(value))

  def __call__(self, x: jax.Array) -> jax.Array:
    """float32 [B, P] of raw features [B, F]."""
    wide = x[:, self.source]
    a, b = len(self.low), len(self.source) - len(self.value)
    pieces = (wide[:, :a] - self.low[None]) / self.width[None]
    pieces = jnp.clip(pieces, 0.0, 1.0)
    gaps = jnp.isnan(wide[:, a:b])
    values = wide[:, b:] == self.value[None]
    parts = [jnp.nan_to_num(pieces), gaps, values]
    return jnp.concatenate([p.astype(jnp.float32) for p in parts], 1)


def init(
  key: jax.Array,
  source: np.ndarray,
  outputs: int,
  k: int,
  width: int,
  layers: int,
) -> Params:
  """Fresh parameters.

  The first r is drawn, one number a feature and submodel, which is what makes
  submodels differ; the other r and s are 1 (their section 3.3).

  Args:
    key: Of the draws.
    source: int [P], as in Encoding.
    outputs: J.
    k: Submodels.
    width: H.
    layers: Hidden ones.
  """
  keys = iter(jax.random.split(key, 3 * layers + 3))
  out: Params = {}
  size = len(source)
  features = int(source.max(initial=0)) + 1
  for i in range(layers):
    bound = size**-0.5
    draw = lambda shape, b: jax.random.uniform(
      next(keys), shape, minval=-b, maxval=b
    )
    out[f"w{i}"] = draw((size, width), bound)
    out[f"b{i}"] = draw((k, width), bound)
    out[f"s{i}"] = jnp.ones((k, width))
    out[f"r{i}"] = jnp.ones((k, size))
    if not i:
      drawn = jax.random.normal(next(keys), (k, features))
      out["r0"] = drawn[:, source]
    size = width
  out["head"] = draw((k, size, outputs), size**-0.5)
  out["bias"] = jnp.zeros((k, outputs))
  return out


def apply(
  params: Params,
  z: jax.Array,
  layers: int,
  dropout: float = 0.0,
  key: jax.Array | None = None,
) -> jax.Array:
  """Outputs [B, k, J] of encoded rows [B, P]; dropout where there is a key."""
  h = z[:, None, :]
  for i in range(layers):
    h = jnp.einsum("bkp,ph->bkh", h * params[f"r{i}"][None], params[f"w{i}"])
    h = jax.nn.relu(h * params[f"s{i}"][None] + params[f"b{i}"][None])
    if key is not None and dropout:
      keep = jax.random.bernoulli(
        jax.random.fold_in(key, i), 1 - dropout, h.shape
      )
      h = jnp.where(keep, h / (1 - dropout), 0.0)
  return jnp.einsum("bkh,khj->bkj", h, params["head"]) + params["bias"][None]
