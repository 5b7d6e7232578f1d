"""Rows of finished cells, one JSON line each, shared by several processes."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

FILE = "cells.jsonl"
_CLAIMS = ".cells.lock"


class Cell(NamedTuple):
    """One estimate: which estimator, on which samples.

    Attributes:
      size: number of samples.
      seed: of the samples and the estimator.
      estimator: its name in the configuration.
      task: its name.
    """

    size: int
    seed: int
    estimator: str
    task: str


class CellLog:
    """An append-only file of rows; a process that dies while writing spoils nothing.

    A row is appended whole under a lock, after cutting off an unfinished last line. A
    cell is claimed by locking one byte of another file; the system releases the lock
    when the process ends, however it ends.
    """

    def __init__(self, workdir: pathlib.Path, stack: contextlib.ExitStack):
        self.rows: dict[Cell, dict[str, Any]] = {}
        self._path = workdir / FILE
        self._read_bytes = 0
        self._read_lines = 0
        # Open until the end: closing it anywhere releases every claim.
        self._claims = stack.enter_context((workdir / _CLAIMS).open("a"))
        self.refresh()

    def refresh(self) -> None:
        """Reads the rows that were added since.

        Raises:
          ValueError: naming the file, if a whole line is not a row.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        if not newline:
            return
        for text in whole.split(b"\n"):
            self._read_lines += 1
            try:
                row = json.loads(text)
                cell = Cell(*(row[name] for name in Cell._fields))
            except (ValueError, TypeError, LookupError) as error:
                raise ValueError(
                    f"{self._path} is damaged: line {self._read_lines} is not a cell"
                ) from error
            self.rows[cell] = row
        self._read_bytes += len(whole) + 1

    def append(self, row: dict[str, Any]) -> None:
        """Appends a row, and reads those that others have appended.

        Args:
          row: of JSON values, with the fields of `Cell`.

        Raises:
          OSError: naming the file, if it cannot be written.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _cut_last_line(file)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = f"cannot be written ({error.strerror or error})"
            raise OSError(error.errno, reason, str(self._path)) from error
        self.refresh()

    @contextlib.contextmanager
    def claim(self, index: int) -> Iterator[bool]:
        """Claims a cell while the context lasts.

        Args:
          index: of the cell, the same in every process.

        Yields:
          Whether this process has it; if not, another one does.
        """
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, index)


def _cut_last_line(file: BinaryIO) -> None:
    """Cuts off what follows the last newline: we hold the lock, so its writer died."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
