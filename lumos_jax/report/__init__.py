"""The report of a run: one HTML file that needs nothing else.

python -m lumos_jax.report --workdir=W [--data_dir=D]
"""

from absl import logging
from etils import epath

from lumos_jax.report import (
  background,
  drift,
  examples,
  forecasts,
  intents,
  load,
  next_event,
  page,
  questions,
  results,
  risk,
  texts,
)

FILE = "report.html"
_FORECASTS = (
  ("tasks", "What is forecast", questions.forecasts),
  ("comparison", "Model against baselines", results.comparison),
  ("ablation", "Ablation", results.ablation),
  ("curves", "ROC and precision-recall", forecasts.discrimination),
  ("calibration", "Calibration", forecasts.calibration),
  ("lift", "Lift by decile", forecasts.lift),
  ("what-if", "What if", forecasts.what_if),
)
_NEXT_EVENT = (
  ("next-event", "Next event", next_event.section),
  ("hit-rate", "Hit rate by k and history", next_event.rates),
  ("first-value", "The first value", next_event.parts),
  ("examples", "Example users", examples.section),
)
_SCORES = (
  ("tasks", "What is scored", questions.forecasts),
  ("risk", "Risk", risk.section),
  ("reasons", "Why these scores", risk.reasons),
  *_FORECASTS[1:2],
  *_FORECASTS[3:6],
)
_TEXTS = (("perplexity", "Perplexity and probes", texts.section),)
_INTENTS = (("intents", "Intents", intents.section),)
_OWN = {
  "panther": _NEXT_EVENT,
  "llm4es": _TEXTS,
  "hybrid": _SCORES,
  "intent": _INTENTS,
}
_DRIFT = (("drift", "Drift", drift.section),)  # Where it was looked for.
_SECTIONS = (
  ("training", "Training", background.training),
  ("data", "Data", background.data),
  ("config", "Configuration", background.config),
)


def plotly() -> str | None:
  """plotly.js, or None where the `report` extra is not installed."""
  try:
    from plotly import offline
  except ImportError:
    return None
  return offline.get_plotlyjs()


def build(
  workdir: epath.PathLike, data_dir: epath.PathLike | None = None
) -> epath.Path:
  """Writes WORKDIR/report.html from the run's other outputs.

  What is absent (an evaluation that did not run, a data set elsewhere) is said
  in its place. Without Plotly the report has its tables and no charts.

  Args:
    workdir: Of the run.
    data_dir: The data set's directory, if not where the config says.

  Returns:
    The report's path.

  Raises:
    FileNotFoundError: The workdir holds no run, or `data_dir` no data set.
    ValueError: config.json is damaged.
  """
  return write(load.load(workdir, data_dir))


def write(run: load.Run) -> epath.Path:
  """Writes the report of what was loaded; returns its path."""
  script = plotly()
  header = results.header(run)
  if script is None:
    why = 'plotly is not installed: pip install "lumos-jax[report]".'
    logging.warning("report without charts: %s", why)
    header = page.join([header, page.missing("Charts", why)])
  own = _OWN.get(run.config.get("recipe"), _FORECASTS)
  told = _DRIFT if run.drift or "drift" in run.absent else ()
  parts = [
    page.Section(anchor, title, _section(section, run, title))
    for anchor, title, section in (*own, *told, *_SECTIONS)
  ]
  path = run.workdir / FILE
  title = f"{run.config.get('name', 'run')}: report"
  path.write_text(page.page(title, header, parts, script))
  return path


def _section(section, run: load.Run, title: str) -> page.Html:
  # A report is for looking at results that took hours: an odd value in one part
  # must not cost the other parts.
  try:
    return section(run)
  except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
    logging.exception("report: %s", title)
    return page.missing(title, f"{type(e).__name__}: {e}")
