"""Checkpoints of a state, through Orbax: a step either is there whole or is not."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp


class Checkpoints:
    """A directory of checkpoints, the newest two kept.

    Use it as a context manager; leaving it waits for what is being written.

    Attributes:
      directory: where they are.
    """

    def __init__(self, directory: pathlib.Path | str):
        self.directory = pathlib.Path(directory).absolute()
        keep: Any = ocp.training.preservation_policies.LatestN(2)
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            preservation_policy=keep,
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any) -> None:
        """Writes a state and waits until it is on disk.

        Args:
          step: steps taken so far; a step already saved is left as it is.
          state: a pytree of arrays.

        Raises:
          OSError: if it cannot be written.
        """
        if step == self.latest_step:
            return
        try:
            self._checkpointer.save(step, state, force=True)
            self._checkpointer.wait()
        except Exception as error:  # a full disk arrives here as an error of any kind
            raise OSError(
                f"checkpoint {step} in {self.directory} cannot be written: "
                f"{_first_line(error)}"
            ) from error

    def restore(self, like: Any) -> Any:
        """Reads the newest state.

        Args:
          like: a pytree of arrays or `jax.ShapeDtypeStruct` with the shapes, types and
            shardings that are expected.

        Returns:
          The same pytree, with the saved values.

        Raises:
          ValueError: if there is none, it is damaged, or it is of another shape.
        """
        step = self.latest_step
        if step is None:
            raise ValueError(f"no checkpoint in {self.directory}")
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
            ),
            like,
        )
        try:
            return self._checkpointer.load(step, abstract)
        except Exception as error:  # Orbax has no common base for a damaged file
            raise ValueError(
                f"checkpoint {step} in {self.directory} cannot be read (damaged, or of "
                f"another configuration): {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
