"""What both pipelines share: a host's shuffled users, and worker processes."""

from collections.abc import Sequence
from typing import Any

import grain
import jax


def shuffled(
  source: Sequence[Any], batch_size: int, seed: int
) -> tuple[grain.MapDataset, int]:
  """This host's users, shuffled anew each epoch without end.

  Args:
    source: All users.
    batch_size: B over all hosts.
    seed: Of shuffling, and of random maps behind it.

  Returns:
    The users, and this host's rows of a batch.

  Raises:
    ValueError: B does not divide by the hosts, or a host has no user.
  """
  hosts, host = jax.process_count(), jax.process_index()
  if batch_size % hosts:
    raise ValueError(
      f"batch size {batch_size} does not divide by {hosts} hosts"
    )
  if len(source) < hosts:
    raise ValueError(f"{len(source)} users are too few for {hosts} hosts")
  dataset = grain.MapDataset.source(source).slice(slice(host, None, hosts))
  return dataset.seed(seed).shuffle().repeat(), batch_size // hosts


def iterator(dataset: grain.IterDataset, workers: int) -> grain.DatasetIterator:
  """Iterates here, or in worker processes if `workers` is not 0."""
  if workers:
    dataset = dataset.mp_prefetch(
      grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
    )
  return iter(dataset)
