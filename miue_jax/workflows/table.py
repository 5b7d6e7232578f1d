"""Markdown tables of results, alone or between the marks of a text.

Between ``<!-- table: results/NAME.json -->`` and ``<!-- end -->`` stands the table made
of that file, relative to the text; whatever stood there is replaced.
"""

import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from miue_jax import _json
from miue_jax._checks import listed, one_line, shown
from miue_jax.data import memory
from miue_jax.workflows import estimator_table
from miue_jax.workflows.measure import summary as measurement
from miue_jax.workflows.sweep import table as sweep

__all__ = ["render", "table"]

_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

# What a value of another type or without an entry provokes.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# Bytes of parsed JSON for each byte of text, at most.
_JSON_FACTOR = 40

# By a key that only these results have.
_TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "cells": sweep.render,
    "planned": estimator_table.render,
    "entries": measurement.render,
}


def render(results: Mapping[str, Any]) -> str:
    """Renders the Markdown table of a sweep, a measurement or a benchmark.

    Args:
      results: what their results.json holds.

    Returns:
      The table, and below it the origin of its numbers.

    Raises:
      ValueError: if they are the results of something else.

    Example:
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.table import render
      >>> sweep = mj.Sweep(
      ...     data=mj.data.DataSource("shapes", per_class=4),
      ...     test=mj.data.DataSource("shapes", split="test", per_class=2),
      ...     generators=["clean"],
      ...     victims={"linear": mj.victims.preset("quick", model="linear", epochs=1)},
      ... )
      >>> print(render(mj.sweep(sweep)).splitlines()[0])
      | trained on | none |
    """
    for key, table in _TABLES.items():
        if key in results:
            try:
                return table(results)
            except _WRONG as error:
                raise ValueError(f"the results are damaged: {_what(error)}") from error
    raise ValueError(
        f"results with {listed(results) or 'nothing'} have no table; allowed are "
        f"those with one of {', '.join(_TABLES)}"
    )


def table(path: str | os.PathLike[str]) -> str:
    """Renders results, or fills the marked tables of a Markdown text.

    Args:
      path: results.json, the folder of a run that holds one, or a Markdown file.

    Returns:
      The table, or the text with its tables made anew.

    Raises:
      ValueError: if the file is damaged or has no table.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.workflows.table import table
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "notes.md")
      ...     characters = path.write_text("No table is marked here.")
      ...     print(table(path))
      No table is marked here.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "results.json"
    if path.suffix == ".json":
        return _rendered(path)

    def fill(match: re.Match[str]) -> str:
        results = _rendered(path.parent / match[2])
        return f"{match[1]}\n{results}\n{match[3]}"

    try:
        text = _read(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text; allowed: results (.json), the folder of a run, or "
            f"Markdown"
        ) from error
    return _TABLE.sub(fill, text)


def _rendered(path: pathlib.Path) -> str:
    try:
        results = _json.parse(_read(path))
        if not isinstance(results, dict):
            raise ValueError("it holds no JSON object")
        return render(results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: pathlib.Path) -> str:
    # A pipe would not end, and a device must not be filled like a text.
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no file")
    memory.check(_JSON_FACTOR * path.stat().st_size, f"{path}: it")
    return path.read_text(encoding="utf-8")


def _what(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {shown(error.args[0])}"
    return one_line(str(error)) or type(error).__name__
