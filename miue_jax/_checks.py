"""Checks for settings and names, with uniform messages."""

import difflib
import numbers
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

_RANGES: dict[str, Callable[[Any], bool]] = {
    "> 0": lambda value: value > 0,
    ">= 0": lambda value: value >= 0,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
}

Range = Literal["> 0", ">= 0", "in [0, 1)", "in [0, 1]", "in (0, 1]"]


# No setting is plausible beyond these: 32-bit numbers overflow, or what is added is
# lost. Some names, which mean the same wherever they occur, have narrower bounds: a
# training beyond them only diverges, or never ends.
_SMALLEST, _LARGEST, _LARGEST_WHOLE = 1e-12, 1e12, 2**31 - 1
_BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (1e-6, 1e6),
    **dict.fromkeys(("learning_rate", "learning_rate_end"), (_SMALLEST, 1e3)),
    **dict.fromkeys(("weight_decay", "clip_norm", "distance_weight"), (_SMALLEST, 1e6)),
    **dict.fromkeys(("step_size", "step_size_end"), (_SMALLEST, 1e4)),
    **dict.fromkeys(("epochs", "warmup_epochs"), (1, 10**6)),
    **dict.fromkeys(("width", "depth"), (1, 2**14)),
    **dict.fromkeys(("pgd_steps", "train_pgd_steps"), (1, 10**5)),
    **dict.fromkeys(("num_steps", "eval_steps"), (1, 10**5)),
    **dict.fromkeys(("inner_steps", "adversarial_steps"), (1, 10**5)),
    "repeats": (1, 10**3),
}


def check_number(
    name: str,
    value: Any,
    allowed: Range,
    *,
    whole: bool = False,
) -> None:
    """Checks a numeric setting.

    Args:
      name: name of the setting, for the message; its last word decides what is
        plausible.
      value: the value; Python and NumPy scalars are numbers, bools are not.
      allowed: the range.
      whole: whether it must have an integer type (1.0 does not).

    Raises:
      ValueError: if it is not a number, not finite, not an integer where `whole` is
        set, out of range, or not plausible: beyond what any setting, or one of this
        name, may be. The message names the setting, the value and the range.
    """
    bounds = (_SMALLEST, _LARGEST_WHOLE if whole else _LARGEST)
    least, most = _BOUNDS.get(name.replace(".", " ").split()[-1], bounds)
    kind = numbers.Integral if whole else numbers.Real
    fits = isinstance(value, kind) and not isinstance(value, bool)
    number: Any = value
    beyond = ""
    # NaN is in no range.
    if fits and _RANGES[allowed](number) and number != float("inf"):
        if number <= most and (number == 0 or number >= least):
            return
        beyond = f", at most {most}" if number > most else f", at least {least}"
    raise ValueError(
        f"{name} is {shown(value)}; allowed: {'whole' if whole else 'finite'} numbers "
        f"{allowed}{beyond}"
    )


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Checks a setting with a few allowed values.

    Args:
      name: name of the setting.
      value: the value.
      allowed: the allowed values.

    Raises:
      ValueError: if the value is not among them.
    """
    # Others may compare as they like, or to arrays.
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {shown(value)}; {_suggested(value, allowed)}")


def check_flag(name: str, value: object) -> None:
    """Checks a setting that is on or off.

    Args:
      name: name of the setting.
      value: its value.

    Raises:
      ValueError: if it is not a bool.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; allowed: True, False")


def check_label_range(labels: Any, num_classes: int | None = None) -> None:
    """Checks known labels; where labels are traced, results become NaN instead.

    Args:
      labels: integers, with values.
      num_classes: number of classes; None for any number.

    Raises:
      ValueError: if one is negative or not below the number of classes.
    """
    values = np.asarray(labels)
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    # JAX would wrap what its integers cannot hold.
    limit = "2**31" if num_classes is None else str(num_classes)
    if low < 0 or high >= (num_classes or 2**31):
        raise ValueError(
            f"labels run from {low} to {high}; they must be at least 0 and below "
            f"{limit}"
        )


def check_reciprocal(name: str, value: Any, dtype: Any) -> None:
    """Checks a known divisor, such as a temperature, for the type it is used in.

    Args:
      name: name of the divisor, for the message.
      value: a positive number.
      dtype: the floating-point type that is computed in.

    Raises:
      ValueError: if the number is so small that results overflow: below 1e8 times the
        smallest normal number of the type, 1e-30 in float32.
    """
    # What is divided has a scale of its own, which comes on top of the reciprocal.
    least = 1e8 * float(np.finfo(np.dtype(dtype)).tiny)
    if float(np.asarray(value)) < least:
        raise ValueError(
            f"{name} must be at least {least:.2g} in {np.dtype(dtype)}, got {value}: "
            "its reciprocal overflows"
        )


