"""Protect and evaluate, as a user runs them: results, resuming, and bad input."""

import dataclasses
import errno
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from miue_jax import _command_line, defenses, generators, victims
from miue_jax import data as data_sets
from miue_jax.budget import Budget
from miue_jax.data import DataSource, artifact
from miue_jax.train import checkpoints, parallel, run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.evaluate import EvaluateConfig
from miue_jax.workflows.protect import ProtectConfig, Selection

ROOT = pathlib.Path(__file__).parents[2]


def _write_data(path: pathlib.Path, size: int = 96) -> str:
    """Two classes: red and green both lighter or both darker, or one of each.

    No color alone tells the class, and crops and flips keep the cue.
    """
    rng = np.random.default_rng(0)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % 2
        red = rng.choice([-24, 24], size)
        green = red * (2 * labels - 1)
        images = rng.integers(80, 140, (size, 8, 8, 3))
        images[..., 0] += red[:, None, None]
        images[..., 1] += green[:, None, None]
        return images.astype(np.uint8), labels

    (x, y), (x_test, y_test) = split(size), split(100)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return str(path)


_SMALL = {"model": "mlp2", "width": 32, "batch_size": 16}


def _protection(
    data: str, name="mi_ue/interleaved", *, select=None, run=None, **method
):
    """Settings of a short run; those of the generator are given by name."""
    settings = {**_SMALL, "epochs": 4, **method}
    return ProtectConfig(
        data=DataSource(data),
        generator=generators.spec(name, **settings),
        select=Selection(**select or {}),
        **run or {},
    )


def _training(train: str, test: str, *, split="test", run=None, **victim):
    return EvaluateConfig(
        train=DataSource(train),
        test=DataSource(test, split=split),
        victim=victims.preset("quick", **{**_SMALL, "epochs": 3, **victim}),
        **{"seeds": (0, 1), **(run or {})},
    )


@pytest.fixture
def data(tmp_path):
    return _write_data(tmp_path / "data.npz")


# The command line of `_protection`.
_OPTIONS = [
    "--generator=mi_ue/interleaved",
    *(
        f"--generator.{name.replace('_', '-')}={value}"
        for name, value in _SMALL.items()
    ),
]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "miue_jax", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}


def _run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.usefixtures("one_device")
@pytest.mark.slow
def test_a_protected_victim_does_worse_than_a_clean_one(tmp_path):
    data = _write_data(tmp_path / "data.npz", 256)
    settings = {"model": "mlp2", "width": 64, "batch_size": 32, "learning_rate": 0.05}
    made = protect.run(
        _protection(
            data,
            epochs=30,
            radius=32.0,
            step_size=6.4,
            step_size_end=6.4,
            crop=0,  # half of an image of eight pixels would be lost
            **settings,
        ),
        tmp_path / "protect",
        progress=False,
    )
    assert made.metadata["audit"]["max_change"] <= 32
    path = str(tmp_path / "protect" / protect.ARTIFACT)
    found = {}
    for name, train in (("clean", data), ("protected", path)):
        victim = _training(
            train, data, run={"evaluate_every": 40}, epochs=40, **settings
        )
        found[name] = evaluate.run(victim, tmp_path / name, progress=False)
    clean, poisoned = (found[n]["final"]["mean"] for n in ("clean", "protected"))
    assert clean > 0.8
    assert poisoned < 0.65
    # The protected victim fits what it was given: its failure is not one of training.
    assert min(curve[-1] for curve in found["protected"]["train_accuracy"]) > 0.75


@pytest.mark.usefixtures("one_device")
def test_results_hold_every_seed_and_epoch(tmp_path, data):
    config = _training(data, data)
    found = evaluate.run(config, tmp_path / "run", progress=False)
    assert np.shape(found["test_accuracy"]) == (2, 3)
    assert found["final"]["values"] == [curve[-1] for curve in found["test_accuracy"]]
    assert found["best"]["values"] == [max(c) for c in found["test_accuracy"]]
    assert found["final"]["std"] == pytest.approx(
        np.std(found["final"]["values"], ddof=1)
    )
    again = evaluate.run(config, tmp_path / "run", progress=False)
    assert again == run_directory.read_json(tmp_path / "run" / evaluate.RESULTS)


