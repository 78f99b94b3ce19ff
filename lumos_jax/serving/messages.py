"""Bodies of requests and answers; they make the OpenAPI document.

JSON is taken strictly: a number is no text and no truth value, and is finite.
"""

from typing import Annotated, Any, Literal

import pydantic

from lumos_jax.serving.model import MOST_NEXT

MOST_EVENTS = 1000
_MOST_NAME, _MOST_TEXT = 200, 4096
_MOST_EDITS = 64

Id = Annotated[
  str,
  pydantic.Field(
    min_length=1,
    max_length=512,
    description="User id, text as in the raw tables.",
  ),
]
Text = Annotated[str, pydantic.Field(max_length=_MOST_TEXT)]
Name = Annotated[str, pydantic.Field(max_length=_MOST_NAME)]
Whole = Annotated[int, pydantic.Field(ge=-(2**53), le=2**53)]
Day = Annotated[int, pydantic.Field(ge=-(10**6), le=10**6)]
Time = Annotated[
  Text | Day,
  pydantic.Field(
    description="ISO 8601; a day number where the data have no dates.",
    examples=["2020-01-31T12:00:00Z"],
  ),
]
Value = Whole | float | bool | Text | list[float] | None
AsOf = Annotated[
  Annotated[str, pydantic.Field(max_length=10)] | Day | None,
  pydantic.Field(
    description="Day of the prediction, a date or a day number; default the day "
    "after all that is known.",
  ),
]


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, frozen=True
  )


class Event(_Strict):
  """What a user did, as a row of the activity table says it."""

  time: Time
  fields: dict[Name, Value] = pydantic.Field(
    description="A value of each column that the run's data read, null where "
    "it is not known; GET /about names them.",
    max_length=1000,
  )


class UserRequest(_Strict):
  """Asks for a user."""

  user_id: Id


class ScoreRequest(UserRequest):
  """Asks for scores of new events, which are not stored."""

  events: list[Event] = pydantic.Field(
    default_factory=list,
    max_length=32,
    description="In order of time; the last one is scored, after the others.",
  )
  as_of: AsOf = pydantic.Field(
    default=None,
    description="Of runs that score users: the day, a date or a day number; "
    "default the day after all that is known. Events are scored at their own time, "
    "and with it refused.",
  )


class WhyRequest(ScoreRequest):
  """Asks what moved a score of a hybrid run; nothing is stored.

  Where events are scored, it is the last of `events`, or without them the user's
  newest stored one.
  """

  task: Name = pydantic.Field(
    default="", description="May be left out where the run has one."
  )
  method: Literal["without", "gradients"] = pydantic.Field(
    default="without",
    description="Without each event, or integrated gradients; docs/risk.md.",
  )
  last: Annotated[int, pydantic.Field(ge=1, le=100)] = pydantic.Field(
    default=10, description="Most events to name."
  )


class AppendRequest(UserRequest):
  """Stores events of a user, who may be new."""

  events: list[Event] = pydantic.Field(
    min_length=1,
    max_length=MOST_EVENTS,
    description="In order of time, none older than the user's newest.",
  )
  idempotency_key: (
    Annotated[str, pydantic.Field(min_length=1, max_length=_MOST_NAME)] | None
  ) = pydantic.Field(
    default=None,
    description="Names this request: sent again, it changes nothing.",
  )
  profile: dict[Name, Value] | None = pydantic.Field(
    default=None,
    max_length=1000,
    description="Of a new user: a value of each profile column.",
  )
  groups: list[Name] = pydantic.Field(
    default_factory=list,
    max_length=100,
    description="Of a new user: its calendar groups.",
  )


class NextRequest(UserRequest):
  """Asks for a user's likeliest next events."""

  k: Annotated[int, pydantic.Field(ge=1, le=MOST_NEXT)] = 10


class Edit(_Strict):
  """A change of the calendar, see docs/what_if.md."""

  op: Literal["add", "remove", "move"]
  match: dict[Name, Day | Text] = pydantic.Field(
    default_factory=dict, max_length=100
  )
  days: Annotated[int, pydantic.Field(ge=-3660, le=3660)] = 0
  start: Day = 0
  end: Day = 0
  group: Name = ""
  values: dict[Name, float | Text] = pydantic.Field(
    default_factory=dict, max_length=100
  )


class ForecastRequest(UserRequest):
  """Asks for forecasts of a user, and under an edited calendar."""

  as_of: AsOf = None
  edits: list[Edit] = pydantic.Field(
    default_factory=list, max_length=_MOST_EDITS
  )


class EmbeddingRequest(UserRequest):
  """Asks for a user's embedding."""

  as_of: AsOf = None


