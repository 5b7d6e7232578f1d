"""Settings as frozen dataclasses: from a signature, to plain JSON values and back."""

import contextlib
import dataclasses
import enum
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

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
        # What is not annotated may be of another type than its default.
        empty = default is None or default is parameter.empty
        kind: Any = type(default)
        guess: Any = Any if empty else Annotated[kind, _GUESS]
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
        f"{name} is {_checks.shown(value)}; allowed: what JSON can hold (finite "
        "numbers, text, true, false, lists)"
    )


def from_plain(
    kind: type, values: Mapping[str, Any], name: str, *, own: bool = False
) -> Any:
    """Makes a settings dataclass of plain values.

    Args:
      kind: the dataclass.
      values: its fields by name; nested dataclasses may be mappings, enums names, and
        tuples lists.
      name: whose settings they are, for messages.
      own: whether the dataclass is a user's own, which need not check the types of its
        fields: they are checked against its annotations. Defaults are not.

    Returns:
      The instance.

    Raises:
      ValueError: if a field is unknown or missing, or a value is not allowed.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {_checks.shown(values)}; it must be a mapping")
    hints = typing.get_type_hints(kind, include_extras=True)
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
    typed = {k: _typed(hints[k], v, f"{name} {k}", own) for k, v in values.items()}
    if own:
        for field, value in typed.items():
            if not _is_default(fields[field], value) and not _fits(hints[field], value):
                raise _of_wrong_type(f"{name} {field}", hints[field], value)
    return kind(**typed)


_GUESS = "the type of a default"
_SIMPLE: dict[Any, Any] = {
    bool: (bool, np.bool_),
    int: numbers.Integral,
    float: numbers.Real,
    str: str,
}


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    return value is default or (type(value) is type(default) and value == default)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type; where that is not known, it is."""
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _GUESS in arms[1:] or _fits(arms[0], value)
    if origin is Literal:
        return any(type(value) is type(arm) and value == arm for arm in arms)
    if origin in _UNIONS:
        return any(_fits(arm, value) for arm in arms)
    if hint in (None, type(None)):
        return value is None
    kind = origin or hint
    if kind in _SIMPLE:
        # A bool is no number.
        is_bool = isinstance(value, bool | np.bool_)
        return isinstance(value, _SIMPLE[kind]) and (kind is bool) == is_bool
    if not isinstance(kind, type):
        return True
    if not isinstance(value, kind):
        return False
    if kind is tuple and arms and arms[-1] is not Ellipsis:
        return len(value) == len(arms) and all(map(_fits, arms, value))
    if kind in (tuple, list) and arms:
        return all(_fits(arms[0], item) for item in value)
    return True


def _of_wrong_type(name: str, hint: Any, value: Any) -> ValueError:
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        allowed = tuple(map(str, typing.get_args(hint)))
        return _checks.unknown(name, value, allowed)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _checks.unknown(name, value, hint.__members__)
    shown = hint.__name__ if type(hint) is type else str(hint).replace("typing.", "")
    return ValueError(f"{name} is {_checks.shown(value)}; allowed: {shown}")


_UNIONS = (typing.Union, types.UnionType)


def _typed(hint: Any, value: Any, name: str, own: bool) -> Any:
    """Turns a plain value into what its annotation says, where the two differ."""
    if typing.get_origin(hint) is Annotated:
        return _typed(typing.get_args(hint)[0], value, name, own)
    if typing.get_origin(hint) in _UNIONS:
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        if value is None:
            return value
        if len(arms) == 1:
            return _typed(arms[0], value, name, own)
        for arm in arms:
            with contextlib.suppress(ValueError):
                typed = _typed(arm, value, name, own)
                if _fits(arm, typed):
                    return typed
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            return value
        return from_plain(hint, value, name, own=own)
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
        return tuple(_typed(inner, item, name, own) for item in value)
    return value
