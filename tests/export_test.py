"""Export: files, manifest, interruption, users, ids."""

import hashlib
import json
import os

import fake
import fake_events
import polars as pl
import pytest
from load_test import saved

from lumos_jax import checkpoint, export, ids, parts, predictor
from lumos_jax.data import records as records_lib


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(parts, "USERS_A_PART", 8)


def made(tmp_path, monkeypatch, module):
  records = module.Records(users=70)
  opened = lambda path: records
  monkeypatch.setattr(records_lib.Records, "open", opened)
  config = module.config(**{"eval_batch_size": 1})
  workdir = tmp_path / "run"
  workdir.mkdir()
  return saved(workdir, config, records)[0], records, str(workdir)


def read(out, kind):
  return pl.read_parquet(sorted((out / kind).glob("*.parquet")))


def content(out):
  """{file: sha256} of all that is there."""
  files = sorted(p for p in out.rglob("*") if p.is_file())
  return {
    str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in files
  }


def test_files_hold_what_python_gives(tmp_path, monkeypatch):
  run, records, workdir = made(tmp_path, monkeypatch, fake)
  out = tmp_path / "out"
  header = export.export(workdir, out, as_of=112)
  assert read(out, "forecasts").equals(run.forecast(as_of=112))
  assert read(out, "embeddings").equals(run.embed(as_of=112))
  manifest = json.loads((out / "manifest.json").read_text())
  assert manifest["complete"] and manifest["header"] == header
  assert header["users"] == 70 and header["users_a_part"] == 8
  assert len(manifest["parts"]) == 2 * 9
  rows = sum(p["rows"] for n, p in manifest["parts"].items() if "forec" in n)
  assert rows == 70
  part = out / "forecasts" / "part-00000.parquet"
  about = pl.read_parquet_metadata(part)
  assert about["lumos_step"] == "3"
  assert about["lumos_model_hash"] == run.predictor.model_hash
  assert about["lumos_schema_hash"] == records.schema.hash
  assert about["lumos_as_of"] == header["as_of"]
  name = "forecasts/part-00000.parquet"
  assert manifest["parts"][name]["sha256"] == records_lib.checksum(part)


def test_a_killed_export_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
  run, _, workdir = made(tmp_path, monkeypatch, fake)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  export.export(workdir, whole)
  write = parts.Export._write_part
  for allowed in (0, 2, 3):

    def some(self, kind, block, left=[allowed]):  # noqa: B006
      if not left[0]:
        raise KeyboardInterrupt
      left[0] -= 1
      write(self, kind, block)

    monkeypatch.setattr(parts.Export, "_write_part", some)
    with pytest.raises(KeyboardInterrupt):
      export.export(workdir, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    assert not manifest["complete"]
  monkeypatch.setattr(parts.Export, "_write_part", write)
  assert len(content(broken)) == 1 + 2 + 3
  export.export(workdir, broken)
  assert content(broken) == content(whole)
  with pytest.raises(parts.ExportError, match="as_of_day: 140 there, 130 now"):
    export.export(workdir, broken, as_of=130)
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").write_text("")
  with pytest.raises(parts.ExportError, match="is not empty"):
    export.export(workdir, tmp_path / "full")
  del run


def test_listed_users_and_hashed_ids(tmp_path, monkeypatch, capsys):
  run, records, workdir = made(tmp_path, monkeypatch, fake)
  keys = [records.users[i]["key"] for i in (40, 3)]
  salt = b"a secret of many letters"
  out = tmp_path / "out"
  args = dict(users=[*keys, "nobody"], salt=salt)
  export.export(workdir, out, ["forecasts"], **args)
  assert "1 of the listed users are not in the data" in capsys.readouterr().err
  found = read(out, "forecasts")
  wanted = run.forecast(users=keys[::-1])  # The data set's order.
  assert found.drop("key").equals(wanted.drop("key"))
  hashed = [ids.hash_id(k, salt) for k in wanted["key"]]
  assert found["key"].to_list() == hashed
  bytes_ = b"".join(p.read_bytes() for p in out.rglob("*.parquet"))
  assert not any(k.encode() in bytes_ for k in keys)
  monkeypatch.delenv(ids.SALT, raising=False)
  with pytest.raises(ids.IdError, match="LUMOS_SALT"):
    export._salt(True)
  assert os.environ.get(ids.SALT) is None


def test_next_events_and_embeddings_of_events(tmp_path, monkeypatch):
  run, _, workdir = made(tmp_path, monkeypatch, fake_events)
  out = tmp_path / "out"
  export.export(workdir, out, k=4)
  assert read(out, "next_events").equals(run.next_events(k=4))
  assert read(out, "embeddings").equals(run.embed())
  each = tmp_path / "each"
  export.export(workdir, each, ["embeddings"], per_event=True)
  assert read(each, "embeddings").equals(run.embed(per_event=True))
  with pytest.raises(predictor.PredictError, match="no forecasts"):
    export.export(workdir, tmp_path / "none", ["forecasts"])


def test_data_fitted_otherwise_are_refused(tmp_path, monkeypatch):
  _, records, workdir = made(tmp_path, monkeypatch, fake)
  other = fake_events.Records()
  monkeypatch.setattr(records_lib.Records, "open", lambda path: other)
  with pytest.raises(checkpoint.CheckpointError, match="was not fitted as"):
    export.export(workdir, tmp_path / "out")
  del records


def test_the_command_line_tells_mistakes_in_a_line(tmp_path, capsys):
  import lumos_jax.main  # noqa: F401  Its flags share names with export's.

  argv = ["export", f"--workdir={tmp_path}", f"--out={tmp_path}/out"]
  with pytest.raises(SystemExit) as e:
    export.main(export._arguments(argv))
  assert e.value.code == 1
  assert "error:" in capsys.readouterr().err
