"""What both pipelines share: a host's shuffled users, and worker processes."""

from collections.abc import Sequence
from typing import Any

import grain
import jax


def shuffled(source: Sequence[Any], seed: int) -> grain.MapDataset:
  """All users, shuffled anew each epoch without end.

  Args:
    source: All users.
    seed: Of shuffling, and of random maps behind it.
  """
  return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


def share(
  dataset: grain.MapDataset, batch_size: int
) -> tuple[grain.MapDataset, int]:
  """This host's elements, such that all hosts' make the batches of one host.

  To be taken behind random maps, which draw by an element's place.

  Args:
    dataset: Of `shuffled`.
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
