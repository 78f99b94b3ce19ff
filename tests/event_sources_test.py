"""The sources of events, on small files of the same form."""

import json

import numpy as np
import polars as pl
import pytest
import tiny_data
from lumos_jax.data_prep.inputs import InputError

from lumos_jax import data_prep
from lumos_jax.data import schema as schema_lib

SEQUENCES = "1 10 20 30 40\n2 20 30\n3 30 10 20 50 10\n"


def prepare(source, tmp_path, **options):
  path = data_prep.prepare(source, tmp_path / "data", quiet=True, **options)
  return tiny_data.read(path)


def items(data, record):
  field = data.schema.categorical("activity")[0]
  return [field.values[i - 2] for i in record["categorical"][:, 0]]


@pytest.mark.parametrize(
  "text",
  [
    SEQUENCES,
    "1 10 20 30 40\n2 20 30\n\n3 30 10 20\n3 50 10\n\n",
    "1 10\n1 20\n1 30\n1 40\n2 20\n2 30\n3 30\n3 10\n3 20\n3 50\n3 10\n",
  ],
)
def test_sequences_keep_their_order(tmp_path, text):
  file = tmp_path / "seq.txt"
  file.write_text(text)
  (tmp_path / "a.json").write_text(json.dumps({"10": [7, 3], "20": [7]}))
  data, users = prepare(
    "sequences", tmp_path, path=str(file), attributes="a.json", name="small"
  )
  assert data.path.name.startswith("small-")
  assert items(data, users["1"]) == ["10", "20", "30", "40"]
  assert items(data, users["3"]) == ["30", "10", "20", "50", "10"]
  seconds = users["1"]["time"] // 1_000_000
  assert seconds.tolist() == [0, 1, 2, 3]
  field = data.schema.activity[0]
  # By training events: 10 and 20 twice... ties by number, others last.
  assert field.values == ("10", "20", "30", "40", "50")
  assert field.attributes == ((1, 0), (1,), (), (), ())
  notes = data.stats["notes"]
  assert notes["users with fewer than 3 events"] == 1
  assert notes["items without a training event"] == 2
  more = "lines of several items that continue an earlier line's user"
  assert notes[more] == text.count("\n3 50 10")


@pytest.mark.parametrize(
  "text,words",
  [("", "no event"), ("1 2\n1 two\n", "line 2 is no user number")],
)
def test_bad_sequences_are_named(tmp_path, text, words):
  file = tmp_path / "seq.txt"
  file.write_text(text)
  with pytest.raises(InputError, match=words):
    prepare("sequences", tmp_path, path=str(file), name="bad")
  with pytest.raises(InputError, match="no file"):
    prepare("sequences", tmp_path, path="absent.txt", name="bad")
  good = tmp_path / "good.txt"
  good.write_text(SEQUENCES + "4\n")
  for text, words in (
    ("[1]", "item: .number"),
    ('{"10": 5}', "item 10: a list"),
    ('{"10": [1, "x"]}', "item 10: a list"),
    ("{", "is no JSON"),
  ):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match=f"bad.json.*{words}"):
      prepare(
        "sequences",
        tmp_path,
        path=str(good),
        name="bad",
        attributes=str(tmp_path / "bad.json"),
      )
  (tmp_path / "no.txt.gz").write_text("1 2 3")
  with pytest.raises(InputError, match="no.txt.gz cannot be read"):
    prepare("sequences", tmp_path, path=str(tmp_path / "no.txt.gz"), name="bad")
  (tmp_path / "a.json").write_text('{"10": [1], "99": [2]}')
  data, _ = prepare(
    "sequences", tmp_path, path=str(good), name="good", attributes="a.json"
  )
  notes = data.stats["notes"]
  assert notes["lines without an item"] == 1
  assert notes["items without attributes"] == 4
  assert notes["items with attributes that do not occur"] == 1
  with pytest.raises(InputError, match="needs name=NAME"):
    prepare("sequences", tmp_path, path=str(file))


def movielens(folder):
  folder.mkdir()
  movies = (
    "1::Toy (1995)::Animation|Comedy\n2::Heat (1988)::Action\n3::Odd::Drama"
  )
  (folder / "movies.dat").write_bytes((movies + "\n").encode("latin-1"))
  users = "1::F::1::10::48067\n2::M::56::16::70072\n"
  (folder / "users.dat").write_text(users)
  rows = [
    (1, 2, 4, 30),
    (1, 1, 5, 10),
    (2, 1, 3, 20),
    (2, 2, 1, 20),
    (2, 3, 2, 9),
  ]
  text = "\n".join("::".join(map(str, r)) for r in rows)
  (folder / "ratings.dat").write_text(text + "\n")
  return str(folder)


