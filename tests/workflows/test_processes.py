"""Runs of several processes: they agree or end, and outlive the loss of one."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import clusters
import pytest

from miue_jax.train import checkpoints
from miue_jax.workflows import protect

ROOT = pathlib.Path(__file__).parents[2]

_OPTIONS = (
    *("protect", "shapes", "--data.per-class=10", "--generator=mi_ue/interleaved"),
    *("--generator.model=lenet5", "--generator.batch-size=20", "--quiet"),
)


@pytest.fixture
def start():
    """Starts commands that end with the test."""
    with clusters.starting() as start_one:
        yield start_one


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    ["--seed=1", "--data.seed=1", "--generator.radius=4", "--generator.crop=40"],
)
def test_processes_that_disagree_end_before_anything_is_written(tmp_path, start, other):
    arguments = (*_OPTIONS, "--generator.epochs=2", f"--workdir={tmp_path / 'run'}")
    processes = [
        start(*arguments, *extra, env=env)
        for extra, env in zip([(), (other,)], clusters.cluster(), strict=True)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 2, errors
        assert len(clusters.lines(errors)) == 1, errors
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

    processes = [start(*arguments, run, env=env) for env in clusters.cluster()]
    folder = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not [*folder.glob("*/sha256.json")]:
        time.sleep(0.05)
    processes[lost].kill()
    _, errors = processes[1 - lost].communicate(timeout=100)
    assert processes[1 - lost].returncode not in (0, -signal.SIGABRT)
    assert clusters.lines(errors) == [
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


# Several processes and one with as many devices.


# The sum over four devices is rounded otherwise in one process and in four.
_SPLIT = {2: ("--num-shards=2",), 4: ("--num-shards=4", "--device-invariant")}


@pytest.mark.slow
@pytest.mark.parametrize("count", _SPLIT)
def test_processes_make_the_bytes_of_one_with_as_many_devices(tmp_path, start, count):
    protect_ = (*_OPTIONS, "--generator.epochs=3", *_SPLIT[count])
    evaluate_ = (
        *("evaluate", "shapes", "shapes", "--train.per-class=8", "--test.per-class=4"),
        *("--victim.model=lenet5", "--victim.epochs=2", "--victim.batch-size=16"),
        *("--seeds", "0", "--quiet", *_SPLIT[count]),
    )
    one = {"JAX_NUM_CPU_DEVICES": str(count)}
    for name, arguments in (("protect", protect_), ("evaluate", evaluate_)):
        for folder, environments in (("one", [one]), ("many", clusters.cluster(count))):
            where = f"--workdir={tmp_path / folder / name}"
            clusters.finish([start(*arguments, where, env=env) for env in environments])
    for name in (
        *(f"protect/{protect.ARTIFACT}", "protect/protected.delta.npy"),
        "evaluate/results.json",
    ):
        one_, many = (tmp_path / folder / name for folder in ("one", "many"))
        assert one_.read_bytes() == many.read_bytes(), name


_INVARIANT = (
    *(*_OPTIONS, "--generator.epochs=40", "--checkpoint-every=20"),
    *("--num-shards=4", "--device-invariant"),
)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    """The directory of a run that was not, on two devices of one process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "miue_jax", *_INVARIANT, f"--workdir={folder}"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (2, 1)])
def test_a_killed_run_is_resumed_by_another_number_of_processes(
    tmp_path, start, never_killed, before, after
):
    run = f"--workdir={tmp_path / 'run'}"
    processes = [start(*_INVARIANT, run, env=env) for env in clusters.cluster(before)]
    folder = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline and not [*folder.glob("*/sha256.json")]:
        time.sleep(0.05)
    processes[-1].kill()
    for process in processes[:-1]:
        _, errors = process.communicate(timeout=200)
        assert process.returncode not in (0, -signal.SIGABRT)
        assert f"lost process {before - 1} of this run" in errors
    assert not (tmp_path / "run" / protect.ARTIFACT).exists(), "it was killed too late"
    with checkpoints.Checkpoints(folder, read_only=True) as saved:
        assert saved.latest_step

    clusters.finish(
        [start(*_INVARIANT, run, env=env) for env in clusters.cluster(after)]
    )
    for name in (protect.ARTIFACT, "protected.delta.npy"):
        whole, resumed = (place / name for place in (never_killed, tmp_path / "run"))
        assert whole.read_bytes() == resumed.read_bytes(), name


