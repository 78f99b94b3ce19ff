"""Runs pytorch-lifestream's pandas preprocessor; called by data_prep.py.

Runs in the peer's own environment (pytorch-lifestream 0.7.0, torch, pandas,
pyarrow, scikit-learn, joblib, dask, pymonad), so it imports nothing of ours:

  PEER_PYTHON benchmarks/data_prep_peer.py EVENTS.parquet KEY TIME CATS NUMS

It prints one JSON line: {"seconds", "first_seconds", "cpu_seconds", "versions"}.
The table is in memory and joined before the clock starts, times are integers
already, and nothing is written: all of it in the peer's favour.
"""

import importlib.metadata
import json
import sys
import time
import types


def _stub(name: str, **attributes) -> None:
  module = types.ModuleType(name)
  module.__dict__.update(attributes)
  sys.modules[name] = module


class _NoServer:
  """The dispatcher starts a Dask cluster that the pandas path never uses."""

  client = types.SimpleNamespace(dashboard_link="")


def main(path, key, stamp, categories, numbers):
  """Preprocesses the table twice and prints the times."""
  # The wheel lacks files that the Dask and Spark siblings import.
  package = "ptls.preprocessing"
  _stub(f"{package}.dask.dask_preprocessor", DaskDataPreprocessor=None)
  _stub(f"{package}.pyspark.pyspark_preprocessor", PysparkDataPreprocessor=None)
  _stub(f"{package}.dask.dask_client", DaskServer=_NoServer)
  import pandas as pd
  from ptls.preprocessing import PandasDataPreprocessor

  frame = pd.read_parquet(path)
  seconds, cpu = [], []
  for _ in range(2):
    preprocessor = PandasDataPreprocessor(
      col_id=key,
      col_event_time=stamp,
      event_time_transformation="none",
      cols_category=categories.split(","),
      cols_numerical=numbers.split(","),
      return_records=True,
    )
    table = frame.copy()
    start, cpu_start = time.perf_counter(), time.process_time()
    preprocessor.fit_transform(table)
    seconds.append(time.perf_counter() - start)
    cpu.append(time.process_time() - cpu_start)
  versions = {
    p: importlib.metadata.version(p)
    for p in ("pytorch-lifestream", "pandas", "torch")
  }
  result = {"seconds": seconds[1], "first_seconds": seconds[0]}
  result |= {"cpu_seconds": cpu[1], "versions": versions}
  print(json.dumps(result))


if __name__ == "__main__":
  main(*sys.argv[1:])
