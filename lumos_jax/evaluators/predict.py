"""Forecasts of all users by `jax.pmap`, apart from the training mesh.

B users a batch of one host, D local devices, O = 1 origin, M tasks, U users.
"""

import collections
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lumos_jax import files, progress

Params = Any
PredictFn = Callable[[Params, dict[str, jax.Array]], dict[str, jax.Array]]

# Not a model's inputs; they stay on the host.
HOST = (
  "key", "user_mask", "labels", "label_mask", "daily_labels", "rows", "point",
)  # fmt: skip
# Of an amount's distribution, beside its mean: median and 80 % interval.
PARTS = ("median", "low", "high")
_IN_FLIGHT = 2  # Batches on the devices while the host makes the next one.
_KEY_CHARS = 16


def hash_keys(keys: Iterable[str]) -> np.ndarray:
  """User ids -> 16 hex digits of their sha256, as bytes "S16" [U].

  Files and logs hold no user id; a team that knows the ids can join them.
  """
  digits = [hashlib.sha256(str(k).encode()).hexdigest() for k in keys]
  return np.asarray([d[:_KEY_CHARS] for d in digits], f"S{_KEY_CHARS}")


def params_hash(params: Mapping[str, jax.Array]) -> str:
  """16 hex digits of parameters' names and bytes."""
  digest = hashlib.sha256()
  for name, x in sorted(params.items()):
    digest.update(name.encode())
    digest.update(np.asarray(x.addressable_data(0)).tobytes())
  return digest.hexdigest()[:16]


