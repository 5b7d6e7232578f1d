"""What a name stands for, and what is said where it is not known."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any


def unknown(
    kind: str,
    name: object,
    known: Iterable[str],
    *,
    allowed: Iterable[str] | None = None,
) -> ValueError:
    """The error for a name that is not among those known.

    Args:
      kind: what the name is of, such as "model".
      name: what was given.
      known: the names that there are; the nearest of them are proposed.
      allowed: what is listed as allowed where that is not just the names.

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
    """The function of a user's own that a name of the form module:function stands for.

    Args:
      kind: what the name is of, such as "defence".
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
        raise ValueError(f"{kind} {name!r} is no function, but {found!r}")
    return found
