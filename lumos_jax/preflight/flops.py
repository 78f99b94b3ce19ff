"""Floating-point operations of matrix products in a jaxpr."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def count(fn, *args) -> float:
  """Operations of all matrix products and convolutions of fn(*args).

  A multiplication and an addition are two. Bodies of scans count as often as
  they run; of branches the dearest counts; a loop without a known length counts
  once. Attention counts in full, also where a mask hides half of it.

  Args:
    fn: To be traced.
    *args: Arrays or their shapes.
  """
  return _jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr(jaxpr: core.Jaxpr) -> float:
  return sum(_equation(e) for e in jaxpr.eqns)


def _equation(eqn: core.JaxprEqn) -> float:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    (contract, _), _ = params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    inner = math.prod(shape[i] for i in contract)
    return 2.0 * inner * math.prod(eqn.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval.shape
    out = params["dimension_numbers"].rhs_spec[0]
    each = math.prod(kernel) / kernel[out]
    return 2.0 * each * math.prod(eqn.outvars[0].aval.shape)
  if params.get("cost_estimate") is not None:  # A kernel of Pallas.
    return float(params["cost_estimate"].flops)
  inside = [_jaxpr(j) for j in _inner(params)]
  if name == "cond":
    return max(inside, default=0.0)
  return sum(inside) * (params["length"] if name == "scan" else 1)


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
  """Jaxprs among an equation's parameters; its functions are not traced."""
  for value in params.values():
    for x in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(x, core.ClosedJaxpr):
        yield x.jaxpr
      elif isinstance(x, core.Jaxpr):
        yield x
