"""Records taken out of their protocol buffers together, against Protobuf."""

import random

import numpy as np
import pytest
from lumos_jax.data_prep import builder
from tensorflow_datasets.proto import tf_example_pb2

from lumos_jax.data import records as records_lib
from lumos_jax.data import wire
from tests import tiny_data


def _read(records):
  spans = wire.byte_features(records)
  return [
    {k: data[f[r] : f[r] + n[r]] for k, (f, n) in spans.items()}
    for r, data in enumerate(records)
  ]


def _protobuf(data):
  features = tf_example_pb2.Example.FromString(data).features.feature
  return {k: v.bytes_list.value[0] for k, v in features.items()}


def _examples(sizes):
  rng = np.random.default_rng(0)
  return [
    builder.serialize(
      {
        "key": f"user {i}",
        "time": rng.integers(0, 256, n, np.uint8),
        "a name of more than a hundred letters" * 4: np.zeros(i, np.uint8),
      }
    )
    for i, n in enumerate(sizes)
  ]


def test_reads_what_protobuf_reads():
  # Lengths of one, two, three and four bytes; nothing at all.
  found = _examples([0, 1, 127, 128, 300, 16_383, 16_384, 70_000, 2_100_000])
  assert _read(found) == [_protobuf(x) for x in found]


def test_other_forms_are_refused():
  one, two = _examples([3, 4])
  with pytest.raises(wire.FormError):
    wire.byte_features([one, one[:-1]])
  with pytest.raises(wire.FormError):
    wire.byte_features([one, b""])
  fewer = builder.serialize({"key": "user 2"})
  for pair in ([one, fewer], [fewer, one], [one, two + two]):
    with pytest.raises(wire.FormError):
      wire.byte_features(pair)
  integers = tf_example_pb2.Example()
  integers.features.feature["key"].int64_list.value.append(3)
  with pytest.raises(wire.FormError):
    wire.byte_features([integers.SerializeToString()] * 2)


def test_no_bytes_make_it_read_beyond_a_record():
  found = _examples([5, 200, 20_000])
  rng = random.Random(0)
  refused = 0
  for _ in range(2000):
    bad = bytearray(found[1])
    bad[rng.randrange(60)] = rng.randrange(256)
    block = [found[0], bytes(bad), found[2]]
    try:
      spans = wire.byte_features(block)
    except (wire.FormError, UnicodeDecodeError):
      refused += 1
      continue
    for first, size in spans.values():
      assert np.all(first + size <= [len(x) for x in block])
  assert refused > 300  # Of names and values any byte is right.


@pytest.mark.parametrize("num_shards", [1, 3])
def test_blocks_equal_single_records(tmp_path, num_shards):
  path = tiny_data.tiny_data_dir(tmp_path, num_shards=num_shards)
  data = records_lib.Records.open(path)
  source = data.source("train")
  at = np.random.default_rng(0).integers(0, len(source), 100).tolist()
  together = source.__getitems__(at)
  for i, found in zip(at, together, strict=True):
    single = source[i]
    assert found.keys() == single.keys()
    for name, value in single.items():
      assert type(found[name]) is type(value)
      if name != "key":
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
      np.testing.assert_array_equal(found[name], value)


def test_a_damaged_record_in_a_block_is_named(tmp_path, monkeypatch):
  path = tiny_data.tiny_data_dir(tmp_path)
  source = records_lib.Records.open(path).source("train")
  read = source._shards.read

  def damaged(positions):
    found = read(positions)
    return [x[:-1] if i == 7 else x for i, x in zip(positions, found)]

  monkeypatch.setattr(source._shards, "read", damaged)
  with pytest.raises(
    records_lib.DataError, match="record 7, in shard .*array_record"
  ):
    source.__getitems__(range(20))