# What each of them holds of the data.

_SHARES = """
import sys
import jax, numpy as np
from miue_jax.train import parallel, sampling

parallel.initialize_processes()
read = []

class Watched(np.ndarray):
    def __getitem__(self, index):
        found = super().__getitem__(index)
        read.append(found.nbytes)
        return found

images = np.arange(12 * 8 * 8 * 3, dtype=np.uint8).reshape(12, 8, 8, 3)
shards = sampling.deal(images, np.arange(12) % 2, 4)
shards = shards._replace(images=shards.images.view(Watched))
placed = parallel.place(shards, parallel.data_mesh(), parallel.DATA_SPEC).images
index = jax.process_index()
own = [np.asarray(shard.data) for shard in placed.addressable_shards]
assert sum(x.nbytes for x in own) == sum(read) == images.nbytes // 2, (own, read)
np.testing.assert_array_equal(np.concatenate(own)[0], images[2 * index :: 4])
np.testing.assert_array_equal(np.concatenate(own)[1], images[2 * index + 1 :: 4])
np.testing.assert_array_equal(parallel.to_host(placed)[3], images[3::4])
"""


def _slurm() -> list[dict[str, str]]:
    """What srun tells two tasks on this machine."""
    return [
        {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
            "JAX_NUM_CPU_DEVICES": "1",
        }
        for index in range(2)
    ]


@pytest.mark.parametrize("cluster", [clusters.cluster, _slurm])
def test_a_process_places_its_own_share_of_the_data_only(monkeypatch, cluster):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SHARES],
            cwd=ROOT,
            env=os.environ | env,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for env in cluster()
    ]
    clusters.finish(processes)


_GATHERING = """
import jax
import numpy as np
from miue_jax.train import parallel

parallel.initialize_processes()
mesh, rows = parallel.data_mesh(), 5
whole = np.arange(2 * rows * 3, dtype=np.int8).reshape(2, rows, 3)
own = jax.sharding.NamedSharding(mesh, parallel.DATA_SPEC)
array = jax.make_array_from_callback(whole.shape, own, lambda at: whole[at])
parallel._GATHERED = 2 * 2 * 3  # two rows of either shard; the last block has one
seen = []
gather = parallel.multihost_utils.process_allgather
parallel.multihost_utils.process_allgather = lambda part, **more: (
    seen.append(part.shape) or gather(part, **more)
)
found = parallel.to_first_host(array)
assert seen == [(2, 2, 3), (2, 2, 3), (2, 1, 3)], seen
if jax.process_index() == 0:
    np.testing.assert_array_equal(found, whole)
else:
    assert found is None, found
same = parallel.to_first_host(whole)
assert (same is None) == (jax.process_index() > 0)
"""


def test_the_first_process_alone_has_all_rows(start):
    environments = clusters.cluster()
    clusters.finish([start(program=_GATHERING, env=env) for env in environments])


def test_a_process_to_which_no_other_comes_says_so_in_time(tmp_path, start):
    (_, second) = clusters.cluster()
    process = start(
        *(*_OPTIONS, f"--workdir={tmp_path / 'run'}"),
        env={**second, "MIUE_JOIN_TIMEOUT": "2"},
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors == (
        "miue: this process cannot join a run: after 2 seconds, not all processes have "
        "come; start all of them, with one address of process 0\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_not_free_is_named(tmp_path, start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (first, _) = clusters.cluster()
        process = start(
            *(*_OPTIONS, f"--workdir={tmp_path / 'run'}"),
            env={**first, "JAX_COORDINATOR_ADDRESS": f"localhost:{port}"},
        )
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors == (
        "miue protect: JAX_COORDINATOR_ADDRESS: process 0 cannot listen on port "
        f"{port} (address already in use); allowed: a free one\n"
    )
    assert not (tmp_path / "run").exists()