@pytest.mark.usefixtures("one_device")
def test_a_defense_purifies_what_the_victim_trains_on(tmp_path, data, monkeypatch):
    black = defenses.Defense(purify=lambda key, images, labels: np.zeros_like(images))
    monkeypatch.setattr(defenses, "create", lambda name, **shape: black)
    config = _training(data, data)
    found = evaluate.run(config, tmp_path / "run", progress=False)
    # Without any input, a victim can only guess one of two classes.
    assert max(max(curve) for curve in found["train_accuracy"]) < 0.65


@pytest.mark.usefixtures("one_device")
def test_a_finished_run_is_not_repeated(tmp_path, data, monkeypatch):
    config = _protection(data)
    first = protect.run(config, tmp_path / "run", progress=False)
    monkeypatch.setattr(protect, "_generate", lambda *a, **k: pytest.fail("ran again"))
    again = protect.run(config, tmp_path / "run", progress=False)
    np.testing.assert_array_equal(first.dataset.images, again.dataset.images)
    changed = _protection(data, temperature=0.2)
    with pytest.raises(ValueError, match=r"generator.temperature is 0.1 there and 0.2"):
        protect.run(changed, tmp_path / "run", progress=False)


@pytest.mark.usefixtures("one_device")
def test_other_data_under_the_same_name_are_refused(tmp_path, data):
    config = _protection(data)
    protect.run(config, tmp_path / "run", progress=False)
    _write_data(pathlib.Path(data), 99)
    with pytest.raises(ValueError, match="source is"):
        protect.run(config, tmp_path / "run", progress=False)


class _Killed(Exception):
    pass


@pytest.fixture
def on_devices(monkeypatch):
    """Sets the number of devices of the runs that follow."""
    real = parallel.data_mesh

    def use(count: int) -> None:
        mesh = real(jax.devices()[:count])
        monkeypatch.setattr(parallel, "data_mesh", lambda devices=None: mesh)

    return use


def _invariant(config):
    return dataclasses.replace(config, num_shards=4, device_invariant=True)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_an_invariant_artifact_is_equal_on_other_devices_and_resumed_there(
    tmp_path, data, on_devices, monkeypatch, storage
):
    config = _invariant(_protection(data, storage=storage, run={"checkpoint_every": 5}))
    for devices in (1, 4):
        on_devices(devices)
        protect.run(config, tmp_path / f"on_{devices}", progress=False)
    save = checkpoints.Checkpoints.save

    def save_and_die(self, step, state, **notes):
        save(self, step, state, **notes)
        raise _Killed

    on_devices(2)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Checkpoints, "save", save_and_die)
        with pytest.raises(_Killed):
            protect.run(config, tmp_path / "moved", progress=False)
    on_devices(4)
    protect.run(config, tmp_path / "moved", progress=False)
    for name in (protect.ARTIFACT, "protected.delta.npy"):
        whole = (tmp_path / "on_1" / name).read_bytes()
        for other in ("on_4", "moved"):
            assert (tmp_path / other / name).read_bytes() == whole, (name, other)


def test_invariant_results_are_equal_on_other_devices(tmp_path, data, on_devices):
    defense = {"name": "adversarial_training", "radius": 4, "num_steps": 1}
    config = _invariant(_training(data, data, run={"seeds": (0,)}))
    config = dataclasses.replace(config, defense=defense)
    found = []
    for devices in (1, 4):
        on_devices(devices)
        workdir = tmp_path / f"on_{devices}"
        results = evaluate.run(config, workdir, progress=False)
        lines = (workdir / "seed_0" / "metrics.jsonl").read_text().splitlines()
        curve = [{**json.loads(line), "seconds": None} for line in lines]
        accuracies = {k: results[k] for k in ("final", "best", "robust")}
        found.append((accuracies, curve))
    assert found[0] == found[1]


