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

from miue_jax import cli
from miue_jax.train import parallel

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Frees what a file has compiled: a process may map only so many pieces of code."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def one_device(monkeypatch):
    """Runs on one device: collectives over fake ones are slow."""
    real, one = parallel.data_mesh, jax.devices()[:1]
    monkeypatch.setattr(
        parallel, "data_mesh", lambda devices=None: real(devices or one)
    )


@pytest.fixture
def miue(monkeypatch, capfd, one_device):
    """Runs the command in this process; returns its status, output and errors."""
    # This process has touched its devices: it is too late to look for others.
    monkeypatch.setattr(parallel, "initialize_processes", lambda **_: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        return cli.main(list(map(str, arguments))), *capfd.readouterr()

    return run
