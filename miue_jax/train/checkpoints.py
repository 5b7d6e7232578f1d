"""Checkpoints of a state, written by Orbax: each is complete or not there at all."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

# Orbax writes a step under such a name and then renames it.
_UNFINISHED = "*.orbax-checkpoint-tmp*"


class Checkpoints:
    """A directory of checkpoints that keeps the newest two.

    Use it as a context manager; on exit it waits for pending writes.

    Args:
      directory: the folder; created if missing.
      config: everything the states depend on, as JSON; a state that was saved with
        another configuration is not restored. None for no check.
      read_only: whether to leave the folder as it is, the remains of interrupted saves
        included; it must exist.

    Attributes:
      directory: the absolute path of the folder.

    Raises:
      ValueError: if `directory` is not a folder, or is missing and `read_only` is set.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import checkpoints
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with checkpoints.Checkpoints(folder) as saved:
      ...         saved.save(3, {"w": jnp.ones(2)}, notes={"loss": 0.5})
      ...         state, notes = saved.restore({"w": jnp.zeros(2)})
      ...         saved.latest_step
      3
      >>> state["w"].tolist(), notes
      ([1.0, 1.0], {'loss': 0.5})
    """

    def __init__(
        self,
        directory: pathlib.Path | str,
        *,
        config: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ):
        self.directory = pathlib.Path(directory).absolute()
        there = self.directory.is_dir()
        if (self.directory.exists() or read_only) and not there:
            raise ValueError(f"{self.directory} is not a folder of checkpoints")
        self._read_only = read_only
        self._config = None if config is None else _digest(config)
        keep: Any = ocp.training.preservation_policies.LatestN(2)
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            preservation_policy=keep,
            cleanup_tmp_directories=not read_only,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            with _silent():
                self._checkpointer.close()
        except Exception:
            # A failed save fails here once more; it has been reported.
            if error is None:
                raise

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, *, notes: Any = None) -> None:
        """Writes a state and waits until it is on disk.

        Args:
          step: steps taken so far; a step that is saved already is left as it is.
          state: a pytree of arrays.
          notes: anything else that belongs to the step, as JSON.

        Raises:
          ValueError: if the directory was opened read-only.
          OSError: if it cannot be written; earlier checkpoints stay as they were.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened read only")
        if step == self.latest_step:
            return
        about = {"config": self._config, "notes": notes}
        try:
            with _silent():
                self._checkpointer.save(step, state, force=True, custom_metadata=about)
                self._checkpointer.wait()
        except Exception as error:  # Orbax reports a full disk in many ways
            if jax.process_index() == 0:
                for left in self.directory.glob(_UNFINISHED):
                    shutil.rmtree(left, ignore_errors=True)
            raise OSError(
                f"checkpoint {step} in {self.directory} cannot be written: "
                f"{_reason(error)}"
            ) from error

    def restore(self, like: Any) -> tuple[Any, Any]:
        """Reads the newest state.

        Args:
          like: a pytree of arrays or `jax.ShapeDtypeStruct` with the expected shapes,
            dtypes and shardings.

        Returns:
          The same pytree with the saved values, and the notes saved with it.

        Raises:
          ValueError: if there is none, it is damaged, or it has another configuration
            or shape.
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
        where = f"checkpoint {step} in {self.directory}"
        with _readable(where):
            found = self._checkpointer.metadata(step)
            if found.init_timestamp_nsecs is None:
                raise ValueError("its description is missing")
        about: Any = found.custom_metadata or {}
        saved_for = about.get("config")
        # A checkpoint saved without a configuration fits all of them.
        if None not in (saved_for, self._config) and saved_for != self._config:
            raise ValueError(f"{where} is of another configuration")
        with _readable(where):
            return self._checkpointer.load(step, abstract), about.get("notes")


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps Orbax's threads from logging errors that are raised here anyway."""
    logger = logging.getLogger("absl")

    def refuse(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        with _silent():
            yield
    except Exception as error:  # Orbax has no common base for a damaged file
        raise ValueError(
            f"{where} cannot be read (damaged, or of another configuration): "
            f"{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Returns the operating system's reason if there is one, or the first line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