def write_atomic(path: epath.PathLike, content: bytes) -> None:
  """Writes a file that is complete or absent; an OSError names it."""
  path = epath.Path(path)
  with files.naming(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    aside(path).write_bytes(content)
    aside(path).replace(path)


def aside(path: epath.Path) -> epath.Path:
  """Where `write_atomic` writes first; a killed program leaves it there."""
  return path.parent / f".{path.name}.new"


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Forecasts and labels of U users, ordered by key.

  Attributes:
    key: bytes "S16" [U], of `hash_keys`.
    y: float32 [U, M].
    mask: bool [U, M].
    p: {name: float32 [U]}: task names, and "task/median", "task/low" and
      "task/high" of amounts, where known; or {name: float32 [U, D]}, vectors of
      the users.
    point: int [U], place of each among the points of its part, where several
      may be of one user; else None.
  """

  key: np.ndarray
  y: np.ndarray
  mask: np.ndarray
  p: dict[str, np.ndarray]
  point: np.ndarray | None = None

  def sorted(self) -> "Predictions":
    """The same, ordered by key, then point: whoever read them, the order is equal."""
    by = (self.key,) if self.point is None else (self.point, self.key)
    at = np.lexsort(by)  # The last one counts most; it is stable.
    p = {name: v[at] for name, v in self.p.items()}
    point = None if self.point is None else self.point[at]
    return Predictions(self.key[at], self.y[at], self.mask[at], p, point)

  def save(self, path: epath.PathLike, tasks: Sequence[str]) -> None:
    """Writes .npz: tasks [M], key [U], and [U, M] of y, p, mask.

    Beside them median, low and high [U, M], NaN of tasks without, if any task
    has them.
    """
    arrays = {"y": self.y, "mask": self.mask}
    table = lambda of: np.stack([of(t) for t in tasks], 1).astype(np.float32)
    arrays["p"] = table(lambda t: self.p[t])
    nothing = np.full(len(self.y), np.nan)
    for part in PARTS:
      if any(f"{t}/{part}" in self.p for t in tasks):
        arrays[part] = table(
          lambda t, part=part: self.p.get(f"{t}/{part}", nothing)
        )
    buffer = io.BytesIO()
    np.savez_compressed(
      buffer, tasks=np.asarray(tasks, np.str_), key=self.key, **arrays
    )
    write_atomic(path, buffer.getvalue())

  @classmethod
  def load(cls, path: epath.PathLike) -> "Predictions":
    """Reads what `save` wrote."""
    with epath.Path(path).open("rb") as f, np.load(f, allow_pickle=False) as z:
      p = {}
      for m, task in enumerate(z["tasks"]):
        p[str(task)] = z["p"][:, m]
        for part in PARTS:
          values = z[part][:, m] if part in z.files else np.asarray([np.nan])
          if not np.isnan(values).all():
            p[f"{task}/{part}"] = values
      return cls(z["key"], z["y"], z["mask"], p)


class Predictor:
  """Runs a predict function over batches on this host's devices.

  Each device gets `batch_size` users at a time, however many devices there are:
  a forecast is then the same computation on 1 and on 8 of them.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    batch_size: int = 256,
    devices: Sequence[jax.Device] | None = None,
    held_dtype: Callable[[str], Any] | None = None,
  ):
    """Keeps one compiled function; later calls with equal shapes reuse it.

    Args:
      predict_fn: (parameters, batch) -> {name: [B, O]}.
      batch_size: Users a device.
      devices: Local devices to use (one process only); default all.
      held_dtype: Path of a parameter -> the dtype in which a device holds it, None
        for its own; default its own.
    """
    self.predict_fn = predict_fn
    self._held_dtype = held_dtype
    self.embedder: Predictor | None = None  # Of the recipe's user embeddings.
    self.sees_profile = True
    self.inputs: Any = None  # The recipe's: what makes its batches.
    # What a pretrained model says of scored points: {name: [B, ...]}.
    self.pretrained: Predictor | None = None
    # Of scored points: parameters -> what explains them (`lumos_jax.why.Why`).
    self.explain: Callable[[Params], Any] | None = None
    self.frozen = False  # Whether that has seen no label.
    # What a model of days says of its users: {name: [B, ...]}.
    self.states: Predictor | None = None
    # Of each row of an ensemble apart: {name: [B, R]}; and rows' weights [R, M].
    self.rows: Predictor | None = None
    self.row_weights: np.ndarray | None = None
    self.devices = list(devices or jax.local_devices())
    self.users_per_device = batch_size
    mesh = Mesh(np.asarray(self.devices), ("local",))
    self._replicated = NamedSharding(mesh, P())
    self._split = NamedSharding(mesh, P("local"))
    # Over several processes pmap spans all devices and takes no list.
    chosen = None if jax.process_count() > 1 else self.devices
    self._run = jax.pmap(predict_fn, in_axes=(None, 0), devices=chosen)

  @property
  def batch_size(self) -> int:
    """B: users in a host's batch."""
    return self.users_per_device * len(self.devices)

  def derive(self, fn: Callable[[PredictFn], PredictFn]) -> "Predictor":
    """A predictor of a function of this one's function."""
    return self.of(fn(self.predict_fn))

  def of(self, predict_fn: PredictFn) -> "Predictor":
    """A predictor of another function, on the same devices."""
    # A list of all local devices is what the default means.
    return Predictor(
      predict_fn, self.users_per_device, self.devices, self._held_dtype
    )

  def held(self, path: str, dtype: Any) -> Any:
    """The dtype in which a device holds a parameter of a dtype."""
    asked = self._held_dtype(path) if self._held_dtype else None
    return dtype if asked is None else asked

  def place(self, params: Params) -> Params:
    """Parameters, wherever they are, replicated over this host's devices."""

    if self._held_dtype:
      # Before they are replicated, so that no device holds the wider ones.
      params = {k: x.astype(self.held(k, x.dtype)) for k, x in params.items()}

    def local(x):
      if isinstance(x, jax.Array) and not x.is_fully_addressable:
        # Pieces of it lie with other hosts: all hosts gather together.
        whole = NamedSharding(x.sharding.mesh, P())
        x = jax.jit(lambda a: a, out_shardings=whole)(x)
        x = x.addressable_data(0)
      return jax.device_put(x, self._replicated)

    return jax.tree.map(local, params)

  def __call__(
    self, params: Params, batches: Iterable[dict[str, np.ndarray]]
  ) -> Predictions:
    """Forecasts of every user of the batches, over all hosts.

    Args:
      params: Of the predict function; placed if they are not.
      batches: Of `pipeline.eval_batches`. All hosts have equally many.

    Returns:
      Predictions without padding, the same on every host.
    """
    params = self.place(params)
    waiting: collections.deque = collections.deque()
    rows = []
    users = lambda batch: int(np.sum(batch["user_mask"]))
    for batch in progress.track(batches, users):
      host = {k: batch[k] for k in HOST if k in batch}
      host["key"] = hash_keys(host["key"])
      inputs = {k: v for k, v in batch.items() if k not in HOST}
      waiting.append((host, self._run(params, self._cut(inputs))))
      if len(waiting) > _IN_FLIGHT:
        rows.append(_fetch(*waiting.popleft()))
    rows += [_fetch(*x) for x in waiting]
    if not rows:
      raise ValueError("no batch to predict: the split has no user")
    table = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    if jax.process_count() > 1:
      table = multihost_utils.process_allgather(table, tiled=True)
    keep = np.asarray(table.pop("user_mask"), bool)
    table = {k: np.asarray(v)[keep] for k, v in table.items()}
    key = np.ascontiguousarray(table.pop("key")).view(f"S{_KEY_CHARS}")[:, 0]
    y, mask = table.pop("labels"), table.pop("label_mask").astype(bool)
    point = table.pop("point", None)
    return Predictions(key, y, mask, table, point).sorted()

  def stream(
    self, params: Params, batches: Iterable[dict[str, np.ndarray]]
  ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Outputs of this host's batches, one by one, as they come.

    Args:
      params: Placed.
      batches: As for a call. All hosts have equally many.

    Yields:
      The batch and its outputs {name: [B, ...]}, padding included.
    """
    waiting: collections.deque = collections.deque()

    def fetch(batch, outputs):
      found = jax.device_get(outputs)
      flat = lambda x: x.reshape(-1, *x.shape[2:])[: len(batch["user_mask"])]
      return batch, {k: flat(np.asarray(v)) for k, v in found.items()}

    for batch in batches:
      inputs = {k: v for k, v in batch.items() if k not in HOST}
      waiting.append((batch, self._run(params, self._cut(inputs))))
      if len(waiting) > _IN_FLIGHT:
        yield fetch(*waiting.popleft())
    while waiting:
      yield fetch(*waiting.popleft())

  def _cut(self, inputs):
    """[B, ...] -> [D, B / D, ...] on the devices, the last user repeated."""
    d = len(self.devices)

    def cut(x):
      x = np.asarray(x)
      missing = -len(x) % d
      if missing:
        x = np.concatenate([x, np.repeat(x[-1:], missing, 0)])
      x = x.reshape(d, len(x) // d, *x.shape[1:])  # A width may be zero.
      return jax.device_put(x, self._split)

    return {k: cut(v) for k, v in inputs.items()}


def _fetch(host, outputs) -> dict[str, np.ndarray]:
  """Host arrays of a batch [B, ...]; keys as uint8 [B, 16] to be gathered."""
  users = len(host["user_mask"])
  if host["labels"].shape[1] != 1:
    raise ValueError(f"{host['labels'].shape[1]} origins a user; give one")
  out = {
    "key": host["key"].view(np.uint8).reshape(users, _KEY_CHARS),
    "user_mask": np.asarray(host["user_mask"], bool),
    "labels": np.asarray(host["labels"], np.float32)[:, 0],
    "label_mask": np.asarray(host["label_mask"], bool)[:, 0],
  }
  if "point" in host:
    out["point"] = np.asarray(host["point"], np.int32)
  for name, value in jax.device_get(outputs).items():
    # Devices first, then their users; the one origin leaves, a vector stays.
    value = np.asarray(value, np.float32)
    value = value.reshape(-1, *value.shape[2:])[:users]
    out[name] = value[:, 0] if value.shape[1:] == (1,) else value
  return out
