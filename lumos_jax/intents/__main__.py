r"""Makes intents of sessions: clusters, taxonomy, labels, a student, all labelled.

  lumos intents --config=intent:data=clicks,path=FOLDER
  lumos intents --workdir=runs/intent_wikispeedia [--labels=20] [--review] \
    [--endpoint --price_in=0.15 --price_out=0.6 --max_cost=5]
  lumos intents --vectors=FILES --texts=FILES --out=intents

The first form goes the whole way from a raw log: it prepares the data and trains, as
`lumos train` does, where that has not been done. With a run, its session vectors
and titles are written first. All goes to --out,
by default WORKDIR/intents. Stages that are done are not done again: the same command
resumes. With --endpoint a model behind $OPENAI_BASE_URL ($OPENAI_MODEL, key
$OPENAI_API_KEY) names and labels: page texts leave this machine; answers are kept
in OUT/answers.sqlite, and none is paid twice. Without it, names are the clusters'
most typical words, and the teacher is the clusters. See docs/intents.md.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import app
from absl.flags import argparse_flags
from etils import epath

from lumos_jax import config as config_lib
from lumos_jax import evaluate, lock, progress, startup, stop, train
from lumos_jax.data import schema as schema_lib
from lumos_jax.intents import chain as chain_lib
from lumos_jax.intents import cost, stages
from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.llm import answers as answers_lib
from lumos_jax.llm import client

_OPTIONS = ("labels", "k", "sample", "teach", "workers", "hidden", "seed")
# What a user can mend: printed as one line, without a traceback.
ERRORS = (
  sessions_lib.IntentError,
  client.EndpointError,
  answers_lib.LimitError,
  answers_lib.CacheError,
  schema_lib.SchemaError,
  lock.WorkdirBusy,
  config_lib.ConfigError,
  train.NotFinite,
  *evaluate.ERRORS,
)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="lumos intents",
    description="Makes intents of sessions.",
    conflict_handler="resolve",
  )
  add = parser.add_argument
  add("--config", help="train this first, as lumos train does: NAME:ARGUMENTS")
  add("--workdir", help="of a run of recipe intent; with --config its default")
  add("--step", help="checkpoint, or best; default the newest")
  add("--data_dir", help="a prepared data set; default the run's own")
  add("--vectors", help="Parquet of key and embedding: a file, or a folder")
  add("--texts", help="Parquet of key, titles or pages, and maybe categories")
  add("--out", help="folder to write to; default WORKDIR/intents")
  o = chain_lib.Options()
  add("--labels", type=int, default=o.labels, help="of the taxonomy")
  add("--k", type=int, default=o.k, help="clusters; 0 chooses by silhouette")
  add(
    "--sample", type=int, default=o.sample, help="sessions clustered, at most"
  )
  add("--teach", type=int, default=o.teach, help="sessions the endpoint labels")
  add("--hidden", type=int, default=o.hidden, help="width of the student")
  add(
    "--temperature", type=float, default=o.temperature, help="of distillation"
  )
  add(
    "--agree",
    type=float,
    default=o.agree,
    help="share of agreement below which the student abstains",
  )
  add("--seed", type=int, default=o.seed, help="of all draws")
  add("--review", action="store_true", help="stop when review.json is there")
  add(
    "--endpoint", action="store_true", help="ask a model for names and labels"
  )
  add("--price_in", type=float, help="of a million tokens sent")
  add("--price_out", type=float, help="of a million tokens received")
  add(
    "--max_cost",
    type=float,
    default=0.0,
    help="most to spend, all runs together",
  )
  add("--max_tokens", type=int, default=4096, help="of an answer")
  add("--per_minute", type=int, default=60, help="requests; 0 for no limit")
  add("--workers", type=int, default=o.workers, help="requests at a time")
  add("--timeout", type=float, default=120.0, help="seconds of a request")
  add("--estimate", action="store_true", help="tell the cost and stop")
  return parser.parse_args(argv[1:])


def _places(args) -> epath.Path:
  """The folder to write to.

  Raises:
    IntentError: Sessions are not said, or twice.
  """
  if bool(args.workdir) == bool(args.vectors):
    raise sessions_lib.IntentError(
      "say where sessions are: --config=CONFIG, --workdir=RUN, or --vectors=FILES "
      "and --texts=FILES"
    )
  if args.vectors and not args.out:
    raise sessions_lib.IntentError("--vectors needs --out=FOLDER to write to")
  return epath.Path(args.out or epath.Path(args.workdir) / "intents")


def _embedded(args, out: epath.Path, say: stages.Say) -> tuple[Any, str]:
  """Where vectors and texts of a run's sessions are, and the model's hash."""
  from lumos_jax import session_table

  folder = out / "sessions"
  step = args.step
  say("embed ...")
  manifest = session_table.write(
    folder,
    args.workdir,
    data_dir=args.data_dir,
    step=int(step) if step and step.isdecimal() else step,
    replace=True,
  )
  return folder, manifest["model"]


def _trained(name: str, workdir: str | None) -> str:
  """Workdir of the config's run, which is prepared, trained and evaluated."""
  from lumos_jax import main as main_lib

  config = config_lib.load(config_lib.resolve(name))
  if config.recipe != "intent":
    raise sessions_lib.IntentError(
      f"--config={name} is of recipe {config.recipe!r}: intents are of sessions, "
      "so choose a config of recipe 'intent'"
    )
  workdir = workdir or f"runs/{config.name}"
  if not set(config.evals) <= set(evaluate.read(workdir)):
    main_lib.run(config, workdir)
  else:
    main_lib.claim_workdir(epath.Path(workdir), config)
  return workdir


