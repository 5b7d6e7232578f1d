"""Results: JSON files, and what several seeds found."""

import json
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from miue_jax import atomic


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic.write_file(path) as file:
        file.write(text.encode())


def read_json(path: pathlib.Path, *, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      needed: keys that it must have.

    Returns:
      The object.

    Raises:
      ValueError: naming the file, if it is damaged or something else.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    missing = [key for key in needed if key not in value]
    if missing:
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing)}")
    return value


def spread(values: list[float]) -> dict[str, Any]:
    """What several seeds found, as results hold it.

    Args:
      values: one a seed.

    Returns:
      Their `mean`, `std` (None of a single one) and the `values`.
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": deviation, "values": values}
