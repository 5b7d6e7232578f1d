"""`fit_protector` and `miue fit-protector`: on folders and data sets, resumable."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import protected_folders as folders
import pytest

import miue_jax as mj
from miue_jax import data, protector
from miue_jax.protector import FitConfig
from miue_jax.train import run_directory
from miue_jax.workflows.folder import resumable_fit, squares
from miue_jax.workflows.folder.fit_protector import fit_protector

HERE = pathlib.Path(__file__).parent
CONFIG = FitConfig(
    steps=2, batch_size=2, model="linear", model_width=None, view_size=16
)
_FAST = ("--fit.steps=2", "--fit.batch-size=2", "--fit.model=linear")
_FAST += ("--fit.model-width=None", "--fit.view-size=16", "--size=32", "--quiet")


@pytest.fixture
def pictures(tmp_path):
    for number, name in enumerate(("cats/a.png", "dogs/b.jpg", "cats/c.webp")):
        folders.photo(tmp_path / "in" / name, seed=number)
    return tmp_path / "in"


@pytest.fixture
def fits(monkeypatch):
    """Fits nothing, and tells what would be fitted on."""
    calls = []

    def fit(config, images, codes, settings, groups, folder, *, progress):
        calls.append((config, images, codes))
        return mj.Protector({}, groups, settings)

    monkeypatch.setattr(resumable_fit, "run", fit)
    return calls


def _equal(first: mj.Protector, second: mj.Protector) -> bool:
    return protector.digest(first) == protector.digest(second)


def test_a_folder_with_classes(tmp_path, pictures):
    path = tmp_path / "mine.safetensors"
    made = fit_protector(pictures, path, config=CONFIG, size=32)
    assert made.settings.class_names == ("cats", "dogs")
    assert (made.settings.size, made.settings.strength) == (32, 8.0)
    assert _equal(mj.Protector.load(path), made)
    assert set(os.listdir(tmp_path)) == {"in", "mine.safetensors"}
    # It protects folders, and its classes have its codes.
    found = mj.protect_folder(
        *(pictures, tmp_path / "out"), protector=str(path), effort="fast", strength=5
    )
    assert len(found.written) == 3
    targets = {name: entry.target for name, entry in found.written.items()}
    folders.check_budget(pictures, tmp_path / "out", targets, 5)


def test_a_folder_without_classes_has_clusters(tmp_path, fits):
    for number in range(8):
        folders.photo(tmp_path / "in" / f"{number}.png", seed=number)
    path = tmp_path / "mine.safetensors"
    made = fit_protector(tmp_path / "in", path, config=CONFIG, size=32)
    assert made.settings.class_names == ()
    _, images, codes = fits[0]
    # Two squares of each picture.
    assert images.shape == (16, 32, 32, 3)
    assert len(made.clusters.centers) == len(set(codes.tolist())) == 2


def test_for_any_pictures(tmp_path, pictures, fits):
    made = fit_protector(
        *(str(pictures), str(tmp_path / "mine")),
        config=CONFIG,
        size=32,
        any_pictures=True,
        num_codes=3,
        strength=4,
    )
    assert made.settings.class_names == ()
    assert len(made.clusters.centers) == 0
    assert (made.settings.num_codes, made.settings.strength) == (3, 4.0)
    assert set(fits[0][2].tolist()) == {-1}


def test_data_sets_of_every_kind_are_the_same(tmp_path, fits):
    source = data.DataSource("shapes", per_class=2)
    made = [
        fit_protector(given, tmp_path / "mine", config=CONFIG, size=32)
        for given in (source, source.load())
    ]
    assert _equal(*made)
    for one, other in zip(fits[0][1:], fits[1][1:], strict=True):
        assert np.array_equal(one, other)
    assert fits[0][1].shape == (len(fits[0][2]), 32, 32, 3)
    assert made[0].settings.class_names == tuple(source.load().class_names)


def test_gray_data(tmp_path, fits):
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 1), np.uint8)
    given = data.Dataset(images, np.array([0, 1, 0, 1]), ("a", "b"))
    made = fit_protector(given, tmp_path / "mine", config=CONFIG)
    assert made.settings.size == 16
    shown = fits[0][1]
    assert np.array_equal(shown, np.broadcast_to(shown[..., :1], shown.shape))


@pytest.mark.slow
def test_seeds(tmp_path):
    source = data.DataSource("shapes", per_class=2)
    digests = []
    for seed in (0, 0, 1):
        config = dataclasses.replace(CONFIG, seed=seed)
        made = fit_protector(source, tmp_path / "mine", config=config, size=32)
        digests.append(protector.digest(made))
    assert digests[0] == digests[1] != digests[2]


def test_the_command(miue, tmp_path, monkeypatch, pictures, fits):
    monkeypatch.chdir(tmp_path)
    status, output, errors = miue("fit-protector", "in", "--output=mine", *_FAST)
    assert (status, errors) == (0, "")
    assert output.startswith(
        "mine: 32 kinds of perturbation, 2 of them of classes, at most 8 gray levels"
    )
    status, output, errors = miue(
        "fit-protector", "shapes", "--data.per-class=2", "--output=other", *_FAST
    )
    assert (status, errors) == (0, "")
    assert set(os.listdir()) == {"in", "mine", "other"}


# What is refused.


def test_pictures_that_cannot_be_read_are_named(tmp_path, pictures):
    (pictures / "cats" / "d.png").write_bytes(b"none")
    message = r"1 file cannot be protected: cats/d.png: not a .* --skip-unreadable"
    with pytest.raises(ValueError, match=message):
        fit_protector(pictures, tmp_path / "mine", config=CONFIG)
    (pictures / "cats" / "d.png").unlink()
    folders.photo(pictures / "cats" / "e.png", size=(15, 40))
    with pytest.raises(ValueError, match=r"cats/e.png: is 15x40: only pictures of"):
        fit_protector(pictures, tmp_path / "mine", config=CONFIG)
    (pictures / "cats" / "e.png").unlink()
    _halve(pictures / "dogs" / "b.jpg")
    message = r"dogs/b.jpg: not a readable picture .* --skip-unreadable"
    with pytest.raises(ValueError, match=message):
        fit_protector(pictures, tmp_path / "mine", config=CONFIG)
    assert os.listdir(tmp_path) == ["in"]


def _halve(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_unreadable_pictures_are_skipped_and_named(
    miue, tmp_path, monkeypatch, pictures, fits
):
    monkeypatch.chdir(tmp_path)
    folders.photo(pictures / "dogs" / "e.jpg", seed=3)
    fit_protector(pictures, tmp_path / "without", config=CONFIG, size=32)
    (pictures / "cats" / "d.png").write_bytes(b"none")
    folders.photo(pictures / "cats" / "e.png", size=(15, 40))
    folders.photo(pictures / "dogs" / "f.jpg", seed=4)
    _halve(pictures / "dogs" / "f.jpg")
    command = ("fit-protector", "in", "--output=mine", "--skip-unreadable", *_FAST)
    status, output, errors = miue(*command)
    assert status == 0
    for line, start in zip(
        errors.splitlines(),
        (
            "cats/d.png: not a readable",
            "cats/e.png: is 15x40",
            "dogs/f.jpg: not a readable",
        ),
        strict=True,
    ):
        assert line.startswith(f"miue fit-protector: left out: {start}")
    # As if they were not there.
    assert "fitted on 8 squares" in output
    for one, other in zip(fits[0][1:], fits[1][1:], strict=True):
        assert np.array_equal(one, other)
    for path in sorted(pictures.rglob("*.*")):
        path.write_bytes(b"none")
    status, output, errors = miue(*command)
    assert (status, output) == (2, "")
    assert "7 files cannot be protected: cats/a.png" in errors
    assert "there are no others" in errors


def test_a_folder_of_somebody_else_is_not_removed(tmp_path, pictures):
    folder = tmp_path / "mine.fit"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not of a fit that was stopped"):
        fit_protector(pictures, tmp_path / "mine", config=CONFIG)
    assert (folder / "letter.txt").read_text() == "mine"
    (folder / "letter.txt").unlink()
    folder.rmdir()
    folder.write_text("mine")
    with pytest.raises(ValueError, match="is not of a fit that was stopped"):
        fit_protector(pictures, tmp_path / "mine", config=CONFIG)


def test_two_processes_do_not_fit_the_same_file(tmp_path, pictures, fits):
    folder = tmp_path / "mine.fit"
    with run_directory.locked(folder):
        with pytest.raises(ValueError, match=r"another process is working in .*mine"):
            fit_protector(pictures, tmp_path / "mine", config=CONFIG)
        # Another file may be fitted meanwhile.
        fit_protector(pictures, tmp_path / "other", config=CONFIG)
    assert len(fits) == 1
    assert set(os.listdir(tmp_path)) == {"in", "mine.fit", "other"}
    # Who was killed leaves the lock's file.
    fit_protector(pictures, tmp_path / "mine", config=CONFIG)
    assert set(os.listdir(tmp_path)) == {"in", "mine", "other"}


# Stopped fits.


def _fit(folder: pathlib.Path, config: FitConfig, steps: int | None = None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    settings = protector.Settings(num_codes=2, width=8, size=32)
    groups = protector.clusters.none()
    codes = np.arange(6, dtype=np.int32) % 2
    return resumable_fit.run(config, images, codes, settings, groups, folder)


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(1, marks=pytest.mark.slow),
        4,
        pytest.param(6, marks=pytest.mark.slow),
    ],
)
def test_a_fit_that_was_stopped_ends_as_if_it_was_not(tmp_path, monkeypatch, at):
    config = FitConfig(
        steps=6,
        batch_size=2,
        model="linear",
        model_width=None,
        view_size=16,
        classifiers=3,
    )
    whole = _fit(tmp_path / "whole", config)
    real, steps = resumable_fit.loop.progress, [0]

    def progress(*arguments, **options):
        bar = real(*arguments, **options)
        update = bar.update

        def count(*given):
            steps[0] += 1
            if steps[0] == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(*given)

        bar.update = count
        return bar

    monkeypatch.setattr(resumable_fit.loop, "progress", progress)
    with pytest.raises(resumable_fit.loop.Stopped) as caught:
        _fit(tmp_path / "fit", config)
    assert caught.value.code == 143
    assert steps[0] == at
    resumable_fit.check(tmp_path / "fit")
    assert _equal(_fit(tmp_path / "fit", config), whole)
    assert steps[0] == 6


@pytest.mark.slow
def test_a_fit_of_other_settings_is_begun_anew(tmp_path):
    config = dataclasses.replace(CONFIG, steps=6, seed=1)
    whole = _fit(tmp_path / "whole", config)
    with resumable_fit.checkpoints.Checkpoints(tmp_path / "fit", config={}) as saved:
        saved.save(3, {"w": np.zeros(2)})
    assert _equal(_fit(tmp_path / "fit", config), whole)


_PROGRAM = f"""
import sys
sys.path.insert(0, {str(HERE.parents[1])!r})
from miue_jax import cli
from miue_jax.workflows.folder import resumable_fit
resumable_fit._EVERY = 5
options = {[*_FAST, "--fit.steps=400"]!r}
options.remove("--fit.steps=2")
sys.exit(cli.main(["fit-protector", "in", "--output=mine", *options]))
"""


@pytest.mark.slow
def test_kills_and_a_signal(tmp_path, pictures):
    def start(where: pathlib.Path):
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], cwd=where, stderr=subprocess.DEVNULL
        )

    assert start(tmp_path).wait() == 0
    whole = (tmp_path / "mine").read_bytes()
    (tmp_path / "mine").unlink()
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = start(tmp_path)
        fit = tmp_path / "mine.fit"
        known = set(fit.glob("*/sha256.json"))
        while process.poll() is None and set(fit.glob("*/sha256.json")) <= known:
            time.sleep(0.01)
        process.send_signal(number)
        status = process.wait()
        assert status == (143 if number == signal.SIGTERM else -9)
        assert not (tmp_path / "mine").exists()
    assert start(tmp_path).wait() == 0
    assert (tmp_path / "mine").read_bytes() == whole
    assert set(os.listdir(tmp_path)) == {"in", "mine"}


# Squares.


def test_from_small_classes_all_pictures_are_taken(tmp_path):
    names = [f"big/{k:02}.png" for k in range(20)] + [f"small/{k}.png" for k in "abc"]
    for name in names:
        folders.photo(tmp_path / name, size=(16, 16))
    entries = mj.pictures.scan(tmp_path).pictures
    chosen = [entry.name for entry in squares.sample(entries, 10)]
    assert sum(name.startswith("small") for name in chosen) == 3
    assert sum(name.startswith("big") for name in chosen) == 7
    assert chosen == sorted(chosen)
    assert {"big/00.png", "big/19.png"} <= set(chosen)
    assert len(squares.sample(entries, 100)) == 23


def test_squares_are_upright_and_of_one_size(tmp_path):
    folders.photo(tmp_path / "wide.png", size=(96, 32))
    folders.photo(tmp_path / "small.png", size=(18, 18))
    entries = mj.pictures.scan(tmp_path).pictures
    assert squares.working_size(entries, 96) == 24
    found = squares.read(entries, 24)
    # Two of the wide one, from its ends.
    assert found.images.shape == (3, 24, 24, 3)
    assert found.labels.tolist() == [-1, -1, -1]
    assert jax.numpy.asarray(found.images).dtype == np.uint8


def test_it_does_not_take_the_place_of_a_picture(tmp_path):
    picture = tmp_path / "sea.png"
    picture.write_bytes(b"of somebody")
    with pytest.raises(ValueError, match="named like a picture"):
        fit_protector(tmp_path, picture)
    assert picture.read_bytes() == b"of somebody"
    assert list(tmp_path.iterdir()) == [picture]
