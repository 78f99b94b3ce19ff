"""Open University Learning Analytics (OULAD): students of online courses.

Reads the original CSV files (CC BY 4.0, Kuzilek et al. 2017), plain or .gz, from
`path` or the environment variable LUMOS_OULAD_DIR; clicks also from Parquet.

- Users: a student in a presentation of a module ("BBB/2013B/12345"); days count
  from the presentation's start, and may be negative.
- Activity: clicks by type of page, pages, and submissions of assessments on
  their day. Banked submissions (results of an earlier presentation) are left
  out and counted; scores are, because they are known only later.
- Calendar: each presentation's due days with type and weight, and its end. An
  exam without a day is held at the end. All are published at the start.
- Labels: `withdrawn` on the day of unregistration, `final_result` for the whole.
- A student is scored from registration (where no day is given, from the day
  after the first event) to unregistration or the course's end.
  Where clicks break off early (BBB/2013J in some copies), the last day with
  clicks counts as not observed, and nobody is scored from there on.
"""

import hashlib
import os
import pathlib

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs, missing_column

ENVIRONMENT = "LUMOS_OULAD_DIR"
_RUN = ("code_module", "code_presentation")
_STUDENT = (*_RUN, "id_student")
_FILES = {
  "assessments": ("assessments",),
  "courses": ("courses",),
  "studentAssessment": ("studentAssessment", "student_assessment"),
  "studentInfo": ("studentInfo",),
  "studentRegistration": ("studentRegistration",),
  "studentVle": ("studentVle", "student_vle_partial", "student_vle"),
  "vle": ("vle",),
}
_ENDINGS = (".csv", ".csv.gz", ".parquet")
_RESULTS = ("Distinction", "Pass", "Fail", "Withdrawn")
# Types of pages, in words (llm/text.py).
PAGES = {
  "dataplus": "database",
  "dualpane": "page in two panes",
  "externalquiz": "external quiz",
  "folder": "folder",
  "forumng": "forum",
  "glossary": "glossary",
  "homepage": "home page",
  "htmlactivity": "interactive page",
  "oucollaborate": "online meeting",
  "oucontent": "course content",
  "ouelluminate": "online classroom",
  "ouwiki": "wiki",
  "page": "information page",
  "questionnaire": "questionnaire",
  "quiz": "quiz",
  "repeatactivity": "repeated activity",
  "resource": "file to read",
  "sharedsubpage": "shared page",
  "subpage": "section page",
  "url": "external link",
}
# Clicks that end this long before the course were cut off, not left.
_CUT_DAYS = 14


def load(
  *,
  path: str = "",
  train: str = "BBB/2013B,AAA/2013J",
  test: str = "AAA/2014J,BBB/2013J",
  validation_share: float = 0.15,
  rows: str = "day",
) -> Inputs:
  """Reads the tables.

  Args:
    path: Directory of the files; default $LUMOS_OULAD_DIR.
    train, test: Presentations of the splits, separated by commas.
    validation_share: Of the students of `train`, chosen by a hash of their id,
      that become split "validation" and fit nothing.
    rows: "day" or "event".
  """
  files = Files(path)
  splits = presentations(train, test)
  courses = chosen(files.table("courses"), splits).with_columns(
    run=pl.concat_str(_RUN, separator="/")
  )
  absent = sorted(splits.keys() - set(courses["run"]))
  if absent:
    raise InputError(
      f"courses: no presentation {absent}; correct train=, test="
    )
  students = students_of(files, splits)
  clicks = _clicks(files, splits)
  due = chosen(files.table("assessments"), splits)
  handed_in, banked = submissions(files, due, students)
  activity = pl.concat([clicks, handed_in], how="diagonal_relaxed")
  length = dict(courses.select("run", "module_presentation_length").iter_rows())
  seen = clicks.group_by("run").agg(pl.col("time").max())
  until = {run: days + 1 for run, days in length.items()}
  for run, last in seen.iter_rows():
    if last < length[run] - _CUT_DAYS:
      until[run] = last
  first = min(activity["time"].min(), 0)
  last = max(activity["time"].max() + 1, *until.values())
  schema = _schema(rows, first, last)
  repeated = students.filter(pl.col("id_student").is_duplicated())[
    "id_student"
  ].n_unique()
  no_day = (pl.col("final_result") == "Withdrawn") & pl.col(
    "date_unregistration"
  ).is_null()
  return Inputs(
    schema=schema,
    activity=activity.lazy(),
    calendar=_calendar(due, length),
    membership=students.select("key", group="run"),
    profile=students.select("key", *(f.name for f in schema.profile)),
    labels=_labels(students),
    span=_span(students, length, until, first),
    split=split_of(students, splits, validation_share),
    files=files.used,
    notes={
      "banked submissions left out": banked,
      "students in more than one presentation": repeated,
      "withdrawn without a day": students.filter(no_day).height,
    },
    pieces=files.pieces,
  )


