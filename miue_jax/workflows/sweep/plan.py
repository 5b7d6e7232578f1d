"""The cells of a matrix of methods, defenses, victims and seeds, and their order."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from miue_jax import _checks
from miue_jax.train import run_directory

AXES = ("methods", "defenses", "victims")


class Cell(NamedTuple):
    """One victim: names in the configuration, and the seed of its training."""

    method: str
    defense: str
    victim: str
    seed: int

    def folder(self, workdir: pathlib.Path) -> pathlib.Path:
        """Where the cell lies in the directory of the matrix."""
        name = f"{self.method}-{self.defense}-{self.victim}-seed_{self.seed}"
        return workdir / "cells" / name


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """Lists the cells of all blocks in the order in which they are to run.

    Blocks come as `order` says; in a block the seeds are outermost, then the victims,
    then the defenses, so that whole columns fill up first. A cell of several blocks
    comes once.

    Args:
      config: as in experiments/configs/matrix.py.

    Returns:
      The cells.

    Raises:
      ValueError: if a name cannot be one of a directory, `order` or a block is empty or
        names what is not defined, or its seeds are none.
    """
    for axis in AXES:
        for name in config[axis]:
            # Directories are named after them, with a dash between the parts.
            if not re.fullmatch(r"\w+", name):
                raise ValueError(
                    f"name {name!r} in {axis}; allowed: letters, digits and underscores"
                )
    found: dict[Cell, None] = {}
    # Configurations sort their keys, so the order is told apart.
    for title in config["order"]:
        if title not in config["blocks"]:
            raise _checks.unknown("block in order", title, config["blocks"])
        block, chosen = config["blocks"][title], {}
        for axis in AXES:
            chosen[axis] = tuple(config[axis] if block[axis] is None else block[axis])
            if not chosen[axis]:
                raise ValueError(f"blocks.{title}.{axis} is empty; name at least one")
            for name in chosen[axis]:
                if name not in config[axis]:
                    raise _checks.unknown(
                        f"name in blocks.{title}.{axis}", name, config[axis]
                    )
        run_directory.check_seeds(f"blocks.{title}.seeds", block["seeds"])
        found |= {
            Cell(method, defense, victim, seed): None
            for seed in block["seeds"]
            for victim in chosen["victims"]
            for defense in chosen["defenses"]
            for method in chosen["methods"]
        }
    if not found:
        raise ValueError("order is empty; name at least one block")
    return list(found)
