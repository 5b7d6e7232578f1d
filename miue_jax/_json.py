"""JSON that was written by others: bounded, and without what JSON does not have."""

import hashlib
import json
import math
from typing import Any, NoReturn

from miue_jax._checks import one_line

# Levels of objects and lists: settings and results have a few.
_DEEPEST = 64
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


def parse(text: str) -> Any:
    """Parses JSON.

    Args:
      text: the JSON.

    Returns:
      Dictionaries, lists, strings, finite numbers, bools and None.

    Raises:
      ValueError: if it is not JSON, holds NaN or a number beyond all bounds, or is
        nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({one_line(str(error))})") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(value)
    return value


def digest(value: Any) -> str:
    """Identifies a value, whatever the order of its keys.

    Args:
      value: what JSON can hold.

    Returns:
      64 hexadecimal digits (SHA-256).
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {one_line(digits, 50)}")
    return number


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        inner = [list(x.values()) if isinstance(x, dict) else x for x in level]
        level = [item for x in inner if isinstance(x, list) for item in x]
        depth += 1
