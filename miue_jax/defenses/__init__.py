"""Defences against protected data, by name."""

from collections.abc import Callable

from miue_jax import names
from miue_jax.defenses.base import Defense as Defense
from miue_jax.defenses.base import Forward as Forward
from miue_jax.defenses.base import Loss as Loss
from miue_jax.defenses.jpeg import jpeg_pillow as jpeg_pillow

NONE = Defense()

# A defence without a setting is called by its name, one with a setting as name-number.
_PLAIN: dict[str, Callable[[], Defense]] = {"none": Defense}
_WITH_NUMBER: dict[str, Callable[..., Defense]] = {"jpeg": jpeg_pillow}

NAMES = (*_PLAIN, *(f"{name}-<number>" for name in _WITH_NUMBER))


def create(name: str) -> Defense:
    """Makes a defence from its name.

    Args:
      name: "none", or a name and its setting, such as "jpeg-10".

    Returns:
      The defence.

    Raises:
      ValueError: if the name is unknown (with the nearest ones), or the number missing
        or out of range.
    """
    if name in _PLAIN:
        return _PLAIN[name]()
    family, _, number = name.rpartition("-")
    if family in _WITH_NUMBER:
        return _WITH_NUMBER[family](_number(number, name))
    if name in _WITH_NUMBER:
        raise ValueError(
            f"defence {name!r} needs a number after it, as in '{name}-<number>'"
        )
    raise names.unknown("defence", name, (*_PLAIN, *_WITH_NUMBER), allowed=NAMES)


def _number(text: str, name: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"defence {name!r}: {text!r} is not a number")
