"""What an engine runs on its machines: one cell, with what the cell asks for."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from miue_jax import _command_line
from miue_jax.data import bucket
from miue_jax.workflows.sweep import tasks
from miue_jax.workflows.sweep.launch import Resources
from miue_jax.workflows.sweep.plan import Sweep


def run(
    settings: Mapping[str, Any], workdir: str, resources: Resources, name: str
) -> str | None:
    """Runs a cell in a process of an engine.

    Args:
      settings: of the sweep, as plain values.
      workdir: directory of the sweep.
      resources: what the engine gave to the cell.
      name: of the cell.

    Returns:
      None, or why it came to nothing.
    """
    for variable, value in environment(resources).items():
        os.environ.setdefault(variable, value)
    if "" not in sys.path:
        sys.path.append("")  # settings may name parts of the user's own
    _command_line.keep_compiled()
    return tasks.run_task(Sweep(**settings), bucket.place(workdir), name)


def environment(resources: Resources) -> dict[str, str]:
    """The variables that keep XLA to its share of a machine.

    Args:
      resources: of the cell.

    Returns:
      The variables, which must be set before JAX looks for devices.
    """
    # As many threads as cores: results on a CPU depend on their number.
    found = {"NPROC": str(resources.cpus)}
    if 0 < resources.gpus < 1:
        # XLA takes three quarters of a GPU's memory at once, whoever else is there.
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * resources.gpus:.2f}"
    return found
