"""Runs of victims and generators: stopped, damaged, or of another configuration."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import miue_jax as mj
from miue_jax import defenses, generators, victims
from miue_jax.data import DataSource, artifact
from miue_jax.train import loop, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.evaluate import EvaluateConfig
from miue_jax.workflows.protect import ProtectConfig

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
    labels = np.arange(60) % 2
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


_SMALL = {"model": "mlp2", "width": 8, "batch_size": 12}


def _training(data: str, seeds=(0,), *, checkpoint_every=1, num_shards=None, **victim):
    return EvaluateConfig(
        train=DataSource(data),
        test=DataSource(data, split="test"),
        victim=victims.preset("quick", **{**_SMALL, "epochs": 3, **victim}),
        seeds=seeds,
        checkpoint_every=checkpoint_every,
        num_shards=num_shards,
    )


def _protection(data: str, name="mi_ue/interleaved", **settings):
    if name.startswith("mi_ue"):
        settings = {**_SMALL, "epochs": 3, **settings}
    return ProtectConfig(
        data=DataSource(data), generator=generators.spec(name, **settings)
    )


def _metrics(directory: pathlib.Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]


def _stop_at(monkeypatch, steps: int) -> None:
    """Sends SIGTERM when a run has taken so many steps, in calls of one step."""
    monkeypatch.setattr(loop, "_SECONDS_A_CALL", 0.0)
    real = loop.advance

    def advance(step, mesh, **options):
        compiled = real(step, mesh, **options)

        def stopping(key, state, data, stop, totals=None):
            if stop == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return compiled(key, state, data, stop, totals)

        return stopping

    monkeypatch.setattr(loop, "advance", advance)


@pytest.mark.usefixtures("one_device")
def test_a_victim_stopped_within_an_epoch_resumes_as_if_it_had_not(
    tmp_path, data, monkeypatch
):
    config = _training(data, checkpoint_every=3)
    whole = evaluate.run(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)  # five steps are an epoch
        with pytest.raises(loop.Stopped):
            evaluate.run(config, tmp_path / "stopped", progress=False)
    kept = tmp_path / "stopped" / "seed_0" / "checkpoints"
    assert [path.name for path in kept.iterdir()] == ["7"]
    assert evaluate.run(config, tmp_path / "stopped", progress=False) == whole
    for directory in ("whole", "stopped"):
        assert len(_metrics(tmp_path / directory / "seed_0")) == 3
    assert _metrics(tmp_path / "stopped/seed_0") == _metrics(tmp_path / "whole/seed_0")


@pytest.mark.usefixtures("one_device")
def test_a_run_that_fails_before_it_has_made_anything_leaves_nothing(
    tmp_path, data, monkeypatch
):
    def purify(key, images, labels):
        raise ValueError("mine")

    wrong = defenses.Defense(purify=purify)
    with monkeypatch.context() as patch:
        patch.setattr(defenses, "create", lambda *_, **__: wrong)
        with pytest.raises(ValueError, match="mine"):
            evaluate.run(_training(data), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


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
    config, workdir = _training(data, (0, 1)), tmp_path / "run"
    whole = evaluate.run(config, tmp_path / "whole", progress=False)
    assert len(made) == 1
    kept = workdir / "purified.npz"
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)
        with pytest.raises(loop.Stopped):
            evaluate.run(config, workdir, progress=False)
    with np.load(data) as arrays:
        np.testing.assert_array_equal(np.load(kept)["images"], 255 - arrays["x_train"])
    content = kept.read_bytes()
    zeroed = content[:200] + bytes(100) + content[300:]
    for wrong, message in (
        (content[:50], "damaged"),
        (zeroed, "damaged"),
        (None, "holds uint8"),
    ):
        if wrong is None:
            np.savez(kept, images=np.zeros((3, 8, 8, 3), np.uint8))
        else:
            kept.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            evaluate.run(config, workdir, progress=False)
    kept.write_bytes(content)
    assert evaluate.run(config, workdir, progress=False) == whole
    assert len(made) == 2, "what was kept is made again"
    assert not kept.exists()


@pytest.mark.usefixtures("one_device")
def test_a_generator_stopped_between_two_lines_writes_the_same_lines(
    tmp_path, data, monkeypatch
):
    config = _protection(data, epochs=50)  # 250 steps, a line for every second
    protect.run(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)
        with pytest.raises(loop.Stopped):
            protect.run(config, tmp_path / "stopped", progress=False)
    protect.run(config, tmp_path / "stopped", progress=False)
    assert _metrics(tmp_path / "stopped") == _metrics(tmp_path / "whole")
    a, b = (
        (tmp_path / name / protect.ARTIFACT).read_bytes()
        for name in ("whole", "stopped")
    )
    assert a == b


@pytest.mark.usefixtures("one_device")
def test_an_artifact_of_another_configuration_is_refused(tmp_path, data):
    ours, theirs = (
        _protection(data, "random_noise", radius=radius) for radius in (8.0, 4.0)
    )
    protect.run(ours, tmp_path / "ours", progress=False)
    protect.run(theirs, tmp_path / "theirs", progress=False)
    file = tmp_path / "ours" / protect.ARTIFACT
    for path in (file, artifact.delta_path(file)):
        shutil.copy(tmp_path / "theirs" / path.name, path)
    with pytest.raises(
        ValueError, match=r"protected\.npz .*generator\.radius is 4\.0 there and 8\.0"
    ):
        protect.run(ours, tmp_path / "ours", progress=False)


@pytest.mark.usefixtures("one_device")
def test_results_of_another_configuration_or_none_are_refused(tmp_path, data):
    config = _training(data, epochs=1)
    found = evaluate.run(config, tmp_path / "run", progress=False)
    file = tmp_path / "run" / evaluate.RESULTS
    theirs = {**found, "victim": {**found["victim"], "epochs": 60}}
    for content, message in (
        (theirs, r"results\.json .*victim\.epochs is 60 there and 1 here"),
        ({}, r"results\.json is damaged: it has no victim"),
        ([], r"results\.json is damaged: it holds no JSON object"),
    ):
        if content == []:
            file.write_text("[]")
        else:
            run_directory.write_json(file, content)
        with pytest.raises(ValueError, match=message):
            evaluate.run(config, tmp_path / "run", progress=False)


@pytest.mark.usefixtures("one_device")
def test_a_state_of_another_run_is_refused(tmp_path, data):
    config = _training(data, (0, 1), epochs=1)
    evaluate.run(config, tmp_path / "run", progress=False)
    (tmp_path / "run" / evaluate.RESULTS).unlink()
    shutil.rmtree(tmp_path / "run" / "seed_1")
    shutil.copytree(tmp_path / "run" / "seed_0", tmp_path / "run" / "seed_1")
    with pytest.raises(ValueError, match=r"seed_1.checkpoints is of another config"):
        evaluate.run(config, tmp_path / "run", progress=False)


@pytest.mark.usefixtures("one_device")
def test_a_damaged_directory_is_named(tmp_path, data):
    config = _training(data, epochs=1)
    workdir = tmp_path / "run"
    evaluate.run(config, workdir, progress=False)
    (workdir / evaluate.RESULTS).unlink()
    metrics = workdir / "seed_0" / "metrics.jsonl"
    lines = metrics.read_text()
    for content in ("12\n" + lines, "", lines.replace("0", "1", 1)):
        metrics.write_text(content)
        with pytest.raises(ValueError, match=r"damaged \(metrics\.jsonl was changed\)"):
            evaluate.run(config, workdir, progress=False)
    shutil.rmtree(workdir / "seed_0" / "checkpoints")
    (workdir / "seed_0" / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="checkpoints is not a folder"):
        evaluate.run(config, workdir, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ("a",)}, "seeds holds 'a'"),
        ({"seeds": (0, 0)}, "they must differ"),
        ({"seeds": (10**20,)}, "seeds holds 100000000000000000000"),
        ({"num_shards": 0}, "num_shards is 0; allowed: whole numbers > 0"),
        ({"num_shards": -1}, "num_shards is -1; allowed: whole numbers > 0"),
    ],
    ids=str,
)
def test_bad_settings_of_victims_are_found_before_anything_is_written(
    tmp_path, data, change, message
):
    with pytest.raises(ValueError, match=message):
        evaluate.run(_training(data, **change), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 10**20}, "seed holds 100000000000000000000"),
        ({"num_shards": 0}, "num_shards is 0; allowed: whole numbers > 0"),
        ({"num_shards": "two"}, "num_shards is 'two'; allowed: whole numbers > 0"),
        # 24 shards cannot share a batch of 12.
        ({"num_shards": 24}, "12 images does not split .*set batch_size"),
        ({"num_shards": 64}, "60 images cannot be dealt to 64 .*set num_shards"),
    ],
    ids=str,
)
def test_bad_settings_of_generators_are_found_before_anything_is_written(
    tmp_path, data, change, message
):
    with pytest.raises(ValueError, match=message):
        protect.run(
            dataclasses.replace(_protection(data), **change),
            tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_not_finite_are_refused(tmp_path, data, value):
    for workflow, config in (
        (evaluate, lambda: _training(data, weight_decay=value)),
        (protect, lambda: _protection(data, temperature=value)),
    ):
        with pytest.raises(ValueError, match=r"weight_decay|temperature"):
            workflow.run(config(), tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path, data):
    if os.geteuid() == 0:
        pytest.skip("root writes where it pleases")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="closed"):
        protect.run(_protection(data), tmp_path / "closed" / "run", progress=False)


def _start(arguments: list[str], workdir: pathlib.Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "miue_jax", *arguments, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "protect"])
def test_convolutions_resume_bit_for_bit_after_kill_minus_nine(tmp_path, data, command):
    network = {"model": "resnet10", "width": 4, "epochs": 40, "batch-size": 12}
    if command == "evaluate":
        arguments, metrics = [data, data, "--seeds=0"], "seed_0/metrics.jsonl"
        results, section = (evaluate.RESULTS,), "victim"
    else:
        arguments, metrics = [data, "--checkpoint-every=10"], "metrics.jsonl"
        results, section = (protect.ARTIFACT, "protected.delta.npy"), "generator"
    options = [f"--{section}.{name}={value}" for name, value in network.items()]
    arguments = [command, *arguments, *options, "--quiet"]
    for workdir in ("whole", "killed"):
        process = _start(arguments, tmp_path / workdir)
        file = tmp_path / workdir / metrics
        while workdir == "killed" and process.poll() is None:
            if file.exists() and file.read_text().count("\n") > 12:
                process.kill()
                break
            time.sleep(0.01)
        _, errors = process.communicate(timeout=500)
        assert process.returncode == (-9 if workdir == "killed" else 0), errors
    assert not (tmp_path / "killed" / results[0]).exists(), "it was killed too late"
    process = _start(arguments, tmp_path / "killed")
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    for name in results:
        a, b = ((tmp_path / d / name).read_bytes() for d in ("whole", "killed"))
        assert a == b, f"{name} differs"
    assert _metrics((tmp_path / "killed" / metrics).parent) == _metrics(
        (tmp_path / "whole" / metrics).parent
    )


@pytest.mark.usefixtures("one_device")
def test_a_network_beyond_the_memory_is_found_before_anything_is_written(
    tmp_path, data, monkeypatch
):
    monkeypatch.setenv("MIUE_MEMORY", "1e-3")
    for whose, run in (
        (
            "a victim",
            lambda: evaluate.run(_training(data, width=2048), tmp_path / "run"),
        ),
        ("the generator", lambda: protect.run(_protection(data), tmp_path / "run")),
    ):
        if whose == "the generator":
            monkeypatch.setenv("MIUE_MEMORY", "5e-5")
        with pytest.raises(ValueError, match=f"the state of {whose} would need .* GB"):
            run()
        assert not (tmp_path / "run").exists()


def test_numbers_may_be_those_of_numpy(tmp_path):
    clean = mj.data.load("shapes", per_class=2)
    mj.protect(
        clean,
        "random_noise",
        workdir=tmp_path / "protect",
        fraction=np.float32(0.5),
        num_shards=np.int32(8),
        radius=np.int64(4),
    )
    results = mj.evaluate(
        clean,
        clean,
        model="linear",
        epochs=np.int64(1),
        learning_rate=np.float32(0.5),
        seeds=(0,),
        num_shards=np.int32(8),
    )
    assert results["victim"]["learning_rate"] == 0.5


def test_changes_of_a_protocol_are_checked():
    clean = mj.data.load("shapes", per_class=2)
    protocol = mj.victims.preset("quick")
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        mj.evaluate(clean, clean, protocol, epoch=3)
    with pytest.raises(ValueError, match="victim is 5; allowed: the name of"):
        mj.evaluate(clean, clean, 5)
