"""Directives that show the settings and presets of generators and defenses.

`generator-settings` and `defense-settings` take the name of a generator or a defense
and render tables made of its dataclasses, so that no page repeats a default by hand.
"""

import dataclasses
import inspect
import re
import typing
from typing import Any

import rendering
from docutils import nodes

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


def _allowed(hint: Any) -> str:
    """The values of a literal type, as a sentence."""
    if typing.get_origin(hint) is not typing.Literal:
        return ""
    return f" One of {', '.join(f'`{value!r}`' for value in typing.get_args(hint))}."


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return f"`{type(value).__name__}`"
    return "required" if value is dataclasses.MISSING else f"`{value!r}`"


class _Settings(rendering.MarkdownDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Renders the lines."""
        return self.render(self.lines(self.arguments[0]), "settings")

    def lines(self, name: str) -> list[str]:
        """The Markdown."""
        raise NotImplementedError

    def settings(self, kind: type, defaults: dict[str, Any]) -> list[str]:
        """The table of a dataclass; the page is rebuilt when that changes."""
        for base in kind.__mro__:
            if dataclasses.is_dataclass(base):
                self.env.note_dependency(inspect.getfile(base))
        self.env.note_dependency(__file__)
        texts, hints = descriptions(kind), typing.get_type_hints(kind)
        rows = [
            [f"`{name}`", _value(value), texts.get(name, "") + _allowed(hints[name])]
            for name, value in defaults.items()
        ]
        return rendering.table(["setting", "default", "meaning"], rows)


class GeneratorSettings(_Settings):
    """The settings of a generator, and what its presets change."""

    def lines(self, name: str) -> list[str]:
        """The table of all settings and that of the presets."""
        presets = {p: generators.preset(name, p) for p in generators.presets(name)}
        first, config = next(iter(presets.items()))
        fields = [f.name for f in dataclasses.fields(config)]
        lines = self.settings(type(config), {f: getattr(config, f) for f in fields})
        if len(presets) == 1:
            return lines
        changed = [
            [f"`{f}`", *(_value(getattr(other, f)) for other in presets.values())]
            for f in fields
            if any(getattr(o, f) != getattr(config, f) for o in presets.values())
        ]
        note = (
            f"The defaults are those of `{name}/{first}`. Its presets differ in these:"
        )
        header = ["", *(f"`{preset}`" for preset in presets)]
        return [*lines, "", note, "", *rendering.table(header, changed)]


class DefenseSettings(_Settings):
    """The settings of a defense."""

    def lines(self, name: str) -> list[str]:
        """The table of all settings."""
        kind = defenses.config_type(name)
        defaults = {f.name: _default(f) for f in dataclasses.fields(kind)}
        if not defaults:
            return ["This defense has no settings."]
        return self.settings(kind, defaults)


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("generator-settings", GeneratorSettings)
    app.add_directive("defense-settings", DefenseSettings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