class Files:
  """Finds and reads the tables under their published or common names."""

  def __init__(self, path: str):
    path = path or os.environ.get(ENVIRONMENT, "")
    if not path:
      raise InputError(
        f"say where the OULAD files are: --set path=DIR, or {ENVIRONMENT}=DIR "
        "(https://analyse.kmi.open.ac.uk/open-dataset)"
      )
    self.root = pathlib.Path(path)
    if not self.root.is_dir():
      raise InputError(f"{self.root} is not a directory: correct path=")
    self.used, self.pieces = {}, {}

  def find(self, table: str) -> pathlib.Path:
    """The file of a table; InputError names what there is."""
    for stem in _FILES[table]:
      for ending in _ENDINGS:
        file = self.root / (stem + ending)
        if file.exists():
          self.used[table] = file.name
          self.pieces[file.name] = file.stat().st_size
          return file
    raise InputError(
      f"{self.root} has no {table}.csv (or {', '.join(_ENDINGS[1:])}); it has "
      f"{sorted(p.name for p in self.root.iterdir())}"
    )

  def scan(self, table: str, columns: tuple[str, ...] = ()) -> pl.LazyFrame:
    """A table that has some columns, lazily."""
    file = self.find(table)
    if file.suffix == ".parquet":
      frame = pl.scan_parquet(file)
    else:
      # The clicks have 10.7 M rows, all of the same kind.
      rows = 10_000 if table == "studentVle" else None
      frame = pl.scan_csv(file, null_values=["?", ""], infer_schema_length=rows)
    names = list(frame.collect_schema())
    for c in columns:
      if c not in names:
        raise missing_column(file.name, c, names)
    return frame

  def table(self, table: str, columns: tuple[str, ...] = ()) -> pl.DataFrame:
    """A table that has some columns."""
    return self.scan(table, columns).collect()


def presentations(train: str, test: str) -> dict[str, str]:
  """{presentation: split}; InputError where one stands in both."""
  out = {}
  for split, text in (("train", train), ("test", test)):
    for run in filter(None, (t.strip() for t in text.split(","))):
      if out.setdefault(run, split) != split:
        raise InputError(f"presentation {run} is in both train= and test=")
  return out


def chosen(frame, splits):
  """Rows of the chosen presentations."""
  frame = frame.with_columns(pl.col(_RUN).cast(pl.String))
  return frame.filter(pl.concat_str(_RUN, separator="/").is_in(list(splits)))


def keyed(frame):
  """Adds run, the presentation, and key, the student in it."""
  return frame.with_columns(
    run=pl.concat_str(_RUN, separator="/"),
    key=pl.concat_str(
      *_RUN, pl.col("id_student").cast(pl.String), separator="/"
    ),
  )


def students_of(files: Files, splits) -> pl.DataFrame:
  """Students of the chosen presentations, with their dates."""
  info = files.table("studentInfo", (*_STUDENT, "final_result"))
  dates = files.table("studentRegistration", (*_STUDENT, "date_registration"))
  join = chosen(info, splits).join(
    chosen(dates, splits), on=_STUDENT, how="left", maintain_order="left"
  )
  return keyed(join)


def _clicks(files: Files, splits) -> pl.DataFrame:
  columns = (*_STUDENT, "id_site", "date", "sum_click")
  clicks = chosen(files.scan("studentVle", columns), splits)
  pages = files.scan("vle", ("id_site", "activity_type"))
  pages = pages.select(pl.col("id_site").cast(pl.Int64), "activity_type")
  clicks = clicks.with_columns(pl.col("id_site").cast(pl.Int64)).join(
    pages, on="id_site", how="left", maintain_order="left"
  )
  return (
    keyed(clicks)
    .select(
      "key",
      "run",
      "activity_type",
      time=pl.col("date").cast(pl.Int32),
      clicks=pl.col("sum_click").cast(pl.Float64),
      pages=pl.lit(1.0),
      submissions=pl.lit(0.0),
    )
    .collect()
  )


