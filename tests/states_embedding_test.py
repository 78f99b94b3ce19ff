"""Append and embedding in one call: as one after the other."""

import numpy as np
import pytest
from states_test import CLOSE, FORMS, events, opened, profile, users


@pytest.mark.parametrize(
  "form",
  [
    "panther",
    *(pytest.param(f, marks=pytest.mark.slow) for f in ("large", "hstu")),
  ],
)
def test_the_embedding_of_an_append_is_that_of_its_state(form, tmp_path):
  made, *_ = opened(tmp_path, FORMS[form])
  records = users(5, 16)
  parts = [
    2,
    0,
    1,
    1,
    3,
    1,
    1,
    6,
    1,
  ]  # Across the ends of windows of six or seven.
  states, at, calls = [made.new(profile(r)) for r in records], 0, []
  extend = made._reader.extend
  made._reader.extend = lambda rows: calls.append(len(rows)) or extend(rows)
  for n in parts:
    more = [events(r, at, at + n) for r in records]
    # One of them has nothing new.
    more[2] = events(records[2], 0, 0) if n == 3 else more[2]
    calls.clear()
    both, found = made.append_embedding(states, more)
    if n == 1 and at + 1 < made._settings.length:
      assert calls == [4, 1]  # A call of each batch, and none beside.
    states = made.append(states, more)
    wanted = made.embedding(states)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    np.testing.assert_allclose(made.embedding(both), wanted, **CLOSE)
    # What is kept of a row does not rest on its having been the last.
    for a, b in zip(both, states, strict=True):
      np.testing.assert_allclose(a.sums, b.sums, **CLOSE)
      assert (a.rows, a.begin, a.totals.tolist()) == (
        b.rows, b.begin, b.totals.tolist(),
      )  # fmt: skip
      for name, x in a.window.past.items():
        held = a.held - 1
        np.testing.assert_allclose(
          x[..., :held, :], b.window.past[name][..., :held, :], **CLOSE
        )
    states, at = both, at + n


def test_users_without_events_have_an_embedding_too(tmp_path):
  made, *_ = opened(tmp_path, FORMS["panther"])
  record = users(1, 1)[0]
  nobody = [made.new(profile(record))]
  states, found = made.append_embedding(nobody, [events(record, 0, 0)])
  np.testing.assert_array_equal(found, made.embedding(nobody))
  assert states[0].rows == nobody[0].rows
