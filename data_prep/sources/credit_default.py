"""UCI "default of credit card clients": six monthly statements a client.

Yeh and Lien 2009 (CC BY 4.0, doi 10.24432/C55S3H): 30,000 clients of a bank in
Taiwan, April to September 2005, of whom 22 % defaulted in October. Reads
UCI_Credit_Card.csv, plain or .gz, from `path` or $LUMOS_CREDIT_DEFAULT_DIR.

- Activity: a row a statement, on the last day of its month: `status` of the
  repayment (-2 no use, -1 paid in full, 0 the least, n months late), the amount
  billed and paid, and both as shares of the limit. `token` is their product:
  status x bins of the two shares.
- Profile: limit, sex, education, marriage, age.
- Label `default`: on the last day of October.
- Splits "train", "validation" and "test" by a hash of the client's number.
"""

import datetime
import hashlib
import os
import pathlib

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs, missing_column

ENVIRONMENT = "LUMOS_CREDIT_DEFAULT_DIR"
_FILES = ("UCI_Credit_Card.csv", "UCI_Credit_Card.csv.gz")
_EPOCH = datetime.date(2005, 4, 1)
# The last days of April to September, and when each one's columns are of.
_MONTHS = (30, 31, 30, 31, 31, 30)
_STATUS = ("PAY_6", "PAY_5", "PAY_4", "PAY_3", "PAY_2", "PAY_0")
# What a status says, in words (llm/text.py).
_STATUSES = {
  "-2": "no use of the card",
  "-1": "paid in full",
  "0": "paid the least",
  "1": "one month late",
} | {
  str(n): f"{word} months late"
  for n, word in enumerate(
    ("two", "three", "four", "five", "six", "seven", "eight"), 2
  )
}
_LABEL = "default.payment.next.month"
_SHARES = {"validation": 0.15, "test": 0.2}


def load(*, path: str = "", bins: int = 10) -> Inputs:
  """Reads the statements.

  Args:
    path: The file, or its folder; default $LUMOS_CREDIT_DEFAULT_DIR.
    bins: Of billed and paid shares in the token.
  """
  file = _file(path)
  raw = pl.read_csv(file)
  bills = [f"BILL_AMT{i}" for i in range(6, 0, -1)]
  paid = [f"PAY_AMT{i}" for i in range(6, 0, -1)]
  needed = ("ID", "LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", _LABEL)
  for column in (*needed, *_STATUS, *bills, *paid):
    if column not in raw.columns:
      raise missing_column(file.name, column, raw.columns, "the UCI format")
  days = [sum(_MONTHS[: i + 1]) - 1 for i in range(6)]
  statements = pl.concat(
    raw.select(
      key="ID",
      time=pl.lit(day),
      status=pl.col(status).cast(pl.String),
      months_late=pl.col(status).clip(lower_bound=0).cast(pl.Float64),
      billed=pl.col(bill).cast(pl.Float64),
      paid=pl.col(pay).cast(pl.Float64),
      billed_share=pl.col(bill) / pl.col("LIMIT_BAL"),
      paid_share=pl.col(pay) / pl.col("LIMIT_BAL"),
    )
    for day, status, bill, pay in zip(days, _STATUS, bills, paid, strict=True)
  )
  last = sum(_MONTHS) + 31
  category, number = schema_lib.Categorical, schema_lib.Numeric
  schema = schema_lib.Schema(
    name="credit_default",
    activity=(
      category("status", title="repayment", names=_STATUSES),
      schema_lib.Binned("billed_bin", of="billed_share", bins=bins),
      schema_lib.Binned("paid_bin", of="paid_share", bins=bins),
      schema_lib.Composite(
        "token",
        of=("status", "billed_bin", "paid_bin"),
        max_values=2000,
        min_count=5,
        backoff=("status",),
      ),
      number("months_late"),
      number("billed", daily="mean"),
      number("paid"),
      number("billed_share", daily="mean", title="billed share of the limit"),
      number("paid_share", daily="mean", title="paid share of the limit"),
    ),
    profile=(
      category("sex"),
      category("education"),
      category("marriage"),
      number("limit"),
      number("age"),
    ),
    labels=(schema_lib.Label("default", observed_until=last),),
    rows="event",
    epoch=_EPOCH.isoformat(),
    first_day=0,
    last_day=last,
    # Clients are held out, not days.
    train_until=sum(_MONTHS),
  )
  text = lambda name: pl.col(name).cast(pl.String)
  defaulted = raw.filter(pl.col(_LABEL) == 1)
  return Inputs(
    schema=schema,
    activity=statements.lazy(),
    profile=raw.select(
      key="ID",
      sex=text("SEX"),
      education=text("EDUCATION"),
      marriage=text("MARRIAGE"),
      limit=pl.col("LIMIT_BAL").cast(pl.Float64),
      age=pl.col("AGE").cast(pl.Float64),
    ),
    labels=defaulted.select(
      key="ID", name=pl.lit("default"), time=pl.lit(last - 1), value=pl.lit("1")
    ),
    split=raw.select(
      key="ID",
      split=pl.col("ID").map_elements(_split, return_dtype=pl.String),
    ),
    files={"activity": file.name},
    pieces={file.name: file.stat().st_size},
  )


def _split(client: int) -> str:
  digest = hashlib.sha256(str(client).encode()).hexdigest()
  share = int(digest[:8], 16) / 2**32
  for name, size in _SHARES.items():
    if share < size:
      return name
    share -= size
  return "train"


def _file(path: str) -> pathlib.Path:
  path = path or os.environ.get(ENVIRONMENT, "")
  if not path:
    raise InputError(
      f"say where {_FILES[0]} is: --set path=DIR, or {ENVIRONMENT}=DIR "
      "(https://archive.ics.uci.edu/dataset/350)"
    )
  file = pathlib.Path(path)
  if file.is_dir():
    found = [file / n for n in _FILES if (file / n).exists()]
    if not found:
      names = sorted(p.name for p in file.iterdir())
      raise InputError(f"{file} has no {_FILES[0]}; it has {names}")
    file = found[0]
  if not file.is_file():
    raise InputError(f"no file {file}: correct path=")
  return file