@pytest.mark.usefixtures("one_device")
def test_an_invariant_run_is_another_run(tmp_path, data):
    noise = generators.spec("random_noise")
    fast = ProtectConfig(data=DataSource(data), generator=noise)
    exact = dataclasses.replace(fast, device_invariant=True)
    made = protect.run(fast, tmp_path / "fast", progress=False)
    assert "device_invariant" not in made.metadata
    made = protect.run(exact, tmp_path / "exact", progress=False)
    assert made.metadata["device_invariant"] is True
    for config, workdir in ((exact, "fast"), (fast, "exact")):
        with pytest.raises(
            ValueError, match=r"another configuration .device_invariant"
        ):
            protect.run(config, tmp_path / workdir, progress=False)
    with pytest.raises(ValueError, match="device_invariant is 'yes'; allowed: True"):
        dataclasses.replace(fast, device_invariant="yes")


@pytest.mark.usefixtures("one_device")
def test_a_generator_that_cannot_be_invariant_is_refused(tmp_path, data, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Config:
        radius: float = 8.0

    def neighbor(config: Config, spec: generators.DataSpec) -> generators.Generator:
        def step(key, state, data):
            turned = jax.lax.ppermute(data.images / 2550, spec.axis_name, [(0, 1)])
            return state._replace(step=state.step + 1, per_example=turned), {}

        return generators.Generator(
            init=lambda key, data: parallel.State(
                jnp.int32(0), None, jnp.zeros(data.images.shape, jnp.float32)
            ),
            step=step,
            perturbation=lambda state: state.per_example,
            sharded=True,
        )

    plugin = types.ModuleType("own_plugin")
    neighbor.__annotations__["config"] = Config
    plugin.neighbor = neighbor
    monkeypatch.setitem(sys.modules, "own_plugin", plugin)
    config = ProtectConfig(
        **{"data": DataSource(data), "num_shards": 4, "device_invariant": True},
        generator=generators.spec("own_plugin:neighbor"),
    )
    with pytest.raises(ValueError, match="ppermute does not work with device_invari"):
        protect.run(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_kill_minus_nine_and_sigterm_leave_no_trace_in_the_result(tmp_path, data):
    options = [*_OPTIONS, "--generator.epochs=100", "--checkpoint-every=10", "--quiet"]
    arguments = ["protect", data, *options]
    whole = _run_command(*arguments, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    for number, expected in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        workdir = tmp_path / f"stopped_{number}"
        command = _command(*arguments, f"--workdir={workdir}")
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stderr=subprocess.PIPE, text=True
        )
        metrics = workdir / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") > 25:
                break
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == expected, errors
        assert not (workdir / protect.ARTIFACT).exists(), "it was stopped too late"
        resumed = _run_command(*arguments, f"--workdir={workdir}", "--resume")
        assert resumed.returncode == 0, resumed.stderr
        for name in (protect.ARTIFACT, "protected.delta.npy"):
            a, b = ((tmp_path / d / name).read_bytes() for d in ("whole", workdir))
            assert a == b, f"{name} differs after {signal.Signals(number).name}"
        lines = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        assert lines == sorted(set(lines)), "metrics repeat steps"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["", "--device-invariant", "--generator.storage=int8"])
def test_two_processes_give_the_numbers_of_one(tmp_path, data, mode):
    arguments = ["protect", data, *_OPTIONS, "--generator.epochs=4", "--quiet"]
    arguments += [mode] if mode else []
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def start(workdir: str, devices: int, **variables: str) -> subprocess.Popen[str]:
        environment = {**_environment(), "JAX_NUM_CPU_DEVICES": str(devices)}
        return subprocess.Popen(
            _command(*arguments, f"--workdir={tmp_path / workdir}"),
            cwd=ROOT,
            env={**environment, **variables},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    cluster = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        start("one", 4),
        *(start("two", 2, **cluster, JAX_PROCESS_ID=str(i)) for i in range(2)),
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    one, two = (artifact.load(tmp_path / n / protect.ARTIFACT) for n in ("one", "two"))
    assert two.metadata["num_shards"] == one.metadata["num_shards"] == 4
    differing = np.mean(one.dataset.images != two.dataset.images)
    most = 0 if mode == "--device-invariant" else 0.02
    assert differing <= most, f"{differing:.1%} of the values differ"


def _folder(root: pathlib.Path, *names: str) -> pathlib.Path:
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8 + index // 3)).save(root / name)
    return root


def _arrays(root: pathlib.Path, **changes) -> pathlib.Path:
    images, labels = np.zeros((8, 8, 8, 3), np.float32), np.arange(8) % 2
    path = root / "arrays.npz"
    np.savez(path, **{"images": images, "labels": labels, **changes})
    return path


def _no_path(root: pathlib.Path) -> pathlib.Path:
    return root / "none"


def _one_class(root: pathlib.Path) -> pathlib.Path:
    return _folder(root, "cats/0.png")


def _unreadable(root: pathlib.Path) -> pathlib.Path:
    _folder(root, "cats/0.png", "dogs/1.png")
    (root / "dogs/1.png").write_bytes(b"no image")
    return root


def _mixed_sizes(root: pathlib.Path) -> pathlib.Path:
    return _folder(root, "cats/0.png", "cats/1.png", "dogs/2.png", "dogs/3.png")


def _labels_out_of_range(root: pathlib.Path) -> pathlib.Path:
    return _arrays(root, class_names=["cat", "dog"], labels=np.arange(8) % 3)


def _not_a_number(root: pathlib.Path) -> pathlib.Path:
    return _arrays(root, images=np.full((8, 8, 8, 3), np.nan))


def _out_of_range(root: pathlib.Path) -> pathlib.Path:
    return _arrays(root, images=np.full((8, 8, 8, 3), 1.5))


def _truncated(root: pathlib.Path) -> pathlib.Path:
    clean = data_sets.Dataset(
        np.zeros((8, 8, 8, 3), np.uint8), np.arange(8, dtype=np.int32) % 2, ("a", "b")
    )
    delta = np.full(clean.images.shape, 2 / 255, np.float32)
    path = root / "protected.npz"
    artifact.save(
        path, artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    )
    path.write_bytes(path.read_bytes()[:-500])
    return path


BAD_DATA = {
    _no_path: "none: no such file",
    _one_class: "two class folders are needed",
    _unreadable: r"dogs.1\.png: not a readable image",
    _mixed_sizes: r"dogs.3\.png: is 8x9, but .*0\.png is 8x8",
    _labels_out_of_range: r"arrays\.npz: labels must lie in \[0, 1\], got 2",
    _not_a_number: r"arrays\.npz: images has NaN",
    _out_of_range: r"arrays\.npz: images must lie in \[0, 1\]",
    _truncated: r"protected\.npz",
}


def _refused(capsys, run: Callable[[], object]) -> str:
    """The one line with which a command ends with status 2 on bad input."""
    status = _command_line.run(lambda: run() and None, "miue command")
    printed = capsys.readouterr()
    assert status == _command_line.BAD_INPUT == 2
    assert not printed.out
    lines = printed.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("miue command: ")
    return lines[0]


@pytest.mark.parametrize("make", BAD_DATA, ids=lambda make: make.__name__.strip("_"))
@pytest.mark.parametrize("use", ["protect", "train", "test"])
def test_bad_data_end_in_one_line_with_status_two(tmp_path, data, capsys, make, use):
    (tmp_path / "bad").mkdir()
    path = str(make(tmp_path / "bad"))
    if use == "protect":
        workflow, config = protect, _protection(path)
    elif use == "train":
        workflow, config = evaluate, _training(path, data)
    else:
        # The only split that these have.
        workflow, config = evaluate, _training(data, path, split="train")
    line = _refused(
        capsys, lambda: workflow.run(config, tmp_path / "run", progress=False)
    )
    assert re.search(BAD_DATA[make], line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("workflow", [protect, evaluate], ids=["protect", "evaluate"])
def test_a_truncated_checkpoint_ends_in_one_line(tmp_path, data, capsys, workflow):
    # A whole run first; without its result it resumes from its last checkpoint.
    if workflow is protect:
        config = _protection(data, run={"checkpoint_every": 4}, epochs=1)
        result = protect.ARTIFACT
    else:
        config, result = _training(data, data, epochs=2), evaluate.RESULTS

    def run():
        return workflow.run(config, tmp_path / "run", progress=False)

    run()
    (tmp_path / "run" / result).unlink()
    for file in (tmp_path / "run").rglob("checkpoints/**/*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    line = _refused(capsys, run)
    assert re.search(r"checkpoint \d+ in .*checkpoints is damaged", line), line
    assert not (tmp_path / "run" / result).exists()


BAD_PROTECTION = {
    "radius": ({"radius": 0.0}, r"radius is 0\.0"),
    "model": ({"model": "resnt18"}, "resnet18"),
    "generator": ({"name": "mi_eu"}, "mi_ue"),
    "preset": ({"name": "mi_ue/papr"}, "did you mean 'paper'"),
    "setting": ({"radios": 8}, "radius"),
    "fraction of a level": ({"radius": 2.5}, "whole gray levels"),
    "network": ({"model": "lenet5", "width": None}, "16"),
    "batch": ({"batch_size": 12}, "12 images does not"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
    "class to protect": (
        {"select": {"classes": ("9",)}},
        "class '9' is not in the data",
    ),
    "fraction": ({"select": {"fraction": 0.0}}, r"fraction is 0\.0"),
    "checkpoints": ({"run": {"checkpoint_every": 0}}, "checkpoint_every is 0"),
    "crop": ({"crop": 100}, "crop is 100 pixels"),
    "export": ({"run": {"export": "truncated"}}, "did you mean 'truncate'"),
    "seed": ({"select": {"seed": -1}}, "seed is -1"),
}


@pytest.mark.parametrize("case", list(BAD_PROTECTION))
def test_bad_input_to_protect_is_named_and_nothing_is_written(
    tmp_path, data, capsys, case
):
    changes, message = BAD_PROTECTION[case]
    line = _refused(
        capsys, lambda: protect.run(_protection(data, **changes), tmp_path / "run")
    )
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_device")
def test_an_export_is_part_of_a_run_and_told(tmp_path, data):
    config = _protection(data, run={"export": "drop_negative"}, epochs=1)
    made = protect.run(config, tmp_path / "run", progress=False)
    assert made.metadata["export"] == "drop_negative"
    clean = data_sets.load(data).images.astype(int)
    change = made.dataset.images - clean
    assert change.min() == 0
    assert change.max() > 0
    assert (
        protect.run(config, tmp_path / "run", progress=False).metadata == made.metadata
    )
    with pytest.raises(ValueError, match="export is 'drop_negative' there and 'round'"):
        protect.run(
            dataclasses.replace(config, export="round"),
            tmp_path / "run",
            progress=False,
        )


@pytest.mark.usefixtures("one_device")
def test_a_perturbation_of_nothing_is_an_error_and_no_artifact(tmp_path, data):
    # A step that rounds to nothing in 8 bits.
    config = _protection(data, step_size=0.1, step_size_end=0.1, epochs=1)
    with pytest.raises(ValueError, match="is 0 gray levels in every image"):
        protect.run(config, tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").glob("protected*"))


@pytest.mark.usefixtures("one_device")
def test_training_that_diverges_ends_in_one_line_naming_the_step(
    tmp_path, data, capsys
):
    broken = {"learning_rate": 1e3, "weight_decay": 1e3, "epochs": 4}
    line = _refused(
        capsys,
        lambda: protect.run(
            _protection(data, **broken), tmp_path / "protect", progress=False
        ),
    )
    assert re.search(r"\w+_loss is (nan|inf) at step \d+: training diverged", line), (
        line
    )
    assert not list((tmp_path / "protect").glob("protected*"))
    line = _refused(
        capsys,
        lambda: evaluate.run(
            _training(data, data, **broken), tmp_path / "victim", progress=False
        ),
    )
    assert re.search(r"train_loss is (nan|inf) at step \d+: training diverged", line), (
        line
    )
    assert not (tmp_path / "victim" / evaluate.RESULTS).exists()


BAD_EVALUATION = {
    "small for JPEG": ({"run": {"defense": "jpeg-10"}}, "16"),
    "defense": ({"run": {"defense": "jepg-10"}}, "jpeg"),
    "network": ({"model": "lenet5", "width": None}, "16"),
    "seeds": ({"run": {"seeds": ()}}, "seeds is empty"),
    "field": ({"epoch": 3}, "epoch"),
    "model": ({"model": "vg11"}, "vgg11"),
    "test data": ({"test": "shapes"}, "classes"),
    "every": ({"run": {"evaluate_every": 0}}, "evaluate_every is 0"),
    "batch": ({"batch_size": 12}, "12 images does not .* set batch_size"),
}


@pytest.mark.parametrize("case", list(BAD_EVALUATION))
def test_bad_input_to_evaluate_is_named_and_nothing_is_written(
    tmp_path, data, capsys, case
):
    changes, message = BAD_EVALUATION[case]
    changes = {"test": data, **changes}
    line = _refused(
        capsys, lambda: evaluate.run(_training(data, **changes), tmp_path / "run")
    )
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises(ValueError, match="'quik'; did you mean 'quick'"):
        victims.preset("quik")


@pytest.mark.usefixtures("one_device")
def test_a_truncated_artifact_is_no_silent_clean_run(tmp_path, data):
    protect.run(_protection(data), tmp_path / "made", progress=False)
    path = tmp_path / "made" / protect.ARTIFACT
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"protected\.npz"):
        evaluate.run(_training(str(path), data), tmp_path / "v", progress=False)
    with pytest.raises(ValueError, match=r"protected\.npz"):
        protect.run(_protection(data), tmp_path / "made", progress=False)
    assert not (tmp_path / "v").exists()


@pytest.mark.usefixtures("one_device")
def test_a_full_disk_is_one_error_and_leaves_no_artifact(tmp_path, data, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = _protection(data, run={"checkpoint_every": 5})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ocp, "save", full)
        with pytest.raises(OSError, match=r"checkpoint 5 .* cannot be .*No space"):
            protect.run(config, tmp_path / "run", progress=False)
    replace = os.replace

    def full_for_artifacts(source, target):
        return (full if "protected" in str(target) else replace)(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_for_artifacts)
        with pytest.raises(OSError, match=r"protected"):
            protect.run(config, tmp_path / "run", progress=False)
    left = [p.name for p in (tmp_path / "run").iterdir() if p.suffix != ".json"]
    assert not any("protected" in name for name in left), left
    made = protect.run(config, tmp_path / "run", progress=False)
    artifact.check_source(made, data_sets.load(data))


@pytest.mark.slow
def test_commands_report_bad_input_in_one_line_with_status_two(tmp_path):
    cases = [
        ("protect", ["--generator=mi_ue/papr"], "paper"),
        ("protect", ["--generator.radius=-1"], "radius is -1.0"),
        ("protect", ["--generator.radius=wide"], "--generator.radius"),
        ("protect", ["--no_such_flag"], "no_such_flag"),
        ("evaluate", [f"{tmp_path}/none", "shapes"], "none: no such"),
    ]
    processes = [
        (
            subprocess.Popen(
                _command(command, *extra, f"--workdir={tmp_path / 'run'}"),
                cwd=ROOT,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
            message,
        )
        for command, extra, message in cases
    ]
    for process, message in processes:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 2, errors
        assert "Traceback" not in errors
        assert message in errors
        assert len(errors.strip().splitlines()) == 1, errors
        assert not output
    assert not (tmp_path / "run").exists()