class IntentRequest(_Strict):
  """Asks for the intents of a session, of which nothing is stored."""

  events: list[Event] = pydantic.Field(
    default_factory=list,
    max_length=MOST_EVENTS,
    description="The session's clicks, in order of time.",
  )
  vector: list[float] | None = pydantic.Field(
    default=None,
    max_length=4096,
    description="The session's embedding, instead of its clicks.",
  )

  @pydantic.model_validator(mode="after")
  def _one(self) -> "IntentRequest":
    if bool(self.events) == (self.vector is not None):
      raise ValueError("give either events or a vector")
    return self


class HistoryRequest(UserRequest):
  """Asks for a user's newest rows in words."""

  last: Annotated[int, pydantic.Field(ge=1, le=200)] = 50


class CalendarRequest(UserRequest):
  """Asks for the calendar entries that concern a user."""

  as_of: AsOf = None


class ModelName(pydantic.BaseModel):
  """Which model answered."""

  step: int
  hash: str


class ScoreAnswer(pydantic.BaseModel):
  """Scores; a greater one says more risk, or a likelier outcome.

  "deviation": `anomaly` is minus the logarithm of the last event's probability.
  "forecast": the probability of each binary task. "risk": calibrated.
  """

  model: ModelName
  kind: Literal["deviation", "forecast", "risk"]
  scores: dict[str, float]
  events: list[dict[str, float]] = pydantic.Field(
    description="Of each event: how far it is from what was expected before it."
  )


class Moved(pydantic.BaseModel):
  """An event, and by how much the score's logit is higher for it."""

  event: int = pydantic.Field(description="Its place among all, from 0.")
  moved: float
  time: str | int
  values: dict[str, Any]


class WhyAnswer(pydantic.BaseModel):
  """What moved a score's logit, the largest parts first.

  By "gradients" all parts of all events that were read, of context and profile,
  and the residual, add up to score - baseline.
  """

  model: ModelName
  task: str
  method: Literal["without", "gradients"]
  score: float = pydantic.Field(description="Logit, not calibrated.")
  read: int = pydantic.Field(description="Events that were looked at.")
  events: list[Moved]
  baseline: float | None = None
  context: dict[str, float] = pydantic.Field(default_factory=dict)
  profile: float | None = None
  residual: float | None = None


class AppendAnswer(pydantic.BaseModel):
  """The events are stored, durably."""

  accepted: int
  events: int = pydantic.Field(description="Rows of the user, ever.")
  repeated: bool = pydantic.Field(
    description="The request was answered before; nothing has changed."
  )


class NextEvent(pydantic.BaseModel):
  """A value that the next event may have."""

  rank: int
  value: dict[str, str]
  probability: float


class NextAnswer(pydantic.BaseModel):
  """Next events, the likeliest first."""

  model: ModelName
  next: list[NextEvent]


class ForecastAnswer(pydantic.BaseModel):
  """Probabilities of binary tasks; of amounts mean, median, 80 % interval."""

  model: ModelName
  as_of: str | int
  forecasts: dict[str, float]
  edited: dict[str, float] = pydantic.Field(
    default_factory=dict, description="Under the edits, where there are any."
  )


class EmbeddingAnswer(pydantic.BaseModel):
  """Vectors of a user."""

  model: ModelName
  as_of: str | int
  embedding: dict[str, list[float]]


class Intent(pydantic.BaseModel):
  """A label that a session has."""

  id: str
  name: str
  confidence: float


class IntentAnswer(pydantic.BaseModel):
  """A session's labels, the likeliest first; "other" where none fits."""

  model: ModelName
  intent: str
  name: str
  intents: list[Intent]
  confidences: dict[str, float] = pydantic.Field(
    description="Of every label, by id; calibrated."
  )


class Row(pydantic.BaseModel):
  """A row of the history."""

  time: str | int
  values: dict[str, Any]


class HistoryAnswer(pydantic.BaseModel):
  """Newest rows first."""

  total: int
  profile: dict[str, Any]
  events: list[Row]


class Entry(pydantic.BaseModel):
  """A calendar entry; days count from `as_of`."""

  start: int
  end: int
  start_day: str | int
  match: dict[str, Any]


class CalendarAnswer(pydantic.BaseModel):
  """Entries that are running or ahead."""

  as_of: str | int
  entries: list[Entry]


class About(pydantic.BaseModel):
  """What the service answers, and what events say."""

  model: ModelName
  recipe: str
  data: str
  kind: Literal["deviation", "forecast", "risk", "none"]
  answers: list[str]
  fields: dict[str, str]
  profile: dict[str, str]
  tasks: dict[str, str]
  horizon_days: int
  calendar: list[str]


class Health(pydantic.BaseModel):
  """Whether the process answers."""

  status: str


class Refusal(pydantic.BaseModel):
  """Why a request was refused."""

  reason: str
