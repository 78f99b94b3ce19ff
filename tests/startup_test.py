"""Where compiled programs are kept, and options that XLA may not know."""

import pathlib

import jax
import pytest

from lumos_jax import startup


@pytest.fixture
def no_cache():
  """jax's setting is the process's own: put back behind the test."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch, no_cache):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  startup.keep_compilations()
  found = pathlib.Path(jax.config.jax_compilation_cache_dir)
  assert found.parent == tmp_path / "lumos_jax" and found.is_dir()


def test_a_chosen_place_stays(tmp_path, monkeypatch, no_cache):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
  startup.keep_compilations()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path)
  assert not (tmp_path / "other").exists()


def test_a_home_that_cannot_be_written_is_no_error(
  tmp_path, monkeypatch, no_cache
):
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  startup.keep_compilations()
  assert not jax.config.jax_compilation_cache_dir


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
  startup.compiler_options.cache_clear()
  monkeypatch.setattr(startup, "_CPU", {"xla_cpu_no_such_option": ""})
  assert startup.compiler_options("cpu") is None
  startup.compiler_options.cache_clear()
  assert startup.compiler_options("tpu") is None
