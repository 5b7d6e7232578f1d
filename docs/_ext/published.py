"""The directive `published-figures`: what papers report, from published.json.

`published-figures generator NAME` shows a generator behind all defenses, and
`published-figures defense NAME` all generators behind a defense.
"""

import json
import pathlib
from typing import Any

import rendering
from docutils import nodes

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
        for source in json.loads(PATH.read_text()):
            figures = _figures(source["figures"], kind, name)
            if figures:
                found.append((source, figures))
        names = dict.fromkeys(row for _, figures in found for row in figures)
        bases = list(dict.fromkeys(_base(row) for row, _ in names))
        names = sorted(names, key=lambda row: bases.index(_base(row[0])))
        # What all rows share, such as the quality of JPEG, goes into the header.
        settings = {setting for _, setting in names if setting}
        shared = len(settings) == 1 and all(setting for _, setting in names)
        first = "defense" if kind == "generator" else "generator"
        header = [f"{first}, {name}-{settings.pop()}" if shared else first]
        header += [source["name"] for source, _ in found]
        rows = [
            [
                row if shared or not setting else f"{row} ({setting})",
                *(figures.get((row, setting), "") for _, figures in found),
            ]
            for row, setting in names
        ]
        protocols = "; ".join(
            f"{source['name']} {{cite}}`{source['cite']}`: {source['protocol']}"
            for source, _ in found
        )
        note = f"{NOTE}{protocols}."
        return self.render([*rendering.table(header, rows), "", note], "figures")


def _base(name: str) -> str:
    return name.partition("-")[0]


def _figures(
    figures: dict[str, Any], kind: str, name: str
) -> dict[tuple[str, str], str]:
    """One publication's accuracies by row: a name, and a variant or setting."""
    found = {}
    for generator, columns in figures.items():
        for column, accuracy in columns.items():
            row, other = (
                (column, generator) if kind == "generator" else (generator, column)
            )
            base, _, setting = other.replace("/", "-").partition("-")
            if base == name:
                found[row, setting] = f"{accuracy:.2f}"
    return found


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("published-figures", PublishedFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
