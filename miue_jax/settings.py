"""What a setting may be: one check a kind, and one wording of what is refused."""

import numbers
from collections.abc import Callable
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
      whole: whether it must be an integer by type (a float of integral value is none).

    Raises:
      ValueError: if it is no number, not finite, no integer where one is needed, or out
        of range; the message names the setting, the value and what is allowed.
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
    """Checks a setting that is one of a few words.

    Args:
      name: of the setting.
      value: what was given.
      allowed: the words.

    Raises:
      ValueError: if it is none of them.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
