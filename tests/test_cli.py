"""Bad input on a command line ends in one line that names it, with status 2."""

import pathlib
import runpy
import sys

import pytest
from absl import flags

from miue_jax.train import parallel

# ml_collections loads configuration files in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script as `python experiments/NAME.py` does, in this process."""
    # This process has touched its devices: it is too late to look for others.
    monkeypatch.setattr(parallel, "initialize_processes", lambda: None)
    monkeypatch.chdir(EXPERIMENTS.parent)
    before = set(flags.FLAGS)

    def start(name: str, *arguments: str) -> tuple[int, str]:
        path = str(EXPERIMENTS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        finally:
            for flag in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, flag)
        return ended.value.code, capsys.readouterr().err

    return start


CASES = {
    "field of a method": (
        ("generate", "--config.method.tempreature=0.2"),
        "--config.method.tempreature: there is no setting 'tempreature'; did you mean "
        "'temperature'?",
    ),
    "section": (
        ("generate", "--config.dta.per_class=3"),
        "--config.dta.per_class: there is no setting 'dta'; did you mean 'data'?",
    ),
    "field of a victim": (
        ("evaluate", "--config.victim.epoch=3"),
        "--config.victim.epoch: there is no setting 'epoch'; did you mean 'epochs'?",
    ),
    "field of another method": (
        (
            "generate",
            "--config=experiments/configs/generate.py:random_noise/uniform",
            "--config.method.temperature=3",
        ),
        "--config.method.temperature: there is no setting 'temperature'",
    ),
    "below a value": (
        ("generate", "--config.method.name.x=3"),
        "--config.method.name.x: ",
    ),
    "value": (("generate", "--config.method.radius=wide"), "--config.method.radius="),
    "seed": (("generate", "--config.seed=99999999999999999999"), "seed holds 9999"),
    "seeds": (("evaluate", "--config.seeds=('a',)"), "seeds holds 'a'"),
    "part of a seed": (("evaluate", "--config.seeds=(0.5,)"), "seeds holds 0.5"),
    "shards": (("evaluate", "--config.num_shards=0"), "num_shards is 0"),
    "flag": (("generate", "--radius=8"), "radius"),
    "twice": (
        ("evaluate", "--config.seeds=(0,)", "--config.seeds=(1,)"),
        "--config.seeds is given twice",
    ),
    "argument": (("generate", "here"), "unexpected argument 'here'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_status_two(run, tmp_path, case):
    (script, *arguments), message = CASES[case]
    workdir = tmp_path / "run"
    status, errors = run(script, *arguments, f"--workdir={workdir}")
    assert status == 2
    assert errors.startswith(f"{script}.py: "), errors
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert not workdir.exists()


def test_a_directory_is_asked_for(run):
    assert run("generate") == (
        2,
        "generate.py: --workdir is missing: name a directory for the run\n",
    )
