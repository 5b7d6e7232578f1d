"""What is said where a name is not known: the nearest ones, then all."""

import difflib
from collections.abc import Iterable


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
