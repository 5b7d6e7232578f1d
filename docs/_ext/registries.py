"""Directives that show the settings and presets of generators and defenses.

`generator-settings` and `defense-settings` take the name of a generator or a defense and
render tables made of its dataclasses, so that no page repeats a default by hand.
"""

import dataclasses
import re
import typing
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from miue_jax import defenses, generators


def descriptions(kind: type) -> dict[str, str]:
    """The texts of the fields in the docstrings of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        section = re.search(r"Attributes:\n(.*)", base.__doc__ or "", re.DOTALL)
        if section is None:
            continue
        items = re.split(r"^ *(\w+): ", section[1], flags=re.MULTILINE)
        for name, text in zip(items[1::2], items[2::2], strict=True):
            if name in kind.__dataclass_fields__:
                text = re.split(r"\n *\n|\n *(Raises|Example|References):", text)[0]
                found.setdefault(name, " ".join(text.split()))
    return found


def _type(hint: Any) -> str:
    text = str(hint) if typing.get_origin(hint) or not isinstance(hint, type) else (
        hint.__name__
    )
    return re.sub(r"typing\.(Literal|Optional)|\bNoneType\b", _short, text)


def _short(match: re.Match[str]) -> str:
    return "None" if match[0] == "NoneType" else match[1]


def _value(value: Any) -> str:
    return "required" if value is dataclasses.MISSING else f"`{value!r}`"


class _Settings(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        node = nodes.section()
        node.document = self.state.document
        lines = StringList(self.lines(self.arguments[0]), source="settings")
        self.state.nested_parse(lines, self.content_offset, node)
        return node.children

    def lines(self, name: str) -> list[str]:
        raise NotImplementedError


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return ["| " + " | ".join(line) + " |" for line in lines]


class GeneratorSettings(_Settings):
    """The settings of a generator, and what its presets change."""

    def lines(self, name: str) -> list[str]:
        presets = {p: generators.preset(name, p) for p in generators.presets(name)}
        kind = type(next(iter(presets.values())))
        texts, hints = descriptions(kind), typing.get_type_hints(kind)
        rows = []
        for field in dataclasses.fields(kind):
            values = [getattr(config, field.name) for config in presets.values()]
            text = texts.get(field.name, "")
            shown = [_value(value) for value in values]
            rows.append([f"`{field.name}`", f"`{_type(hints[field.name])}`", *shown, text])
        return _table(["setting", "type", *(f"`{p}`" for p in presets), ""], rows)


class DefenseSettings(_Settings):
    """The settings of a defense."""

    def lines(self, name: str) -> list[str]:
        kind = defenses.config_type(name)
        texts, hints = descriptions(kind), typing.get_type_hints(kind)
        rows = []
        for field in dataclasses.fields(kind):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            text = texts.get(field.name, "")
            rows.append(
                [f"`{field.name}`", f"`{_type(hints[field.name])}`", _value(default), text]
            )
        if not rows:
            return ["This defense has no settings."]
        return _table(["setting", "type", "default", ""], rows)


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("generator-settings", GeneratorSettings)
    app.add_directive("defense-settings", DefenseSettings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


