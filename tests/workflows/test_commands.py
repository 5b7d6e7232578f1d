"""The command `miue`: evaluate, export, import and demo, from the outside."""

import json
import subprocess

import numpy as np
import pytest

from miue_jax.budget import Budget
from miue_jax.data import DataSource, artifact, load
from miue_jax.workflows import demo


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    labels = np.arange(24) % 2
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


@pytest.fixture
def protected(tmp_path, data):
    clean = load(data)
    noise = np.random.default_rng(1).uniform(-8, 8, clean.images.shape) / 255
    delta = noise.astype(np.float32)
    path = tmp_path / "protected.npz"
    artifact.save(
        path,
        artifact.build(clean, delta, budget=Budget("linf", 8), metadata={}),
        delta=delta,
    )
    return path


def test_evaluate_trains_and_prints_where_the_results_are(miue, tmp_path, data):
    workdir = tmp_path / "run"
    arguments = [
        *("evaluate", data, data, "--seeds", 0, 1, "--workdir", workdir),
        *("--victim.model", "linear", "--victim.epochs", 2, "--victim.batch-size", 8),
    ]
    status, output, errors = miue(*arguments)
    assert status == 0, errors
    results = json.loads((workdir / "results.json").read_text())
    assert f"{100 * results['final']['mean']:.2f}" in output
    assert f"{workdir}/results.json" in output
    assert "2 seeds" in output
    assert "Traceback" not in errors
    status, again, _ = miue(*arguments)
    assert (status, again) == (0, output)
    status, _, errors = miue(*arguments, "--no-resume")
    assert status == 2
    assert "holds a run already" in errors


def test_export_writes_pictures_and_an_array(miue, tmp_path, protected):
    png, npy = tmp_path / "png", tmp_path / "delta.npy"
    status, output, errors = miue("export", protected, "--png", png, "--npy", npy)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [str(npy), str(png)]
    assert len(list(png.glob("*/*.png"))) == 24
    delta = np.load(artifact.delta_path(protected))
    np.testing.assert_array_equal(np.load(npy).transpose(0, 2, 3, 1), delta)


BAD_EXPORTS = {
    "nothing to do": (lambda t: None, [], "name what to write: png"),
    "folder in use": (
        lambda t: ((t / "png").mkdir(), (t / "png" / "mine").touch()),
        ["--png={}/png", "--npy={}/delta.npy"],
        "png: exists and is not an empty folder",
    ),
    "name": (lambda t: None, ["--png={}/png", "--npy={}/delta.txt"], "end in .npy"),
    "no folder": (lambda t: None, ["--png={}/png", "--npy={}/no/d.npy"], "no folder"),
    "no perturbation": (
        lambda t: (t / "protected.delta.npy").unlink(),
        ["--npy={}/delta.npy"],
        "protected.delta.npy is missing",
    ),
    "no array": (
        lambda t: (t / "protected.delta.npy").write_bytes(b"no array"),
        ["--npy={}/delta.npy"],
        "protected.delta.npy: truncated, damaged or not",
    ),
    "another's": (
        lambda t: np.save(t / "protected.delta.npy", np.ones((24, 8, 8, 3), "f4")),
        ["--npy={}/delta.npy"],
        "protected.delta.npy: the perturbation is not the one",
    ),
}


