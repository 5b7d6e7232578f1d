"""Checkpoints of a state, written by Orbax, each with digests of its files.

A checkpoint counts once its digests are written, and is read only if they are still
right: the arrays in it have no checksum of their own that would tell a changed bit.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from miue_jax import _json
from miue_jax.data import atomic
from miue_jax.train import parallel

# Orbax writes a step under such a name and then renames it.
_UNFINISHED = "*.orbax-checkpoint-tmp*"
# In the folder of a step; written last and removed first.
_DIGESTS = "sha256.json"
_KEPT = 2
# Seconds that the threads of a save that failed may take to notice.
_SETTLE = 5.0

_LOGGER = logging.getLogger("miue_jax")


class Checkpoints:
    """A directory of checkpoints that keeps the newest two.

    Use it as a context manager. A checkpoint that was damaged since it was written is
    removed, and the one before it takes its place; the log says so.

    Args:
      directory: the folder; created if missing.
      config: everything the states depend on, as JSON; a state that was saved with
        another configuration is not restored. None for no check.
      logs: files that only grow and that results are made of. What they held when a
        checkpoint was saved is part of it.
      read_only: whether to leave the folder as it is, the remains of interrupted saves
        included; it must exist.
      keep: called once a checkpoint is on disk, to keep it elsewhere, too.

    Attributes:
      directory: the absolute path of the folder.
      latest_step: the step of the newest checkpoint that is whole, or None.

    Raises:
      ValueError: if `directory` is not a folder, or is missing and `read_only` is set,
        or all checkpoints are damaged.

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
        logs: Sequence[pathlib.Path] = (),
        read_only: bool = False,
        keep: Callable[[], None] = lambda: None,
    ):
        self.directory = pathlib.Path(directory).absolute()
        self._config = None if config is None else _json.digest(config)
        self._logs = tuple(logs)
        self._read_only = read_only
        self._keep = keep
        step = -1
        with parallel.together():
            there = self.directory.is_dir()
            if (self.directory.exists() or read_only) and not there:
                raise ValueError(f"{self.directory} is not a folder of checkpoints")
            if jax.process_index() == 0:
                if not read_only:
                    self.directory.mkdir(parents=True, exist_ok=True)
                step = self._find()
        (step,) = parallel.process_max(step)
        self.latest_step: int | None = None if step < 0 else step

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass

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
        folder = self.directory / str(step)
        about = {"config": self._config, "notes": notes}
        try:
            with _silent():
                ocp.save(str(folder), state, custom_metadata=about)
            with parallel.together():
                if jax.process_index() == 0:
                    self._seal(folder)
        except Exception as error:  # Orbax reports a full disk in many ways
            if jax.process_index() == 0:
                self._clear(folder)
            raise OSError(
                f"checkpoint {step} in {self.directory} cannot be written: "
                f"{_reason(error)}"
            ) from error
        self.latest_step = step
        if jax.process_index() == 0:
            for old in self._steps()[_KEPT:]:
                _remove(self.directory / str(old))
        self._keep()

    def restore(self, like: Any) -> tuple[Any, Any]:
        """Reads the newest state.

        Args:
          like: a pytree of arrays or `jax.ShapeDtypeStruct` with the expected shapes,
            dtypes and shardings.

        Returns:
          The same pytree with the saved values, and the notes saved with it.

        Raises:
          ValueError: if there is none, or it has another configuration or shape.
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
        folder = self.directory / str(step)
        with _readable(where):
            about: Any = ocp.metadata(str(folder)).custom_metadata or {}
        saved_for = about.get("config")
        # A checkpoint saved without a configuration fits all of them.
        if None not in (saved_for, self._config) and saved_for != self._config:
            raise ValueError(f"{where} is of another configuration")
        with _readable(where):
            return ocp.load(str(folder), abstract), about.get("notes")

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint; all processes must call it.

        Returns:
          Them, the newest first, as the first process sees them.
        """
        with parallel.together():
            found = self._steps() if jax.process_index() == 0 else []
        return json.loads(parallel.gather_text(json.dumps(found))[0])

    def _steps(self) -> list[int]:
        """The steps that have a folder, the newest first."""
        names = (path.name for path in self.directory.iterdir() if path.is_dir())
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _find(self) -> int:
        """Finds the newest step that is whole, or -1, and removes what is not."""
        damaged: dict[int, str] = {}
        unfinished = [*self.directory.glob(_UNFINISHED)]
        found = -1
        for step in self._steps():
            folder = self.directory / str(step)
            if not (folder / _DIGESTS).exists():
                unfinished.append(folder)
            elif found < 0:
                reason = self._damage(folder)
                if reason is None:
                    found = step
                else:
                    damaged[step] = reason
        if damaged and found < 0:
            step, reason = next(iter(damaged.items()))
            raise ValueError(
                f"checkpoint {step} in {self.directory} is damaged ({reason}), and no "
                "older one is whole; remove the folder to start again"
            )
        for step, reason in damaged.items():
            _LOGGER.warning(
                "checkpoint %d in %s is damaged (%s): going on from checkpoint %d",
                *(step, self.directory, reason, found),
            )
        if not self._read_only:
            for path in (*unfinished, *(self.directory / str(k) for k in damaged)):
                _remove(path)
        return found

    def _clear(self, folder: pathlib.Path) -> None:
        """Removes what a failed save left, until Orbax's threads have ended."""
        # One that has its digests is whole: another process may have failed.
        whole = (folder / _DIGESTS).exists()
        deadline, absent = time.monotonic() + _SETTLE, 0
        while absent < 10 and time.monotonic() < deadline:
            left = [*self.directory.glob(_UNFINISHED)]
            if folder.exists() and not whole:
                left.append(folder)
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            absent = 0 if left else absent + 1
            time.sleep(0.05)

    def _seal(self, folder: pathlib.Path) -> None:
        """Writes the digests of a checkpoint's files, which makes it count."""
        sealed = {"files": _digests(folder), "logs": self._log_digests()}
        with atomic.write_file(folder / _DIGESTS) as file:
            file.write(json.dumps(sealed).encode())

    def _log_digests(self) -> dict[str, Any]:
        found = {}
        for log in self._logs:
            held = log.read_bytes() if log.exists() else b""
            found[log.name] = [len(held), hashlib.sha256(held).hexdigest()]
        return found

    def _damage(self, folder: pathlib.Path) -> str | None:
        """What is wrong with a checkpoint, or None."""
        try:
            sealed = _json.parse((folder / _DIGESTS).read_text())
            files, logs = dict(sealed["files"]), dict(sealed["logs"])
            sizes = {name: int(size) for name, (size, _) in logs.items()}
        except (ValueError, KeyError, TypeError):
            return f"{_DIGESTS} cannot be read"
        found = _digests(folder)
        for name in {**files, **found}:
            if files.get(name) != found.get(name):
                return f"{name} was changed"
        for log in self._logs:
            held = log.read_bytes() if log.exists() else b""
            held = held[: sizes.get(log.name, 0)]
            now = [len(held), hashlib.sha256(held).hexdigest()]
            if logs.get(log.name) != now:
                return f"{log.name} was changed"
        return None


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of every file of a checkpoint but the one that holds them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / _DIGESTS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = digest
    return found


def _remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint so that a kill on the way leaves one that does not count."""
    (folder / _DIGESTS).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


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
