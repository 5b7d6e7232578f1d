"""Detection: what it returns, prints and writes, and bad input."""

import pathlib

import numpy as np
import pytest

from miue_jax import detection
from miue_jax.budget import Budget
from miue_jax.data import artifact, load
from miue_jax.train import run_directory
from miue_jax.workflows.detect import DetectConfig, detect


def _protect(folder: pathlib.Path, amplitude: int) -> list[str]:
    """Noise, of which 80 of 100 images get a pattern for each class."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.integers(60, 196, (100, 8, 8, 1), np.uint8)
    data, path = folder / "data.npz", folder / "protected.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    delta = rng.choice([-amplitude, amplitude], (2, 8, 8, 1))[labels] / 255
    delta[80:] = 0
    budget = Budget("linf", 60.0)
    made = artifact.build(load(data), delta, budget=budget, metadata={})
    artifact.save(path, made)
    return [str(path), str(data)]


_SMALL = {"epochs": 5, "batch_size": 16, "width": 16, "steps": 20}
_OPTIONS = [f"--{name}={value}" for name, value in _SMALL.items()]


@pytest.mark.slow
def test_protected_data_are_detected(miue, tmp_path):
    output = tmp_path / "found.json"
    paths = _protect(tmp_path, 60)
    status, printed, errors = miue(
        *("detect", *paths, f"--json={output}", *_OPTIONS, "--models", "linear", "mlp2")
    )
    assert (status, errors) == (0, "")
    found = run_directory.read_json(output)
    assert found["images"] == 100
    assert found["images_changed"] == 80
    assert found["largest_class"] == 0.5
    assert found["linear_separability"] == {
        "train_accuracy": 1,
        "held_out_accuracy": 1,
    }
    assert list(found["simple_networks"]) == ["linear", "mlp2"]
    for accuracies in found["simple_networks"].values():
        told, clean = accuracies["protected"], accuracies["clean"]
        assert told["validation_accuracy"] > clean["validation_accuracy"] + 0.2
    value = 100 * found["simple_networks"]["mlp2"]["protected"]["validation_accuracy"]
    row = next(x for x in printed.splitlines() if "protected images, mlp2" in x)
    assert row.endswith(f"{value:.2f}")
    assert "80 of 100 images are changed; the largest class holds 50.00 %" in printed
    settings = {**_SMALL, "models": ("linear", "mlp2")}
    assert detect(*paths, DetectConfig(), **settings) == found


def test_a_batch_larger_than_the_data_is_reduced(tmp_path, caplog):
    paths = _protect(tmp_path, 60)
    settings = {**_SMALL, "epochs": 1, "models": ("linear",)}
    fitted = 80  # of 100 images, a fifth is held out
    with caplog.at_level("WARNING", logger="miue_jax"):
        found = detect(*paths, **settings | {"batch_size": 128})
    assert caplog.messages == [
        f"detect.batch_size is more than the {fitted} images: using {fitted}"
    ]
    exact = detect(*paths, **settings | {"batch_size": fitted})
    assert found == {**exact, "batch_size": 128}


BAD = {
    "nothing": ([], "missing: PROTECTED, DATA"),
    "model": (["--models", "linear", "mpl2"], "'mpl2'; did you mean 'mlp2'"),
    "no model": (["--models"], "models is empty; allowed: linear"),
    "epochs": (["--epochs=0"], "epochs is 0"),
    "steps": (["--steps=0"], "steps is 0"),
    "seed": (["--seed=-99999999999999999999"], "seed"),
    "batch": (["--batch_size=0"], "batch_size is 0"),
    "width": (["--width=0"], "width is 0"),
    "subset": (["--data.per-class=3"], "made from another source"),
    "folder": (["--json={}/no/found.json"], "there is no folder"),
    "flag": (["--epoch=3"], "unknown option '--epoch'; did you mean '--epochs'"),
    "type": (["--epochs=many"], "--epochs: invalid literal for int()"),
    "twice": (["--epochs=1", "--epochs", "2"], "--epochs is given twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_two(miue, tmp_path, monkeypatch, case):
    monkeypatch.setattr(
        detection, "linear_separability", lambda *a, **k: pytest.fail("computed")
    )
    arguments, message = BAD[case]
    arguments = [argument.format(tmp_path) for argument in arguments]
    source = _protect(tmp_path, 60) if arguments else []
    before = sorted(tmp_path.rglob("*"))
    status, printed, errors = miue("detect", *source, *arguments)
    assert (status, printed) == (2, "")
    assert errors.startswith("miue detect: "), errors
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_set_that_changes_nothing_is_one_line(miue, tmp_path):
    status, printed, errors = miue("detect", *_protect(tmp_path, 0), *_OPTIONS)
    assert (status, printed) == (2, "")
    assert "equal the clean ones: nothing to detect" in errors
