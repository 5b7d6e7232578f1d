"""Directives that show committed results, made when the site is built.

`results-table FILE` renders results/FILE; `results-plots` draws the plots of
results/matrix_cpu.json and measure.json into the build folder; `our-figures KIND NAME`
shows the accuracies of one generator or one defense in the matrix.
"""

import pathlib
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from miue_jax.train import run_directory
from miue_jax.workflows import table
from miue_jax.workflows.measure import plots
from miue_jax.workflows.sweep import plot

RESULTS = pathlib.Path(__file__).parents[2] / "results"


class _Markdown(SphinxDirective):
    def render(self, text: str) -> list[nodes.Node]:
        """Parses Markdown."""
        node = nodes.section()
        node.document = self.state.document
        lines = StringList(text.split("\n"), source="results")
        self.state.nested_parse(lines, self.content_offset, node)
        for found in node.findall(nodes.table):
            found["classes"].append("figures")
        return node.children


class ResultsTable(_Markdown):
    """The table of a results file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Renders the file."""
        path = RESULTS / self.arguments[0]
        self.env.note_dependency(str(path))
        return self.render(table.render(run_directory.read_json(path)))


class OurFigures(_Markdown):
    """The accuracies of a generator, or behind a defense, in the matrix."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Renders the rows or the columns of the matrix."""
        path = RESULTS / "matrix_cpu.json"
        self.env.note_dependency(str(path))
        results = run_directory.read_json(path)
        kind, name = self.arguments
        rows = _rows(results, name) if kind == "generator" else _columns(results, name)
        if not rows:
            return self.render("Not part of the matrix on CIFAR-10 (JPEG).")
        note = (
            "Accuracy on clean test images in %, 5,000 images of CIFAR-10 (JPEG), "
            "ResNet-10 of width 16, ten epochs; see {doc}`/results` for the protocol."
        )
        return self.render("\n".join([*rows, "", note]))


def _accuracy(cell: dict[str, Any]) -> str:
    final = cell["final"]
    spread = "" if final["std"] is None else f" ± {100 * final['std']:.1f}"
    return f"{100 * final['mean']:.1f}{spread}"


def _rows(results: dict[str, Any], name: str) -> list[str]:
    rows = [
        row
        for row, made in results["protected"].items()
        if made["generator"]["name"] == name
    ]
    shown = ["clean", *rows] if rows else []
    columns = list(results["defenses"])
    return _grid(results, shown, columns, first="trained on", other="generator")


def _columns(results: dict[str, Any], name: str) -> list[str]:
    columns = [
        column for column, spec in results["defenses"].items() if spec["name"] == name
    ]
    shown = ["none", *columns] if columns else []
    rows = list(results["generators"])
    return _grid(results, rows, shown, first="trained on", other="generator")


def _grid(
    results: dict[str, Any],
    rows: list[str],
    columns: list[str],
    *,
    first: str,
    other: str,
) -> list[str]:
    if not rows or not columns:
        return []
    cells = {(cell[other], cell["defense"]): cell for cell in results["cells"]}
    lines = [
        "| " + " | ".join([first, *columns]) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for row in rows:
        found = [cells.get((row, column)) for column in columns]
        shown = ["" if cell is None else _accuracy(cell) for cell in found]
        lines.append("| " + " | ".join([row, *shown]) + " |")
    return lines


def _draw(app: Any) -> None:
    """Draws the plots next to the pages, before they are read."""
    folder = pathlib.Path(app.srcdir) / "_build" / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    matrix = run_directory.read_json(RESULTS / "matrix_cpu.json")
    plot.heat_map(folder / "heat_map.png", matrix)
    measured = run_directory.read_json(RESULTS / "measure.json")
    plots.accuracy(
        folder / "accuracy.png",
        measured["entries"],
        measured["correlations"],
        "features",
    )


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("results-table", ResultsTable)
    app.add_directive("our-figures", OurFigures)
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
