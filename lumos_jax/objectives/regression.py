"""Losses and forecasts of non-negative quantities with many zeros.

Each loss reads Z raw outputs and gives a loss, a median and a mean; the median
is the point forecast that absolute errors ask for.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_TWEEDIE_POWER = 1.5
_LOG_SIGMA = (-4.0, 2.0)


def _log_parts(z):
  log_sigma = jnp.clip(z[..., 2], *_LOG_SIGMA)
  return z[..., 0], z[..., 1], log_sigma


def _expm1(z):
  # A wild early step must not overflow: exp(20) exceeds any forecast.
  return jnp.expm1(jnp.clip(z, 0.0, 20.0))


def mse_nonzero(z, y, mean):
  """Squared error of log1p values; masked to non-zero targets (LUMOS)."""
  del mean
  return jnp.square(z[..., 0] - jnp.log1p(y))


def l1(z, y, mean):
  """|forecast - y| over the mean target: minimised by the median."""
  # softplus keeps a gradient where the forecast is near zero.
  forecast = _expm1(jax.nn.softplus(z[..., 0]))
  return jnp.abs(forecast - y) / jnp.maximum(mean, 1e-3)


def tweedie(z, y, mean):
  """Tweedie deviance with log link, power 1.5 (compound Poisson-gamma)."""
  del mean
  p, z = _TWEEDIE_POWER, jnp.clip(z[..., 0], -20.0, 20.0)
  a = y * jnp.exp(z * (1 - p)) / (1 - p)
  return -a + jnp.exp(z * (2 - p)) / (2 - p)


def hurdle(z, y, mean):
  """Negative log-likelihood of zero or, beyond the hurdle, log-normal."""
  del mean
  some, mu, log_sigma = _log_parts(z)
  positive = y > 0
  log_y = jnp.log(jnp.where(positive, y, 1.0))
  normal = _HALF_LOG_2PI + log_sigma
  normal += 0.5 * jnp.square((log_y - mu) * jnp.exp(-log_sigma))
  yes = jax.nn.softplus(-some) + normal  # log y's Jacobian is no parameter's.
  return jnp.where(positive, yes, jax.nn.softplus(some))


def _hurdle_forecast(z):
  some, mu, log_sigma = _log_parts(z)
  sigma, p = jnp.exp(log_sigma), jax.nn.sigmoid(some)
  mean = p * jnp.exp(jnp.clip(mu + 0.5 * sigma**2, -20.0, 20.0))
  quantile = jnp.clip((p - 0.5) / jnp.maximum(p, 1e-6), 1e-6, 1 - 1e-6)
  above = jnp.exp(
    jnp.clip(mu + sigma * jax.scipy.special.ndtri(quantile), -20, 20)
  )
  return jnp.where(p > 0.5, above, 0.0), mean


def _tweedie_forecast(z):
  mean = jnp.exp(jnp.clip(z[..., 0], -20.0, 20.0))
  return mean, mean


def _l1_forecast(z):
  median = _expm1(jax.nn.softplus(z[..., 0]))
  return median, median


def _mse_forecast(z):
  value = _expm1(z[..., 0])
  return value, value


def _l1_start(y, mask):
  median = jnp.nanmedian(jnp.where(mask, y, jnp.nan))
  # softplus's inverse, finite for a median of zero.
  return [jnp.log(jnp.expm1(jnp.maximum(jnp.log1p(median), 1e-2)))]


def _tweedie_start(y, mask):
  return [jnp.log(jnp.maximum(jnp.mean(y, where=mask), 1e-3))]


def _mse_start(y, mask):
  return [jnp.mean(jnp.log1p(y), where=mask & (y > 0))]


def _hurdle_start(y, mask):
  positive = mask & (y > 0)
  log_y = jnp.log(jnp.where(positive, y, 1.0))
  some = jnp.clip(jnp.mean(positive, where=mask), 1e-3, 1 - 1e-3)
  return [
    jnp.log(some) - jnp.log1p(-some),
    jnp.mean(log_y, where=positive),
    jnp.log(jnp.maximum(jnp.std(log_y, where=positive), 1e-2)),
  ]


def start(name: str, y: jax.Array, mask: jax.Array) -> jax.Array:
  """Raw outputs [Z] of the best constant forecast, where training may start.

  From zero, an exponential forecast of large amounts has a long way to go.

  Args:
    name: Of the loss.
    y: Targets.
    mask: Which of them count; zeros where nothing does.
  """
  z = jnp.stack(_STARTS[name](y, mask))
  return jnp.where(jnp.isfinite(z), z, 0.0)


# Raw outputs; loss (z [..., Z], y [...], mean of y -> [...]); forecast (z ->
# median, mean; where a loss knows one of them only, both are that one).
NON_ZERO_ONLY = ("mse_nonzero",)
OUTPUTS = {"mse_nonzero": 1, "l1": 1, "tweedie": 1, "hurdle": 3}
LOSSES: dict[str, Callable] = {
  "mse_nonzero": mse_nonzero,
  "l1": l1,
  "tweedie": tweedie,
  "hurdle": hurdle,
}
FORECASTS: dict[str, Callable] = {
  "mse_nonzero": _mse_forecast,
  "l1": _l1_forecast,
  "tweedie": _tweedie_forecast,
  "hurdle": _hurdle_forecast,
}
_STARTS: dict[str, Callable] = {
  "mse_nonzero": _mse_start,
  "l1": _l1_start,
  "tweedie": _tweedie_start,
  "hurdle": _hurdle_start,
}
