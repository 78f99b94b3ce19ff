"""Complete Journey's baskets as sessions: what was bought, and what comes next.

The tables are those of source `complete_journey` (simulated after real shopping
patterns, as its publishers say). A session is a household's basket, a row a type of
product in it; its page is the type, its title the type and its category, its
category the department. Lines of a basket have one time: they are not in order.

- Label `next_tile`: of the departments that are tiles, the one with the highest
  sales in the household's next basket that has any of them. Groceries, which lead
  nearly every basket, are no tile.
- Splits by day: training baskets lie before `train_until`, and so do their next
  ones; the others are validation and, from `test_from` on, test.
"""

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs
from ..pages import Pages
from . import complete_journey

# Of which one would be shown first; fixed, so that rankings compare.
TILES = (
  "DRUG GM",
  "MEAT",
  "MEAT-PCKGD",
  "PRODUCE",
  "DELI",
  "PASTRY",
  "NUTRITION",
  "SEAFOOD-PCKGD",
  "COSMETICS",
  "FLORAL",
)
_EPOCH = "2017-01-01"


def load(
  *,
  path: str = "",
  train_until: int = 281,
  test_from: int = 309,
  max_pages: int = 3000,
  texts: str = "words",
) -> Inputs:
  """Reads the tables.

  Args:
    path: Directory of the Parquet files instead of the package's.
    train_until, test_from: Days where training ends and test begins.
    max_pages: Types of products in the vocabulary.
    texts: Encoder of the titles, see `lumos_jax.llm.sentences.encoder`.
  """
  if not 0 < train_until < test_from:
    raise InputError(
      f"train_until={train_until} and test_from={test_from}: the first must be "
      "above 0 and below the second"
    )
  root = complete_journey.folder(path)
  scan = lambda table: complete_journey.scan(root, table)
  products = scan("products").select(
    "product_id", "department", "product_category", "product_type"
  )
  lines = (
    scan("transactions")
    .select(
      "household_id", "basket_id", "product_id", "sales_value",
      time="transaction_timestamp",
    )
    .join(products, on="product_id", how="left")
    .collect()
  )  # fmt: skip
  unknown = lines["product_type"].null_count()
  lines = lines.with_columns(
    pl.format("{}/{}", "household_id", "basket_id").alias("key"),
    pl.col("product_type").fill_null("(not listed)"),
    day=(pl.col("time").dt.date() - pl.lit(_EPOCH).str.to_date())
    .dt.total_days()
    .cast(pl.Int32),
  )
  rows = lines.group_by("key", "product_type").agg(
    pl.col("sales_value").sum().alias("sales"), pl.col("time").min()
  )
  baskets = lines.group_by("key").agg(
    pl.col("household_id").first(),
    pl.col("time").min(),
    pl.col("day").min(),
  )
  ahead = _next_tile(lines, baskets)
  split = (
    pl.when(pl.col("next_day") < train_until)
    .then(pl.lit("train"))
    .when(pl.col("day") >= test_from)
    .then(pl.lit("test"))
    .when((pl.col("day") >= train_until) & (pl.col("next_day") < test_from))
    .then(pl.lit("validation"))
  )
  ahead = ahead.with_columns(split=split)
  labels = ahead.drop_nulls("tile")
  schema = schema_lib.Schema(
    name="complete_journey_baskets",
    activity=(
      schema_lib.Categorical("page", max_values=max_pages),
      schema_lib.Numeric("sales"),
    ),
    labels=(schema_lib.Label("next_tile", values=TILES),),
    rows="event",
    epoch=_EPOCH,
    train_until=train_until,
  )
  titles = products.with_columns(
    pl.col("product_type").fill_null("(not listed)")
  )
  titles = titles.group_by("product_type").agg(
    pl.col("product_category").drop_nulls().mode().sort().first(),
    pl.col("department").drop_nulls().mode().sort().first(),
  )
  titles = titles.select(
    page="product_type",
    title=pl.concat_str(
      "product_type", "product_category", separator=", ", ignore_nulls=True
    ).str.to_lowercase(),
    category=pl.col("department").fill_null(""),
  )
  return Inputs(
    schema=schema,
    activity=rows.select("key", "time", "sales", page="product_type").lazy(),
    labels=labels.select("key", name=pl.lit("next_tile"), value="tile"),
    split=ahead.drop_nulls("split").select("key", "split"),
    pages=Pages("page", titles.sort("page").collect(), texts),
    files={"activity": "transactions.parquet"},
    notes={
      "baskets": len(baskets),
      "baskets without a later one with a tile": len(baskets) - len(labels),
      "lines of products without a type": unknown,
    },
    pieces={
      f"{t}.parquet": complete_journey.file(root, t).stat().st_size
      for t in ("transactions", "products")
    },
  )


def _next_tile(lines: pl.DataFrame, baskets: pl.DataFrame) -> pl.DataFrame:
  """Each basket with day, next_day and tile of the next one that has a tile."""
  found = (
    lines.filter(pl.col("department").is_in(list(TILES)))
    .group_by("household_id", "key", "department")
    .agg(pl.col("sales_value").sum(), pl.col("time").min(), pl.col("day").min())
    .sort("key", "sales_value", "department", descending=[False, True, False])
    .unique("key", keep="first", maintain_order=True)
    .select(
      "household_id",
      pl.col("time").alias("at"),
      pl.col("day").alias("next_day"),
      pl.col("department").alias("tile"),
    )
  )
  return baskets.sort("time").join_asof(
    found.sort("at"),
    left_on="time", right_on="at", by="household_id", strategy="forward",
    allow_exact_matches=False, check_sortedness=False,
  )  # fmt: skip
