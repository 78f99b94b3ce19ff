"""Any bytes: the readers give what they claim, or their own named error."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from lumos_jax.data import schema as schema_lib

CALM = settings(
  max_examples=80,
  deadline=None,
  derandomize=True,
  suppress_health_check=list(HealthCheck),
)


@st.composite
def near_records(draw):
  """A valid record with some bytes changed, left out or put in."""
  which = draw(st.integers(0, len(fuzz.schemas()) - 1))
  data = bytearray(fuzz.valid_records()[which])
  for _ in range(draw(st.integers(0, 4))):
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(("change", "cut", "insert", "drop")))
    if kind == "change":
      data[at] = draw(st.integers(0, 255))
    elif kind == "insert":
      data[at:at] = draw(st.binary(min_size=1, max_size=8))
    elif kind == "drop" and len(data) > 1:
      del data[at]
    elif kind == "cut" and at:
      del data[at:]
  return bytes([which, *data])


@CALM
@given(st.binary(max_size=400) | near_records())
@example(b"")
@example(b"\x00\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
def test_bytes_are_a_record_or_a_named_error(data):
  fuzz.records_target(data)


@CALM
@given(st.data())
def test_what_is_nearly_a_schema_is_one_or_a_named_error(data):
  choose = lambda n: data.draw(st.integers(0, n - 1))
  fuzz.schema_target(fuzz.edited(fuzz.schemas()[choose(3)], choose))


@CALM
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"[" * 100_000)  # Deeper than Python reads.
@example(b"[]")
@example(b'"version"')
def test_bytes_are_a_schema_or_a_named_error(data):
  fuzz.schema_target(data)


@pytest.mark.parametrize(
  "content", [b"\xff\xfe", b"", b"[]", b'{"version": 3}', b"[" * 100_000]
)
def test_a_damaged_schema_file_is_named(tmp_path, content):
  path = tmp_path / "schema.json"
  path.write_bytes(content)
  with pytest.raises(schema_lib.SchemaError, match="schema.json: "):
    schema_lib.Schema.load(path)


@pytest.mark.parametrize(
  "table,entry,words",
  [
    ("activity", {"daily": 3}, "Categorical.daily is '3'"),
    ("activity", {"values": [1, 2]}, "Categorical.values is"),
    ("activity", {"title": 3}, "title 3 is no text"),
    ("profile", {"type": "Vector", "size": -5}, "size = -5"),
  ],
)
def test_a_field_of_another_type_is_named(table, entry, words):
  doc = json.loads(fuzz.schemas()[0].to_json())
  if "type" in entry:
    doc[table][0] = {"name": "v"}
  doc[table][0] |= entry
  with pytest.raises(schema_lib.SchemaError, match=words):
    schema_lib.Schema.from_json(json.dumps(doc))


def test_a_token_of_ids_that_there_are_not_is_named():
  """Found by atheris."""
  doc = json.loads(fuzz.schemas()[1].to_json())
  token = next(f for f in doc["activity"] if f["type"] == "Composite")
  token["values"][0] = [4, 2]
  with pytest.raises(schema_lib.SchemaError, match=r"'t' has a token \(4, 2\)"):
    schema_lib.Schema.from_json(json.dumps(doc))


@pytest.mark.slow
def test_atheris_finds_nothing_in_seconds(tmp_path):
  pytest.importorskip("atheris", reason='needs pip install -e ".[fuzz]"')
  for name in fuzz.TARGETS:
    metrics = fuzz.measured(name, 5, tmp_path)
    assert metrics["inputs"] > 100 and not metrics["found"], metrics