def test_movielens_in_order_of_time_then_file(tmp_path):
  folder = movielens(tmp_path / "ml")
  data, users = prepare("movielens", tmp_path, path=folder, min_events=2)
  assert items(data, users["1"]) == ["1", "2"]
  assert items(data, users["2"]) == ["1", "2"]  # Equal times: as in the file.
  assert data.stats["notes"]["ratings of users or movies with too few"] == 1
  assert [len(a) for a in data.schema.activity[0].attributes] == [3, 2]
  assert [f.name for f in data.schema.profile][:2] == ["gender", "age"]
  gender = data.schema.labels[0]
  found = {k: gender.values[int(u["label_value"][0])] for k, u in users.items()}
  assert found == {"1": "F", "2": "M"}


def test_movielens_as_the_sequence_benchmarks_give_it(tmp_path):
  folder = movielens(tmp_path / "ml")
  (tmp_path / "ml" / "ratings.dat").unlink()
  rows = [
    (2, 1, 0, 20, False, 1, 0),
    (1, 1, 5, 10, True, 2, 0),
    (2, 2, 1, 20, True, 1, 1),
    (1, 2, 4, 30, True, 2, 1),
  ]
  columns = "user_id movie_id rating timestamp ts_exact sas_user pos".split()
  frame = pl.DataFrame(rows, schema=columns, orient="row")
  frame.write_parquet(tmp_path / "ml" / "ml1m_sequences.parquet")
  data, users = prepare("movielens", tmp_path, path=folder, min_events=2)
  assert items(data, users["1"]) == items(data, users["2"]) == ["1", "2"]
  notes = data.stats["notes"]
  assert notes["interpolated times, replaced by the last exact one"] == 1
  rating = users["2"]["categorical"][:, 1]
  assert rating[0] == schema_lib.MISSING != rating[1]  # 0 is not known.


def test_movielens_says_what_is_absent_or_damaged(tmp_path):
  folder = movielens(tmp_path / "ml")
  (tmp_path / "ml" / "ratings.dat").write_text("1::2::3\n")
  with pytest.raises(InputError, match="line 1 has 3 parts, 4 are"):
    prepare("movielens", tmp_path, path=folder)
  (tmp_path / "ml" / "ratings.dat").unlink()
  with pytest.raises(InputError, match="lacks .*ratings.dat"):
    prepare("movielens", tmp_path, path=folder)


def test_movielens_without_files_or_network_says_what_to_do(
  tmp_path, monkeypatch
):
  from lumos_jax.data_prep.sources import movielens as source

  def refuse(*_, **__):
    raise OSError("no network")

  monkeypatch.delenv(source.ENVIRONMENT, raising=False)
  monkeypatch.setattr(source.urllib.request, "getproxies", dict)
  monkeypatch.setattr(source.socket, "create_connection", refuse)
  with pytest.raises(InputError, match="no network.*give path=FOLDER"):
    prepare("movielens", tmp_path)


CARDS = """User,Card,Year,Month,Day,Time,Amount,Use Chip,Merchant Name,\
Merchant City,Merchant State,Zip,MCC,Errors?,Is Fraud?
0,0,2015,9,1,06:21,$134.09,Swipe Transaction,352,La Verne,CA,9.0,5300,,No
0,1,2015,9,1,06:42,$-38.48,Chip Transaction,-72,Park,CA,9.0,5411,Bad PIN,No
0,0,2018,9,2,06:22,$120.34,Swipe Transaction,-72,Park,CA,9.0,5411,,Yes
1,0,2016,2,30,06:22,$1.00,Swipe Transaction,-72,Park,CA,9.0,5411,,No
1,0,2016,2,28,23:59,$1.00,Online Transaction,-72, ONLINE,,,5411,,No
"""


def test_tabformer_tokens_labels_and_rejects(tmp_path):
  file = tmp_path / "card_transaction.v1.csv"
  file.write_text(CARDS)
  data, users = prepare("tabformer", tmp_path, path=str(tmp_path))
  assert sorted(users) == ["0", "1"]
  numeric = data.schema.numeric_column("activity", "amount")
  amounts = users["0"]["numeric"][:, numeric]
  np.testing.assert_allclose(amounts, [134.09, -38.48, 120.34], rtol=1e-6)
  # Of each payment.
  assert users["0"]["label_value"].tolist() == [0.0, 0.0, 1.0]
  assert users["0"]["label_event"].tolist() == [0, 1, 2]
  # The 30th of February.
  assert sum(data.stats["rejected"]["activity"].values()) == 1
  names = [f.name for f in data.schema.categorical("activity")]
  hour = users["1"]["categorical"][:, names.index("hour")]
  assert hour.tolist() == [23 + 2]
  assert data.stats["composites"]["token"]["tokens"] == 0


def test_tabformer_says_what_is_wrong(tmp_path):
  with pytest.raises(InputError, match="needs path=FILE"):
    prepare("tabformer", tmp_path)
  file = tmp_path / "card_transaction.v1.csv"
  file.write_text(CARDS.replace("MCC", "Code"))
  with pytest.raises(InputError, match="no column 'MCC'"):
    prepare("tabformer", tmp_path, path=str(file))
  file.write_text(CARDS)
  with pytest.raises(InputError, match="write a date"):
    prepare("tabformer", tmp_path, path=str(file), train_until="soon")
