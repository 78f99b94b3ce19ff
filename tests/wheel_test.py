"""A wheel works without a checkout and adds no package but its own."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = ("lumos_jax", "data_prep", "configs")
TOP_LEVEL = {"lumos_jax"}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None,
    reason='needs pip install -e ".[test]"',
  ),
]


def call(*argv, cwd):
  done = subprocess.run(
    [str(a) for a in argv],
    cwd=cwd,
    capture_output=True,
    text=True,
    env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "JAX_PLATFORMS": "cpu"},
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The built wheel; the sources are copied, since a build writes beside them."""
  root = tmp_path_factory.mktemp("source")
  for name in SOURCE:
    if (ROOT / name).is_dir():
      ignore = shutil.ignore_patterns("__pycache__")
      shutil.copytree(ROOT / name, root / name, ignore=ignore)
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, root)
  pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet")
  out = root / "dist"
  call(*pip, "--no-build-isolation", f"--wheel-dir={out}", root, cwd=root)
  (found,) = out.glob("*.whl")
  return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
  """Folder of a new environment's programs: the wheel and this one's libraries."""
  where = tmp_path_factory.mktemp("environment")
  venv.create(where, with_pip=False)
  base = {"base": str(where), "platbase": str(where)}
  site = pathlib.Path(sysconfig.get_path("purelib", vars=base))
  # First the wheel's, then those of the environment that runs this test.
  libraries = sysconfig.get_path("purelib")
  (site / "libraries.pth").write_text(f"{libraries}\n")
  python = where / "bin" / "python"
  pip = (sys.executable, "-m", "pip", f"--python={python}", "install")
  call(*pip, "--no-deps", "--quiet", "--no-index", wheel, cwd=where)
  return where / "bin"


def test_wheel_has_the_files_that_are_not_python(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  for name in (
    "py.typed",
    "llm/lexicon.json",
    "report/style.css",
    "report/report.js",
  ):
    assert f"lumos_jax/{name}" in names


def test_wheel_adds_one_top_level_package(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  top = {n.split("/")[0] for n in names}
  assert {n for n in top if not n.endswith(".dist-info")} == TOP_LEVEL


def test_wheel_works_without_a_checkout(installed, tmp_path):
  script = "import lumos_jax; print(lumos_jax.__file__)"
  where = call(installed / "python", "-c", script, cwd=tmp_path).strip()
  assert pathlib.Path(where).is_relative_to(installed.parent)
  assert "train" in call(installed / "lumos", "--help", cwd=tmp_path)
  sources = call(installed / "lumos", "data_prep", "--list", cwd=tmp_path)
  assert "complete_journey" in sources


def test_shipped_config_is_found_by_name(installed, tmp_path):
  """A config is read before help is shown."""
  flags = ("--config=pretrain:smoke", "--config.train.steps=0", "--help")
  assert "workdir" in call(installed / "lumos", "train", *flags, cwd=tmp_path)
