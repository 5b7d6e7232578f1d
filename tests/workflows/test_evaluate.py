"""Runs of victims and generators: stopped, damaged, or of another configuration."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from configs import evaluate as evaluate_config
from configs import generate as generate_config

from miue_jax import defenses
from miue_jax.train import loop, parallel
from miue_jax.workflows import evaluate, protect

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def one_device(monkeypatch):
    mesh = parallel.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "data_mesh", lambda: mesh)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
    labels = np.arange(60) % 2
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


_SMALL = {"model": "mlp2", "width": 8, "batch_size": 12}


def _training(data: str, **victim):
    config = evaluate_config.get_config("quick").to_dict()
    for part in ("train", "test"):
        config[part]["name_or_path"] = data
    config["victim"] |= {**_SMALL, "epochs": 3, **victim}
    config["seeds"] = (0,)
    return config


def _protection(data: str, **method):
    config = generate_config.get_config("mi_ue/interleaved").to_dict()
    config["data"]["name_or_path"] = data
    config["method"] |= {**_SMALL, "epochs": 3, **method}
    return config


def _metrics(directory: pathlib.Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]


def _stop_at(monkeypatch, steps: int) -> None:
    """Sends SIGTERM when a run has taken so many steps, in calls of one step."""
    monkeypatch.setattr(loop, "_SECONDS_A_CALL", 0.0)
    real = loop.runner.advance

    def advance(step, mesh):
        compiled = real(step, mesh)

        def stopping(key, state, data, stop, totals=None):
            if stop == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return compiled(key, state, data, stop, totals)

        return stopping

    monkeypatch.setattr(loop.runner, "advance", advance)


@pytest.mark.usefixtures("one_device")
def test_a_victim_stopped_within_an_epoch_goes_on_as_if_it_had_not(
    tmp_path, data, monkeypatch
):
    config = _training(data)
    config["checkpoint_every"] = 3
    whole = evaluate.run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)  # five steps are an epoch
        with pytest.raises(loop.Stopped):
            evaluate.run(config, tmp_path / "stopped", quiet=True)
    kept = tmp_path / "stopped" / "seed_0" / "checkpoints"
    assert [path.name for path in kept.iterdir()] == ["7"]
    assert evaluate.run(config, tmp_path / "stopped", quiet=True) == whole
    for directory in ("whole", "stopped"):
        assert len(_metrics(tmp_path / directory / "seed_0")) == 3
    assert _metrics(tmp_path / "stopped/seed_0") == _metrics(tmp_path / "whole/seed_0")


@pytest.mark.usefixtures("one_device")
def test_purified_images_are_made_once_and_kept_until_all_is_done(
    tmp_path, data, monkeypatch
):
    made = []

    def purify(key, images, labels):
        made.append(1)
        return 255 - images

    inverted = defenses.Defense(purify=purify)
    monkeypatch.setattr(defenses, "create", lambda *_, **__: inverted)
    config, workdir = _training(data), tmp_path / "run"
    config["seeds"] = (0, 1)
    whole = evaluate.run(config, tmp_path / "whole", quiet=True)
    assert len(made) == 1
    kept = workdir / "purified.npy"
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)
        with pytest.raises(loop.Stopped):
            evaluate.run(config, workdir, quiet=True)
    with np.load(data) as arrays:
        np.testing.assert_array_equal(np.load(kept), 255 - arrays["x_train"])
    content = kept.read_bytes()
    for wrong, message in ((content[:50], "is damaged"), (None, "holds uint8")):
        if wrong is None:
            np.save(kept, np.zeros((3, 8, 8, 3), np.uint8))
        else:
            kept.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            evaluate.run(config, workdir, quiet=True)
    kept.write_bytes(content)
    assert evaluate.run(config, workdir, quiet=True) == whole
    assert len(made) == 2, "what was kept is made again"
    assert not kept.exists()


@pytest.mark.usefixtures("one_device")
def test_a_generator_stopped_between_two_lines_writes_the_same_lines(
    tmp_path, data, monkeypatch
):
    config = _protection(data, epochs=50)  # 250 steps, a line for every second
    protect.run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)
        with pytest.raises(loop.Stopped):
            protect.run(config, tmp_path / "stopped", quiet=True)
    protect.run(config, tmp_path / "stopped", quiet=True)
    assert _metrics(tmp_path / "stopped") == _metrics(tmp_path / "whole")
    a, b = (
        (tmp_path / name / protect.ARTIFACT).read_bytes()
        for name in ("whole", "stopped")
    )
    assert a == b


@pytest.mark.usefixtures("one_device")
def test_an_artifact_of_another_configuration_is_refused(tmp_path, data):
    ours, theirs = (
        {**_protection(data), "method": {"name": "random_noise", "radius": radius}}
        for radius in (8.0, 4.0)
    )
    protect.run(ours, tmp_path / "ours", quiet=True)
    protect.run(theirs, tmp_path / "theirs", quiet=True)
    artifact = tmp_path / "ours" / protect.ARTIFACT
    for path in (artifact, artifact.delta_path(artifact)):
        shutil.copy(tmp_path / "theirs" / path.name, path)
    with pytest.raises(
        ValueError, match=r"protected\.npz .*method\.radius is 4\.0 there and 8\.0"
    ):
        protect.run(ours, tmp_path / "ours", quiet=True)


@pytest.mark.usefixtures("one_device")
def test_results_of_another_configuration_or_none_are_refused(tmp_path, data):
    config = _training(data, epochs=1)
    found = evaluate.run(config, tmp_path / "run", quiet=True)
    file = tmp_path / "run" / evaluate.RESULTS
    theirs = {**found, "victim": {**found["victim"], "epochs": 60}}
    for content, message in (
        (theirs, r"results\.json .*victim\.epochs is 60 there and 1 here"),
        ({}, r"results\.json is damaged: it has no victim"),
        ([], r"results\.json is damaged: it holds no JSON object"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            evaluate.run(config, tmp_path / "run", quiet=True)


@pytest.mark.usefixtures("one_device")
def test_a_state_of_another_run_is_refused(tmp_path, data):
    config = _training(data, epochs=1)
    config["seeds"] = (0, 1)
    evaluate.run(config, tmp_path / "run", quiet=True)
    (tmp_path / "run" / evaluate.RESULTS).unlink()
    shutil.rmtree(tmp_path / "run" / "seed_1")
    shutil.copytree(tmp_path / "run" / "seed_0", tmp_path / "run" / "seed_1")
    with pytest.raises(ValueError, match=r"seed_1.checkpoints is of another config"):
        evaluate.run(config, tmp_path / "run", quiet=True)


@pytest.mark.usefixtures("one_device")
def test_a_damaged_directory_is_named(tmp_path, data):
    config = _training(data, epochs=1)
    workdir = tmp_path / "run"
    evaluate.run(config, workdir, quiet=True)
    (workdir / evaluate.RESULTS).unlink()
    metrics = workdir / "seed_0" / "metrics.jsonl"
    lines = metrics.read_text()
    for content, message in (
        ("12\n" + lines, r"metrics\.jsonl is damaged: line 1"),
        ("", r"metrics\.jsonl is damaged: the checkpoint .* 1 epochs"),
        ('{"step": 5, "epoch": 1}\n', r"metrics\.jsonl is damaged: the checkpoint"),
    ):
        metrics.write_text(content)
        with pytest.raises(ValueError, match=message):
            evaluate.run(config, workdir, quiet=True)
    shutil.rmtree(workdir / "seed_0" / "checkpoints")
    (workdir / "seed_0" / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="checkpoints is not a folder"):
        evaluate.run(config, workdir, quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ("a",)}, "seeds holds 'a'"),
        ({"seeds": (0, 0)}, "they must differ"),
        ({"seeds": (10**20,)}, "seeds holds 100000000000000000000"),
        ({"num_shards": 0}, "num_shards is 0; it must be positive"),
        ({"num_shards": -1}, "num_shards is -1; it must be positive"),
    ],
    ids=str,
)
def test_bad_settings_of_victims_are_found_before_anything_is_written(
    tmp_path, data, change, message
):
    with pytest.raises(ValueError, match=message):
        evaluate.run({**_training(data), **change}, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 10**20}, "seed holds 100000000000000000000"),
        ({"num_shards": 0}, "num_shards is 0; it must be positive"),
        # The batch size is left to its default, which 24 shards cannot share.
        ({"num_shards": 24, "method": {"name": "mi_ue"}}, "128 images does not split"),
    ],
    ids=str,
)
def test_bad_settings_of_generators_are_found_before_anything_is_written(
    tmp_path, data, change, message
):
    with pytest.raises(ValueError, match=message):
        protect.run({**_protection(data), **change}, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_not_finite_are_refused(tmp_path, data, value):
    for script, config in (
        (evaluate, _training(data, weight_decay=value)),
        (protect, _protection(data, temperature=value)),
    ):
        with pytest.raises(ValueError, match=r"weight_decay|temperature"):
            script.run(config, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path, data):
    if os.geteuid() == 0:
        pytest.skip("root writes where it pleases")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="closed"):
        protect.run(_protection(data), tmp_path / "closed" / "run", quiet=True)


_SCRIPT = """
import json, pathlib, sys
sys.path.insert(0, "experiments")
import evaluate, generate
script, config, workdir = json.loads(sys.argv[1])
run = {"evaluate": evaluate.run, "generate": generate.run}[script]
run(config, pathlib.Path(workdir), quiet=True)
"""


def _start(script: str, config: dict, workdir: pathlib.Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, json.dumps([script, config, str(workdir)])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", ["evaluate", "generate"])
def test_convolutions_go_on_bit_for_bit_after_kill_minus_nine(tmp_path, data, script):
    network = {"model": "resnet10", "width": 4, "epochs": 40}
    if script == "evaluate":
        config, metrics = _training(data, **network), "seed_0/metrics.jsonl"
        results = (evaluate.RESULTS,)
    else:
        config, metrics = _protection(data, **network), "metrics.jsonl"
        results = (protect.ARTIFACT, "protected.delta.npy")
        config["checkpoint_every"] = 10
    for workdir in ("whole", "killed"):
        process = _start(script, config, tmp_path / workdir)
        file = tmp_path / workdir / metrics
        while workdir == "killed" and process.poll() is None:
            if file.exists() and file.read_text().count("\n") > 12:
                process.kill()
                break
            time.sleep(0.01)
        _, errors = process.communicate(timeout=500)
        assert process.returncode == (-9 if workdir == "killed" else 0), errors
    assert not (tmp_path / "killed" / results[0]).exists(), "it was killed too late"
    process = _start(script, config, tmp_path / "killed")
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    for name in results:
        a, b = ((tmp_path / d / name).read_bytes() for d in ("whole", "killed"))
        assert a == b, f"{name} differs"
    assert _metrics((tmp_path / "killed" / metrics).parent) == _metrics(
        (tmp_path / "whole" / metrics).parent
    )
