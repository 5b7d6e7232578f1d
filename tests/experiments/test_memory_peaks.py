"""The measurement of memory: what it writes and what it refuses."""

import json
import sys

import memory
import pytest

from miue_jax import _command_line


@pytest.fixture
def start(monkeypatch, capfd):
    """Runs the script in this process; status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [memory.__file__, *arguments])
        status = _command_line.run(memory.main, memory.PROG)
        return status, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_a_build_is_compared_with_another(tmp_path, start):
    path = tmp_path / "memory.json"
    tiny = ["--share", "0.02", "--model", "linear", "--width", "None"]
    base = ["--base", str(memory._HERE), "--storages", "int8"]
    status, printed, errors = start(*tiny, *base, "--json", str(path))
    assert status == 0, errors
    measured = json.loads(path.read_text())
    assert set(measured["results"]) == set(memory._DATA)
    for name, builds in measured["results"].items():
        assert f"{name}, int8: " in printed
        base = builds["base"]
        # So few images may need no more than an empty run.
        whole = 1.0 if base["less_empty_run"] > 0 else None
        assert base["ratio"] == {
            "peak": 1.0,
            "less_import": 1.0,
            "less_empty_run": whole,
        }
        assert 100 < builds["int8"]["less_import"] < builds["int8"]["peak"]
    assert "base" not in measured["settings"], "it names a folder of the maker's"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base", "nowhere"], "base is nowhere: there is no folder miue_jax in it"),
        (["--share", "0"], "share is 0"),
        (["--json", "nowhere/memory.json"], "there is no folder nowhere"),
        (["--json", "."], "is a folder"),
        (["--storages", "int4"], "storages is 'int4'; did you mean 'int8'"),
        (["--storages"], "storages are missing"),
        (["--width", "0"], "width is 0"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments, said, start):
    status, _, errors = start(*arguments)
    assert status == 2
    assert said in errors
    assert errors.count("\n") == 1


def test_a_command_that_fails_is_not_measured():
    with pytest.raises(ValueError, match=r"a command failed: .*ZeroDivisionError"):
        memory._peak(memory._HERE, ["-c", "1 / 0"])
