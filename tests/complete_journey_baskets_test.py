"""Complete Journey's baskets as sessions: the next one's tile lies ahead."""

import datetime

import polars as pl
import pytest
from lumos_jax.data_prep import sources
from lumos_jax.data_prep.inputs import InputError

BEEF, SOAP, ROSE, BREAD, ODD = 1, 2, 3, 4, 5
# Basket, household, day, {product: sales}.
BASKETS = (
  (10, 1, 5, {BEEF: 3.0, BREAD: 9.0, SOAP: 1.0}),
  (11, 1, 20, {BREAD: 5.0}),  # Groceries are no tile.
  (12, 1, 279, {SOAP: 2.0, BEEF: 1.0}),
  (13, 1, 290, {ROSE: 4.0, BEEF: 4.0}),
  (14, 1, 320, {BEEF: 1.0, ODD: 1.0}),
  (20, 2, 6, {ROSE: 1.0}),
)


@pytest.fixture
def folder(tmp_path):
  start = datetime.datetime(2017, 1, 1, 9)
  pl.DataFrame(
    [
      (home, basket, product, sales, start + datetime.timedelta(days=day))
      for basket, home, day, bought in BASKETS
      for product, sales in bought.items()
    ],
    schema=[
      "household_id", "basket_id", "product_id", "sales_value",
      "transaction_timestamp",
    ],
    orient="row",
  ).write_parquet(tmp_path / "transactions.parquet")  # fmt: skip
  pl.DataFrame(
    {
      "product_id": [BEEF, SOAP, ROSE, BREAD],
      "department": ["MEAT", "DRUG GM", "FLORAL", "GROCERY"],
      "product_category": ["BEEF", None, "FLOWERS", "BREAD"],
      "product_type": ["CHOICE BEEF", "SOAP", "ROSES", "RYE"],
    }
  ).write_parquet(tmp_path / "products.parquet")
  return tmp_path


def test_a_basket_knows_the_next_ones_tile(folder):
  load = lambda **kw: sources.load(
    "complete_journey_baskets", dict(path=str(folder), **kw)
  )
  inputs = load()
  tiles = {k: v for k, _, v in inputs.labels.rows()}
  # Basket 11 has no tile: after 10 comes 12. Equal sales: the first by name.
  assert tiles == {
    "1/10": "DRUG GM", "1/11": "DRUG GM", "1/12": "FLORAL", "1/13": "MEAT",
  }  # fmt: skip
  split = dict(inputs.split.rows())
  # The next one of basket 12 comes after training ends, of 13 in the test.
  assert split == {"1/10": "train", "1/11": "train", "1/14": "test"}
  pages = {p: (t, c) for p, t, c in inputs.pages.frame.rows()}
  assert pages["CHOICE BEEF"] == ("choice beef, beef", "MEAT")
  assert pages["SOAP"] == ("soap", "DRUG GM")
  assert inputs.notes["lines of products without a type"] == 1
  assert len(inputs.activity.collect().filter(pl.col("key") == "1/10")) == 3
  with pytest.raises(InputError, match="train_until=300 and test_from=290"):
    load(train_until=300, test_from=290)
