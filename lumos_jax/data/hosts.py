"""What both pipelines share: a host's shuffled users, and worker processes."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
from absl import flags
from grain import experimental as grain_experimental
from grain._src.python.ipc import shared_memory_array

_EPOCHS = 2**20


def shuffled(source: Sequence[Any], seed: int) -> grain.MapDataset:
  """All users, shuffled anew each epoch without end.

  Args:
    source: All users.
    seed: Of shuffling, and of random maps behind it.
  """
  # Not repeat(): Grain's batches of one would overflow counting them.
  return grain.MapDataset.source(source).seed(seed).shuffle().repeat(_EPOCHS)


class WorkerLost(RuntimeError):
  """A worker process of the loader is gone."""


class Block:
  """Some users; Grain sees one element, and does not look into it.

  Attributes:
    users: Records, or what was made of them.
    epoch: In which they come.
  """

  __slots__ = ("epoch", "users")

  def __init__(self, users: Sequence[Any], epoch: int = 0):
    self.users, self.epoch = users, epoch


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
    return Block(self._source.__getitems__(found), epoch)


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


def in_order(dataset: grain.MapDataset) -> grain.MapDataset:
  """The same elements, to be dealt to worker processes whole and in turn.

  Grain cuts a dataset over its workers at the source, which is left alone by
  this: cut there, each worker would go through users of its own, in epochs of
  different lengths.

  Args:
    dataset: What a worker makes: batches, or blocks.
  """
  return grain.MapDataset.source(dataset)


def workers(dataset: grain.IterDataset, count: int) -> grain.IterDataset:
  """Made by `count` worker processes, in this one's threads if it is 0.

  Elements come in the order of one process: element i from worker i modulo
  `count`. So every user is seen once an epoch whatever `count` is.

  Args:
    dataset: Of a map dataset that is `in_order`.
    count: config.data.workers.
  """
  if not count:
    return dataset
  # In a notebook nobody has parsed flags, and Grain asks for its own.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return dataset.mp_prefetch(
    grain.multiprocessing.MultiprocessingOptions(num_workers=count)
  )


def read_ahead(
  dataset: grain.MapDataset, cfg, elements: int = 2, in_memory: bool = False
) -> grain.IterDataset:
  """Elements in order, made ahead by threads, or by worker processes.

  Args:
    dataset: What is made: batches, or blocks.
    cfg: config.data: read_threads, workers.
    elements: Made ahead.
    in_memory: Whether the records are, which then need no thread.
  """
  threads = 0 if in_memory else cfg.read_threads
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=elements
  )
  return workers(in_order(dataset).to_iter_dataset(options), cfg.workers)


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
  """Errors of Grain about a process that is gone become `WorkerLost`."""
  try:
    yield
  except RuntimeError as e:
    if "Worker process was terminated" not in str(e):
      raise
    reason = str(e).partition("unexpectedly ")[2].partition(".")[0]
    raise WorkerLost(
      f"a worker process of the loader ended {reason}; the system kills one where "
      "memory is short, and fewer data.workers need less. The same command resumes "
      "from the newest checkpoint"
    ) from e


def close(iterator: grain.DatasetIterator) -> None:
  """Ends the worker processes and frees the memory shared with them.

  Grain frees arrays in a thread, which the interpreter's end would cut off: the
  system is then told of leaked objects.
  """
  iterator.close()
  array = shared_memory_array.SharedMemoryArray
  pool = getattr(array, "_del_thread_pool", None)
  if pool is None:
    return
  # What lives on is freed at once when it goes.
  array._del_thread_pool = array._outstanding_del_requests = None
  pool.close()
  pool.join()
