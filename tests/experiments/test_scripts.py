"""The scripts, run as scripts, though in this process."""

import json
import pathlib
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags

from miue_jax.budget import Budget
from miue_jax.data import artifact, load
from miue_jax.train import parallel
from miue_jax.workflows import demo

# ml_collections loads configuration files in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs a script as `python experiments/NAME.py` does; status, output and errors."""
    mesh = parallel.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "data_mesh", lambda: mesh)
    monkeypatch.setattr(parallel, "initialize_processes", lambda: None)
    monkeypatch.chdir(EXPERIMENTS.parent)
    before = set(flags.FLAGS)

    def start(name: str, *arguments: str) -> tuple[int, str, str]:
        path = str(EXPERIMENTS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        finally:
            for flag in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, flag)
        return ended.value.code or 0, *capfd.readouterr()

    return start


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    labels = np.arange(24) % 2
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


@pytest.fixture
def artifact(tmp_path, data):
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


def test_evaluate_trains_and_prints_where_the_results_are(run, tmp_path, data):
    workdir = tmp_path / "run"
    arguments = [
        f"--config.train.name_or_path={data}",
        f"--config.test.name_or_path={data}",
        "--config.victim.model=linear",
        "--config.victim.epochs=2",
        "--config.victim.batch_size=8",
        "--config.seeds=(0, 1)",
        f"--workdir={workdir}",
    ]
    status, output, errors = run("evaluate", *arguments)
    assert status == 0, errors
    results = json.loads((workdir / "results.json").read_text())
    assert f"{100 * results['final']['mean']:.2f}" in output
    assert f"{workdir}/results.json" in output
    assert "2 seeds" in output
    assert "Traceback" not in errors
    status, again, _ = run("evaluate", *arguments)
    assert (status, again) == (0, output)
    status, _, errors = run("evaluate", *arguments, "--noresume")
    assert status == 2
    assert "holds a run already" in errors


def test_export_writes_pictures_and_an_array(run, tmp_path, artifact):
    png, npy = tmp_path / "png", tmp_path / "delta.npy"
    status, output, errors = run(
        "export", f"--artifact={artifact}", f"--png={png}", f"--npy={npy}"
    )
    assert (status, errors) == (0, "")
    assert output.splitlines() == [str(npy), str(png)]
    assert len(list(png.glob("*/*.png"))) == 24
    delta = np.load(artifact.delta_path(artifact))
    np.testing.assert_array_equal(np.load(npy).transpose(0, 2, 3, 1), delta)


