"""The detection script: what it prints and writes, and bad input."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest
from absl import flags

from miue_jax import detection
from miue_jax.budget import Budget
from miue_jax.data import load

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script as `python experiments/NAME.py` does; status, output and errors."""
    before = set(flags.FLAGS)

    def start(*arguments: str) -> tuple[int, str, str]:
        path = str(EXPERIMENTS / "detect.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        finally:
            for flag in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, flag)
        return int(ended.value.code or 0), *capsys.readouterr()

    return start


def _protect(folder: pathlib.Path, amplitude: int) -> list[str]:
    """Noise, of which 80 of 100 images get a pattern for each class."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.integers(60, 196, (100, 8, 8, 1), np.uint8)
    data, artifact = folder / "data.npz", folder / "protected.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    delta = rng.choice([-amplitude, amplitude], (2, 8, 8, 1))[labels] / 255
    delta[80:] = 0
    budget = Budget("linf", 60.0)
    made = artifact.build(load(data), delta, budget=budget, metadata={})
    artifact.save(artifact, made)
    return [f"--data={data}", f"--protected={artifact}"]


_SMALL = ("--epochs=5", "--batch_size=16", "--width=16", "--steps=20")


@pytest.mark.slow
def test_protected_data_are_told(run, tmp_path):
    output = tmp_path / "found.json"
    arguments = (*_protect(tmp_path, 60), f"--json={output}", *_SMALL)
    status, printed, errors = run(*arguments, "--models=linear,mlp2")
    assert (status, errors) == (0, "")
    found = json.loads(output.read_text())
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


BAD = {
    "nothing": ([], "give --protected and --data"),
    "model": (["--models=linear,mpl2"], "'mpl2'; did you mean 'mlp2'"),
    "no model": (["--models="], "give --models"),
    "epochs": (["--epochs=0"], "simple_network epochs is 0"),
    "steps": (["--steps=0"], "steps is 0"),
    "seed": (["--seed=-99999999999999999999"], "seed"),
    "batch": (["--batch_size=128"], "a batch of 128 images"),
    "width": (["--width=0"], "simple_network width is 0"),
    "subset": (["--per_class=3"], "made from another source"),
    "folder": (["--json={}/no/found.json"], "there is no folder"),
    "flag": (["--epoch=3"], "epoch"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_two(run, tmp_path, monkeypatch, case):
    monkeypatch.setattr(
        detection, "linear_separability", lambda *a, **k: pytest.fail("computed")
    )
    arguments, message = BAD[case]
    arguments = [argument.format(tmp_path) for argument in arguments]
    source = _protect(tmp_path, 60) if arguments else []
    before = sorted(tmp_path.rglob("*"))
    status, printed, errors = run(*source, *arguments)
    assert (status, printed) == (2, "")
    assert errors.startswith("detect.py: "), errors
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_an_artifact_that_changes_nothing_is_one_line(run, tmp_path):
    status, printed, errors = run(*_protect(tmp_path, 0), *_SMALL)
    assert (status, printed) == (2, "")
    assert "equal the clean ones: nothing to detect" in errors