def _client(args, out: epath.Path) -> client.Client | None:
  if not (args.endpoint or args.estimate):
    return None
  if args.price_in is None or args.price_out is None:
    raise client.EndpointError(
      "say what the endpoint costs: --price_in=, --price_out= a million tokens "
      "(0 and 0 where it is free)"
    )
  endpoint = client.Endpoint.of_environment(
    price_in=args.price_in,
    price_out=args.price_out,
    limit=args.max_cost,
    max_tokens=args.max_tokens,
    per_minute=args.per_minute,
    timeout_seconds=args.timeout,
    # The likeliest answer: a taxonomy is no place for variety.
    temperature=0.0,
    seed=args.seed,
  )
  kept = answers_lib.Answers(out / "answers.sqlite")
  return client.Client(endpoint, kept)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
  """The chain as asked for; its summary."""
  if args.config:
    args.workdir = _trained(args.config, args.workdir)
  out, say = _places(args), stages.Say()
  options = chain_lib.Options(
    **{n: getattr(args, n) for n in (*_OPTIONS, "temperature", "agree")}
  )
  with lock.locked(out):
    vectors, texts, model = args.vectors, args.texts or args.vectors, ""
    if args.workdir:
      vectors, model = _embedded(args, out, say)
      texts = vectors
    options = dataclasses.replace(options, model_hash=model)
    source = sessions_lib.Source(vectors, texts)
    ask = _client(args, out)
    made = chain_lib.Chain(out, source, options, ask, say)
    if ask is not None:
      cost.tell(made)
      if args.estimate:
        return None
    return made.run(args.review)


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  startup.keep_compilations()
  progress.quiet_libraries()
  try:
    found = run(args)
  except stop.Stopped as e:
    print(f"stopped: {e}", file=sys.stderr)
    sys.exit(143)
  except KeyboardInterrupt:
    print("interrupted: the same command resumes", file=sys.stderr)
    sys.exit(130)
  except ModuleNotFoundError as e:
    if e.name not in ("sklearn", "scipy"):
      raise
    text = f'{e}: intents need pip install "lumos-jax[intents]"'
    print(f"error: {text}", file=sys.stderr)
    sys.exit(1)
  except ERRORS as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  if found is not None:
    names = ("sessions", "coverage", "teacher", "agreement")
    print(json.dumps({n: found[n] for n in names}))


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