BAD_EXPORTS = {
    "nothing to do": (lambda t: None, [], "give --artifact"),
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
def test_a_bad_export_writes_nothing(run, tmp_path, artifact, case):
    change, arguments, message = BAD_EXPORTS[case]
    change(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments = [argument.format(tmp_path) for argument in arguments]
    status, output, errors = run("export", f"--artifact={artifact}", *arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_an_artifact_without_a_digest_is_exported(run, tmp_path, artifact):
    made = artifact.load(artifact)
    delta = np.load(artifact.delta_path(artifact))
    metadata = {k: v for k, v in made.metadata.items() if k != "delta_sha256"}
    artifact.save(artifact, made._replace(metadata=metadata), delta=delta)
    npy = tmp_path / "delta.npy"
    status, _, errors = run("export", f"--artifact={artifact}", f"--npy={npy}")
    assert status == 0, errors
    assert npy.exists()


def test_save_refuses_the_perturbation_of_another_artifact(tmp_path, artifact):
    made = artifact.load(artifact)
    other = np.zeros(made.dataset.images.shape, np.float32)
    with pytest.raises(ValueError, match="not the one of this protected data set"):
        artifact.save(tmp_path / "other.npz", made, delta=other)
    assert not (tmp_path / "other.npz").exists()


def test_import_makes_an_artifact_of_a_perturbation(run, tmp_path, data, artifact):
    theirs, output = tmp_path / "theirs.npy", tmp_path / "new" / "made.npz"
    np.save(theirs, np.load(artifact.delta_path(artifact)))
    arguments = [f"--data={data}", f"--perturbation={theirs}", f"--output={output}"]
    status, printed, errors = run("import_perturbation", *arguments)
    assert (status, errors) == (0, "")
    assert "24 images, largest change 8 gray levels" in printed
    made = artifact.load(output)
    assert made.metadata["method"] == {"name": "imported", "file": "theirs.npy"}
    np.testing.assert_array_equal(
        made.dataset.images, artifact.load(artifact).dataset.images
    )


def test_an_import_goes_to_whole_levels_as_told(run, tmp_path, data, artifact):
    theirs, output = artifact.delta_path(artifact), tmp_path / "made.npz"
    arguments = [f"--data={data}", f"--perturbation={theirs}", f"--output={output}"]
    status, printed, _ = run("import_perturbation", *arguments, "--export=truncate")
    assert status == 0
    assert "export truncate" in printed
    down = artifact.load(output).dataset.images
    rounded = artifact.load(artifact).dataset.images
    assert (down <= rounded).all()
    assert (down < rounded).any()


def test_a_bad_import_makes_no_folder(run, tmp_path, data, artifact):
    output = tmp_path / "new" / "made.zip"
    status, _, errors = run(
        "import_perturbation",
        f"--data={data}",
        f"--perturbation={artifact.delta_path(artifact)}",
        f"--output={output}",
    )
    assert status == 2
    assert "must end in .npz" in errors
    assert len(errors.splitlines()) == 1, errors
    assert not output.parent.exists()


@pytest.mark.usefixtures("run")  # for its single device
@pytest.mark.slow
def test_the_demo_shows_both_accuracies_and_a_picture(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(demo, "_PER_CLASS", {"train": 4, "test": 4})
    monkeypatch.setattr(
        demo,
        "_SHARED",
        {"model": "mlp2", "width": 8, "batch_size": 20, "learning_rate": 0.05},
    )
    monkeypatch.setattr(demo, "_GENERATOR_EPOCHS", 4)
    monkeypatch.setattr(demo, "_VICTIM_EPOCHS", 2)
    flags.DEFINE_string("workdir", None, "")
    try:
        flags.FLAGS(["demo.py", f"--workdir={tmp_path / 'demo'}"])
        demo.main(["demo.py"])
    finally:
        del flags.FLAGS.workdir
    printed = capfd.readouterr().out
    for name in ("clean", "protected"):
        results = tmp_path / "demo" / f"victim-{name}" / "results.json"
        accuracy = json.loads(results.read_text())["final"]["mean"]
        assert f"{name:<20}{100 * accuracy:.1f} %" in printed
    assert (tmp_path / "demo" / "protected.png").stat().st_size > 1000


@pytest.mark.parametrize("script", ["generate", "evaluate"])
def test_a_disk_that_is_really_full_is_one_line(run, tmp_path, data, script):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if made.returncode:
        pytest.skip("only root can mount the small disk that this needs")
    section = "method" if script == "generate" else "victim"
    source = "data" if script == "generate" else "train"
    arguments = [
        f"--config.{source}.name_or_path={data}",
        f"--config.{section}.model=mlp2",
        f"--config.{section}.width=128",  # more than the disk holds twice
        f"--config.{section}.batch_size=8",
        f"--config.{section}.epochs=6",
        "--config.checkpoint_every=1",
        f"--workdir={disk / 'run'}",
    ]
    if script == "evaluate":
        arguments.append(f"--config.test.name_or_path={data}")
    try:
        status, output, errors = run(script, *arguments)
        left = [path.name for path in disk.rglob("*orbax-checkpoint-tmp*")]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert (status, output) == (2, "")
    line = errors.splitlines()[-1]
    assert line.startswith(f"{script}.py: checkpoint ")
    assert line.endswith("cannot be written: No space left on device")
    # The progress bar is all that is printed besides.
    assert "ERROR" not in errors
    assert "Traceback" not in errors
    assert not left
