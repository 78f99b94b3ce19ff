"""Are the raw files those that a data set was made of?"""

import pathlib
from collections.abc import Mapping
from typing import Any

from lumos_jax.data import shards

_SHOWN = 5
# Sources that read every file of their folder: a new one is missing in the data.
_WHOLE_FOLDERS = ("clicks",)


def check(
  path: Any, stats: Mapping[str, Any], source: str, options: Mapping[str, Any]
) -> None:
  """Compares the folder of the raw files, where the options name one.

  A data set's name does not say where its raw files lay: another log under the
  same options would be taken for the first one's data. Names and sizes are
  compared; raw files that are not on this machine are not.

  Args:
    path: Of the data set.
    stats: Its stats.json.
    source: config.data.source.
    options: config.data.options.

  Raises:
    DataError: The files there are others than those that were read.
  """
  root = str(options.get("path") or "")
  contents = stats.get("contents", {})
  # What has a digest is the description, which may lie anywhere.
  digests = contents.get("digests", {})
  known = {
    n: s for n, s in contents.get("inputs", {}).items() if n not in digests
  }
  if not root or "://" in root or not pathlib.Path(root).exists() or not known:
    return
  folder = pathlib.Path(root)
  files = [folder] if folder.is_file() else folder.rglob("*")
  # Partitions have files of one name.
  there: dict[str, set[int]] = {}
  for f in files:
    if f.is_file() and not f.name.startswith((".", "_")):
      there.setdefault(f.name, set()).add(f.stat().st_size)
  if not set(known) & set(there) and source not in _WHOLE_FOLDERS:
    return  # Queries, and files of other places.
  changed = [f"{n} is absent" for n in known if n not in there]
  changed += [
    f"{n} had {known[n]:,} bytes and has {min(there[n]):,}"
    for n in known
    if n in there and known[n] not in there[n]
  ]
  if source in _WHOLE_FOLDERS and "appended" not in contents:
    if options.get("file", "*") == "*":
      changed += [f"{n} is new" for n in sorted(set(there) - set(known))]
  if changed:
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    raise shards.DataError(
      f"{path} was made of other files than {root} holds: "
      f"{', '.join(changed[:_SHOWN])}{more}. Give these a data.root of their own "
      "(--config.data.root=FOLDER, or root=FOLDER behind the config's name), "
      "prepare them anew with python -m data_prep --overwrite, or leave out path to "
      "go on with what is prepared"
    )
