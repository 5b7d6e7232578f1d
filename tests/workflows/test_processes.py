"""Runs of several processes: they agree or end, and outlive the loss of one."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from miue_jax.train import checkpoints
from miue_jax.workflows import protect

ROOT = pathlib.Path(__file__).parents[2]

_OPTIONS = (
    *("protect", "shapes", "--data.per-class=10", "--generator=mi_ue/interleaved"),
    *("--generator.model=lenet5", "--generator.batch-size=20", "--quiet"),
)


@pytest.fixture
def start(monkeypatch):
    """Starts commands that end with the test."""
    for name, value in {"JAX_PLATFORMS": "cpu", "NPROC": "16"}.items():
        monkeypatch.setenv(name, value)
    processes = []

    def start_one(*arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "miue_jax", *arguments],
            cwd=ROOT,
            env={**os.environ, **env},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def _cluster() -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        {
            **common,
            "JAX_PROCESS_ID": str(index),
            "JAX_NUM_CPU_DEVICES": "1",
            "MIUE_HEARTBEAT_TIMEOUT": "10",
        }
        for index in range(2)
    ]


def _lines(text: str) -> list[str]:
    # The transport reports how many it has connected.
    return [line for line in text.splitlines() if not line.startswith("[Gloo]")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    ["--seed=1", "--data.seed=1", "--generator.radius=4", "--generator.crop=40"],
)
def test_processes_that_disagree_end_before_anything_is_written(tmp_path, start, other):
    arguments = (*_OPTIONS, "--generator.epochs=2", f"--workdir={tmp_path / 'run'}")
    processes = [
        start(*arguments, *extra, env=env)
        for extra, env in zip([(), (other,)], _cluster(), strict=True)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 2, errors
        assert len(_lines(errors)) == 1, errors
        assert other.strip("-").split("=")[0].rpartition(".")[2] in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_is_named_and_the_run_resumes_without_it(tmp_path, start, lost):
    arguments = (*_OPTIONS, "--generator.epochs=60", "--checkpoint-every=50")
    run = f"--workdir={tmp_path / 'run'}"
    whole = start(
        *arguments,
        f"--workdir={tmp_path / 'whole'}",
        env={"JAX_NUM_CPU_DEVICES": "2"},
    )
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors

    processes = [start(*arguments, run, env=env) for env in _cluster()]
    folder = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not [*folder.glob("*/sha256.json")]:
        time.sleep(0.05)
    processes[lost].kill()
    _, errors = processes[1 - lost].communicate(timeout=100)
    assert processes[1 - lost].returncode not in (0, -signal.SIGABRT)
    assert _lines(errors) == [
        f"miue: lost process {lost} of this run; rerun the same command in all "
        "processes to resume"
    ]
    assert not (tmp_path / "run" / protect.ARTIFACT).exists(), "it was killed too late"
    with checkpoints.Checkpoints(folder, read_only=True) as saved:
        assert saved.latest_step

    # Where one process has as many devices, it can go on alone.
    alone = start(*arguments, run, env={"JAX_NUM_CPU_DEVICES": "2"})
    _, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    for name in (protect.ARTIFACT, "protected.delta.npy"):
        one, other = (tmp_path / folder / name for folder in ("whole", "run"))
        assert one.read_bytes() == other.read_bytes(), name
