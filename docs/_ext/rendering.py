"""What the directives share: Markdown tables and their parsing."""

from collections.abc import Sequence

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return ["| " + " | ".join(line) + " |" for line in lines]


class MarkdownDirective(SphinxDirective):
    """A directive whose output is Markdown."""

    def render(self, lines: Sequence[str], style: str) -> list[nodes.Node]:
        """Parses lines of Markdown; tables get the CSS class `style`."""
        node = nodes.section()
        node.document = self.state.document
        content = StringList(list(lines), source=self.name)
        self.state.nested_parse(content, self.content_offset, node)
        for found in node.findall(nodes.table):
            found["classes"].append(style)
        return node.children
