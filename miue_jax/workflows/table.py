"""Markdown tables of results, alone or between the marks of a text.

Between ``<!-- table: results/NAME.json -->`` and ``<!-- end -->`` stands the table made
of that file, relative to the text; whatever stood there is replaced.
"""

import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from miue_jax._checks import one_line, shown
from miue_jax.data import memory, public
from miue_jax.train import run_directory
from miue_jax.workflows import estimator_table
from miue_jax.workflows.benchmark import table as benchmark
from miue_jax.workflows.measure import summary as measurement
from miue_jax.workflows.sweep import table as sweep

__all__ = ["render", "table"]

_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _victims(results: Mapping[str, Any]) -> str:
    """The accuracies of the victims of `evaluate`, a row per seed and their mean."""
    columns = {"last epoch": "final", "best epoch": "best", "robust": "robust"}
    columns = {name: key for name, key in columns.items() if key in results}
    rows = [
        f"| seed | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for index, seed in enumerate(results["seeds"]):
        values = [results[key]["values"][index] for key in columns.values()]
        shown = " | ".join(f"{100 * value:.1f}" for value in values)
        rows.append(f"| {seed} | {shown} |")
    if len(results["seeds"]) > 1:
        shown = " | ".join(
            f"{100 * results[key]['mean']:.1f} ± {100 * results[key]['std']:.1f}"
            for key in columns.values()
        )
        rows.append(f"| mean | {shown} |")
    data = " and ".join(
        f"{results[part].get('name', 'images in memory')}" for part in ("train", "test")
    )
    return "\n".join(
        [
            *rows,
            "",
            "Accuracy in % on clean test images; trained and tested on "
            f"{data}, {results['victim']['model']}, {results['victim']['epochs']} "
            f"epochs, defense {results['defense']['name']}.",
        ]
    )


# What a value of another type or without an entry provokes.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# Bytes of parsed JSON for each byte of text, at most.
_JSON_FACTOR = 40

# What others may have changed by hand, and would be shown as if it were right.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("victims", "defenses", "columns"), Mapping),
    **dict.fromkeys(("protected", "failed", "train", "test", "victim"), Mapping),
    **dict.fromkeys(("final", "best", "robust", "versions"), Mapping),
    "benchmark": Mapping,
    **dict.fromkeys(
        ("generators", "cells", "entries", "seeds", "noise_variances"), list
    ),
    **dict.fromkeys(("processor", "command", "note"), str),
    "done": int,
}

# By a key that only these results have.
_TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "final": _victims,
    "cells": sweep.render,
    "planned": estimator_table.render,
    "entries": measurement.render,
    "benchmark": benchmark.render,
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
    # Results of evaluate name the data as they were given.
    results = public.without_folders(results)
    for key, table in _TABLES.items():
        if key in results:
            for name, kind in _KINDS.items():
                if name in results and not isinstance(results[name], kind):
                    raise ValueError(
                        f"the results are damaged: {name} is {shown(results[name])}"
                    )
            try:
                return table(results)
            except _WRONG as error:
                raise ValueError(f"the results are damaged: {_what(error)}") from error
    raise ValueError(
        "the results are of none of the runs that have a table: evaluate, sweep, "
        "measure, benchmark, or the benchmark of estimators"
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
        if not path.exists():
            raise ValueError(
                f"{path.parent} holds no results.json; runs of evaluate, sweep and "
                "measure do"
            )
    if path.suffix == ".json":
        return _rendered(path)

    def fill(match: re.Match[str]) -> str:
        results = _rendered(path.parent / match[2])
        return f"{match[1]}\n{results}\n{match[3]}"

    try:
        _check(path)
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text; allowed: results (.json), the folder of a run, or "
            f"Markdown"
        ) from error
    if len(re.findall("<!-- table:", text)) != len(_TABLE.findall(text)):
        raise ValueError(
            f"{path}: a marked table has no end: each is a line <!-- table: FILE -->, "
            "any lines, and <!-- end -->"
        )
    return _TABLE.sub(fill, text)


def _rendered(path: pathlib.Path) -> str:
    _check(path)
    results = run_directory.read_json(path, own=False)
    try:
        return render(results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check(path: pathlib.Path) -> None:
    # A pipe would not end, and a device must not be filled like a text.
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no file")
    memory.check(_JSON_FACTOR * path.stat().st_size, f"{path}: it")


def _what(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {shown(error.args[0])}"
    return one_line(str(error)) or type(error).__name__
