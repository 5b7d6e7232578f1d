"""Runs on data larger than memory give the bytes of those in memory."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from miue_jax import generators, victims
from miue_jax.data import DataSource, artifact
from miue_jax.train import checkpoints, parallel, windows
from miue_jax.workflows import evaluate, protect

ROOT = pathlib.Path(__file__).parents[2]

# Not whole batches, for one shard or four, and not whole windows.
_SIZE, _TESTS = 77, 300
_FILES = (protect.ARTIFACT, "protected.delta.npy")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (size, 8, 8, 3), np.uint8)
        for name, size in (("x_train", _SIZE), ("x_test", _TESTS))
    }
    labels = {"y_train": np.arange(_SIZE) % 3, "y_test": np.arange(_TESTS) % 3}
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **arrays, **labels)
    return path


@pytest.fixture
def narrow(monkeypatch):
    """Windows of a batch or two."""
    monkeypatch.setattr(windows, "LARGEST", 30_000)


def _protection(data, name="mi_ue/interleaved", *, stream, run=None, **settings):
    settings = {"model": "mlp2", "width": 16, "batch_size": 16, "epochs": 3, **settings}
    return protect.ProtectConfig(
        data=DataSource(str(data)),
        generator=generators.spec(name, **settings),
        stream=stream,
        **{"checkpoint_every": 7, **(run or {})},
    )


def _bytes(folder: pathlib.Path) -> list[bytes]:
    """What a run made, and its metrics without the seconds."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    values = [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]
    return [(folder / name).read_bytes() for name in _FILES] + [
        json.dumps(values).encode()
    ]


_GENERATORS = {
    "interleaved": ("mi_ue/interleaved", {}),
    "interleaved-int8": ("mi_ue/interleaved", {"storage": "int8"}),
    "interleaved-bfloat16": ("mi_ue/interleaved", {"storage": "bfloat16"}),
    "alternating": ("mi_ue", {"perturbation_batch_size": 24, "pgd_steps": 2}),
    "parts of passes": (
        "error_minimizing",
        {"batches_per_epoch": 3, "batches_per_visit": 2, "pgd_steps": 2},
    ),
    "classes": ("error_minimizing", {"perturbation": "class", "pgd_steps": 2}),
    "robust": ("mi_ue/robust", {"second_model": None, "second_width": None}),
}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(given, id=name, marks=[pytest.mark.slow] if number else [])
        for number, (name, given) in enumerate(_GENERATORS.items())
    ],
)
def test_generators_give_the_bytes_of_a_run_in_memory(
    tmp_path, data, given, one_device, narrow
):
    name, settings = given
    run = {"select": protect.Selection(fraction=0.7)}
    for stream in (False, True):
        config = _protection(data, name, stream=stream, run=run, **settings)
        made = protect.run(config, tmp_path / str(stream), progress=False)
        # Both what is returned and what a finished run is read as.
        again = protect.run(config, tmp_path / str(stream), progress=False)
        for found in (made, again):
            assert found.metadata["audit"]["max_change"] > 0
            assert np.asarray(found.dataset.images[3:5]).shape == (2, 8, 8, 3)
    assert _bytes(tmp_path / "True") == _bytes(tmp_path / "False")
    left = {path.name for path in (tmp_path / "True").iterdir()}
    assert "protected.images.npy" not in left


def test_the_copy_of_the_images_does_not_stay(tmp_path, data, monkeypatch, one_device):
    config = _protection(data, stream=True)
    copy = tmp_path / "run" / "protected.images.npy"

    def fail(*_, **__):
        assert copy.exists()
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            protect.run(config, tmp_path / "run", progress=False)
    assert not copy.exists()
    protect.run(config, tmp_path / "run", progress=False)
    # As a run leaves it that is killed behind its last file.
    copy.write_bytes(b"left")
    protect.run(config, tmp_path / "run", progress=False)
    assert not copy.exists()


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_several_devices_give_the_bytes_of_a_run_in_memory(
    tmp_path, data, monkeypatch, narrow, exact
):
    real, four = parallel.data_mesh, jax.devices()[:4]
    monkeypatch.setattr(parallel, "data_mesh", lambda devices=None: real(four))
    run = {"device_invariant": exact}
    for stream in (False, True):
        config = _protection(data, stream=stream, run=run)
        protect.run(config, tmp_path / str(stream), progress=False)
    assert _bytes(tmp_path / "True") == _bytes(tmp_path / "False")


_slow = pytest.mark.slow


