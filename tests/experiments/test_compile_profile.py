"""The profile of compilation: how it sums events up, and what it refuses."""

import sys

import compile_profile
import pytest

from miue_jax import _command_line

TRACE, LOWER, XLA = compile_profile._STAGES


@pytest.fixture
def start(monkeypatch, capfd):
    """Runs the script in this process; status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [compile_profile.__file__, *arguments])
        status = _command_line.run(compile_profile.main, compile_profile.PROG)
        return status, *capfd.readouterr()

    return run


def test_events_are_summed_by_part_in_processor_time():
    watched = {
        "begin": 10.0,
        "end": (30.0, 8.0),
        # The process had the processor for half of the time, then for a tenth.
        "samples": [(10.0, 0.0), (20.0, 5.0), (30.0, 6.0)],
        "parts": [("protecting", 14.0, 2.0)],
        "events": [
            (TRACE, "init", 10.0, 12.0),
            (XLA, "jit(init)", 12.0, 13.0),
            (LOWER, "jit(loop)", 14.0, 16.0),
            (XLA, "jit(loop)", 16.0, 25.0),
            ("/jax/something/else", "", 10.0, 30.0),
        ],
        "hits": [(compile_profile._HIT, 13.0), ("/jax/other", 15.0)],
    }
    parts, programs = compile_profile._by_part(watched, "start")
    assert parts["start"] == {
        **{"cpu": 2.0, "wall": 4.0, "trace": 1.0, "lower": 0, "xla": 0.5},
        **{"rest": 0.5, "programs": 1, "cached": 1},
    }
    assert parts["protecting"] == {
        **{"cpu": 6.0, "wall": 16.0, "trace": 0, "lower": 1.0, "xla": 2.5},
        **{"rest": 2.5, "programs": 1, "cached": 0},
    }
    assert programs == [("jit(init)", 0.5), ("jit(loop)", 2.5)]


def test_a_ratio_is_that_of_the_parts_that_both_builds_have():
    def part(seconds):
        return {"cpu": seconds, **dict.fromkeys(("trace", "lower", "xla", "rest"), 1)}

    ours = {"cpu": 9.0, "parts": {"start": part(1), "one": part(2), "new": part(6)}}
    before = {"cpu": 12.0, "parts": {"start": part(4), "one": part(8)}}
    found = compile_profile._ratios(ours, before)
    assert found["cpu"] == 0.75
    assert found["equal_parts"]["cpu"] == 0.25


def test_builds_are_told_apart_by_their_layout(tmp_path):
    (tmp_path / "new" / "miue_jax" / "workflows").mkdir(parents=True)
    (tmp_path / "old" / "miue_jax").mkdir(parents=True)
    for name, flags in (("new", ["-m", "-m"]), ("old", ["-f", "-f"])):
        commands = compile_profile._commands("cell", tmp_path / name, tmp_path)
        assert [command[0] for command in commands] == flags
        assert any("epochs=1" in argument for argument in commands[0])
        assert str(tmp_path / "generator" / "protected.npz") in " ".join(commands[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "tests"], "against is tests: there is no folder miue_jax in it"),
        (["--against", "nowhere.whl"], "nowhere.whl: no such wheel"),
        (["--repeats", "0"], "repeats is 0"),
        (["--works", "dmo"], "works is 'dmo'; did you mean 'demo'"),
        (["--works"], "works are missing"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments, said, start, monkeypatch):
    monkeypatch.chdir(compile_profile._HERE)
    status, _, errors = start(*arguments)
    assert status == 2
    assert said in errors
    assert errors.count("\n") == 1


def test_a_command_that_fails_is_not_measured(tmp_path):
    missing = ["-f", str(tmp_path / "missing.py")]
    with pytest.raises(ValueError, match=r"a command failed: .*No such file"):
        compile_profile._watch(compile_profile._HERE, missing, tmp_path)
