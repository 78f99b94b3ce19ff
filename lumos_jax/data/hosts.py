"""Which part of the input each host reads."""

from collections.abc import Sequence
from typing import Any

import jax


def share(source: Sequence[Any], batch_size: int) -> tuple[slice, int]:
  """This host's users, and its rows of a batch.

  Args:
    source: All users.
    batch_size: B over all hosts.

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
  return slice(host, None, hosts), batch_size // hosts
