"""A drafted description of small generated tables runs as it is."""

import datetime

import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as command
from lumos_jax.data_prep import engine, sources

from lumos_jax import config as config_lib


def write_shop(folder):
  folder.mkdir()
  start = datetime.datetime(2023, 1, 1)
  orders = pl.DataFrame(
    {
      "order": range(400),
      "customer_id": [f"c{i % 20:02d}" for i in range(400)],
      "ordered_at_time": [start + datetime.timedelta(hours=12 * i)
                          for i in range(400)],
      "amount": [1.5 * (i % 37) for i in range(400)],
      "channel": ["web" if i % 3 else "app" for i in range(400)],
    }
  )  # fmt: skip
  orders.write_csv(folder / "orders.csv", separator=";")
  pl.DataFrame(
    {
      "customer_id": [f"c{i:02d}" for i in range(20)],
      "region": ["north", "south"] * 10,
    }
  ).write_parquet(folder / "customers.parquet")
  (folder / "notes.md").write_text("nothing")


def test_draft_of_a_shop_prepares_and_configures(tmp_path, capsys):
  write_shop(tmp_path / "raw")
  out = tmp_path / "shop.py"
  args = ["describe", str(tmp_path / "raw"), f"--out={out}"]
  assert command.main(args) == 0
  text = out.read_text()
  assert "activity is orders.csv: 400 rows" in text
  assert "profile is customers.parquet: one row a user" in text
  assert "skipped: notes.md" in text
  raw = sources.load("tables", {"schema": str(out)})
  prepared = engine.prepare(raw)
  assert len(prepared.users.keys) == 20
  schema = prepared.schema
  assert [f.name for f in schema.profile] == ["region"]
  assert "amount" in [f.name for f in raw.schema.activity]
  assert schema.last_day == 200 and schema.train_until == 150
  c = config_lib.load(f"{tmp_path / 'shop_config.py'}:smoke")
  assert c.data.test_origin == 175 and c.data.validation_origin == 150
  assert command.main(args) == 1
  assert "--overwrite" in capsys.readouterr().err


def test_origins_of_day_numbers_count_from_the_first(tmp_path):
  pl.DataFrame(
    {
      "user_id": [f"u{i % 10}" for i in range(200)],
      "day": [i - 20 for i in range(200)],
      "clicks": [i % 31 for i in range(200)],
    }
  ).write_csv(tmp_path / "clicks.csv")
  out = tmp_path / "clicks.py"
  folder = str(tmp_path / "clicks.csv")
  assert command.main(["describe", folder, f"--out={out}"]) == 0
  c = config_lib.load(str(tmp_path / "clicks_config.py"))
  # Days -20 to 179, horizon 25.
  assert (c.data.validation_origin, c.data.test_origin) == (130, 155)
  assert sources.load("tables", {"schema": str(out)}).schema.train_until == 130


def test_tables_without_users_are_told(tmp_path, capsys):
  pl.DataFrame({"a": [1], "b": [2]}).write_csv(tmp_path / "x.csv")
  out = f"--out={tmp_path / 'x.py'}"
  assert command.main(["describe", str(tmp_path), out]) == 1
  assert "no table has both" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.txt", "my-shop.py"])
def test_out_must_be_a_module(tmp_path, name, capsys):
  out = f"--out={tmp_path / name}"
  assert command.main(["describe", str(tmp_path), out]) == 1
  assert "shop.py" in capsys.readouterr().err


def test_a_time_cut_into_columns_is_put_together(tmp_path):
  lines = ["User,Year,Month,Day,Time,Amount"]
  for i in range(400):
    day = f"20{10 + i // 200},{1 + i % 12},{1 + i % 28}"
    lines.append(f"{i % 7},{day},0{i % 10}:30,{i}")
  (tmp_path / "payments.csv").write_text("\n".join(lines))
  out = tmp_path / "draft.py"
  args = ["describe", str(tmp_path / "payments.csv"), f"--out={out}"]
  assert command.main(args) == 0
  raw = sources.load("tables", {"schema": str(out)})
  prepared = engine.prepare(raw)
  assert prepared.schema.epoch == "2010-01-01"
  assert prepared.stats["rejected"] == {}
  assert "Day" not in {f.name for f in prepared.schema.activity}
