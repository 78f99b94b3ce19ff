"""Data preparation: what is refused, and what stays when it ends early."""

import datetime
import errno
import os
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as cli
from lumos_jax.data_prep import builder

from lumos_jax import data_prep
from lumos_jax.data import records as records_lib
from tests import tiny_data


def break_(table, **columns):
  def apply(frames):
    frames[table] = frames[table].with_columns(**columns)

  return apply


def rename(table, **names):
  def apply(frames):
    frames[table] = frames[table].rename(names)

  return apply


def duplicate(frames):
  frames["profile"] = pl.concat([frames["profile"], frames["profile"].head(2)])


@pytest.mark.parametrize(
  "change, words",
  [
    (
      rename("activity", sales="Sale"),
      ["activity.parquet", "'sales'", "did you mean 'Sale'"],
    ),
    (rename("activity", key="user"), ["'key'. It has ['user'"]),
    (
      break_("activity", sales=pl.lit("12,50")),
      ["activity.parquet", "'sales'", "row 0", "'12,50'"],
    ),
    (break_("activity", channel=pl.col("time")), ["'channel'", "Datetime"]),
    (
      break_("activity", time=pl.lit("noon")),
      ["'time'", "1,180 of 1,180", "'noon' in row 0"],
    ),
    (duplicate, ["profile.csv", "2 user ids", "u0", "row 0"]),
    (
      break_("profile", age=pl.lit(float("inf"))),
      ["profile.csv", "'age'", "inf", "row 0"],
    ),
    (
      break_("calendar", end=pl.lit(datetime.date(2019, 1, 1))),
      ["calendar.csv", "row 0", "end"],
    ),
    (break_("activity", key=pl.lit(1.5)), ["'key'", "row 0", "1.5"]),
  ],
)
def test_bad_input_is_named(tmp_path, change, words):
  frames = tiny_data.tiny_frames()
  change(frames)
  with pytest.raises(data_prep.InputError) as e:
    tiny_data.tiny_data_dir(
      tmp_path,
      frames,
      tiny_data.DESCRIPTION.format(days=0, train_until=112),
    )
  for word in words:
    assert word in str(e.value)
  assert not list((tmp_path).glob("data/*"))


def test_times_with_and_without_zone(tmp_path):
  frames = tiny_data.tiny_frames()
  text = pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S")
  zoned = pl.int_range(pl.len()) % 2 == 0
  frames["activity"] = frames["activity"].with_columns(
    time=pl.when(zoned).then(text + "+02:00").otherwise(text)
  )
  with pytest.raises(data_prep.InputError, match=r"row 0.*row 1.*time_zone"):
    tiny_data.tiny_data_dir(tmp_path, frames)
  description = tiny_data.DESCRIPTION.format(days=0, train_until=112)
  zone = description + 'TIME_ZONE = "Etc/GMT-2"\n'  # Two hours before UTC.
  _, users = tiny_data.read(
    tiny_data.tiny_data_dir(tmp_path / "a", frames, zone)
  )
  _, plain = tiny_data.read(
    tiny_data.tiny_data_dir(tmp_path / "b", description=description)
  )
  for key in plain:
    np.testing.assert_array_equal(users[key]["day"], plain[key]["day"])


def test_zoned_activity_beside_naive_calendar(tmp_path):
  frames = tiny_data.tiny_frames()
  frames["activity"] = frames["activity"].with_columns(
    pl.col("time").dt.replace_time_zone(
      "Europe/Paris", ambiguous="earliest", non_existent="null"
    )
  )
  frames["calendar"] = frames["calendar"].with_columns(
    pl.col("start").cast(pl.Datetime("us"))
  )
  with pytest.raises(
    data_prep.InputError, match="calendar.*activity.*time_zone"
  ):
    tiny_data.tiny_data_dir(tmp_path, frames)


def test_same_again_is_reused_and_other_contents_refused(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path)
  stats = path / records_lib.STATS
  before = os.stat(stats).st_mtime_ns
  assert tiny_data.tiny_data_dir(tmp_path) == path
  assert os.stat(stats).st_mtime_ns == before
  frames = tiny_data.tiny_frames(users=50)
  with pytest.raises(data_prep.InputError, match="activity.parquet.*overwrite"):
    tiny_data.tiny_data_dir(tmp_path, frames)
  tiny_data.tiny_data_dir(tmp_path, frames, overwrite=True)
  assert len(tiny_data.read(path)[1]) == 50
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
  def full(self, example):
    raise OSError(errno.ENOSPC, f"{self._path} after 5 bytes")

  monkeypatch.setattr(builder.Split, "write", full)
  with pytest.raises(OSError, match="disk is full.*5 bytes.*--out") as e:
    tiny_data.tiny_data_dir(tmp_path)
  assert e.value.errno == errno.ENOSPC
  assert not list((tmp_path / "data").iterdir())


def test_file_size_limit_is_a_full_disk(tmp_path):
  schema = tiny_data.write_tables(tmp_path / "raw")
  code = (
    "import resource, signal, sys; from lumos_jax.data_prep.__main__ import main;"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"
    f"sys.exit(main(['--source=tables', '--out={tmp_path / 'data'}',"
    f" '--set', 'schema={schema}']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert "disk is full or a limit" in done.stderr
  assert "Traceback" not in done.stderr
  assert not list((tmp_path / "data").iterdir())


def test_killed_while_writing_leaves_no_data_set(tmp_path):
  schema = tiny_data.write_tables(tmp_path / "raw")
  out = tmp_path / "data"
  code = (
    "import time; from lumos_jax.data_prep import builder, run;"
    "write = builder.Split.write;"
    "builder.Split.write = lambda s, e: (write(s, e), time.sleep(3600));"
    f"run.prepare('tables', '{out}', schema='{schema}')"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code], stderr=subprocess.DEVNULL
  )
  while not list(out.glob("*.incomplete/**/*.array_record*")):
    assert process.poll() is None
    time.sleep(0.05)
  with pytest.raises(FileExistsError, match=f"process {process.pid}"):
    tiny_data.tiny_data_dir(tmp_path)
  process.kill()
  process.wait()
  assert not (out / "tiny").exists()
  with pytest.raises(records_lib.DataError, match="no data set"):
    records_lib.Records.open(out / "tiny")
  path = tiny_data.tiny_data_dir(tmp_path)
  assert len(tiny_data.read(path)[1]) == 40
  assert os.listdir(out) == ["tiny"]


def test_command_line(tmp_path, capsys):
  schema = tiny_data.write_tables(tmp_path / "raw")
  out = f"--out={tmp_path / 'data'}"
  assert cli.main(["--list"]) == 0
  assert "complete_journey" in capsys.readouterr().out
  common = ["--source=tables", out, "--set", f"schema={schema}"]
  assert cli.main([*common, "--rows=event"]) == 0
  text = capsys.readouterr()
  assert "40 users" in text.err and "split train" in text.err
  path = text.out.strip()
  assert records_lib.Records.open(path).schema.rows == "event"
  assert cli.main(["--source=table", out]) == 1
  assert "did you mean 'tables'" in capsys.readouterr().err
  assert cli.main([*common, "scheme=x"]) == 1
  assert "no option 'scheme'; did you mean 'schema'" in capsys.readouterr().err


def test_nothing_is_left_in_the_temporary_directory(tmp_path, monkeypatch):
  (tmp_path / "temporary").mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
  tiny_data.tiny_data_dir(tmp_path)
  assert list((tmp_path / "temporary").iterdir()) == []
