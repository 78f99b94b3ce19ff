"""The report's section on language models: perplexity by step, and probes."""

from lumos_jax.report import load, next_event, page


def section(run: load.Run) -> page.Html:
  """Perplexity of users that fine-tuning did not see, then probes."""
  names = run.of_kind("perplexity")
  parts = [_perplexity(run, n) for n in names]
  parts += [next_event.probe(run, n) for n in run.of_kind("probe")]
  if not parts:
    why = run.absent.get("evals", "no perplexity or probe evaluator ran.")
    return page.missing("Perplexity", why)
  return page.join(parts)


def _perplexity(run: load.Run, name: str) -> page.Html:
  """A row a step that was evaluated, the last one of eval.json."""
  found = {}
  for line in run.metrics:
    if f"{name}/perplexity" in line:
      found[line["step"]] = [
        line.get(f"{name}/{m}") for m in ("perplexity", "nats_per_token")
      ]
  rows = [
    [str(step), *(page.num(v) for v in values)]
    for step, values in sorted(found.items())
  ]
  last = run.evals[name]
  return page.join(
    [
      page.tag("h3", f"{name}: users that fine-tuning did not see"),
      page.table(["step", "perplexity", "nats a token"], rows),
      page.paragraph(
        f"{page.number(last.get('users'), 0)} users, "
        f"{page.number(last.get('tokens'), 0)} tokens; "
        f"{page.number(last.get('cut_texts'), 0)} texts were longer than a row."
      ),
    ]
  )