def check_text(name: str, value: object) -> None:
    """Checks a setting that is a text.

    Args:
      name: name of the setting.
      value: the value.

    Raises:
      ValueError: if it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}; it must be a string")


def as_tuple(name: str, values: Any) -> tuple[Any, ...]:
    """Converts a setting that is a list.

    Args:
      name: name of the setting.
      values: a list, tuple, array or the like; a text is none, nor is a mapping.

    Returns:
      The items.

    Raises:
      ValueError: if it is no list.
    """
    try:
        if not isinstance(values, str | bytes | Mapping):
            return tuple(values)
    except TypeError:
        pass
    raise ValueError(f"{name} is {shown(values)}; it must be a list")


def check_seeds(name: str, seeds: Any) -> None:
    """Checks the seeds of runs that must differ.

    Args:
      name: name of the setting.
      seeds: a list or tuple.

    Raises:
      ValueError: if it is empty, two seeds are equal, or one is not an integer from 0
        to 2**32 - 1.
    """
    if not isinstance(seeds, list | tuple):
        raise ValueError(f"{name} is {shown(seeds)}; it must be a list of integers")
    if not seeds:
        raise ValueError(f"{name} is empty; name at least one")
    for seed in seeds:
        # A PRNG key keeps only the lowest 32 bits of a larger number.
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(
                f"{name} holds {shown(seed)}; allowed: integers from 0 to 2**32 - 1"
            )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name} is {shown(seeds)}; they must differ")


# Characters of a message that are enough to recognize what it quotes.
_LONGEST = 300


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Makes a text that was found in an input fit to be shown.

    Args:
      text: any text.
      longest: characters to keep.

    Returns:
      One line without characters that a terminal would obey, cut where it is long.
    """
    # Cut first: the text may be as long as a file.
    cut = len(text) > longest
    line = " ".join(text[:longest].split())
    return "".join(c if c.isprintable() else "?" for c in line) + ("..." if cut else "")


def listed(names: Iterable[str], most: int = 8) -> str:
    """Lists the names that an input has.

    Args:
      names: any names.
      most: how many to show.

    Returns:
      The first of them, and how many more there are.
    """
    names = list(names)
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*(one_line(name, 60) for name in names[:most]), *more])


def shown(value: object, longest: int = 100) -> str:
    """Quotes a value of an input in a message, whatever it holds.

    Args:
      value: any value.
      longest: characters to keep.

    Returns:
      The value as Python writes it, in one line, abbreviated: of nested and long
      values only the beginning is looked at.
    """
    quote = _Quote()
    quote.maxlevel = 3
    quote.maxstring = quote.maxother = quote.maxlong = longest
    try:
        return one_line(quote.repr(value), longest)
    except Exception:  # of a user's own type
        return f"a value of type {type(value).__name__}"


class _Quote(reprlib.Repr):
    """Abbreviates containers before it walks them, those of derived types too."""

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, _CONTAINERS) and type(x) not in _CONTAINERS:
            return f"{type(x).__name__} of {len(x)}"
        return super().repr1(x, level)


_CONTAINERS = (dict, list, tuple, set, frozenset)


def unknown(
    kind: str,
    name: object,
    known: Iterable[str],
    *,
    allowed: Iterable[str] | None = None,
) -> ValueError:
    """Returns the error for an unknown name, for the caller to raise.

    Args:
      kind: the kind of thing that is named, such as "model".
      name: the unknown name.
      known: the known names; the nearest ones are suggested.
      allowed: what the message lists as allowed; None for the known names.

    Returns:
      The error.
    """
    known = tuple(known)
    return ValueError(
        f"unknown {kind} {shown(name)}; {_suggested(name, known, allowed)}"
    )


def _suggested(
    name: object, known: Sequence[str], allowed: Iterable[str] | None = None
) -> str:
    """What a name may have meant, and what is allowed."""
    # The comparison takes time with the square of the length.
    near = difflib.get_close_matches(
        name[:100] if isinstance(name, str) else shown(name), known, n=3, cutoff=0.4
    )
    hint = (
        f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
    )
    return f"{hint}: {', '.join(allowed or known)}"
