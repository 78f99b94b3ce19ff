"""Records of events: a local day and an instant to the microsecond each."""

import fake
import fake_events
import numpy as np
import pytest
from array_record.python import array_record_module
from lumos_jax.data_prep import builder

from lumos_jax.data import records as records_lib


def write(path, users, schema):
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for user in users:
    writer.write(builder.serialize(user))
  writer.close()
  return records_lib.Source([str(path)], schema)


def users(count=30):
  """Of no event and more; before 1970, over 68 years, microseconds apart."""
  rng = np.random.default_rng(0)
  out = []
  for i in range(count):
    user = fake_events.record(rng, i, i % 5)
    user["time"] = user["time"] * 1000 - 7 * 10**15 + i
    out.append(user)
  return out


def same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
    if name != "key":
      assert found[name].dtype == value.dtype


def test_days_and_instants_are_read_as_written(tmp_path):
  given = users()
  source = write(tmp_path / "a", given, fake_events.schema())
  for found, expected in zip(source.__getitems__(range(30)), given):
    same(found, expected)
  for i in (0, 1, 29):
    same(source[i], given[i])
  assert source[1]["time"].dtype == np.int64


def test_rows_of_days_have_no_instant(tmp_path):
  rng = np.random.default_rng(0)
  given = [fake.record(rng, i) for i in range(20)]
  source = write(tmp_path / "a", given, fake.schema())
  for found, expected in zip(source.__getitems__(range(20)), given):
    same(found, expected)
  assert "time" not in source[0]


@pytest.mark.parametrize("name", ("day", "time"))
@pytest.mark.parametrize("together", (False, True))
def test_other_forms_are_refused(tmp_path, name, together):
  """As rows before there were days, or with an instant too few."""
  given = users()
  for user in given:
    if name == "day":
      del user["day"]
    else:
      user["time"] = user["time"][1:]
  source = write(tmp_path / "a", given, fake_events.schema())
  at = range(1, 30) if together else [1]
  with pytest.raises(records_lib.DataError, match="record 1, in .*data again"):
    source.__getitems__(at)
