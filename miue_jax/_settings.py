"""Settings as frozen dataclasses: from a signature, to plain JSON values and back."""

import dataclasses
import enum
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from miue_jax import _checks


def from_signature(function: Callable[..., Any], *, skip: Collection[str] = ()) -> type:
    """Makes a frozen dataclass of a function's parameters.

    Args:
      function: its parameters become the fields, with their annotations and defaults,
        described by the `Args:` of its docstring. Parameters without a default are
        required.
      skip: parameters that are not settings.

    Returns:
      The dataclass.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in skip:
            continue
        default, field = parameter.default, dataclasses.field()
        if default is not parameter.empty:
            field = dataclasses.field(default_factory=lambda default=default: default)
        guess = Any if default in (None, parameter.empty) else type(default)
        fields.append((name, hints.get(name, guess), field))
    title = getattr(function, "__name__", "own").title().replace("_", "")
    made = dataclasses.make_dataclass(
        f"{title}Settings", fields, frozen=True, kw_only=True
    )
    about = _descriptions(inspect.getdoc(function) or "")
    lines = [f"  {name}: {about[name]}" for name, _, _ in fields if name in about]
    made.__doc__ = (
        "Settings.\n\nAttributes:\n" + "\n".join(lines) if lines else "Settings."
    )
    return made


def _descriptions(docstring: str) -> dict[str, str]:
    """The texts of the parameters in a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    if section is None:
        return {}
    items = re.split(r"^  (?! )\*{0,2}(\w+):", section[1], flags=re.MULTILINE)
    return {
        name: " ".join(text.split())
        for name, text in zip(items[1::2], items[2::2], strict=True)
    }


def to_plain(value: Any, name: str = "settings") -> Any:
    """Copies settings as values that JSON can hold.

    Args:
      value: a dataclass, mapping, list, tuple, enum (by its name), NumPy or Python
        scalar.
      name: what it is called in messages.

    Returns:
      Dictionaries, lists, strings, numbers, bools and None.

    Raises:
      ValueError: if JSON cannot hold it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, name) for item in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        value = value.item()
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and (value is None or isinstance(value, bool | int | float | str)):
        return value
    raise ValueError(
        f"{name} is {value!r}; allowed: what JSON can hold (finite numbers, text, "
        "true, false, lists)"
    )


def from_plain(kind: type, values: Mapping[str, Any], name: str) -> Any:
    """Makes a settings dataclass of plain values.

    Args:
      kind: the dataclass.
      values: its fields by name; nested dataclasses may be mappings, enums names, and
        tuples lists.
      name: whose settings they are, for messages.

    Returns:
      The instance.

    Raises:
      ValueError: if a field is unknown or missing, or a value is not allowed.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for field in values:
        if field not in fields:
            raise _checks.unknown(f"setting of {name}", field, fields)
    missing = [
        field.name
        for field in fields.values()
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{name} needs its setting {missing[0]}")
    return kind(**{k: _typed(hints[k], v, f"{name} {k}") for k, v in values.items()})


def _typed(hint: Any, value: Any, name: str) -> Any:
    """Turns a plain value into what its annotation says, where the two differ."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        return (
            value if value is None or len(arms) != 1 else _typed(arms[0], value, name)
        )
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_plain(hint, value, name) if isinstance(value, Mapping) else value
    if (
        isinstance(hint, type)
        and issubclass(hint, enum.Enum)
        and isinstance(value, str)
    ):
        if value not in hint.__members__:
            raise _checks.unknown(name, value, hint.__members__)
        return hint[value]
    if isinstance(value, list) and (typing.get_origin(hint) or hint) is tuple:
        arms = typing.get_args(hint)
        inner = arms[0] if len(arms) == 2 and arms[1] is Ellipsis else Any
        return tuple(_typed(inner, item, name) for item in value)
    return value
