"""Writes the tables of README.md from the results they show.

    python experiments/table.py README.md

Between `<!-- table: results/NAME.json -->` and `<!-- end -->` stands the table made of
that file, relative to the README; what stood there is replaced. With --check nothing is
written, and the status is 1 if a table is out of date.
"""

import argparse
import pathlib
import re
import sys
from typing import Any

from miue_jax.train import run_directory
from miue_jax.workflows import estimator_table as estimators
from miue_jax.workflows.measure import table as measurement
from miue_jax.workflows.sweep import table as matrix

_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(results: dict[str, Any]) -> str:
    """The Markdown table of a matrix, a benchmark of estimators or a measurement.

    Args:
      results: what experiments/matrix.py, benchmark_estimators.py or measure.py wrote.

    Returns:
      The table, and below it where its numbers come from.

    Raises:
      ValueError: if they are of none of them.
    """
    for key, table in _TABLES.items():
        if key in results:
            return table(results)
    raise ValueError(
        f"results with {', '.join(results) or 'nothing'} have no table; allowed are "
        f"those with one of {', '.join(_TABLES)}"
    )


# By a key that only these results have.
_TABLES = {
    "cells": matrix.render,
    "planned": estimators.render,
    "entries": measurement.render,
}


def fill(text: str, folder: pathlib.Path) -> str:
    """Replaces every marked table in a text.

    Args:
      text: Markdown.
      folder: what the paths of results are relative to.

    Returns:
      The text with tables made from the results.
    """

    def table(match: re.Match[str]) -> str:
        results = run_directory.read_json(folder / match[2])
        return f"{match[1]}\n{render(results)}\n{match[3]}"

    return _TABLE.sub(table, text)


def main(arguments: list[str] | None = None) -> int:
    """Fills or checks the tables of a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    before = options.file.read_text()
    after = fill(before, options.file.parent)
    if options.check:
        return int(before != after)
    options.file.write_text(after)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as problem:
        print(f"table.py: {problem}", file=sys.stderr)
        sys.exit(2)
