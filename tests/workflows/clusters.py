"""Several processes of one run, on one machine."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

ROOT = pathlib.Path(__file__).parents[2]


def cluster(count: int = 2, devices: int = 1) -> list[dict[str, str]]:
    """The environments of as many processes, each with as many devices."""
    own = {
        **{"JAX_PLATFORMS": "cpu", "NPROC": "16", "PYTHONPATH": str(ROOT)},
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    if count == 1:
        return [own]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {
        **own,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "MIUE_HEARTBEAT_TIMEOUT": "20",
    }
    return [{**common, "JAX_PROCESS_ID": str(index)} for index in range(count)]


def lines(text: str) -> list[str]:
    """What a command has written."""
    # The transport reports how many it has connected.
    return [line for line in text.splitlines() if not line.startswith("[Gloo]")]


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts commands that end with the context."""
    processes = []

    def start(
        *arguments: object, env: dict[str, str], program: str = ""
    ) -> subprocess.Popen[str]:
        what = ["-c", program] if program else ["-m", "miue_jax"]
        process = subprocess.Popen(
            [sys.executable, *what, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **env},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Waits for processes that must succeed."""
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