@pytest.mark.parametrize("case", BAD_EXPORTS)
def test_a_bad_export_writes_nothing(miue, tmp_path, protected, case):
    change, arguments, message = BAD_EXPORTS[case]
    change(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments = [argument.format(tmp_path) for argument in arguments]
    status, output, errors = miue("export", protected, *arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_protected_data_set_without_a_digest_is_exported(miue, tmp_path, protected):
    made = artifact.load(protected)
    delta = np.load(artifact.delta_path(protected))
    metadata = {k: v for k, v in made.metadata.items() if k != "delta_sha256"}
    artifact.save(protected, made._replace(metadata=metadata), delta=delta)
    npy = tmp_path / "delta.npy"
    status, _, errors = miue("export", protected, "--npy", npy)
    assert status == 0, errors
    assert npy.exists()


def test_save_refuses_the_perturbation_of_another_data_set(tmp_path, protected):
    made = artifact.load(protected)
    other = np.zeros(made.dataset.images.shape, np.float32)
    with pytest.raises(ValueError, match="not the one of this protected data set"):
        artifact.save(tmp_path / "other.npz", made, delta=other)
    assert not (tmp_path / "other.npz").exists()


def test_import_makes_a_protected_data_set(miue, tmp_path, data, protected):
    theirs, output = tmp_path / "theirs.npy", tmp_path / "new" / "made.npz"
    np.save(theirs, np.load(artifact.delta_path(protected)))
    status, printed, errors = miue("import", theirs, data, "--output", output)
    assert (status, errors) == (0, "")
    assert "24 images, largest change 8 gray levels" in printed
    made = artifact.load(output)
    assert made.metadata["generator"] == {"name": "imported", "file": "theirs.npy"}
    np.testing.assert_array_equal(
        made.dataset.images, artifact.load(protected).dataset.images
    )


def test_an_import_goes_to_whole_levels_as_told(miue, tmp_path, data, protected):
    theirs, output = artifact.delta_path(protected), tmp_path / "made.npz"
    arguments = ["import", theirs, data, "--output", output, "--export", "truncate"]
    status, printed, _ = miue(*arguments)
    assert status == 0
    assert "export truncate" in printed
    down = artifact.load(output).dataset.images
    rounded = artifact.load(protected).dataset.images
    assert (down <= rounded).all()
    assert (down < rounded).any()


def test_a_bad_import_makes_no_folder(miue, tmp_path, data, protected):
    output = tmp_path / "new" / "made.zip"
    theirs = artifact.delta_path(protected)
    status, _, errors = miue("import", theirs, data, "--output", output)
    assert status == 2
    assert "must end in .npz" in errors
    assert len(errors.splitlines()) == 1, errors
    assert not output.parent.exists()


@pytest.mark.slow
def test_what_is_read_is_not_overwritten(miue, tmp_path, data, protected):
    delta = tmp_path / "protected.delta.npy"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments in (
        ("import", delta, data, "--output", data),
        ("import", delta, data, "--output", protected),
        ("export", protected, "--npy", delta),
        ("detect", protected, data, "--json", protected),
    ):
        status, output, errors = miue(*arguments)
        assert (status, output, errors.count("\n")) == (2, "", 1)
        assert "is read by this command, and would be overwritten" in errors
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_spans_of_time_are_no_perturbation(miue, tmp_path, data):
    np.save(tmp_path / "spans.npy", np.zeros((24, 8, 8, 3), "m8[s]"))
    made = tmp_path / "made.npz"
    status, _, errors = miue("import", tmp_path / "spans.npy", data, "--output", made)
    assert (status, made.exists()) == (2, False)
    assert "a perturbation is float or a signed integer" in errors


def test_the_demo_shows_all_accuracies_and_a_picture(miue, tmp_path, monkeypatch):
    small = {"model": "mlp2", "width": 8, "batch_size": 20, "learning_rate": 0.05}
    for name, value in {
        "_TRAIN": DataSource("shapes", per_class=4),
        "_TEST": DataSource("shapes", split="test", per_class=4),
        "_SHARED": small,
        "_GENERATOR_EPOCHS": 4,
        "_ROBUST_EPOCHS": 2,
        "_VICTIM_EPOCHS": 2,
    }.items():
        assert type(getattr(demo, name)) is type(value)
        monkeypatch.setattr(demo, name, value)
    workdir = tmp_path / "demo"
    status, printed, _ = miue("demo", "--workdir", workdir)
    assert status == 0

    def percent(name):
        results = workdir / f"victim-{name}" / "results.json"
        return f"{100 * json.loads(results.read_text())['final']['mean']:.1f} %"

    lines = printed.splitlines()
    assert f"clean               {percent('clean')}" in lines
    assert f"protected           {percent('protected')}" in lines
    assert (
        f"robust, JPEG 50     {percent('robust_jpeg_50')} "
        f"(clean, JPEG 50: {percent('clean_jpeg_50')})"
    ) in lines
    config = json.loads((workdir / "victim-robust_jpeg_50/config.json").read_text())
    assert config["defense"] == {"name": "jpeg", "quality": 50}
    assert (workdir / "protected.png").stat().st_size > 1000


@pytest.mark.parametrize("command", ["protect", "evaluate"])
def test_a_disk_that_is_really_full_is_one_line(miue, tmp_path, data, command):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if made.returncode:
        pytest.skip("only root can mount the small disk that this needs")
    section = "generator" if command == "protect" else "victim"
    settings = {
        "model": "mlp2",
        "width": 128,  # more than the disk holds twice
        "batch-size": 8,
        "epochs": 6,
    }
    arguments = [
        *(command, data, *([data] if command == "evaluate" else [])),
        *(f"--{section}.{name}={value}" for name, value in settings.items()),
        *("--checkpoint-every", 1, "--workdir", disk / "run"),
    ]
    try:
        status, output, errors = miue(*arguments)
        left = [path.name for path in disk.rglob("*orbax-checkpoint-tmp*")]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert (status, output) == (2, "")
    line = errors.splitlines()[-1]
    assert line.startswith(f"miue {command}: checkpoint ")
    assert line.endswith("cannot be written: No space left on device")
    # The progress bar is all that is printed besides.
    assert "ERROR" not in errors
    assert "Traceback" not in errors
    assert not left
