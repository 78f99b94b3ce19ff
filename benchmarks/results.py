"""Writes benchmarks/results/NAME.json, the one form of a measured result."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
# Python puts a script's folder first, where data_prep.py is a benchmark.
sys.path.insert(0, str(ROOT))
FIELDS = (
  "dataset",
  "split",
  "protocol",
  "model",
  "config",
  "seed",
  "steps",
  "wall_seconds",
  "metrics",
)
# Steps of the whole training, where `steps` is the best checkpoint's.
OPTIONAL = ("trained_steps",)
_IDENTITY = tuple(f for f in FIELDS if f not in ("wall_seconds", "metrics"))
_ORIGIN = ("command", "commit", "date", "machine", "versions")
_PACKAGES = (
  "jax",
  "flax",
  "optax",
  "grain",
  "array-record",
  "numpy",
  "polars",
  "tensorflow-datasets",
  "lightgbm",
  "scikit-learn",
)


def write(
  name: str,
  rows: Sequence[Mapping[str, Any]],
  versions: Mapping[str, str] | None = None,
  argv: Sequence[str] | None = None,
  folder: pathlib.Path | None = None,
  add: bool = False,
  same: Sequence[str] = _IDENTITY,
) -> pathlib.Path:
  """Writes a result file, with machine, versions, commit, date and command.

  Args:
    name: Of the file.
    rows: One a run and seed, with the keys of `FIELDS`; absent ones become "",
      0 or {} but dataset, model and metrics are needed. Keys of `OPTIONAL` may
      be there as well.
    versions: Of packages outside this environment (a peer's).
    argv: Command line; default sys.argv. Folders are cut from its paths.
    folder: Where to write; default benchmarks/results.
    add: Keep rows of the present file that no new row replaces; their commands
      stay under "earlier".
    same: Fields in which a row agrees with the one that it replaces.

  Returns:
    The file's path.

  Raises:
    ValueError: A row lacks a field, has one too many, or a metric that is no
      finite number.
  """
  path = _path(name, folder)
  doc = {
    "name": name,
    "command": command(sys.argv if argv is None else argv),
    "commit": commit(),
    "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "machine": machine(),
    "versions": {**_versions(), **(versions or {})},
    "rows": [_row(r) for r in rows],
  }
  if add and path.exists():
    _add(json.loads(path.read_text()), doc, same)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(doc, indent=1, allow_nan=False) + "\n")
  return path


def rows(name: str, folder: pathlib.Path | None = None) -> list[dict[str, Any]]:
  """Rows of a result file; none where there is no such file."""
  path = _path(name, folder)
  return json.loads(path.read_text())["rows"] if path.exists() else []


def _path(name: str, folder: pathlib.Path | None) -> pathlib.Path:
  return (folder or ROOT / "benchmarks" / "results") / f"{name}.json"


def _add(
  old: Mapping[str, Any], new: dict[str, Any], same: Sequence[str]
) -> None:
  """Puts old rows before new ones, and where they come from under "earlier"."""
  identity = lambda r: tuple(r[f] for f in same)
  have = {identity(r) for r in new["rows"]}
  kept = [r for r in old["rows"] if identity(r) not in have]
  earlier = list(old.get("earlier", [])) if kept else []
  origin = {k: old[k] for k in _ORIGIN}
  if kept and any(origin[k] != new[k] for k in ("command", "commit")):
    earlier.append(origin)
  new["rows"] = kept + new["rows"]
  new["earlier"] = earlier


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
  default = dict.fromkeys(FIELDS, "") | {"seed": 0, "steps": 0}
  default |= {"wall_seconds": 0.0, "metrics": {}}
  lost = [k for k in ("dataset", "model", "metrics") if k not in row]
  extra = [k for k in row if k not in (*FIELDS, *OPTIONAL)]
  if lost or extra:
    raise ValueError(f"a result row lacks {lost}, and has unknown {extra}")
  metrics = {k: float(v) for k, v in row["metrics"].items()}
  return {**default, **row, "metrics": metrics}


def command(argv: Sequence[str]) -> str:
  """The command as a reader would type it: no folder of this machine."""
  script = pathlib.Path(argv[0])
  if script.is_absolute() and script.is_relative_to(ROOT):
    script = script.relative_to(ROOT)
  elif script.is_absolute():
    script = pathlib.Path(script.name)
  return shlex.join(["python", str(script), *(_short(a) for a in argv[1:])])


def _short(argument: str) -> str:
  flag, equals, value = argument.rpartition("=")
  if os.path.isabs(value):
    value = os.path.basename(value.rstrip("/"))
  return f"{flag}{equals}{value}"


def commit() -> str:
  """Commit of the working tree, "+" behind it where code differs; or ""."""
  git = lambda *a: subprocess.run(
    ["git", "-C", str(ROOT), *a], capture_output=True, text=True, check=True
  ).stdout.strip()
  try:
    # Results of earlier scripts, and tables made from them, are no code.
    no_code = [f":!{p}" for p in ("benchmarks/results", "docs", "README.md")]
    changed = git(
      "status", "--porcelain", "--untracked-files=no", "--", ".", *no_code
    )
    return git("rev-parse", "HEAD") + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return ""


def machine() -> dict[str, Any]:
  """{"cpu", "cores", "memory_gib", "accelerator"} of this machine."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return {
    "cpu": _cpu(),
    "cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "memory_gib": round(memory / 2**30, 1),
    "accelerator": _accelerator(),
  }


def _cpu() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next(
      x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")
    )
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()


def _accelerator() -> str:
  if "jax" not in sys.modules:  # A benchmark without jax needs no device.
    return ""
  import jax

  devices = jax.devices()
  if devices[0].platform == "cpu":
    return ""
  return f"{len(devices)} x {devices[0].device_kind}"


def _versions() -> dict[str, str]:
  out = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      out[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return out
