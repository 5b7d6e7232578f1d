"""Runs and sweeps whose directories lie in buckets: as local ones, byte for byte."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from sweep_results import content, write_data

from miue_jax import generators, victims
from miue_jax.data import DataSource, artifact, bucket
from miue_jax.train import lease, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.evaluate import EvaluateConfig
from miue_jax.workflows.protect import ProtectConfig
from miue_jax.workflows.sweep import plan, run, status, tasks
from miue_jax.workflows.sweep.plan import Sweep

ROOT = pathlib.Path(__file__).parents[2]

# On both services where the slow tests run, too.
mostly_s3 = pytest.mark.parametrize(
    "remote", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True
)

TINY = victims.preset("quick", model="linear", epochs=2, batch_size=8)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data.npz")


@pytest.fixture
def brief(monkeypatch):
    """Locks are renewed twice a second, and whoever waits for one sees that soon."""
    monkeypatch.setattr(lease, "SECONDS", 2.0)


def protecting(data, **settings):
    return ProtectConfig(
        data=DataSource(data), generator=generators.spec("random_noise"), **settings
    )


def evaluating(train, data, **settings):
    given = {"victim": TINY, "defense": "grayscale", "seeds": (0,), **settings}
    test = DataSource(data, split="test")
    return EvaluateConfig(train=DataSource(train), test=test, **given)


def held(remote):
    """All that a directory holds but its lock."""
    with bucket.local(remote) as copy:
        return {
            path.relative_to(copy).as_posix(): path.read_bytes()
            for path in copy.rglob("*")
            if path.is_file() and ".lock" not in path.parts
        }


def test_runs_are_those_of_a_local_directory(
    remote, data, tmp_path, one_device, empty_disk
):
    config = protecting(data)
    protect.run(config, tmp_path / "local", progress=False)
    made = protect.run(config, remote / "em", progress=False)
    found = held(remote / "em")
    for name in ("protected.npz", "protected.delta.npy", "config.json"):
        assert found[name] == (tmp_path / "local" / name).read_bytes()
    there = (p.relative_to(tmp_path / "local") for p in (tmp_path / "local").rglob("*"))
    files = {p.as_posix() for p in there if (tmp_path / "local" / p).is_file()}
    # Orbax names the files of its database at random.
    hide = lambda names: {re.sub(r"[0-9a-f]{32}$", "", name) for name in names}  # noqa: E731
    assert hide(found) == hide(files - {".lock", ".config.lock"})
    # Again, it is read.
    again = protect.run(config, remote / "em", progress=False)
    assert again.metadata == made.metadata

    train = str(remote / "em" / "protected.npz")
    local = evaluating(str(tmp_path / "local" / "protected.npz"), data)
    here = evaluate.run(local, tmp_path / "victims", progress=False)
    there = evaluate.run(evaluating(train, data), remote / "victims", progress=False)
    assert there["train"]["name"] == train
    assert {**there, "train": 0} == {**here, "train": 0}
    stored = run_directory.read_json(remote / "victims" / "results.json")
    assert stored == there
    assert "purified.npz" not in held(remote / "victims")


@mostly_s3
def test_whatever_write_fails_the_next_run_ends_with_the_same_bytes(
    remote, data, tmp_path, one_device, monkeypatch
):
    config = evaluating(data, data, seeds=(0,))
    whole = evaluate.run(config, tmp_path / "whole", progress=False)
    put, left = bucket.put, [0]

    def fail(file, address):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(f"{address}: no answer")
        put(file, address)

    monkeypatch.setattr(bucket, "put", fail)
    failures = 0
    # A checkpoint has some ten files: now one, now another is the last that arrives.
    for written in (0, 6, 14, 20):
        left[0] = written
        try:
            evaluate.run(config, remote, progress=False)
        except OSError:
            failures += 1
    assert failures >= 3
    left[0] = 10**6
    assert evaluate.run(config, remote, progress=False) == whole


def test_a_run_that_another_process_works_on_is_left_alone(
    remote, data, one_device, miue, brief
):
    with lease.hold(remote / ".lock"):
        status_, _, errors = miue(
            *("protect", data, "--generator", "random_noise", "--quiet"),
            f"--workdir={remote}",
        )
    assert status_ == 2
    lines = errors.strip().splitlines()
    assert lines[-1].startswith(
        f"miue protect: another process is working in {remote}: process {os.getpid()}"
    )
    assert lines[:-1] in ([], [lines[0]])
    assert held(remote) == {}


@mostly_s3
def test_a_run_that_lost_its_lock_writes_no_more(remote, data, one_device, monkeypatch):
    build = artifact.build

    def take_over(*args, **kwargs):
        number, *_ = lease._last(remote / ".lock")
        assert lease._append(remote / ".lock", number, "process 1 of elsewhere", 60.0)
        monkeypatch.setattr(lease, "SECONDS", 0.0)  # it is time to renew the lock
        return build(*args, **kwargs)

    monkeypatch.setattr(artifact, "build", take_over)
    with pytest.raises(run_directory.Busy, match="another process took over"):
        protect.run(protecting(data), remote, progress=False)
    assert "protected.npz" not in held(remote)


@mostly_s3
def test_other_settings_are_refused(remote, data, one_device):
    protect.run(protecting(data), remote, progress=False)
    before = held(remote)
    with pytest.raises(ValueError, match=f"^{remote} holds a run of another config"):
        protect.run(protecting(data, seed=1), remote, progress=False)
    with pytest.raises(ValueError, match=f"{remote} holds a run already"):
        protect.run(protecting(data), remote, resume=False, progress=False)
    assert held(remote) == before
    with pytest.raises(ValueError, match=f"{remote.parent} is not empty and holds no"):
        protect.run(protecting(data), remote.parent, progress=False)


@mostly_s3
def test_a_run_that_fails_at_once_leaves_nothing(
    remote, data, one_device, monkeypatch, empty_disk
):
    def fail(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr(protect, "_generate", fail)
    with pytest.raises(ValueError, match="no"):
        protect.run(protecting(data), remote, progress=False)
    assert bucket.listing(remote) == {}


@mostly_s3
def test_a_message_names_the_address(remote, data, one_device):
    protect.run(protecting(data), remote, progress=False)
    with bucket.local(remote) as copy:
        delta = copy / "protected.delta.npy"
        delta.write_bytes(delta.read_bytes()[:-4] + b"\1\1\1\1")
        bucket.put(delta, remote / "protected.delta.npy")
    with pytest.raises(ValueError, match=f"^{remote}/protected.delta.npy is damaged"):
        protect.run(protecting(data), remote, progress=False)


@pytest.fixture
def sweep(data, one_device):
    return Sweep(
        data=data,
        generators={"clean": None, "noise": "random_noise"},
        victims={"small": {"model": "linear", "epochs": 1, "batch_size": 8}},
    )


@mostly_s3
def test_a_sweep_is_that_of_a_local_directory(remote, sweep, tmp_path, empty_disk):
    results = run.run(sweep, tmp_path / "local", progress=False)
    names = [task.name for task in tasks.tasks(sweep)]
    assert names == ["noise", "clean-none-small-seed_0", "noise-none-small-seed_0"]
    with pytest.raises(ValueError, match="waits for noise"):
        tasks.run_task(sweep, remote, names[2])
    for name in names[:2]:
        assert tasks.run_task(sweep, remote, name) is None
    found = status.status(sweep, remote)
    assert list(found.states.values()) == ["done", "done", "waiting"]
    assert found.seconds_left is not None
    with lease.hold(remote / "cells" / names[2] / ".lock"):
        assert status.status(sweep, remote).states[names[2]] == "running"
    assert run.run(sweep, remote, progress=False)["cells"] == results["cells"]
    with bucket.local(remote) as copy:
        assert content(copy, str(remote)) == content(tmp_path / "local")
        table = (copy / "table.md").read_text()
    assert table == (tmp_path / "local" / "table.md").read_text()


@mostly_s3
def test_two_sweeps_of_different_settings_in_one_place(remote, sweep, data):
    tasks.run_task(sweep, remote, "noise")
    before = held(remote)
    for changed in (
        {"generator_seed": 1},
        {"generators": {"clean": None, "noise": "one_pixel"}},
    ):
        plain = {**sweep.to_plain(), **changed}
        with pytest.raises(ValueError, match="holds a run of another configuration"):
            tasks.run_task(Sweep(**plain), remote, "noise")
    assert held(remote) == before


@mostly_s3
def test_two_processes_share_a_sweep(remote, sweep, data, monkeypatch):
    """The cell of the other process is waited for, not run again."""
    cell = plan.cells(sweep)[0]
    trained = []
    train = evaluate._train
    monkeypatch.setattr(
        evaluate, "_train", lambda *a, **k: trained.append(a) or train(*a, **k)
    )
    monkeypatch.setattr(run, "_SECONDS_TO_WAIT", 0.1)
    other = lease._take(cell.folder(remote) / ".lock")
    looked = []

    def is_locked(folder, real=run_directory.is_locked):
        looked.append(folder)
        if looked.count(cell.folder(remote)) > 2:
            other.give_back()
            other.lost = True
        other.renew()
        return real(folder)

    monkeypatch.setattr(run_directory, "is_locked", is_locked)
    assert run.run(sweep, remote, progress=False)["done"] == 2
    assert len(trained) == 2
    assert looked.count(cell.folder(remote)) > 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["protect", "DATA", "--generator", "random_noise", "--workdir", "ADDRESS"],
        ["protect", "ADDRESS", "--generator", "random_noise", "--workdir", "run"],
        ["evaluate", "DATA", "DATA", "--victim.model", "linear", "--workdir=ADDRESS"],
        ["protect", "DATA", "--generator.model=mlp2", "--stream", "--workdir=ADDRESS"],
        ["protect", "ADDRESS", "--stream", "--workdir", "run"],
        ["sweep", "DATA", "--workdir", "ADDRESS"],
        ["sweep", "status", "--workdir", "ADDRESS"],
        ["export", "ADDRESS", "--png", "png"],
        ["detect", "ADDRESS", "DATA"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_missing_bucket_is_one_line(
    arguments, s3_server, data, tmp_path, monkeypatch, miue
):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    bucket._file_system("s3").clear_instance_cache()
    address = "s3://no-such-bucket/x.npz"
    given = [a.replace("ADDRESS", address).replace("DATA", data) for a in arguments]
    status_, output, errors = miue(*given)
    assert (status_, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert re.search(f"{address}\\S*: there is no bucket no-such-bucket", errors)
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["protect-folder", "s3://b/in", "out"],
        ["protect", "in", "s3://b/out"],
        ["fit-protector", "s3://b/in", "--output", "x.safetensors"],
        ["import", "delta.npy", "shapes", "--output", "gs://b/x.npz"],
        ["table", "gs://b/results.json"],
        ["demo", "--workdir", "gs://b/demo"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_where_only_local_paths_will_do(arguments, tmp_path, monkeypatch, miue):
    monkeypatch.chdir(tmp_path)
    status_, output, errors = miue(*arguments)
    assert (status_, output) == (2, "")
    assert re.search(r"(s3|gs)://b/\S+; allowed here: a local path\n$", errors)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_cannot_share_a_run(remote, data, one_device, monkeypatch):
    monkeypatch.setattr(run_directory.jax, "process_count", lambda: 2)
    with (
        pytest.raises(ValueError, match="a bucket is for runs of one process"),
        run_directory.open_directory(remote, {"seed": 0}, resume=True),
    ):
        pass
    assert bucket.listing(remote) == {}


_PROGRAM = """
import sys
from miue_jax import cli
from miue_jax.train import lease
lease.SECONDS = 2.0
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_trace_in_the_result(
    remote, data, tmp_path, one_device
):
    """Resumed on another machine, as it were: with an empty disk."""
    arguments = ["evaluate", data, data, "--victim.model=linear", "--quiet"]
    arguments += ["--victim.epochs=16", "--victim.batch-size=8", "--seeds", "0"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}

    def start(workdir, scratch):
        (tmp_path / scratch).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments, f"--workdir={workdir}"],
            cwd=ROOT,
            env={**environment, "TMPDIR": str(tmp_path / scratch)},
            stderr=subprocess.PIPE,
            text=True,
        )

    whole = start(tmp_path / "whole", "scratch")
    _, errors = whole.communicate(timeout=200)
    assert whole.returncode == 0, errors
    killed = start(remote, "first")
    checkpoints = remote / "seed_0" / "checkpoints"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and killed.poll() is None:
        names = {name.partition("/")[0] for name in bucket.listing(checkpoints)}
        if any(int(name) > 25 for name in names):
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    _, errors = killed.communicate()
    assert killed.returncode == -9, errors
    assert not (remote / "results.json").exists(), "it was stopped too late"
    resumed = start(remote, "second")
    _, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert (remote / "results.json").read_bytes() == (
        tmp_path / "whole" / "results.json"
    ).read_bytes()
    steps = [
        json.loads(line)["step"]
        for line in (remote / "seed_0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))
    assert list((tmp_path / "second").iterdir()) == []
