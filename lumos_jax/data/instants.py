"""Days and instants: how a record keeps them, and gaps between instants.

A record keeps an instant as int64 microseconds since midnight UTC of the epoch
day. Devices compute in 32 bits, which hold neither that nor seconds over 68
years. So a batch keeps three numbers, int32 [..., 3]: the UTC day, the second of
that day and the microsecond of that second.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

PARTS = 3
DAY_SECONDS = 86_400
_SECOND = 1_000_000
# Days whose seconds an int32 holds, with one day to spare.
_NEAR_DAYS = 24_855


def days(record: Mapping[str, np.ndarray]) -> np.ndarray:
  """Local day of each row of a record, never falling: int32 [T].

  Where clocks go back over midnight, a local day comes twice: rows after the
  first row of a later day count as that day's, so that a cut by day is one place
  in the order of time.
  """
  return np.maximum.accumulate(record["day"])


def split(micros: np.ndarray) -> np.ndarray:
  """Instants int64 [...] in microseconds as a batch keeps them: int32 [..., 3].

  Exact for days that an int32 holds, which int64 microseconds do not exceed.
  """
  micros = np.asarray(micros, np.int64)
  out = np.empty((*micros.shape, PARTS), np.int32)
  seconds = micros // _SECOND
  day = seconds // DAY_SECONDS
  out[..., 0] = day
  out[..., 1] = seconds - day * DAY_SECONDS
  out[..., 2] = micros - seconds * _SECOND
  return out


def between(micros: np.ndarray, start: int, stop: int) -> np.ndarray:
  """Instants of rows [start, stop): int64 [stop - start], not yet `split`.

  A place before the first row has its instant, one behind the last row the
  last's; without rows all are zero.
  """
  micros = micros if len(micros) else np.zeros(1, np.int64)
  found = micros[max(start, 0) : stop]
  before, after = max(-start, 0), max(stop - len(micros), 0)
  if not before and not after:
    return found
  return np.concatenate([found[:1]] * before + [found] + [found[-1:]] * after)


def split_batch(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A batch of int64 instants as devices need it; much sooner than row by row."""
  times = {k: split(v) for k, v in batch.items() if k in ("time", "next_time")}
  return {**batch, **times}


def begin(batch: Mapping[str, jax.Array]) -> jax.Array:
  """Instants of the first rows of the tokens' windows.

  Args:
    batch: Of `data.sequences`; with "begin", int32 [B, 3], where its rows go on
      with windows that began before them.

  Returns:
    int32 [B, T, 3], or [B, 1, 3] for all tokens of a row.
  """
  if "begin" in batch:
    return batch["begin"][:, None]
  time, position = batch["time"], batch["position"]
  first = jnp.arange(time.shape[1])[None] - position
  return jnp.take_along_axis(time, first[..., None], 1)


def elapsed(later: jax.Array, earlier: jax.Array) -> jax.Array:
  """Seconds from one instant to another, negative where it came before.

  Args:
    later, earlier: int32 [..., 3] of `split`; they broadcast.

  Returns:
    float32 [...]. Whole seconds over less than 68 years are rounded once, so
    those up to 2^24 are exact; all else is right to 1.2e-7 of its size. Zero
    only where both are the same microsecond.
  """
  day, second, micro = (later[..., i] - earlier[..., i] for i in range(PARTS))
  whole = day * DAY_SECONDS + second  # Wraps where `far` is taken.
  # With one sign in both parts no digits cancel.
  carry = ((whole < 0) & (micro > 0)).astype(jnp.int32)
  carry -= ((whole > 0) & (micro < 0)).astype(jnp.int32)
  near = (whole + carry).astype(jnp.float32)
  near += (micro - carry * _SECOND).astype(jnp.float32) / _SECOND
  far = day.astype(jnp.float32) * DAY_SECONDS + second.astype(jnp.float32)
  return jnp.where(jnp.abs(day) < _NEAR_DAYS, near, far)
