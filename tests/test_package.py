"""The package: what importing it does, and what the wheel holds."""

import email
import email.message
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import miue_jax

ROOT = pathlib.Path(__file__).parents[1]

LOSSES = {
    "conditional_covariance_loss",
    "distance_loss",
    "mi_ue_loss",
    "similarity_loss",
}
FUNCTIONS = {"evaluate", "pgd", "protect", "protect_folder", "sweep"}
CLASSES = {"Budget", "Protector", "Sweep"}
PARTS = {
    *("data", "defenses", "features", "generators", "information"),
    *("models", "pictures", "protector", "testing", "victims"),
}

# What a user pays for when it is used, not when the package is imported.
HEAVY = (
    *("flax", "jax", "matplotlib", "miue_jax.information", "miue_jax.models"),
    *("numpy", "optax", "orbax", "PIL", "tensorflow", "tensorflow_datasets", "tyro"),
)

_SCRIPT = """
import json, sys
import miue_jax
print(json.dumps({"dir": dir(miue_jax), "modules": sorted(sys.modules)}))
"""


def _python(*arguments: str, **options) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300, **options
    ).stdout


def test_the_public_names_are_all_there_is():
    found = json.loads(_python("-c", _SCRIPT))
    assert set(found["dir"]) == LOSSES | FUNCTIONS | CLASSES | PARTS | {"__version__"}
    loaded = [
        name
        for name in HEAVY
        if any(m == name or m.startswith(f"{name}.") for m in found["modules"])
    ]
    assert not loaded


def test_the_first_use_of_a_part_leaves_the_others_alone():
    script = _SCRIPT.replace("print", "miue_jax.mi_ue_loss; miue_jax.pgd; print")
    modules = json.loads(_python("-c", script))["modules"]
    assert "jax" in modules
    for name in ("information", "workflows", "generators"):
        assert f"miue_jax.{name}" not in modules
    assert "tensorflow_datasets" not in modules
    assert "matplotlib" not in modules


def test_the_help_is_there_before_jax_is():
    script = "import json, sys; from miue_jax import cli; cli.main([]); "
    script += "print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(_python("-c", script).splitlines()[-1])
    assert "jax" not in modules


def test_every_public_name_is_what_it_says():
    for name in LOSSES | FUNCTIONS:
        value = getattr(miue_jax, name)
        assert callable(value)
        assert value.__name__ == name
    for name in CLASSES:
        assert isinstance(getattr(miue_jax, name), type)
    for name in PARTS:
        assert getattr(miue_jax, name) is importlib.import_module(f"miue_jax.{name}")
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        miue_jax.no_such_name  # noqa: B018
    for part in ("bounds", "estimators", "inference", "tasks", "testing"):
        assert getattr(miue_jax.information, part) is importlib.import_module(
            f"miue_jax.information.{part}"
        )


def test_names_stay_what_they_are_whatever_was_imported_before():
    # Functions have the names of the modules that define them.
    script = (
        "import miue_jax.workflows.protect, miue_jax.workflows.evaluate\n"
        "import miue_jax.workflows.sweep.run\n"
        "import miue_jax as mj\n"
        "print(callable(mj.protect), callable(mj.evaluate), callable(mj.sweep))\n"
    )
    assert _python("-c", script) == "True True True\n"


# The wheel.


def _can_build_here() -> bool:
    try:
        import setuptools
    except ImportError:
        return False
    if int(setuptools.__version__.partition(".")[0]) >= 71:
        return True
    return importlib.util.find_spec("wheel") is not None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel, built of a copy: building leaves files beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "miue_jax", source / "miue_jax", ignore=ignored)
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").touch()
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation"] if _can_build_here() else []
    done = subprocess.run(
        [*command, "--wheel-dir", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    if done.returncode and not _can_build_here() and "No matching" in done.stderr:
        pytest.skip("there is neither setuptools >= 71 nor an index to fetch it from")
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


def _read(wheel: pathlib.Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (x for x in archive.namelist() if x.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "miue_jax").rglob("*")
        if path.suffix in (".py", ".html", ".safetensors") or path.name == "py.typed"
    }
    assert {"miue_jax/py.typed", "miue_jax/workflows/folder/report.html"} < sources
    assert {"miue_jax/workflows/sweep/run.py", "miue_jax/cli.py"} < sources
    assert {name for name in names if ".dist-info/" not in name} == sources


@pytest.mark.slow
def test_the_metadata_are_complete(wheel):
    metadata = email.message_from_string(_read(wheel, "METADATA"))
    assert metadata["Name"].replace("-", "_") == "miue_jax"
    assert metadata["Version"] == miue_jax.__version__
    assert metadata["Author"]
    assert metadata["Summary"]
    assert "Apache" in (metadata["License-Expression"] or metadata["License"])
    assert "unlearnable examples" in metadata["Keywords"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert any("arxiv.org" in url for url in metadata.get_all("Project-URL", []))
    assert {"tfds", "plots", "test", "lint"} <= set(metadata.get_all("Provides-Extra"))
    required = " ".join(metadata.get_all("Requires-Dist"))
    for name in ("jax", "flax", "optax", "orbax-checkpoint", "tyro", "pillow"):
        assert name in required
    body = metadata.get_payload()
    assert isinstance(body, str)
    assert body.lstrip().startswith("# miue_jax")
    assert _read(wheel, "entry_points.txt").split() == [
        *("[console_scripts]", "miue", "=", "miue_jax.cli:main")
    ]


@pytest.mark.slow
def test_the_command_runs_from_the_wheel_in_an_empty_directory(wheel, tmp_path):
    place, here = tmp_path / "place", tmp_path / "here"
    here.mkdir()
    _python("-m", "zipfile", "-e", str(wheel), str(place))
    environment = {**os.environ, "PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu"}
    script = "import miue_jax; print(miue_jax.__file__)"
    file = _python("-c", script, cwd=here, env=environment).strip()
    assert pathlib.Path(file).is_relative_to(place)
    script = (
        "import sys\n"
        "from importlib.metadata import distributions\n"
        f"(found,) = distributions(name='miue_jax', path=[{str(place)!r}])\n"
        "(point,) = found.entry_points.select(name='miue')\n"
        "sys.exit(point.load()(sys.argv[1:]))\n"
    )
    output = _python("-c", script, "list", "generators", cwd=here, env=environment)
    assert output.splitlines() == list(miue_jax.generators.NAMES)
    arguments = ["-m", "miue_jax", "protect", "shapes", "--data.per-class=2"]
    arguments += ["--generator=random_noise", "--workdir=run", "--quiet"]
    output = _python(*arguments, cwd=here, env=environment)
    assert "20 images, largest change 8 gray levels" in output
    assert (here / "run" / "protected.npz").exists()
    assert [path.name for path in here.iterdir()] == ["run"]
