"""RecBole's SASRec: an epoch of its own trainer, timed on demand.

Run by benchmarks/epoch.py in an environment of its own:

  pip install torch==2.13.0 recbole==1.2.1 "numpy<2" "pandas<2.3" "scipy<1.14"

RecBole 1.2.1 uses what later numpy, pandas and scipy took away. It also installs
ray, for its search of settings, which nothing here imports.

Reads one line of JSON: the folder of NAME/NAME.inter, NAME, threads, seed and
batch (targets a step), and answers with what it found. Then for each line "epoch"
it trains one and prints seconds, CPU seconds and loss, and for "validate" NDCG@10
and HitRate@10 of the validation events. The model's settings are RecBole's
defaults for SASRec but for the batch: D 64, 2 layers, 2 heads, dropout .5, full
softmax, histories of 50, Adam with 1e-3.
"""

import importlib.metadata
import json
import sys
import time

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

SETTINGS = dict(
  load_col={"inter": ["user_id", "item_id", "timestamp"]},
  eval_args={
    "split": {"LS": "valid_and_test"},
    "order": "TO",
    "group_by": "user",
    "mode": "full",
  },
  # The softmax over all items draws no negatives.
  train_neg_sample_args=None,
  # Items of the history compete: its sequential models know no other way.
  repeatable=True,
  metrics=["NDCG", "Hit"],
  topk=[10],
  valid_metric="NDCG@10",
  metric_decimal_place=8,
  use_gpu=False,
  show_progress=False,
)


def answer(**values):
  """A line of JSON."""
  print(json.dumps(values), flush=True)


def main():
  """Serves lines of standard input."""
  asked = json.loads(sys.stdin.readline())
  torch.set_num_threads(asked["threads"])
  config = Config(
    model="SASRec",
    dataset=asked["name"],
    config_dict=SETTINGS
    | {"data_path": asked["folder"], "seed": asked["seed"]}
    | {"train_batch_size": asked["batch"]},
  )
  init_seed(config["seed"], config["reproducibility"])
  dataset = create_dataset(config)
  training, validation, _ = data_preparation(config, dataset)
  model = SASRec(config, training.dataset)
  trainer = Trainer(config, model)
  trainer.eval_collector.data_collect(training)
  answer(
    targets=len(training.dataset),
    users=len(validation.dataset),
    items=dataset.item_num - 1,  # Item 0 is padding.
    steps=len(training),
    parameters=sum(p.numel() for p in model.parameters()),
    versions={
      p: importlib.metadata.version(p)
      for p in ("recbole", "torch", "pandas", "scipy")
    }
    | {"numpy of the peer": importlib.metadata.version("numpy")},
  )
  epochs = 0
  for line in sys.stdin:
    if line.strip() == "validate":
      found = trainer.evaluate(validation, load_best_model=False)
      answer(**{"ndcg@10": found["ndcg@10"], "hit_rate@10": found["hit@10"]})
      continue
    start, cpu = time.perf_counter(), time.process_time()
    loss = trainer._train_epoch(training, epochs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    epochs += 1
    answer(seconds=seconds, cpu_seconds=cpu, loss=loss / len(training))


if __name__ == "__main__":
  main()
