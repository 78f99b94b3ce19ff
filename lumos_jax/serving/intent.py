"""Intents of sessions: the student of `lumos intents` in the service.

A session is given as its vector, or as clicks that the run's encoder reads; nothing
of it is stored. The student was made for one checkpoint's vectors: clicks are
refused where the service answers with another one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from lumos_jax.data import sessions
from lumos_jax.evaluators import predict
from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import student as student_lib
from lumos_jax.serving import problems
from lumos_jax.serving.problems import Problem

FOLDER = "intents"  # Below the workdir.
ALONE = (
  "a run of recipe 'intent' gives vectors and intents alone: use /embedding or "
  "/intent"
)


def student_of(workdir: epath.PathLike) -> student_lib.Student | None:
  """The student of a run; None where there is none, or a damaged one."""
  folder = epath.Path(workdir) / FOLDER
  if not (folder / student_lib.ABOUT).exists():
    return None
  try:
    return student_lib.Student.load(folder)
  except sessions_lib.IntentError as e:
    logging.warning("the service knows no intents: %s", e)
    return None


def answer(
  student: student_lib.Student, vectors: np.ndarray
) -> list[dict[str, Any]]:
  """What is said of sessions, of finite vectors [S, D]."""
  p = student.confidences(vectors)
  chosen, top = student.chosen(p), student.top(p)
  names = dict(zip(student.ids, student.names, strict=True))
  out = []
  for sure, mine, best in zip(p.tolist(), chosen, top, strict=True):
    found = zip(student.ids, sure, mine, strict=True)
    given = sorted((-c, i) for i, c, has in found if has)
    out.append(
      {
        "intent": best,
        "name": names.get(best, best),
        "intents": [
          {"id": i, "name": names[i], "confidence": -c} for c, i in given
        ],
        "confidences": dict(zip(student.ids, sure, strict=True)),
      }
    )
  return out


def of_vector(model: Any, vector: Sequence[float]) -> dict[str, Any]:
  """The answer about a session's vector.

  Raises:
    Problem: There are no intents, or the vector is none of theirs.
  """
  student = _student(model)
  if len(vector) != student.width:
    raise problems.wrong(
      f"vector: {student.width} numbers are expected, not {len(vector)}"
    )
  with np.errstate(over="ignore"):
    x = np.asarray(vector, np.float32)
  # A vector is a few numbers of moderate size; what is not may overflow.
  if not np.isfinite(x).all() or np.abs(x).max(initial=0.0) > 1e18:
    raise problems.wrong("vector: numbers are too large")
  return _about(model) | answer(student, x[None])[0]


def _student(model: Any) -> student_lib.Student:
  if model.student is None:
    raise problems.conflict(
      "this run has no intents: make them with `lumos intents`; the service "
      "takes them when it looks again (--poll_seconds)"
    )
  return model.student


def _about(model: Any) -> dict[str, Any]:
  return {"model": {"step": model.step, "hash": model.model_hash}}


class Answers:
  """What the scorer's answers say of intents; mixed into them."""

  def intent(self, pairs) -> list[Any]:
    """Intents of sessions that are given as clicks."""
    out: list[Any] = [None] * len(pairs)
    records, owner = [], []
    for i, (user, ask) in enumerate(pairs):
      try:
        self._check_intents()
        events = self._clicks(ask.args["events"])
        rows = self._scorer.encode(user, events, future=True)
        user = self._scorer.extended(user, rows)
        records.append(user.record(self._model.layout))
        owner.append(i)
      except Problem as e:
        out[i] = e
    if not records:
      return out
    vectors = np.stack([x["embedding"] for x in self._model.vectors(records)])
    finite = np.isfinite(vectors).all(1)
    found = answer(self._model.student, vectors)
    for i, ok, x in zip(owner, finite, found, strict=True):
      busy = problems.busy("the model gives no finite number")
      out[i] = self._about(**x) if ok else busy
    return out

  def _clicks(self, events: Sequence[Mapping[str, Any]]):
    """Events as the model reads them; clicks with a url as a log has them.

    Raises:
      Problem: The run reads no addresses, or a click is wrong.
    """
    for i, e in enumerate(events):
      dwell = e["fields"].get("dwell_seconds")
      if isinstance(dwell, int | float) and dwell < 0:
        raise problems.wrong(f"events[{i}]: dwell_seconds is below 0")
    if not any("url" in e["fields"] for e in events):
      return events
    data = self._model.predictor.config.data
    if data.source != "clicks":
      raise problems.wrong(
        "events: this run's pages are no addresses: give page"
      )
    from lumos_jax.data_prep.clicks import fields as fields_lib

    known, instants = {"url", "event", "device"}, []
    for i, e in enumerate(events):
      fields = e["fields"]
      if "url" not in fields or set(fields) - known:
        raise problems.wrong(
          f"events[{i}]: give url, and perhaps event and device, of every click, or "
          "the fields that the model reads"
        )
      if not all(x is None or isinstance(x, str) for x in fields.values()):
        raise problems.wrong(f"events[{i}]: url, event and device are texts")
      try:
        at = self._scorer.clock.read(e["time"], f"events[{i}].time")
      except ValueError as error:
        raise problems.wrong(str(error)) from error
      instants.append(at.instant)
    if instants != sorted(instants):
      raise problems.conflict("events of a session come in order of time")
    clicks = [e["fields"] for e in events]
    made = fields_lib.of_session(clicks, instants, data.options.to_dict())
    kept = [
      {"time": e["time"], "fields": f}
      for e, f in zip(events, made, strict=True)
      if f is not None
    ]
    if not kept:
      raise problems.wrong("events: heartbeats alone are no session")
    return kept

  def _check_intents(self) -> None:
    """Raises Problem where clicks cannot be answered."""
    model = self._model
    if not model.sessions:
      raise problems.wrong(
        "events: this run reads no sessions of clicks: give a vector"
      )
    made_for = _student(model).model_hash
    if made_for != model.model_hash:
      raise problems.conflict(
        "intents were made for another checkpoint: run `lumos intents` again, or "
        "serve that one with --step"
      )


class Encoder:
  """A run's session encoder, at compiled sizes."""

  def __init__(self, predictor: Any, sizes: Sequence[int]):
    self._schema, self._cfg = predictor.schema, predictor.config.data
    self._embed, self._sizes = predictor.alone(predictor.recipe.embed), sizes

  def __call__(
    self, records: Sequence[Mapping[str, Any]]
  ) -> list[dict[str, np.ndarray]]:
    """{"embedding": float32 [E]} of each record."""
    out, most = [], self._sizes[-1]
    for start in range(0, len(records), most):
      some = records[start : start + most]
      size = next(n for n in self._sizes if n >= len(some))
      groups = [some]
      (batch,) = sessions.batches_of(self._schema, self._cfg, groups, size)
      batch = {k: x for k, x in batch.items() if k not in predict.HOST}
      found = np.asarray(self._embed(batch)["embedding"])
      out += [{"embedding": x} for x in found[: len(some)]]
    return out
