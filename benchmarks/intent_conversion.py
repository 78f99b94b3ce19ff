r"""What labels keep of a session's vector: conversion on Wikispeedia and OULAD.

  python benchmarks/intent_conversion.py --workdir=RUN --intents=RUN/intents \
    [--data_dir=DIR] [--label=submits --clicks=0 --name=intent_conversion_oulad]

Will a path reach its target, from its first four pages? Does a student hand something
in within 7 days of a day's clicks? Simple models on counts of pages, on the run's
vector, on the teacher's confidences and on the student's, all of the same clicks
(evaluator `conversion`; intervals are paired bootstraps over the test sessions). The
teacher is the clusters: the one of `lumos intents` without a language model, which
can tell any session. Writes benchmarks/results/NAME.json.
"""

import argparse
import pathlib
import tempfile
import time

import polars as pl
import results

from lumos_jax import evaluate, predictor, session_table
from lumos_jax.intents import cluster, taxonomy
from lumos_jax.intents import student as student_lib

_METRICS = ("auc", "log_loss", "micro_f1", "macro_f1")
_ENDS = ("difference", "low", "high")


def tables(intents: pathlib.Path, frame: pl.DataFrame, out: pathlib.Path):
  """{name: Parquet file} of teacher's and student's confidences."""
  vectors = frame["embedding"].to_numpy()
  content = (intents / "taxonomy.json").read_text()
  proposed = taxonomy.Taxonomy.parse(content)
  labels, _ = taxonomy.read_review(intents / "review.json", proposed)
  clusters = cluster.Clusters.load((intents / "clusters.npz").read_bytes())
  p = clusters.soft(vectors)
  student = student_lib.Student.load(intents)
  teacher = [p[:, list(x.clusters)].sum(1) for x in labels.labels]
  found = {
    "teacher": dict(zip(labels.ids, teacher, strict=True)),
    "student": dict(
      zip(student.ids, student.confidences(vectors).T, strict=True)
    ),
  }
  paths = {}
  for name, columns in found.items():
    paths[name] = str(out / f"{name}.parquet")
    pl.DataFrame({"key": frame["key"], **columns}).write_parquet(paths[name])
  return paths, len(labels)


def main():
  """Runs the evaluator and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--workdir", required=True, help="of a run of recipe intent")
  add("--intents", required=True, help="folder of lumos intents, no endpoint")
  add("--data_dir", help="a prepared data set; default the run's own")
  add("--models", default="logistic,lightgbm", help="on the features")
  add("--label", default="finished", help="what is asked")
  add("--clicks", type=int, default=4, help="that are read; 0 for all")
  add("--name", default="intent_conversion", help="of the result file")
  args = parser.parse_args()
  begin = time.monotonic()
  out = pathlib.Path(tempfile.mkdtemp())
  manifest = session_table.write(
    out / "first", args.workdir, data_dir=args.data_dir, first=args.clicks
  )
  intents = pathlib.Path(args.intents)
  made_for = student_lib.Student.load(intents).model_hash
  if made_for != manifest["model"]:
    raise SystemExit(f"{intents} was made for another checkpoint")
  frame = session_table.read(out / "first")
  paths, labels = tables(intents, frame, out)
  model = predictor.Predictor(args.workdir)
  config, records = model.config, model.open_data(args.data_dir)
  with config.unlocked():
    config.evals = dict(
      conversion=dict(
        type="conversion",
        label=args.label,
        clicks=args.clicks,
        models=tuple(args.models.split(",")),
        tables=paths,
      )
    )
  session = evaluate.Session(config, out, records, model.recipe, ())
  session.evaluate(model.step, model.parameters, True)
  found = evaluate.read(out)["conversion"]
  rows = []
  for how in args.models.split(","):
    for features in ("counts", "embedding", "teacher", "student", "both"):
      metrics = {m: found[f"{features}/{how}/{m}"] for m in _METRICS}
      for end in _ENDS:
        key = f"{features}_vs_counts/{how}/auc/{end}"
        if key in found:
          metrics[f"auc_to_counts/{end}"] = found[key]
      if features == "student":
        # Of what is above chance: micro F1 is the base rate for all.
        teacher = found[f"teacher/{how}/auc"]
        share = (metrics["auc"] - 0.5) / (teacher - 0.5)
        metrics["auc_kept_of_teacher"] = share
      print(f"{how:10s}{features:10s}{metrics}", flush=True)
      rows.append(
        dict(
          dataset=f"{config.data.source}, {found['sessions']:,.0f} test sessions"
          + (f" of more than {args.clicks} clicks" if args.clicks else ""),
          split="test",
          protocol=f"first {args.clicks} pages, {how}"
          if args.clicks
          else f"{args.label}, {how}",
          model=features,
          config=f"{labels} labels",
          steps=model.step,
          wall_seconds=time.monotonic() - begin,
          metrics=metrics,
        )
      )
  print(results.write(args.name, rows))


if __name__ == "__main__":
  main()
