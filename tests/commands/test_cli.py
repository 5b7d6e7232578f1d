"""The command line itself: its caches, its paths, and errors nobody foresaw."""

import os
import pathlib
import sys

import jax
import pytest

import miue_jax
from miue_jax import _command_line
from miue_jax.workflows import demo
from tests.commands.refused import content


def test_compiled_programs_are_kept_unless_there_is_no_home(monkeypatch, tmp_path):
    option = "jax_compilation_cache_dir"
    before = jax.config.values[option]
    try:
        _command_line.keep_compiled()
        assert jax.config.values[option] == before, "JAX was told where already"
        jax.config.update(option, None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        _command_line.keep_compiled()
        assert jax.config.values[option] == f"{tmp_path}/miue_jax"
        jax.config.update(option, None)
        monkeypatch.delenv("XDG_CACHE_HOME")

        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(pathlib.Path, "home", no_home)
        _command_line.keep_compiled()
        assert jax.config.values[option] is None
    finally:
        jax.config.update(option, before)


def test_the_current_directory_is_searched_for_own_parts_only(miue, site, monkeypatch):
    """A library may try to import a module that happens to lie there."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert miue("protect", "--workdir=")[0] == 2
    assert "" not in sys.path
    assert miue("protect", "--generator=no_such:part", "--workdir=run")[0] == 2
    assert "" in sys.path


def test_what_is_not_foreseen_is_one_line_too(monkeypatch, capsys):
    def fails():
        raise KeyError("lost")

    assert _command_line.run(fails, "miue") == 2
    assert capsys.readouterr().err == (
        "miue: KeyError: 'lost' (test_cli.py, line "
        f"{fails.__code__.co_firstlineno + 1}); MIUE_TRACEBACK=1 shows where\n"
    )
    monkeypatch.setenv("MIUE_TRACEBACK", "1")
    assert _command_line.run(fails, "miue") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert "in fails\n" in shown


@pytest.mark.parametrize("code", [0, None, "leaving"])
def test_an_exit_without_a_reason_is_no_success(capsys, code):
    assert _command_line.run(lambda: sys.exit(code), "miue") == 2
    assert capsys.readouterr().err == f"miue: {code or 'sys.exit was called'}\n"


def test_lines_are_safe_to_show(capsys):
    def fails():
        raise ValueError("\x1b[2J" + "x" * 10**6 + "\n")

    assert _command_line.run(fails, "miue") == 2
    shown = capsys.readouterr().err
    assert len(shown) < 3000
    assert "\x1b" not in shown


@pytest.mark.parametrize("place", ["missing/below", "file/below", "relative"])
def test_a_cache_that_cannot_be_written_is_not_used(monkeypatch, tmp_path, place):
    option = "jax_compilation_cache_dir"
    before = jax.config.values[option]
    (tmp_path / "file").touch()
    (tmp_path / "missing").mkdir(mode=0o500)
    given = place if place == "relative" else str(tmp_path / place)
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    # The superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    monkeypatch.chdir(tmp_path)
    try:
        jax.config.update(option, None)
        _command_line.keep_compiled()
        assert jax.config.values[option] is None
        assert not (tmp_path / "relative").exists()
    finally:
        jax.config.update(option, before)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["export", "data.npz", "--png="], ["export", "data.npz", "--npy", ""]),
        ["import", "delta.npy", "data.npz", "--output="],
        ["detect", "a.npz", "data.npz", "--json="],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_directory(miue, site, arguments):
    before = content(site)
    status, _, errors = miue(*arguments)
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "is empty: name a" in errors
    assert content(site) == before


def test_an_empty_directory_of_a_run_is_not_the_current_one(site):
    before = content(site)
    for run in (
        lambda: miue_jax.protect("data.npz", "random_noise", workdir=""),
        lambda: miue_jax.evaluate("data.npz", "data.npz", workdir=""),
        lambda: demo.demo(""),
    ):
        with pytest.raises(ValueError, match="workdir is empty: name a directory"):
            run()
    assert content(site) == before
