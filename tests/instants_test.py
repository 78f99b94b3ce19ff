"""Instants and the gaps between them, against Python's exact integers."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumos_jax.data import instants
from lumos_jax.models import relative

# The first call compiles. What fails is told, not kept.
PROPERTY = settings(max_examples=200, deadline=None, database=None)
DAY = 86_400
YEAR = 365 * DAY + DAY // 4
# From the year 1 to 9999, whatever the epoch is.
MICROS = st.integers(-8000 * YEAR * 10**6, 8000 * YEAR * 10**6)
GAPS = st.one_of(
  st.integers(-2000, 2000),
  st.integers(-3 * 10**6, 3 * 10**6),
  st.integers(-100 * YEAR * 10**6, 100 * YEAR * 10**6),
)


@jax.jit
def _elapsed(later, earlier):
  return instants.elapsed(later, earlier)


def elapsed(later, earlier):
  """Of Python integers in microseconds, over whole blocks of pairs."""
  split = lambda x: instants.split(np.asarray(x, np.int64))
  return np.asarray(_elapsed(split(later), split(earlier)))


@PROPERTY
@given(MICROS)
def test_split_keeps_every_microsecond(micros):
  day, second, micro = (int(x) for x in instants.split(micros))
  assert 0 <= second < DAY and 0 <= micro < 10**6
  assert (day * DAY + second) * 10**6 + micro == micros


@PROPERTY
@given(MICROS, GAPS)
@example(-1, 2)  # Across the epoch.
@example(DAY * 10**6 - 1, 1)  # Across midnight.
@example(999_999, 2)
def test_elapsed_equals_integers(start, gap):
  exact = gap / 10**6
  found = float(elapsed(start + gap, start))
  assert abs(found - exact) <= 1.2e-7 * abs(exact)
  assert np.sign(found) == np.sign(gap)
  assert float(elapsed(start, start + gap)) == -found


@PROPERTY
@given(MICROS, st.integers(-(2**31) + 2 * DAY, 2**31 - 2 * DAY))
def test_whole_seconds_are_rounded_once(start, gap):
  """As an int32 of seconds was, whatever the fraction that they start at."""
  found = elapsed(start + gap * 10**6, start)
  assert found == np.float32(gap)
  if abs(gap) <= 2**24:
    assert float(found) == gap


def test_a_gap_of_71_years():
  """1935-06-01 to 2006-06-01; an int32 of seconds has it negative."""
  gap = 25_933 * DAY
  found = elapsed(13_300 * DAY * 10**6, -12_633 * DAY * 10**6)
  assert found == np.float32(gap) > 2**31
  bucket = relative.time_bucket(jnp.asarray(found))
  assert int(bucket) == relative.TIME_BUCKETS - 1


@pytest.mark.parametrize("seconds", (range(0, 20_000), range(0, 2**31, 99_991)))
def test_buckets_of_whole_seconds_are_as_they_were(seconds):
  gap = np.asarray(seconds, np.int64)

  def before(gap):  # Of an int32 of seconds.
    log = jnp.log(jnp.maximum(gap, 1).astype(jnp.float32)) / 0.301
    return jnp.minimum(log.astype(jnp.int32), 63)

  start = -5 * 10**14 - 7
  now = jax.jit(lambda a, b: relative.time_bucket(instants.elapsed(a, b)))
  found = now(
    instants.split(start + gap * 10**6), instants.split(np.asarray(start))
  )
  np.testing.assert_array_equal(found, jax.jit(before)(gap.astype(np.int32)))


@PROPERTY
@given(st.lists(st.integers(0, 9000 * YEAR), min_size=8, max_size=8))
def test_buckets_never_fall(gaps):
  gap = np.sort(np.asarray(gaps, np.int64)) * 10**6
  found = relative.time_bucket(jnp.asarray(elapsed(gap, np.zeros_like(gap))))
  assert (np.diff(found) >= 0).all() and int(found[-1]) <= 63
  assert (np.asarray(found)[gap > 6 * YEAR * 10**6] == 63).all()


def test_a_day_that_comes_twice_is_cut_in_one_place():
  """Clocks that go back at midnight: 23:50 of the day before comes again."""
  record = {"day": np.asarray([3, 4, 3, 4, 6], np.int32)}
  assert instants.days(record).tolist() == [3, 4, 4, 4, 6]


@pytest.mark.parametrize("count", (0, 1, 5))
def test_between_repeats_the_ends(count):
  time = fake_events.times(range(7, 7 + count))["time"]
  for start in (-1, 0):
    found = instants.between(time, start, count + 1)
    at = np.clip(np.arange(start, count + 1), 0, max(count - 1, 0))
    expected = time[at] if count else np.zeros(len(at), np.int64)
    np.testing.assert_array_equal(found, expected)
