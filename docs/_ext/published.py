"""The directive `published-figures`: what papers report, from published.json.

`published-figures generator NAME` shows a generator behind all defenses, and
`published-figures defense NAME` all generators behind a defense.
"""

import pathlib
from typing import Any

import rendering
from docutils import nodes

from miue_jax.train import run_directory

PATH = pathlib.Path(__file__).parents[1] / "published.json"
NOTE = (
    "Accuracy on clean test images of CIFAR-10 in %. Victims and defenses differ "
    "between publications: compare within a column. "
)


class PublishedFigures(rendering.MarkdownDirective):
    """A column per publication, a row per defense or generator."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Renders the table and the protocols of its columns."""
        self.env.note_dependency(str(PATH))
        kind, name = self.arguments
        found = []
        for source in run_directory.read_json(PATH):
            figures = _figures(source["figures"], kind, name)
            if figures:
                found.append((source, figures))
        names = dict.fromkeys(row for _, figures in found for row in figures)
        header = ["defense" if kind == "generator" else "generator"]
        header += [source["name"] for source, _ in found]
        rows = [[row, *(figures.get(row, "") for _, figures in found)] for row in names]
        protocols = "; ".join(
            f"{source['name']} {{cite}}`{source['cite']}`: {source['protocol']}"
            for source, _ in found
        )
        note = f"{NOTE}{protocols}."
        return self.render([*rendering.table(header, rows), "", note], "figures")


def _figures(figures: dict[str, Any], kind: str, name: str) -> dict[str, str]:
    """The rows of one publication: name -> accuracy."""
    if kind == "defense":
        return {
            _row(generator, column, name): f"{accuracy:.2f}"
            for generator, columns in figures.items()
            for column, accuracy in columns.items()
            if column.partition("-")[0] == name
        }
    return {
        _row(column, generator, name): f"{accuracy:.2f}"
        for generator, columns in figures.items()
        for column, accuracy in columns.items()
        if generator.partition("/")[0] == name
    }


def _row(row: str, other: str, name: str) -> str:
    """The name of a row, with the variant or setting that tells it from others."""
    setting = other[len(name) + 1 :]
    return f"{row} ({setting})" if setting else row


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("published-figures", PublishedFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
