"""Data larger than memory in buckets: the bytes of local runs in memory."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sweep_results import write_data

from miue_jax import generators, victims
from miue_jax.data import DataSource, artifact, bucket, stream
from miue_jax.train import windows
from miue_jax.workflows import evaluate, protect

ROOT = pathlib.Path(__file__).parents[2]

_FILES = (protect.ARTIFACT, "protected.delta.npy")

# On both services where the slow tests run, too.
mostly_s3 = pytest.mark.parametrize(
    "remote", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def data(tmp_path):
    return pathlib.Path(write_data(tmp_path / "data.npz"))


@pytest.fixture
def narrow(monkeypatch):
    """Windows of a batch or two."""
    monkeypatch.setattr(windows, "LARGEST", 15_000)


def protecting(data, **settings):
    network = {"model": "mlp2", "width": 16, "batch_size": 8, "epochs": 2}
    return protect.ProtectConfig(
        data=DataSource(str(data)),
        generator=generators.spec("mi_ue/interleaved", **network),
        checkpoint_every=3,
        **settings,
    )


def made_in(folder):
    return [(folder / name).read_bytes() for name in _FILES]


@mostly_s3
def test_a_streamed_run_is_that_of_a_local_directory(
    remote, data, tmp_path, one_device, narrow, empty_disk
):
    there = remote / "data.npz"
    bucket.put(data, there)
    local = protect.run(protecting(data), tmp_path / "local", progress=False)
    config = protecting(there, stream=True)
    made = protect.run(config, remote / "em", progress=False)
    # Read from a copy, which outlives that in which the run worked.
    np.testing.assert_array_equal(made.dataset.images[:], local.dataset.images)
    again = protect.run(config, remote / "em", progress=False)
    assert again.metadata == made.metadata
    np.testing.assert_array_equal(again.dataset.images[3:5], local.dataset.images[3:5])
    assert (remote / "em" / _FILES[1]).read_bytes() == made_in(tmp_path / "local")[1]
    loaded = artifact.load(remote / "em" / protect.ARTIFACT, stream=True)
    np.testing.assert_array_equal(loaded.dataset.images[:], local.dataset.images)

    def evaluating(train, test, **settings):
        tiny = victims.preset("quick", model="linear", epochs=2, batch_size=8)
        return evaluate.EvaluateConfig(
            train=DataSource(str(train)),
            test=DataSource(str(test), split="test"),
            **{"victim": tiny, "seeds": (0,), **settings},
        )

    config = evaluating(tmp_path / "local" / protect.ARTIFACT, data)
    wanted = evaluate.run(config, tmp_path / "victims", progress=False)
    config = evaluating(remote / "em" / protect.ARTIFACT, there, stream=True)
    found = evaluate.run(config, remote / "victims", progress=False)
    named = {"train": None, "test": None}
    assert {**found, **named} == {**wanted, **named}


def test_a_copy_lasts_as_long_as_the_images(remote, data, empty_disk):
    bucket.put(data, remote / "data.npz")
    images = stream(str(remote / "data.npz")).images.chosen(np.array([7, 2]))
    gc.collect()
    (folder,) = empty_disk.iterdir()
    with np.load(data) as arrays:
        np.testing.assert_array_equal(images[:], arrays["x_train"][[7, 2]])
    (file,) = folder.glob("*.npz")
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{remote}/data.npz"):
        images[:]
    # What a killed process leaves is removed, what another one uses is not.
    other = empty_disk / f"{bucket.SCRATCH}killed"
    other.mkdir()
    (other / bucket._MARK).touch()
    stream(str(remote / "data.npz"), "test")
    assert not other.exists()
    assert folder.exists()
    del images
    gc.collect()
    assert not folder.exists()


def test_what_is_not_there_is_named_by_its_address(remote, data, empty_disk):
    bucket.put(data, remote / "data.npz")
    with pytest.raises(ValueError, match=f"^{remote}/none: no such file or folder$"):
        stream(str(remote / "none"))
    with pytest.raises(ValueError, match=f"^{remote}/none.npz: no such file$"):
        artifact.load(remote / "none.npz", stream=True)
    with pytest.raises(ValueError, match=f"^{remote}/data.npz: not a protected data"):
        artifact.load(remote / "data.npz", stream=True)


@mostly_s3
def test_whatever_write_fails_the_next_run_ends_with_the_same_bytes(
    remote, data, tmp_path, one_device, narrow, empty_disk, monkeypatch
):
    """Rows, maps and checkpoints arrive one after the other, or only some of them."""
    protect.run(protecting(data), tmp_path / "whole", progress=False)
    put, left, failures = bucket.put, [0], 0

    def fail(file, address):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(f"{address}: no answer")
        put(file, address)

    monkeypatch.setattr(bucket, "put", fail)
    config = protecting(data, stream=True)
    # A checkpoint with its rows has some twelve files.
    for written in (0, 2, 7, 13, 14, 15, 16, 22):
        left[0] = written
        try:
            protect.run(config, remote, progress=False)
        except OSError:
            failures += 1
    assert failures >= 4
    left[0] = 10**6
    protect.run(config, remote, progress=False)
    assert made_in(remote) == made_in(tmp_path / "whole")


_PROGRAM = """
import sys
from miue_jax import cli
from miue_jax.train import lease, windows
lease.SECONDS, windows.LARGEST = 2.0, 15_000
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_trace_in_the_result(remote, data, tmp_path):
    """Resumed on another machine, as it were: with an empty disk."""
    bucket.put(data, remote / "data.npz")
    arguments = ["protect", str(remote / "data.npz"), "--quiet"]
    arguments += ["--generator.model=mlp2", "--generator.width=16"]
    arguments += ["--generator.batch-size=8", "--generator.epochs=30"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}

    def start(workdir, scratch, *more):
        (tmp_path / scratch).mkdir(exist_ok=True)
        given = [*arguments, "--checkpoint-every=4", f"--workdir={workdir}", *more]
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *given],
            cwd=ROOT,
            env={**environment, "TMPDIR": str(tmp_path / scratch)},
            stderr=subprocess.PIPE,
            text=True,
        )

    whole = start(tmp_path / "whole", "first")
    _, errors = whole.communicate(timeout=200)
    assert whole.returncode == 0, errors
    run = remote / "run"
    killed = start(run, "first", "--stream")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and killed.poll() is None:
        names = {name.partition("/")[0] for name in bucket.listing(run / "checkpoints")}
        if any(int(name) > 20 for name in names):
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    _, errors = killed.communicate()
    assert killed.returncode == -9, errors
    assert not (run / protect.ARTIFACT).exists(), "it was stopped too late"
    resumed = start(run, "second", "--stream")
    _, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert made_in(run) == made_in(tmp_path / "whole")
    assert list((tmp_path / "second").iterdir()) == []
