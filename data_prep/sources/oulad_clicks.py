"""OULAD's clicks as sessions: a student's day on the learning site.

The files are those of source `oulad`. Days are all that is known of time: a session
is a student's day; neither the order within the day nor dwell is known. A row is a
site of the course. Its page is the kind of site (forum, quiz), as every presentation
has sites of its own; with pages="site" it is the site.

- Label `submits`: an assessment is handed in on one of the 7 days that follow.
- Label `next_tile`: the kind of page that the student clicks most on the next day
  with clicks, home page apart, of the kinds that are tiles.
Students stand in splits as in source `oulad`. Sessions so late that a label would not
be observed have none.
"""

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs
from ..pages import Pages
from . import oulad

# Of which one would be shown first; fixed, so that rankings compare.
TILES = (
  "forumng",
  "oucontent",
  "subpage",
  "quiz",
  "resource",
  "url",
  "glossary",
)


def load(
  *,
  path: str = "",
  train: str = "BBB/2013B,AAA/2013J",
  test: str = "AAA/2014J,BBB/2013J",
  validation_share: float = 0.15,
  submits_days: int = 7,
  pages: str = "kind",
  max_pages: int = 5000,
  texts: str = "words",
) -> Inputs:
  """Reads the tables.

  Args:
    path: Directory of the files; default $LUMOS_OULAD_DIR.
    train, test: Presentations of the splits, separated by commas.
    validation_share: As of source `oulad`.
    submits_days: Horizon of label `submits`.
    pages: "kind" or "site".
    max_pages: Pages in the vocabulary.
    texts: Encoder of the titles, see `lumos_jax.llm.sentences.encoder`.
  """
  if submits_days < 1:
    raise InputError(f"submits_days={submits_days} must be 1 or more")
  if pages not in ("kind", "site"):
    raise InputError(f'pages={pages!r}: use "kind" or "site"')
  files = oulad.Files(path)
  splits = oulad.presentations(train, test)
  students = oulad.students_of(files, splits)
  clicks = _clicks(files, splits, students)
  if not len(clicks):
    raise InputError(
      f"{files.used}: no click of the presentations {train}, {test}"
    )
  due = oulad.chosen(files.table("assessments"), splits)
  handed_in, banked = oulad.submissions(files, due, students)
  last = int(clicks["day"].max())
  sessions = clicks.select("key", "student", "run", "day").unique()
  # Of some presentations the clicks break off: later days are not observed.
  end = clicks.group_by("run").agg(pl.col("day").max().alias("end"))
  labels = pl.concat(
    [
      _submits(sessions, handed_in, end, submits_days),
      _next_tile(clicks, sessions),
    ]
  )
  split = oulad.split_of(students, splits, validation_share)
  split = sessions.select("key", student="student").join(
    split.rename({"key": "student"}), on="student"
  )
  schema = schema_lib.Schema(
    name="oulad_clicks",
    activity=(
      schema_lib.Categorical("page", max_values=max_pages),
      *((schema_lib.Categorical("part1", max_values=30),) * (pages == "site")),
      schema_lib.Numeric("clicks"),
    ),
    labels=(
      schema_lib.Label("submits", values=("no", "yes")),
      schema_lib.Label("next_tile", values=TILES),
    ),
    rows="event",
    first_day=int(clicks["day"].min()),
    last_day=last + 1,
    train_until=last + 1,
  )
  return Inputs(
    schema=schema,
    activity=clicks.select(
      "key", "clicks", time="day", page=pages, part1="kind"
    ).lazy(),
    labels=labels,
    split=split.select("key", "split"),
    pages=Pages("page", _pages(clicks, pages), texts),
    files=files.used,
    notes={
      "sessions (days of students)": len(sessions),
      "banked submissions left out": banked,
      "sessions whose label submits is not observed": len(sessions)
      - labels.filter(pl.col("name") == "submits").height,
      "sessions without a next tile": len(sessions)
      - labels.filter(pl.col("name") == "next_tile").height,
    },
    pieces=files.pieces,
  )


def _clicks(files, splits, students) -> pl.DataFrame:
  """key, student, run, day, page, kind, clicks; a row a page of a day."""
  columns = ("code_module", "code_presentation", "id_student", "id_site")
  raw = oulad.chosen(files.scan("studentVle", (*columns, "date")), splits)
  kinds = files.scan("vle", ("id_site", "activity_type")).select(
    pl.col("id_site").cast(pl.Int64), kind="activity_type"
  )
  raw = oulad.keyed(raw.with_columns(pl.col("id_site").cast(pl.Int64)))
  found = (
    raw.join(kinds, on="id_site", how="left")
    .group_by("key", "run", "date", "id_site", "kind")
    .agg(pl.col("sum_click").sum().cast(pl.Float64).alias("clicks"))
    .collect()
  )
  found = found.join(students.select("key"), on="key", how="semi")
  return found.select(
    pl.format("{}/{}", "key", "date").alias("key"),
    student="key",
    run="run",
    day=pl.col("date").cast(pl.Int32),
    site=pl.col("id_site").cast(pl.String),
    kind=pl.col("kind").fill_null("unknown"),
    clicks="clicks",
  ).sort("key", "site")


def _pages(clicks: pl.DataFrame, pages: str) -> pl.DataFrame:
  word = pl.col("kind").replace(oulad.PAGES)
  return (
    clicks.select(pl.col(pages).alias("page"), pl.col("kind"))
    .unique()
    .select("page", title=word, category="kind")
    .sort("page")
  )


def _submits(sessions, handed_in, end, days: int) -> pl.DataFrame:
  """Whether something is handed in on (day, day + days], where observed."""
  # The end of the clicks stands for that of observation, as nothing else does.
  known = sessions.join(end, on="run").filter(
    pl.col("day") + days <= pl.col("end")
  )
  submitted = handed_in.select(student="key", at=pl.col("time").cast(pl.Int32))
  later = known.sort("day").join_asof(
    submitted.sort("at"),
    left_on="day", right_on="at", by_left="student", by_right="student",
    strategy="forward", allow_exact_matches=False, check_sortedness=False,
  )  # fmt: skip
  yes = (pl.col("at") - pl.col("day") <= days).fill_null(False)
  value = pl.when(yes).then(pl.lit("yes")).otherwise(pl.lit("no"))
  return later.select("key", name=pl.lit("submits"), value=value).sort("key")


def _next_tile(clicks, sessions) -> pl.DataFrame:
  """The kind that leads on the student's next day with a click on a tile."""
  tiles = clicks.filter(pl.col("kind").is_in(list(TILES)))
  best = (
    tiles.group_by("student", "day", "kind")
    .agg(pl.col("clicks").sum())
    .sort(
      "student", "day", "clicks", "kind", descending=[False, False, True, False]
    )
    .unique(["student", "day"], keep="first", maintain_order=True)
    .select("student", pl.col("day").alias("at"), "kind")
  )
  found = sessions.sort("day").join_asof(
    best.sort("at"),
    left_on="day", right_on="at", by="student", strategy="forward",
    allow_exact_matches=False, check_sortedness=False,
  )  # fmt: skip
  found = found.drop_nulls("kind")
  return found.select("key", name=pl.lit("next_tile"), value="kind").sort("key")
