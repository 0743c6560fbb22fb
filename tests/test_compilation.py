"""Where compiled programs are kept."""

import jax
import pytest

from stvsr_jax import compilation


@pytest.fixture(autouse=True)
def restore_config():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_accelerators_keep_programs_in_the_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "stvsr_jax" / "compiled")


def test_a_directory_that_is_set_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_cpus_keep_none():
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
