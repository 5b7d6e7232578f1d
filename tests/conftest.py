"""Environment of the whole suite: set before JAX touches a device."""

import gc
import os
import pathlib
import tempfile

# Collectives over fake devices hang with jax < 0.12 when XLA's pool is as small as the
# machine; see the README's notes on testing.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(tempfile.gettempdir()) / "miue_jax_xla"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Frees what a file has compiled: a process may map only so many pieces of code."""
    yield
    jax.clear_caches()
    gc.collect()