def submissions(files: Files, due, students) -> tuple[pl.DataFrame, int]:
  """Submissions on their day, and how many banked ones were left out."""
  rows = files.table("studentAssessment", ("id_assessment", "date_submitted"))
  rows = rows.join(
    due.select("id_assessment", *_RUN), on="id_assessment", how="inner"
  )
  rows = keyed(rows)
  banked = pl.col("is_banked").cast(pl.Int8) != 0
  count = rows.filter(banked).height
  rows = rows.filter(~banked).join(students.select("key"), on="key", how="semi")
  return rows.select(
    "key",
    "run",
    time=pl.col("date_submitted").cast(pl.Int32),
    clicks=pl.lit(0.0),
    pages=pl.lit(0.0),
    submissions=pl.lit(1.0),
  ), count


def _calendar(due: pl.DataFrame, length: dict[str, int]) -> pl.DataFrame:
  ends = pl.DataFrame(
    {"group": list(length), "start": list(length.values())},
    schema={"group": pl.String, "start": pl.Int32},
  )
  days = due.with_columns(group=pl.concat_str(_RUN, separator="/")).join(
    ends.rename({"start": "end_day"}), on="group", how="left"
  )
  days = days.select(
    "group",
    type="assessment_type",
    weight=pl.col("weight").cast(pl.Float64),
    start=pl.col("date").cast(pl.Int32).fill_null(pl.col("end_day")),
  )
  ends = ends.with_columns(type=pl.lit("course end"))
  both = pl.concat([days, ends], how="diagonal")
  return both.with_columns(end=pl.col("start") + 1).sort(
    "group", "start", "type"
  )


def _labels(students: pl.DataFrame) -> pl.DataFrame:
  withdrawn = students.filter(pl.col("date_unregistration").is_not_null())
  withdrawn = withdrawn.select(
    "key",
    name=pl.lit("withdrawn"),
    time=pl.col("date_unregistration").cast(pl.Int32),
    value=pl.lit("1"),
  )
  result = students.filter(pl.col("final_result").is_not_null()).select(
    "key", name=pl.lit("final_result"), value="final_result"
  )
  return pl.concat([withdrawn, result], how="diagonal")


def _span(students, length, until, first) -> pl.DataFrame:
  run = pl.col("run")
  observed = run.replace_strict(until, return_dtype=pl.Int32)
  end = run.replace_strict(length, return_dtype=pl.Int32)
  left = pl.col("date_unregistration").cast(pl.Int32)
  # Not known of a few: they enter as users of other data do.
  enter = pl.col("date_registration").cast(pl.Int32).clip(lower_bound=first)
  return students.select(
    "key",
    enter=enter,
    exit=pl.min_horizontal(left.fill_null(end), end, observed),
    observed_until=observed,
  )


def split_of(students, splits, share: float) -> pl.DataFrame:
  """By presentation; validation by student, so that nobody is on both sides."""
  chosen = {
    i
    for i in students["id_student"].unique().to_list()
    if int(hashlib.sha256(str(i).encode()).hexdigest()[:8], 16) < share * 2**32
  }
  split = pl.col("run").replace_strict(splits, return_dtype=pl.String)
  validation = (split == "train") & pl.col("id_student").is_in(list(chosen))
  return students.select(
    "key",
    split=pl.when(validation).then(pl.lit("validation")).otherwise(split),
  )


def _schema(rows: str, first: int, last: int) -> schema_lib.Schema:
  number, category = schema_lib.Numeric, schema_lib.Categorical
  return schema_lib.Schema(
    name="oulad",
    activity=(
      category(
        "activity_type",
        max_values=20,
        daily="pivot:clicks",
        title="kind of page",
        names=PAGES,
      ),
      number("clicks"),
      number("pages"),
      number("submissions", scale="minmax"),
    ),
    calendar=(
      category("type"),
      number("weight", "none", "minmax", nullable=True),
    ),
    profile=(
      category("gender"),
      category("region"),
      category("highest_education"),
      category("imd_band"),
      category("age_band"),
      category("disability"),
      number("num_of_prev_attempts"),
      number("studied_credits"),
      number("date_registration", "none", nullable=True),
    ),
    labels=(
      schema_lib.Label("withdrawn"),
      schema_lib.Label("final_result", values=_RESULTS),
    ),
    rows=rows,
    first_day=first,
    last_day=last,
    # All days of training students fit: the others are held out as users.
    train_until=last,
  )
