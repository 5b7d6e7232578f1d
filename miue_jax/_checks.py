"""Checks of settings and names, worded alike everywhere."""

import difflib
import importlib
import numbers
from collections.abc import Callable, Iterable
from typing import Any, Literal

_RANGES: dict[str, Callable[[Any], bool]] = {
    "> 0": lambda value: value > 0,
    ">= 0": lambda value: value >= 0,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
}

Range = Literal["> 0", ">= 0", "in [0, 1)", "in [0, 1]", "in (0, 1]"]


def check_number(name: str, value: Any, allowed: Range, *, whole: bool = False) -> None:
    """Checks one setting.

    Args:
      name: of the setting, for the message.
      value: what was given; Python and NumPy scalars are numbers, bools are not.
      allowed: the range.
      whole: whether it must be an integer by type (a float with an integral value is
        not).

    Raises:
      ValueError: if it is not a number, not finite, not an integer where one is needed,
        or out of range; the message names the setting, the value and what is allowed.
    """
    kind = numbers.Integral if whole else numbers.Real
    fits = isinstance(value, kind) and not isinstance(value, bool)
    # NaN is in no range, infinity is to be left out of those without an end.
    if not fits or not _RANGES[allowed](value) or value == float("inf"):
        raise ValueError(
            f"{name} is {value!r}; allowed: {'whole' if whole else 'finite'} numbers "
            f"{allowed}"
        )


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Checks a setting that has a few allowed values.

    Args:
      name: of the setting.
      value: what was given.
      allowed: the values.

    Raises:
      ValueError: if it is another one.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def unknown(
    kind: str,
    name: object,
    known: Iterable[str],
    *,
    allowed: Iterable[str] | None = None,
) -> ValueError:
    """Returns the error for an unknown name.

    Args:
      kind: of thing that is named, such as "model".
      name: what was given.
      known: the known names; the nearest are proposed.
      allowed: what to list as allowed, if not just the names.

    Returns:
      The error, to be raised by the caller.
    """
    known = tuple(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
    )
    return ValueError(f"unknown {kind} {name!r}; {hint}: {', '.join(allowed or known)}")


def imported(kind: str, name: str) -> Callable[..., Any]:
    """Imports the user-defined function that module:function names.

    Args:
      kind: of thing that is named, such as "defense".
      name: an importable module and the name of a function in it.

    Returns:
      The function.

    Raises:
      ValueError: if there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} is not a function but {found!r}")
    return found
