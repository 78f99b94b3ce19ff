"""Credit-card transactions in the CSV format of IBM TabFormer (CCT).

Synthetic data of Padhi et al. 2021 (Apache-2.0): card_transaction.v1.csv, or
part of it in the same columns, plain or .gz; optionally sd254_users.csv beside it.

- Users: card holders. Activity: a row a transaction.
- `token` is PANTHER's: amount in 100 bins of equal frequency x merchant category
  (MCC) x how the card was used; a rare one falls back to MCC x use.
- Label `fraud`, of each transaction: it is no input. `confirmed_days` later it
  becomes known; the file does not say when it did.
- Profile, where the users' file is: gender, birth year, income, debt, FICO score,
  number of cards. It describes one moment, the data set's last years.
"""

import pathlib

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs, missing_column

_USERS = ("sd254_users.csv", "sd254_users.csv.gz")
_COLUMNS = (
  "User",
  "Card",
  "Year",
  "Month",
  "Day",
  "Time",
  "Amount",
  "Use Chip",
  "Merchant Name",
  "Merchant State",
  "MCC",
  "Errors?",
  "Is Fraud?",
)
_MONEY = {
  "income": "Yearly Income - Person",
  "debt": "Total Debt",
}


def load(
  *,
  path: str = "",
  train_until: str = "2018-01-01",
  max_tokens: int = 60_000,
  amount_bins: int = 100,
  confirmed_days: int = 0,
) -> Inputs:
  """Reads the transactions.

  Args:
    path: The CSV file, or a folder that holds one *transaction*.csv.
    train_until: Date from which on rows fit nothing.
    max_tokens: K of the composite token.
    amount_bins: Bins of the amount in it.
    confirmed_days: From a payment until it is known whether it was fraud.
  """
  file = _file(path)
  raw = pl.scan_csv(file, schema_overrides={"Merchant Name": pl.String})
  names = raw.collect_schema().names()
  for column in _COLUMNS:
    if column not in names:
      raise missing_column(file.name, column, names, "the TabFormer format")
  # Times are whole minutes: the file's order tells payments of one apart.
  activity = raw.with_row_index("order").select(
    "order",
    key=pl.col("User"),
    time=_time(),
    amount=_dollars("Amount"),
    mcc=pl.col("MCC").cast(pl.String),
    use=pl.col("Use Chip"),
    card=pl.col("Card").cast(pl.String),
    state=pl.col("Merchant State").fill_null("online or abroad"),
    error=pl.col("Errors?").fill_null("none"),
    fraud=pl.col("Is Fraud?").replace_strict(
      {"Yes": 1.0, "No": 0.0}, default=None, return_dtype=pl.Float64
    ),
  )
  users = _users(file.parent)
  profile = ()
  if users is not None:
    numbers = ("birth_year", "income", "debt", "fico", "cards")
    profile = (
      schema_lib.Categorical("gender"),
      *(schema_lib.Numeric(n) for n in numbers),
    )
    # Only those who have transactions in this file.
    mine = activity.select("key").unique().collect()
    users = users.join(mine, on="key", how="semi")
  until = pl.Series([train_until]).str.to_date(strict=False)[0]
  if until is None:
    raise InputError(f"train_until={train_until!r}: write a date, 2018-01-01")
  epoch = pl.Series(["1990-01-01"]).str.to_date()[0]
  schema = schema_lib.Schema(
    name="tabformer",
    activity=(
      schema_lib.Categorical("mcc"),
      schema_lib.Categorical("use"),
      schema_lib.Categorical("card"),
      schema_lib.Categorical("state"),
      schema_lib.Categorical("error"),
      schema_lib.Binned("amount_bin", of="amount", bins=amount_bins),
      schema_lib.Clock("gap", "gap"),
      schema_lib.Clock("hour", "hour"),
      schema_lib.Clock("weekday", "weekday"),
      schema_lib.Clock("monthday", "monthday"),
      schema_lib.Composite(
        "token",
        of=("amount_bin", "mcc", "use"),
        max_values=max_tokens,
        min_count=2,
        backoff=("mcc", "use"),
      ),
      schema_lib.Numeric("amount"),
    ),
    profile=profile,
    labels=(
      schema_lib.Label(
        "fraud", level="event", delay_days=confirmed_days or None
      ),
    ),
    rows="event",
    epoch="1990-01-01",
    train_until=(until - epoch).days,
  )
  return Inputs(
    schema=schema,
    activity=activity,
    order="order",
    profile=users,
    files={"activity": file.name},
    pieces={file.name: file.stat().st_size},
  )


def _file(path: str) -> pathlib.Path:
  if not path:
    raise InputError(
      "source 'tabformer' needs path=FILE, card_transaction.v1.csv of "
      "https://github.com/IBM/TabFormer"
    )
  file = pathlib.Path(path)
  if file.is_dir():
    found = sorted(file.glob("*transaction*.csv*"))
    if len(found) != 1:
      raise InputError(
        f"{file} holds {[f.name for f in found]}; give one file, path=FILE"
      )
    file = found[0]
  if not file.is_file():
    raise InputError(f"no file {file}")
  return file


def _time() -> pl.Expr:
  """Null for a day that the calendar lacks: a rejected row."""
  text = pl.format("{}-{}-{} {}", "Year", "Month", "Day", "Time")
  return text.str.to_datetime("%Y-%m-%d %H:%M", time_unit="ms", strict=False)


def _dollars(name: str) -> pl.Expr:
  return pl.col(name).str.strip_prefix("$").cast(pl.Float64, strict=False)


def _users(folder: pathlib.Path) -> pl.DataFrame | None:
  for name in _USERS:
    if (folder / name).exists():
      frame = pl.read_csv(folder / name).with_row_index("key")
      return frame.select(
        pl.col("key").cast(pl.Int64),
        gender="Gender",
        birth_year="Birth Year",
        fico="FICO Score",
        cards="Num Credit Cards",
        **{k: _dollars(v) for k, v in _MONEY.items()},
      )
  return None
