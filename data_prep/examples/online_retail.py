"""UCI Online Retail for the source "tables": invoice lines of a gift shop.

  python -m data_prep --source=tables --out=data \
    --set schema=data_prep/examples/online_retail.py path=FOLDER

FOLDER holds online_retail.parquet with the columns of the original table:
InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID,
Country. A returned article is a line with a negative quantity.
"""

import polars as pl

from lumos_jax.data.schema import Categorical, Numeric, Schema, Timestamp

SCHEMA = Schema(
  name="online_retail",
  activity=(
    Numeric("sales"),
    Numeric("quantity"),
    Numeric("invoices"),
    Numeric("articles"),
    Numeric("returns", scale="minmax"),
    Timestamp("InvoiceDate", parts=("hour",)),
  ),
  profile=(Categorical("Country"),),
)

TABLES = {
  "activity": {
    "file": "online_retail.parquet",
    "columns": {"key": "CustomerID", "time": "InvoiceDate"},
  },
  "profile": {
    "file": "online_retail.parquet",
    "columns": {"key": "CustomerID"},
  },
}

# Days from here on are for validation and test.
TRAIN_UNTIL = "2011-10-01"


def activity(frame: pl.LazyFrame) -> pl.LazyFrame:
  """An invoice line is an event; a day's sums count invoices and articles."""
  return frame.with_columns(
    sales=pl.col("Quantity") * pl.col("UnitPrice"),
    quantity=pl.col("Quantity"),
    invoices=pl.col("InvoiceNo").is_first_distinct().cast(pl.Float64),
    articles=pl.lit(1.0),
    returns=(pl.col("Quantity") < 0).cast(pl.Float64),
  )


def profile(frame: pl.LazyFrame) -> pl.LazyFrame:
  """One row a customer: the country of most lines."""
  return (
    frame.drop_nulls("key")
    .group_by("key", "Country")
    .len()
    .sort("len", "Country", descending=[True, False])
    .group_by("key", maintain_order=True)
    .first()
    .select("key", "Country")
  )