@pytest.mark.parametrize(
    "defense",
    [
        "none",
        pytest.param("cutout-4", marks=_slow),
        pytest.param("adversarial_training-2", marks=_slow),
    ],
)
def test_victims_give_the_results_of_a_run_in_memory(
    tmp_path, data, defense, one_device, monkeypatch
):
    # Test images are classified by 256, so that a window of them has that many.
    monkeypatch.setattr(windows, "LARGEST", 6_000)
    results = []
    for stream in (False, True):
        config = evaluate.EvaluateConfig(
            train=DataSource(str(data)),
            test=DataSource(str(data), split="test"),
            victim=victims.preset(
                "quick", model="mlp2", width=16, batch_size=16, epochs=2
            ),
            defense=defense,
            seeds=(0,),
            stream=stream,
        )
        evaluate.run(config, tmp_path / str(stream), progress=False)
        results.append((tmp_path / str(stream) / evaluate.RESULTS).read_bytes())
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mi_ue/interleaved", "mi_ue"])
def test_a_run_that_was_cut_anywhere_goes_on_exactly(
    tmp_path, data, name, one_device, narrow, monkeypatch
):
    settings = {} if name != "mi_ue" else {"pgd_steps": 2}
    config = _protection(data, name, stream=True, **settings)
    protect.run(config, tmp_path / "whole", progress=False)
    real, rng = checkpoints.Checkpoints.save, np.random.default_rng(0)
    calls = []

    def cut(self, step, state, *, notes=None):
        calls.append(step)
        if rng.random() < 0.3:
            raise KeyboardInterrupt  # before it counts
        real(self, step, state, notes=notes)
        if rng.random() < 0.3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoints, "save", cut)
    for _ in range(100):
        try:
            protect.run(config, tmp_path / "cut", progress=False)
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) > len(set(calls)), "it was never cut"
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path, data, one_device, narrow
):
    config = _protection(data, stream=True)
    for name in ("whole", "damaged"):
        protect.run(config, tmp_path / name, progress=False)
    workdir = tmp_path / "damaged"
    for name in _FILES:
        (workdir / name).unlink()
    saved = sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    largest = max(saved[-1].rglob("*"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.write(b"changed")
    protect.run(config, workdir, progress=False)
    assert _bytes(workdir) == _bytes(tmp_path / "whole")


def test_rows_of_an_older_version_are_not_gone_on_with(tmp_path, data, one_device):
    config = _protection(data, stream=True)
    protect.run(config, tmp_path / "run", progress=False)
    for name in _FILES:
        (tmp_path / "run" / name).unlink()
    rows = tmp_path / "run" / "rows"
    for path in [*(rows / "shard_00000").iterdir()]:
        path.rename(rows / path.name)
    with pytest.raises(ValueError, match="rows was written by an older version"):
        protect.run(config, tmp_path / "run", progress=False)


def _miue(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "miue_jax", *map(str, arguments)]


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_trace_in_the_result(tmp_path, data):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    arguments = [
        *("protect", data, "--generator.model=mlp2", "--generator.width=16"),
        *("--generator.batch-size=16", "--generator.epochs=100", "--quiet"),
        *("--checkpoint-every=10",),
    ]
    for name, options in (("memory", []), ("whole", ["--stream"])):
        command = _miue(*arguments, *options, f"--workdir={tmp_path / name}")
        subprocess.run(command, env=environment, check=True)
    command = _miue(*arguments, "--stream", f"--workdir={tmp_path / 'killed'}")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    for lines in (20, 45, 70):
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") > lines:
                break
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before"
    subprocess.run(command, env=environment, check=True)
    expected = _bytes(tmp_path / "memory")
    assert _bytes(tmp_path / "whole") == expected
    assert _bytes(tmp_path / "killed") == expected


@pytest.mark.slow
def test_a_folder_by_command(tmp_path, miue, narrow):
    pytest.importorskip("grain", reason="needs Grain")
    rng = np.random.default_rng(0)
    for number in range(24):
        place = tmp_path / "pictures" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(image).save(place / f"{number}.png")
    for name, options in (("False", []), ("True", ["--stream"])):
        status, _, errors = miue(
            *("protect", tmp_path / "pictures", f"--workdir={tmp_path / name}"),
            *("--generator.model=mlp2", "--generator.width=16", "--quiet"),
            *("--generator.batch-size=8", "--generator.epochs=2", *options),
        )
        assert status == 0, errors
    assert _bytes(tmp_path / "True") == _bytes(tmp_path / "False")
    status, _, errors = miue(
        *("evaluate", tmp_path / "True" / "protected.npz", tmp_path / "pictures"),
        *("--test.split=train", "--victim.model=linear", "--victim.epochs=1"),
        *("--seeds", "0", "--stream", f"--workdir={tmp_path / 'victims'}", "--quiet"),
    )
    assert status == 0, errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["protect", "{data}", "--generator=random_noise"],
            "'random_noise' needs all images at once; allowed with stream: mi_ue, err",
        ),
        (["protect", "{packed}"], "packed.npz: images is compressed"),
        (
            ["evaluate", "{data}", "{data}", "--defense=bit_depth-3"],
            "defense bit_depth purifies all training images at once; allowed with",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, data, miue, arguments, said):
    packed = tmp_path / "packed.npz"
    with np.load(data) as arrays:
        np.savez_compressed(packed, images=arrays["x_train"], labels=arrays["y_train"])
    given = [x.format(data=data, packed=packed) for x in arguments]
    if not any("--workdir" in x for x in given):
        given.append(f"--workdir={tmp_path / 'run'}")
    status, _, errors = miue(*given, "--stream", "--quiet")
    assert status == 2
    assert errors.count("\n") == 1
    assert re.search(said, errors), errors
    assert not (tmp_path / "run").exists()


def test_a_run_in_memory_is_not_gone_on_with(tmp_path, data, miue):
    options = [
        *("protect", data, "--generator.model=mlp2", "--generator.width=16"),
        *("--generator.batch-size=16", "--generator.epochs=1", "--quiet"),
        f"--workdir={tmp_path / 'run'}",
    ]
    assert miue(*options)[0] == 0
    status, _, errors = miue(*options, "--stream")
    assert status == 2
    assert "stream is not set there and True here" in errors
    assert isinstance(artifact.load(tmp_path / "run" / protect.ARTIFACT), tuple)
