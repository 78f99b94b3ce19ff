"""The figures of a preflight, for people."""

from typing import Any

_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(x: float) -> str:
  """1234567 -> "1.23 M"."""
  for size, unit in _UNITS:
    if abs(x) >= size:
      return f"{x / size:.3g} {unit}"
  return f"{x:.3g}"


def size(x: float) -> str:
  """Bytes -> "1.25 GiB", "243 KiB": small ones are not shown as zero."""
  for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
    if abs(x) >= 2**power:
      return f"{x / 2**power:.2f} {unit}"
  return f"{x:.0f} B"


def percent(x: float) -> str:
  """A share -> "99.8%", "0.013%": three digits wherever they begin."""
  return f"{100 * x:.3g}%"


def _span(low: float, high: float, form=number, unit: str = "") -> str:
  return f"{form(low)} to {form(high)}{unit}"


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
  """(what, figure) of each line."""
  r = report
  mesh = " x ".join(f"{k} {v}" for k, v in r["mesh"].items())
  out = [
    ("slice", f"{r['topology']}, {r['chips']} chips, mesh {mesh}"),
    ("parameters", f"{number(r['parameters'])}"),
    (
      "batch",
      f"{r['batch_size']:,} rows, {number(r['tokens_per_step'])} tokens",
    ),
    ("parameters a chip", size(r["parameter_bytes"])),
    ("optimizer and averages a chip", size(r["optimizer_bytes"])),
    ("peak a chip, training", size(r["peak_bytes"])),
  ]
  if r["eval_peak_bytes"]:
    out.append(("peak a chip, evaluation", size(r["eval_peak_bytes"])))
  out.append(
    ("memory of a chip", f"{size(r['hbm_bytes'])}, {percent(r['spare'])} spare")
  )
  out.append(("operations a step, model", number(r["model_flops"])))
  out.append(("operations a step, as run", number(r["run_flops"])))
  for c in r.get("collectives", ()):
    where = "between slices" if c["crosses"] else f"groups of {c['group']}"
    out.append(
      (f"{c['kind']}, {where}", f"{c['count']} x, {number(c['bytes'])}B a chip")
    )
  if r.get("unknown_loops"):
    out.append(("loops of unknown length", f"{r['unknown_loops']}, count once"))
  if "step_seconds" in r:
    ms = lambda s: f"{1e3 * s:.3g}"
    out += [
      ("bound by operations", f"{ms(r['compute_seconds'])} ms"),
      ("bound by memory traffic", f"{ms(r['memory_seconds'])} ms"),
      ("bound by collectives", f"{ms(r['collective_seconds'])} ms"),
      ("step, estimated", _span(*r["step_seconds"], form=ms, unit=" ms")),
      (
        "model FLOPs use, estimated",
        _span(*r["model_flops_use"], form=percent),
      ),
      ("tokens/s, estimated", _span(*r["tokens_per_second"])),
      (
        f"chip hours of {number(r['tokens'])} tokens",
        _span(*r["chip_hours"]),
      ),
    ]
  out.append(("compiled in", f"{r['compile_seconds']:.0f} s"))
  return out


def text(report: dict[str, Any]) -> str:
  """All that is printed."""
  found = rows(report)
  width = max(len(k) for k, _ in found)
  lines = [f"{k:<{width}}  {v}" for k, v in found]
  lines += [f"the compiler: {e}" for e in report["errors"]]
  if report["fits"]:
    return "\n".join([*lines, "fits"])
  lines.append("does not fit with a tenth of the memory to spare")
  best = report.get("suggestion")
  if best:
    flags = " ".join(f"--config.{k}={v}" for k, v in best["settings"].items())
    lines.append(f"this does ({size(best['peak_bytes'])}): {flags}")
  else:
    lines.append(
      "nor does what was tried: "
      + "; ".join(
        f"{t['settings']} ({size(t['peak_bytes'])})"
        for t in report.get("tried", ())
      )
    )
  return "\n".join(lines)
