"""Streamed runs of several processes give the bytes of those in memory."""

import json
import signal
import time

import clusters
import numpy as np
import pytest

from miue_jax.train import checkpoints
from miue_jax.workflows import evaluate, protect

_slow = pytest.mark.slow

# The command with windows of some batches.
_NARROW = """
import sys
from miue_jax import cli
from miue_jax.train import windows
windows.LARGEST = 10_000
sys.exit(cli.main(sys.argv[1:]))
"""

# The same, where the third window cannot be read in one of the processes.
_BROKEN = f"""
from miue_jax.train import windows
real, calls = windows.Source.read, []
def read(*given):
    calls.append(given)
    if len(calls) > 2:
        raise OSError("the disk is gone")
    return real(*given)
windows.Source.read = read
{_NARROW}
"""

_MODEL = ("--generator.model=mlp2", "--generator.width=16", "--generator.batch-size=16")
_EXACT = ("--num-shards=4", "--device-invariant", "--quiet")
_FILES = (protect.ARTIFACT, "protected.delta.npy")


@pytest.fixture
def start():
    with clusters.starting() as start_one:
        yield start_one


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    sizes = {"train": 77, "test": 50}
    images = {
        f"x_{k}": rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for k, n in sizes.items()
    }
    labels = {f"y_{k}": np.arange(n) % 3 for k, n in sizes.items()}
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **images, **labels)
    return path


def _protect(data, epochs, *options):
    return ["protect", data, *_MODEL, f"--generator.epochs={epochs}", *_EXACT, *options]


def _run(start, folder, command, count=1):
    environments = clusters.cluster(count, devices=4 // count)
    where = f"--workdir={folder}"
    clusters.finish(
        [start(*command, where, program=_NARROW, env=env) for env in environments]
    )


def _bytes(folder):
    """What a run made, and its metrics without the seconds."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    values = [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]
    return [(folder / name).read_bytes() for name in _FILES] + [json.dumps(values)]


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory, data):
    """The bytes of a run in memory."""
    folder = tmp_path_factory.mktemp("memory") / "run"
    with clusters.starting() as start_one:
        _run(start_one, folder, _protect(data, 3, "--checkpoint-every=7"))
    return _bytes(folder)


@_slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_give_the_bytes_of_a_run_in_memory(
    tmp_path, start, data, in_memory, count
):
    command = _protect(data, 3, "--checkpoint-every=7", "--stream")
    folder = tmp_path / "run"
    _run(start, folder, command, count)
    assert _bytes(folder) == in_memory
    shards = sorted(path.name for path in (folder / "rows").iterdir())
    assert shards == [f"shard_{shard:05d}" for shard in range(4)]
    # A finished run is checked and read, also by another number of processes.
    _run(start, folder, command, count // 2)
    assert _bytes(folder) == in_memory


@_slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (4, 2), (2, 4), (1, 2)])
def test_a_killed_run_is_resumed_by_another_number_of_processes(
    tmp_path, start, data, before, after
):
    command = _protect(data, 60, "--checkpoint-every=15", "--stream")
    _run(start, tmp_path / "whole", command)
    folder = tmp_path / "run"
    processes = [
        start(*command, f"--workdir={folder}", program=_NARROW, env=env)
        for env in clusters.cluster(before, devices=4 // before)
    ]
    digests, deadline = folder / "checkpoints", time.monotonic() + 500
    while time.monotonic() < deadline and len([*digests.glob("*/sha256.json")]) < 2:
        time.sleep(0.02)
    processes[-1].kill()
    for process in processes[:-1]:
        process.communicate(timeout=200)
        assert process.returncode not in (0, -signal.SIGABRT)
    assert not (folder / protect.ARTIFACT).exists(), "it was killed too late"
    with checkpoints.Checkpoints(folder / "checkpoints", read_only=True) as saved:
        assert saved.latest_step
    _run(start, folder, command, after)
    assert _bytes(folder) == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("broken", [1, pytest.param(0, marks=_slow)])
def test_where_one_process_cannot_read_all_end(tmp_path, start, data, broken):
    command = _protect(data, 20, "--stream", f"--workdir={tmp_path / 'run'}")
    processes = [
        start(*command, program=_BROKEN if index == broken else _NARROW, env=env)
        for index, env in enumerate(clusters.cluster(2, devices=2))
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 2, errors
        (line,) = clusters.lines(errors)
        assert "the disk is gone" in line


@_slow
@pytest.mark.parametrize("count", [2, 4])
def test_victims_give_the_results_of_a_run_in_memory(tmp_path, start, data, count):
    command = (
        *("evaluate", data, data, "--victim.model=mlp2", "--victim.width=16"),
        *("--victim.batch-size=16", "--victim.epochs=2", "--seeds", "0", *_EXACT),
    )
    _run(start, tmp_path / "memory", command)
    _run(start, tmp_path / "streamed", [*command, "--stream"], count)
    results = [
        (tmp_path / name / evaluate.RESULTS).read_bytes()
        for name in ("memory", "streamed")
    ]
    assert results[0] == results[1]
