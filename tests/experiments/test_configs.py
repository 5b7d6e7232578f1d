"""The experiments' files: their sweeps, their measurement, their commands."""

import ast
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import matrix_cifar10_cpu
import matrix_cifar10_gpu
import measure_cifar10
import numpy as np
import pytest

from miue_jax import _command_line, cli
from miue_jax.data import DataSource
from miue_jax.train import parallel
from miue_jax.workflows.measure.config import MeasureConfig
from miue_jax.workflows.sweep import plan

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.py"))
SCRIPTS = [path for path in FILES if '__name__ == "__main__"' in path.read_text()]


# The commands ---------------------------------------------------------------------


def _command(path: pathlib.Path) -> list[str]:
    """The command that a file opens with."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None, path
    block = re.search(r"(?m)^    (.*(?:\\\n.*)*)$", docstring)
    assert block is not None, path
    return shlex.split(block[1].replace("\\\n", " "))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_opens_with_a_command_that_parses_its_result_and_its_time(
    path, monkeypatch, capfd
):
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    first, _, rest = docstring.partition("\n\n")
    assert len(first.splitlines()) == 1
    assert rest.startswith("    ")
    assert "result" in docstring
    assert re.search(r"It\s+takes|nor its time", docstring)
    program, *arguments = _command(path)
    monkeypatch.chdir(ROOT)
    if program == "python":
        script, *arguments = arguments
        assert script == f"experiments/{path.name}"
        module = importlib.import_module(path.stem)
        _command_line.parse(module.Options, arguments, prog=module.PROG)
        return
    assert program == "miue"
    config = arguments[arguments.index("--config") + 1]
    assert config.startswith(f"experiments/{path.name}")
    # The directory is asked for after everything else was parsed.
    arguments[arguments.index("--workdir") + 1] = ""
    assert cli.main(arguments) == 2
    assert "--workdir is missing" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_from_any_directory(path, tmp_path):
    _, script, *arguments = _command(path)
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert path.name in done.stdout
    assert not list(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, ROOT / script, "--nothing"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"{path.name}: ")


# The sweeps -----------------------------------------------------------------------


@pytest.mark.parametrize("module", [matrix_cifar10_cpu, matrix_cifar10_gpu])
def test_a_matrix_can_be_written_down_and_read_again(module):
    sweep = module.get_config()
    plain = json.loads(json.dumps(sweep.to_plain()))
    again = plan.Sweep(**plain)
    assert again == sweep
    assert plan.cells(again) == plan.cells(sweep)


def test_the_matrix_of_the_cpu_has_the_cells_of_its_results():
    results = json.loads((ROOT / "results" / "matrix_cpu.json").read_text())
    sweep = matrix_cifar10_cpu.get_config()
    cells = plan.cells(sweep)
    found = {
        (c["generator"], c["defense"], c["victim"], seed)
        for c in results["cells"]
        for seed in c["seeds"]
    }
    assert {tuple(cell) for cell in cells} == found
    assert len(cells) == results["planned"] == 246
    assert results["defenses"] == sweep.defenses
    for name, made in results["protected"].items():
        plain = sweep.generators[name].generator.to_plain()
        # Settings that came later are at what they were before; None follows others.
        known = {k: v for k, v in made["generator"].items() if plain.get(k) is not None}
        assert len(known) > 2
        assert {k: plain[k] for k in known} == known, name


def test_the_matrix_of_the_gpu_is_the_published_setting():
    sweep = matrix_cifar10_gpu.get_config()
    assert sweep.data == DataSource("cifar10")
    assert sweep.test == DataSource("cifar10", split="test")
    assert len(plan.cells(sweep)) == 144
    for victim in sweep.victims.values():
        assert (victim.model, victim.dtype) == ("resnet18", "bfloat16")


@pytest.fixture
def one_device(monkeypatch):
    mesh = parallel.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "data_mesh", lambda: mesh)
    monkeypatch.setattr(parallel, "initialize_processes", lambda **_: None)


def test_a_sweep_may_be_an_ml_collections_file(tmp_path, one_device, capfd):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    arrays = {"x_train": images, "x_test": images}
    labels = np.arange(40) % 2
    np.savez(tmp_path / "data.npz", y_train=labels, y_test=labels, **arrays)
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict, config_dict\n\n\n"
        "def get_config(victim):\n"
        "    config = ConfigDict()\n"
        f"    config.data = {{'name': {str(tmp_path / 'data.npz')!r}}}\n"
        "    config.generators = {\n"
        "        'clean': config_dict.placeholder(dict),\n"
        "        'noise': {'name': 'random_noise', 'radius': 4.0},\n"
        "    }\n"
        "    config.generators.noise.export = 'truncate'\n"
        "    config.defenses = {'none': 'none', 'hole': {'name': 'cutout'}}\n"
        "    config.defenses.hole.size = 4\n"
        "    config.victims = {victim: {'model': 'linear', 'epochs': 1}}\n"
        "    config.blocks = [{'defenses': ('none',)}, {'generators': ('noise',)}]\n"
        "    return config\n"
    )
    workdir = tmp_path / "out"
    arguments = ["sweep", "--config", f"{file}:small", "--workdir", str(workdir)]
    arguments += [str(tmp_path / "data.npz"), "--quiet"]
    status = cli.main(arguments)
    printed, errors = capfd.readouterr()
    assert status == 0, errors
    assert "3 of 3 cells are done" in printed
    results = json.loads((workdir / "results.json").read_text())
    assert [(c["generator"], c["defense"]) for c in results["cells"]] == [
        ("clean", "none"),
        ("noise", "none"),
        ("noise", "hole"),
    ]
    assert results["protected"]["noise"]["radius"] == 4.0
    assert results["protected"]["noise"]["export"] == "truncate"
    assert list(results["victims"]) == ["small"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.generatros = {}", "'generatros'; did you mean 'generators'"),
        ("config.generators = {'a': {'name': 'mi_eu'}}", "'mi_eu'; did you mean"),
        ("config.blocks = [{'defences': ('none',)}]", "'defences'; did you mean"),
        ("raise KeyError('mine')", "mine.py: KeyError: 'mine'"),
    ],
    ids=["setting", "generator", "block", "error"],
)
def test_a_bad_ml_collections_file_is_one_line(tmp_path, capfd, line, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    config = ConfigDict()\n    {line}\n    return config\n"
    )
    arguments = ["sweep", "--config", str(file), "--workdir", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    printed, errors = capfd.readouterr()
    assert printed == ""
    assert len(errors.splitlines()) == 1, errors
    assert message in errors
    assert not (tmp_path / "out").exists()


# The measurement ------------------------------------------------------------------


def test_the_measurement_names_runs_of_three_depths():
    config = measure_cifar10.get_config("here")
    assert isinstance(config, MeasureConfig)
    assert len(config.victims) == 12
    assert config.protected == "here/mi_ue/protected.npz"
    for entry in config.victims.values():
        assert entry.run.startswith("here/")
        assert entry.protected is None
    results = json.loads((ROOT / "results" / "measure.json").read_text())
    entries = {e["victim"]: e for e in results["entries"]}
    assert set(entries) == set(config.victims)
    for label, entry in measure_cifar10.get_config().victims.items():
        found = entries[label]
        assert (found["run"], found["generator"]) == (entry.run, entry.generator)
        assert found["depth"] == entry.depth
        if entry.generator == "clean":
            assert found["protected"] == "runs/mi/mi_ue/protected.npz"
