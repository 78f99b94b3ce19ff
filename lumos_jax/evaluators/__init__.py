"""Evaluators by type, as config.evals names them.

config.evals.<name> = dict(type=..., every_steps=..., **settings). `every_steps`
0 means at the end only; with `at_start` also before the first step.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import (
  ablation,
  base,
  baseline_best,
  baseline_calendar,
  baseline_catboost,
  baseline_lightgbm,
  baseline_lightgbm_states,
  baseline_linear,
  baseline_naive,
  baseline_next_event,
  baseline_tabm,
  conversion,
  forecast,
  intent,
  next_event,
  next_page,
  perplexity,
  predict,
  probe,
  risk,
  stack,
  tiles,
  what_if,
)

TYPES: dict[str, type[base.Evaluator]] = {
  "forecast": forecast.Forecast,
  "baseline_lightgbm": baseline_lightgbm.BaselineLightGBM,
  "baseline_catboost": baseline_catboost.BaselineCatBoost,
  "baseline_linear": baseline_linear.BaselineLinear,
  "baseline_tabm": baseline_tabm.BaselineTabM,
  "baseline_calendar": baseline_calendar.BaselineCalendar,
  "baseline_naive": baseline_naive.BaselineNaive,
  "baseline_best": baseline_best.BaselineBest,
  "baseline_stack": stack.BaselineStack,
  "baseline_lightgbm_states": baseline_lightgbm_states.BaselineLightGBMStates,
  "risk": risk.Risk,
  "stack": stack.Stack,
  "ablation": ablation.Ablation,
  "next_event": next_event.NextEvent,
  "baseline_next_event": baseline_next_event.BaselineNextEvent,
  "probe": probe.Probe,
  "perplexity": perplexity.Perplexity,
  "next_page": next_page.NextPage,
  "conversion": conversion.Conversion,
  "intent": intent.Intent,
  "tiles": tiles.Tiles,
  "what_if": what_if.WhatIf,
}
_COMMON = ("type", "every_steps", "at_start")


def due(evals: Mapping[str, Any], step: int, last: bool) -> list[str]:
  """Names of config.evals that run at a step; at the last one all."""
  every = {k: v.get("every_steps", 0) for k, v in evals.items()}
  first = {k for k, v in evals.items() if v.get("at_start") and not step}
  return [
    k
    for k, n in every.items()
    if last or k in first or (n and step and step % n == 0)
  ]


def settings(cls: type[base.Evaluator]) -> list[str]:
  """Names of an evaluator's settings."""
  names = []
  for c in cls.__mro__:
    for p in inspect.signature(c.__init__).parameters.values():
      if p.kind is p.KEYWORD_ONLY and p.name not in names:
        names.append(p.name)
  return [n for n in names if n not in cls.without]


def build(
  evals: Mapping[str, Mapping[str, Any]],
  predictor: predict.Predictor,
  records: Any,
  tasks: Sequence[tasks_lib.Task],
  data_cfg: Any,
  workdir: epath.PathLike,
  fits: Mapping[str, int] | None = None,
) -> dict[str, base.Evaluator]:
  """The evaluators of config.evals, in its order.

  Args:
    evals: config.evals.
    predictor: Runs the model.
    records: An open data set.
    tasks: Declared tasks.
    data_cfg: config.data.
    workdir: Of the run.
    fits: {"seed", "members"} of evaluators that fit models of their own and
      have no such setting.

  Raises:
    ValueError: Unknown type or setting; names the config key and what there is.
  """
  out = {}
  for name, cfg in evals.items():
    cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    kind = cfg.get("type")
    if kind not in TYPES:
      raise ValueError(
        f"config.evals.{name}.type = {kind!r}; there are {list(TYPES)}"
      )
    kw = {k: v for k, v in cfg.items() if k not in _COMMON}
    known = settings(TYPES[kind])
    for key in kw:
      if key not in known:
        raise ValueError(
          f"config.evals.{name}.{key}: a {kind!r} evaluator has no such "
          f"setting; it has {sorted([*known, *_COMMON])}"
        )
    if TYPES[kind].fits:
      kw = {k: v for k, v in (fits or {}).items() if k in known} | kw
    args = (predictor, records, tasks, data_cfg, name, workdir)
    out[name] = TYPES[kind](*args, **kw)
  for evaluator in out.values():
    evaluator.peers = out
  return out
