"""Directives that show committed results, made when the site is built.

`results-table FILE` renders results/FILE, and `faults-table FILE` the counts of the
fault suite; the plots of results/matrix_cpu.json, measure.json, robust_cpu.json and
robust_information.json are drawn into the build folder; `our-figures KIND NAME` shows
the accuracies of one generator or one defense in the matrix.
"""

import pathlib
from typing import Any

import rendering
import robust_plots
from docutils import nodes

from miue_jax.train import run_directory
from miue_jax.workflows import table
from miue_jax.workflows.measure import plots
from miue_jax.workflows.sweep import plot

RESULTS = pathlib.Path(__file__).parents[2] / "results"
_NOT_YET = "Not measured for this version yet."
NOTE = (
    "Accuracy on clean test images in %, 5,000 training images of CIFAR-10 (JPEG), "
    "ResNet-10 of width 16, ten epochs; mean ± standard deviation where there are "
    "several seeds. See {doc}`/results` for the protocol."
)


class ResultsTable(rendering.MarkdownDirective):
    """The table of a results file, if it was made."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Renders the file."""
        path = RESULTS / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.exists():
            return self.render([_NOT_YET], "figures")
        text = table.render(run_directory.read_json(path, own=False))
        return self.render(text.split("\n"), "figures")


class FaultsTable(rendering.MarkdownDirective):
    """What the fault suite counted, if it was run."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Renders the file."""
        path = RESULTS / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.exists():
            return self.render([_NOT_YET], "figures")
        results = run_directory.read_json(path, own=False)
        header = ["", "cases", "faults", "right bytes", "one line", "failed"]
        keys = ("name", "cases", "faults", "equal", "refused", "failed")
        rows = [[str(part[key]) for key in keys] for part in results["parts"]]
        versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        note = (
            f"`{results['command']}`, {results['seconds'] / 60:.0f} minutes on "
            f"{results['cores']} cores, {versions}."
        )
        return self.render([*rendering.table(header, rows), "", note], "figures")


class OurFigures(rendering.MarkdownDirective):
    """The accuracies of a generator, or behind a defense, in the matrix."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Renders rows of the matrix as columns, or some of its columns."""
        path = RESULTS / "matrix_cpu.json"
        self.env.note_dependency(str(path))
        results = run_directory.read_json(path, own=False)
        kind, name = self.arguments
        cells = {(x["generator"], x["defense"]): x["final"] for x in results["cells"]}
        if kind == "generator":
            columns = [
                row
                for row, made in results["protected"].items()
                if made["generator"]["name"] == name
            ]
            header = ["defense", "clean", *columns]
            keys = [[(g, d) for g in header[1:]] for d in results["defenses"]]
            names = list(results["defenses"])
        else:
            columns = [d for d, x in results["defenses"].items() if x["name"] == name]
            header = ["trained on", "none", *columns]
            keys = [[(g, d) for d in header[1:]] for g in results["generators"]]
            names = list(results["generators"])
        if not columns:
            return self.render(["Not part of our matrix."], "figures")
        rows = [
            [row, *(_accuracy(cells.get(key)) for key in line)]
            for row, line in zip(names, keys, strict=True)
        ]
        return self.render([*rendering.table(header, rows), "", NOTE], "figures")


def _accuracy(final: dict[str, Any] | None) -> str:
    if final is None:
        return ""
    spread = "" if final["std"] is None else f" ± {100 * final['std']:.1f}"
    return f"{100 * final['mean']:.1f}{spread}"


def _draw(app: Any) -> None:
    """Draws the plots next to the pages, before they are read."""
    folder = pathlib.Path(app.srcdir) / "_build" / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    matrix = run_directory.read_json(RESULTS / "matrix_cpu.json", own=False)
    plot.heat_map(folder / "heat_map.png", matrix)
    measured = run_directory.read_json(RESULTS / "measure.json", own=False)
    plots.accuracy(
        folder / "accuracy.png",
        measured["entries"],
        measured["correlations"],
        "features",
    )
    robust = run_directory.read_json(RESULTS / "robust_cpu.json", own=False)
    robust_plots.draw(folder, robust)
    robust_plots.draw_changes(folder, robust)
    measured = run_directory.read_json(RESULTS / "robust_information.json", own=False)
    robust_plots.draw_information(folder, measured)


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("results-table", ResultsTable)
    app.add_directive("our-figures", OurFigures)
    app.add_directive("faults-table", FaultsTable)
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
