"""The help of the commands, and what completes them."""

import json
import subprocess
import sys

import pytest

import miue_jax
from miue_jax import cli, generators, victims

COMMANDS = tuple(cli._COMMANDS)
RUNS = ("protect", "evaluate", "sweep", "measure", "demo")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_the_help_names_every_command(miue, arguments):
    status, output, errors = miue(*arguments)
    assert (status, errors) == (0, "")
    assert output.startswith("usage: miue COMMAND")
    for name in (*COMMANDS, "completion"):
        assert f"\n  {name} " in output


@pytest.mark.parametrize("name", [*COMMANDS, "completion"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(miue, name, flag):
    status, output, errors = miue(name, flag)
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: miue {name}")
    if name in RUNS:
        assert "--workdir" in output
    if name in RUNS[:4]:
        assert "--config" in output


def test_the_help_shows_the_settings_of_what_was_chosen(miue):
    _, output, _ = miue("protect", "--generator", "one_pixel", "--help")
    assert "--generator.pixels" in output
    assert "--generator.temperature" not in output
    _, output, _ = miue("evaluate", "--defense=cutout-4", "--victim", "em", "--help")
    assert "--defense.size" in output
    assert "(default: 4)" in output
    assert "(default: 5.0)" in output  # of --victim.clip-norm


def test_the_version_is_that_of_the_package(miue):
    assert miue("--version") == (0, f"{miue_jax.__version__}\n", "")


def test_what_can_be_named_is_listed(miue):
    status, output, errors = miue("list", "--json")
    assert (status, errors) == (0, "")
    found = json.loads(output)
    assert found["generators"] == list(generators.NAMES)
    assert found["victims"] == list(victims.NAMES)
    assert "mi_ue/interleaved" in found["presets"]
    assert "jpeg-<quality>" in found["defenses"]
    assert {"models", "data", "estimators"} < found.keys()
    for kind, names in found.items():
        lines = miue("list", kind)[1].splitlines()
        assert [line.split("  ")[0] for line in lines] == names
    lines = miue("list")[1].splitlines()
    assert len(lines) == sum(map(len, found.values())) + len(found)


def test_defenses_are_listed_with_their_settings(miue):
    lines = miue("list", "defenses")[1].splitlines()
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert shown["cutout-<size>"] == ["size=16"]
    assert shown["gaussian_noise-<sigma>"] == ["sigma=8.0"]
    assert shown["jpeg-<quality>"] == ["quality"]
    assert shown["none"] == []


def test_a_narrow_terminal_is_no_dead_end(miue, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    status, _, errors = miue("list", "--jsn")
    assert (status, errors.count("\n")) == (2, 1)
    assert miue("list", "--help")[0] == 0


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_the_commands(miue, shell):
    status, output, errors = miue("completion", shell)
    assert (status, errors) == (0, "")
    for name in COMMANDS:
        assert name in output


def test_a_reader_who_has_seen_enough_ends_it_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "miue_jax", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (141, b"")
