"""Folders of a few pictures, smaller than any batch, go through every command."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from miue_jax.data import artifact
from miue_jax.workflows import protect

EACH = 12
COUNT = 2 * EACH


def _write(root: pathlib.Path, *classes: str, seed: int = 0) -> pathlib.Path:
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(EACH):
            values = rng.integers(60 + 40 * number, 180, (16, 16, 3), np.uint8)
            Image.fromarray(values).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def pictures(tmp_path):
    """A folder for each class, with a few pictures to train and to test on."""
    _write(tmp_path / "jane_doe" / "pets" / "train", "cat", "dog")
    _write(tmp_path / "jane_doe" / "pets" / "test", "cat", "dog", seed=1)
    return tmp_path / "jane_doe" / "pets"


_MODEL = ["--victim.model=mlp2", "--victim.epochs=1", "--seeds=0"]
_CLIPPED = f"batch_size is more than the {COUNT} images: using {COUNT}"
_FEW = ", which makes {} steps in all: few steps protect little"


def _protect(miue, pictures, workdir, *options):
    surrogate = ["--generator.model=mlp2", "--generator.epochs=2"]
    return miue(
        *("protect", pictures, "--workdir", workdir, "--quiet"),
        *(options or ["--generator=mi_ue/interleaved", *surrogate]),
    )


def test_they_go_through_every_command(miue, pictures, tmp_path):
    run = tmp_path / "run"
    status, output, errors = _protect(miue, pictures, run)
    assert (status, errors) == (
        0,
        f"miue protect: generator.{_CLIPPED}{_FEW.format(2)}\n",
    )
    file = run / protect.ARTIFACT
    assert f"{file}: {COUNT} images" in output
    made = artifact.load(file)
    assert made.dataset.class_names == ("cat", "dog")
    assert made.metadata["clipped"] == {"batch_size": COUNT}
    assert made.metadata["generator"]["batch_size"] > COUNT

    status, _, errors = miue(
        *("evaluate", file, pictures, *_MODEL, "--quiet"),
        *("--workdir", tmp_path / "victim"),
    )
    assert (status, errors) == (0, f"miue evaluate: victim.{_CLIPPED}\n")
    results = json.loads((tmp_path / "victim" / "results.json").read_text())
    assert results["clipped"] == {"batch_size": COUNT}

    status, output, errors = miue(
        "detect", file, pictures, "--models", "linear", "--epochs=2", "--steps=5"
    )
    assert status == 0
    fitted = COUNT - round(0.2 * COUNT)
    assert errors == (
        f"miue detect: detect.batch_size is more than the {fitted} images: "
        f"using {fitted}\n"
    )
    assert f"{COUNT} of {COUNT} images are changed" in output


def test_they_are_swept(miue, pictures, tmp_path):
    status, output, errors = miue(
        *("sweep", pictures, "--generators", "clean", "random_noise", "--quiet"),
        *("--victims", "quick", "--workdir", tmp_path / "run", *_config(tmp_path)),
    )
    assert status == 0, errors
    assert "2 of 2 cells are done" in output
    assert errors.splitlines() == [
        "miue sweep: cell: clean-none-quick-seed_0",
        f"miue sweep: victim.{_CLIPPED}",
        "miue sweep: cell: random_noise-none-quick-seed_0",
        f"miue sweep: victim.{_CLIPPED}",
    ]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["victims"]["quick"]["batch_size"] == COUNT


def _config(folder: pathlib.Path) -> list[str]:
    """A small protocol; on the command line a sweep has only names."""
    path = folder / "small.py"
    settings = "{'quick': {'model': 'linear', 'epochs': 1}}"
    path.write_text(f"def get_config():\n    return {{'victims': {settings}}}\n")
    return ["--config", str(path)]


def test_every_batch_of_a_generator_is_reduced(miue, pictures, tmp_path):
    status, _, errors = _protect(
        *(miue, pictures, tmp_path / "run", "--generator=mi_ue/paper"),
        *("--generator.model=mlp2", "--generator.epochs=1"),
        *("--generator.pgd-steps=1", "--generator.step-size=2"),
        "--generator.step-size-end=2",
    )
    assert status == 0, errors
    assert errors.splitlines() == [
        f"miue protect: generator.{_CLIPPED}{_FEW.format(2)}",
        f"miue protect: generator.perturbation_{_CLIPPED}{_FEW.format(2)}",
    ]


@pytest.mark.parametrize("number", [1, 2])
def test_one_picture_of_each_class_is_enough(miue, tmp_path, number):
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(number):
            image = Image.new("RGB", (16, 16), (90 + i, 80, 70))
            image.save(tmp_path / "in" / name / f"{i}.png")
    status, _, errors = _protect(miue, tmp_path / "in", tmp_path / "run")
    assert status == 0, errors
    count = 2 * number
    assert f".batch_size is more than the {count} images: using {count}" in errors


@pytest.mark.parametrize("given", ["dog", "1"])
def test_classes_are_chosen_by_name_or_number(miue, pictures, tmp_path, given):
    status, _, errors = _protect(
        *(miue, pictures, tmp_path / "run"),
        *("--generator=random_noise", "--classes", given),
    )
    assert (status, errors) == (0, "")
    made = artifact.load(tmp_path / "run" / protect.ARTIFACT)
    assert made.metadata["protected_images"] == EACH
    assert made.metadata["perturbed"]["by_class"] == {"cat": 0, "dog": EACH}


def test_a_class_that_there_is_not_is_named(miue, pictures, tmp_path):
    status, output, errors = _protect(
        *(miue, pictures, tmp_path / "run"),
        *("--generator=random_noise", "--classes", "dgo"),
    )
    assert (status, output) == (2, "")
    assert "'dgo'; did you mean 'dog'" in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_classes_that_differ_in_case_only_can_be_exported(miue, tmp_path):
    folder = _write(tmp_path / "in", "Cat", "cat")
    run = tmp_path / "run"
    assert _protect(miue, folder, run, "--generator=random_noise")[0] == 0
    status, _, errors = miue(
        "export", run / protect.ARTIFACT, "--png", tmp_path / "png"
    )
    assert (status, errors) == (0, "")
    folders = [path.name for path in (tmp_path / "png").iterdir() if path.is_dir()]
    assert len({name.casefold() for name in folders}) == 2


def test_what_is_published_does_not_name_the_folder(miue, pictures, tmp_path):
    run = tmp_path / "run"
    assert _protect(miue, pictures, run, "--generator=random_noise")[0] == 0
    file = run / protect.ARTIFACT
    assert miue("export", file, "--png", tmp_path / "png")[0] == 0
    texts = {
        "metadata": json.dumps(artifact.load(file).metadata),
        "config": (run / "config.json").read_text(),
        "export": (tmp_path / "png" / "metadata.json").read_text(),
    }
    for name, text in texts.items():
        assert "jane_doe" not in text, name
        assert str(tmp_path) not in text, name
    assert artifact.load(file).metadata["data"]["name"] == "pets"
    # So that a run is resumed where the pictures were moved to.
    moved = pictures.rename(tmp_path / "elsewhere")
    status, _, errors = _protect(miue, moved, run, "--generator=random_noise")
    assert (status, errors) == (0, "")
