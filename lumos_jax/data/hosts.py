"""What both pipelines share: a host's shuffled users, and worker processes."""

import functools
from collections.abc import Sequence
from typing import Any

import grain
import jax
from grain import experimental as grain_experimental

_EPOCHS = 2**20


def shuffled(source: Sequence[Any], seed: int) -> grain.MapDataset:
  """All users, shuffled anew each epoch without end.

  Args:
    source: All users.
    seed: Of shuffling, and of random maps behind it.
  """
  # Not repeat(): Grain's batches of one would overflow counting them.
  return grain.MapDataset.source(source).seed(seed).shuffle().repeat(_EPOCHS)


class Block:
  """Some users; Grain sees one element, and does not look into it.

  Attributes:
    users: Records.
  """

  __slots__ = ("users",)

  def __init__(self, users: Sequence[Any]):
    self.users = users


class _Blocks:
  """Blocks of shuffled users, epoch after epoch, by place."""

  def __init__(self, source, seed: int, size: int):
    self._source, self._seed, self._size = source, seed, size
    self._an_epoch = -(-len(source) // size)

  def __len__(self) -> int:
    return self._an_epoch * _EPOCHS

  def __repr__(self) -> str:
    return f"Blocks({self._source!r}, {self._seed}, {self._size})"

  def __getitem__(self, place: int) -> Block:
    epoch, block = divmod(place, self._an_epoch)
    users, first = len(self._source), block * self._size
    seed = (self._seed * 1_000_003 + epoch) % 2**32
    draw = functools.partial(
      grain_experimental.index_shuffle,
      max_index=users - 1,
      seed=seed,
      rounds=4,
    )
    found = [draw(i) for i in range(first, min(first + self._size, users))]
    return Block(self._source.__getitems__(found))


def shuffled_blocks(
  source: Sequence[Any], seed: int, size: int
) -> grain.MapDataset:
  """`Block`s of `size` users, each user once an epoch, without end.

  Grain's work an element is more than packing a short user takes.

  Args:
    source: All users; read by `__getitems__`.
    seed: Of shuffling.
    size: Users a block.
  """
  return grain.MapDataset.source(_Blocks(source, seed, size))


def share(
  dataset: grain.MapDataset, batch_size: int
) -> tuple[grain.MapDataset, int]:
  """This host's elements, such that all hosts' make the batches of one host.

  To be taken behind random maps, which draw by an element's place.

  Args:
    dataset: Of `shuffled` or `shuffled_blocks`.
    batch_size: B over all hosts.

  Returns:
    The elements, and this host's rows of a batch.

  Raises:
    ValueError: B does not divide by the hosts.
  """
  hosts, host = jax.process_count(), jax.process_index()
  if batch_size % hosts:
    raise ValueError(
      f"train.batch_size = {batch_size} does not divide by {hosts} hosts; the "
      f"nearest that does is {-(-batch_size // hosts) * hosts}"
    )
  if hosts > 1:
    dataset = dataset[host::hosts]
  return dataset, batch_size // hosts


def iterator(dataset: grain.IterDataset, workers: int) -> grain.DatasetIterator:
  """Iterates here, or in worker processes if `workers` is not 0."""
  if workers:
    dataset = dataset.mp_prefetch(
      grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
    )
  return iter(dataset)
