"""States as bytes: a header, then raw arrays. Nothing of them is ever executed.

  magic "LJUS", format u16, model hash 16 bytes, checksum u32 of all that follows,
  length u32 of a JSON document, that document, arrays back to back

The document names rows, begin and the other numbers, and each array's dtype and
shape, in order. Of a window only rows in use are stored. All little-endian.
"""

import hashlib
import json
import struct
import zlib
from typing import Any

import numpy as np

from lumos_jax import identity
from lumos_jax import predictor as predictor_lib
from lumos_jax.serving import user_state
from lumos_jax.serving.user_state import RAW, State

FORMAT = 1
_MAGIC = b"LJUS"
_HEAD = struct.Struct("<4sH16sII")
_NUMBERS = ("rows", "begin", "first_time", "tie")
_OWN = ("totals", "sums", "seen")


class StaleState(ValueError):
  """Stored bytes are another model's or format's: `rebuild` from events."""


def model_hash(predictor: predictor_lib.Predictor, window: Any) -> str:
  """16 hex digits of what states depend on.

  Parameters, the fitted schema, and the settings of model and window, the latter
  from the config.data of the model of events.
  """
  config = identity.plain(predictor.config)
  data = {
    k: window[k]
    for k in ("target", "sequence_length", "start_token", "filter_seen")
  }
  doc = [
    predictor.model_hash,
    predictor.schema.model_hash,
    config["model"],
    data,
  ]
  text = json.dumps(doc, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_bytes(state: State, model_hash: str) -> bytes:
  """A state as bytes.

  Args:
    state: Of a user.
    model_hash: 16 characters, of the model that it belongs to.
  """
  held = state.held
  arrays = {name: state.row(name) for name in RAW}
  for name, x in state.window.past.items():
    arrays[f"past/{name}"] = x[..., : max(held - 1, 0), :]
  arrays |= {name: getattr(state, name) for name in _OWN}
  arrays["ids"], arrays["numbers"] = state.profile
  if state.tail is not None:
    arrays["tail"] = state.tail
  doc = {name: getattr(state, name) for name in _NUMBERS}
  doc["arrays"] = [[n, x.dtype.name, x.shape] for n, x in arrays.items()]
  text = json.dumps(doc).encode()
  body = [text, *(np.ascontiguousarray(x).tobytes() for x in arrays.values())]
  body = b"".join(body)
  head = _HEAD.pack(
    _MAGIC, FORMAT, model_hash.encode(), zlib.crc32(body), len(text)
  )
  return head + body


def model_of(stored: bytes) -> str:
  """The model hash that bytes name; "" where they are no state."""
  if len(stored) < _HEAD.size:
    return ""
  magic, _, model, _, _ = _HEAD.unpack_from(stored)
  return model.decode("ascii", "replace") if magic == _MAGIC else ""


def from_bytes(stored: bytes, model_hash: str, like: State) -> State:
  """The state of `to_bytes`.

  Args:
    stored: Its bytes.
    model_hash: Of the model that is to use it.
    like: Any state of that model, for dtypes and shapes.

  Raises:
    StaleState: The bytes are another model's or format's, or damaged.
  """
  if len(stored) < _HEAD.size:
    raise StaleState(f"{len(stored)} bytes are no stored state")
  magic, number, model, checksum, length = _HEAD.unpack_from(stored)
  if magic != _MAGIC or number != FORMAT:
    raise StaleState(
      f"stored in format {number if magic == _MAGIC else 'unknown'}, this program "
      f"reads {FORMAT}: rebuild it from the user's events"
    )
  if model != model_hash.encode():
    raise StaleState(
      f"the state is of model {model.decode('ascii', 'replace')}, this one is "
      f"{model_hash}: rebuild it from the user's events"
    )
  body = memoryview(stored)[_HEAD.size :]
  if zlib.crc32(body) != checksum:
    raise StaleState("the stored state is damaged: rebuild it from events")
  doc = json.loads(bytes(body[:length]))
  arrays, at = {}, length
  for name, dtype, shape in doc["arrays"]:
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    found = np.frombuffer(body, dtype, count, at)
    arrays[name], at = found.reshape(shape), at + count * dtype.itemsize
  _check(arrays, like)
  raw = {name: arrays[name] for name in RAW}
  held = doc["rows"] - doc["begin"]
  known = like.window
  window = user_state.Window(known.raw, known.past, known.most, held)
  window = window.grown(0, raw)
  for name, x in window.past.items():
    x[..., : max(held - 1, 0), :] = arrays[f"past/{name}"]
  own = {name: arrays[name].copy() for name in _OWN}
  return State(
    profile=(arrays["ids"].copy(), arrays["numbers"].copy()),
    start_token=like.start_token,
    window=window,
    tail=arrays["tail"].copy() if "tail" in arrays else None,
    **{name: doc[name] for name in _NUMBERS},
    **own,
  )


def _check(arrays, like: State) -> None:
  """Raises StaleState where dtypes or shapes of a row are not the model's.

  The hash says that they are; this is for programs that changed what they keep.
  """
  mine = {name: like.window.raw[name][:0] for name in RAW}
  mine |= {f"past/{n}": x for n, x in like.window.past.items()}
  if like.tail is not None:
    mine["tail"] = like.tail

  def row(name, x):
    if name.startswith("past/"):
      return *x.shape[:-2], x.shape[-1]
    return x.shape[1:]

  for name, x in mine.items():
    found = arrays.get(name)
    if (
      found is None
      or found.dtype != x.dtype
      or row(name, found) != row(name, x)
    ):
      raise StaleState(
        f"the stored state's {name} is not what this program keeps: rebuild it "
        "from the user's events"
      )
