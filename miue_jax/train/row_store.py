"""One row of numbers for each image, in files, as each checkpoint left them.

A changed row goes to a place of its own, never over one that a checkpoint still needs.
So a run that is killed at any moment goes on from its newest checkpoint, or the one
before, with the rows that belong to it; nothing is copied for that, and the files take
at most three times the rows.
"""

import contextlib
import errno
import hashlib
import io
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from jax.typing import DTypeLike

from miue_jax.data import atomic, npz

# Bytes of a file of rows.
_FILE_BYTES = 1 << 30
# Files that are open at once: systems allow a thousand or so.
_OPEN = 128
_NOWHERE = -1
# Bytes of what `RowStore.seal` returns.
DIGEST = 32
_MAP = "map_{}.npy"
_KEPT = 2


class OpenFiles:
    """Files that are open, a bounded number of them, for any number of stores."""

    def __init__(self) -> None:
        self._handles: dict[tuple[str, int], int] = {}

    def get(self, folder: str, number: int) -> int | None:
        """Returns the handle of a file, if it is open."""
        return self._handles.get((folder, number))

    def add(self, folder: str, number: int, handle: int) -> None:
        """Keeps a handle, and closes the oldest one if there are too many."""
        if len(self._handles) == _OPEN:
            os.close(self._handles.pop(next(iter(self._handles))))
        self._handles[folder, number] = handle

    def close(self) -> None:
        """Closes all files, which are opened again when they are needed."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()


class RowStore:
    """Rows in the files of a folder, zero until they are written.

    Files hold as many rows each, as ``numpy.load`` reads them. A map says, for every
    checkpoint, where each row lies and what its checksum is.

    Args:
      folder: where; created with the first row.
      size: R, the number of rows.
      shape: of a row.
      dtype: of its values.
      steps: of the checkpoints that there are: of those, the rows are kept.
      files: that are open, also those of other stores; None for its own.
      read_only: whether another process's rows are read, and nothing is removed.

    Raises:
      ValueError: naming a file that is damaged, or of rows of another kind.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from miue_jax.train.row_store import RowStore
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     store = RowStore(pathlib.Path(folder), 4, (2,), np.int8)
      ...     store.write(np.array([3, 1]), np.array([[1, 2], [3, 4]], np.int8))
      ...     digest = store.seal(10)
      ...     store.kept(10)
      ...     store.write(np.array([3]), np.array([[5, 6]], np.int8))
      ...     again = RowStore(pathlib.Path(folder), 4, (2,), np.int8, steps=[10])
      ...     again.restore(10, digest)
      ...     again.read(np.arange(4)).tolist()
      [[0, 0], [3, 4], [0, 0], [1, 2]]
    """

    def __init__(
        self,
        folder: pathlib.Path,
        size: int,
        shape: Sequence[int],
        dtype: DTypeLike,
        *,
        steps: Sequence[int] = (),
        files: OpenFiles | None = None,
        read_only: bool = False,
    ):
        self.folder = folder
        self.shape = tuple(map(int, shape))
        self.dtype = np.dtype(dtype)
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize
        # A row has three places at most.
        self._rows_a_file = max(1, min(_FILE_BYTES // self._row_bytes, 3 * size))
        self._map = _empty_map(size)
        self._files = files or OpenFiles()
        self._name, self._first = str(folder), len(self._header())
        self._dirty: set[int] = set()
        self._kept: dict[int, np.ndarray] = {}
        for path in sorted(folder.glob("map_*.npy")):
            step = path.stem.removeprefix("map_")
            if step.isdecimal() and int(step) in steps:
                self._kept[int(step)] = self._read_map(path, size)
            elif not read_only:
                path.unlink()
        self._count_places()

    def close(self) -> None:
        """Closes the files."""
        self._files.close()

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows.

        Args:
          rows: their numbers.
          out: where to put them; None for a new array.

        Returns:
          The rows.

        Raises:
          ValueError: naming the file, if one was changed since it was written.
        """
        if out is None:
            out = np.empty((len(rows), *self.shape), self.dtype)
        if not len(rows):
            return out
        flat = out.reshape(len(rows), -1).view(np.uint8)
        for target, row in zip(flat, rows, strict=True):
            place, checksum = self._map[row]
            if place == _NOWHERE:
                target[:] = 0
                continue
            number, start = self._where(int(place))
            handle = self._open(number, there=True)
            got = os.preadv(handle, [target.data], self._first + start)
            if got != self._row_bytes or zlib.crc32(target.data) != checksum:
                raise ValueError(
                    f"{self._path(number)} is damaged: row {row} was changed since it "
                    "was written; remove the folder of the run to start again"
                )
        return out

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes rows; those of checkpoints stay as they were.

        Args:
          rows: their numbers, which differ.
          values: one row each.

        Raises:
          OSError: naming the file, if it cannot be written.
        """
        if not len(rows):
            return
        values = np.ascontiguousarray(values, self.dtype)
        flat = values.reshape(len(rows), -1).view(np.uint8)
        for row, value in zip(rows, flat, strict=True):
            place = self._free.pop() if self._free else self._new_place()
            number, start = self._where(place)
            handle = self._open(number)
            with self._naming(number):
                done = os.pwrite(handle, value.data, self._first + start)
                if done != self._row_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._dirty.add(number)
            before = int(self._map[row, 0])
            if before != _NOWHERE and not self._needed[before]:
                self._free.append(before)
            self._map[row] = place, zlib.crc32(value.data)

    def seal(self, step: int) -> np.ndarray:
        """Brings all rows to the disk, and writes where they are.

        Args:
          step: of the checkpoint that is to be saved next.

        Returns:
          (32,) uint8, a digest that belongs into the checkpoint.

        Raises:
          OSError: naming the file, if one cannot be written.
        """
        for number in sorted(self._dirty):
            with self._naming(number):
                os.fsync(self._open(number))
        self._dirty.clear()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic.write_file(self.folder / _MAP.format(step)) as file:
            npz.write_npy(file, self._map, "<i8")
        return _digest(self._map)

    def kept(self, step: int) -> None:
        """Gives up the rows that only older checkpoints need.

        Args:
          step: of the checkpoint that was saved.
        """
        self._kept[step] = self._map.copy()
        for old in sorted(self._kept)[:-_KEPT]:
            del self._kept[old]
            (self.folder / _MAP.format(old)).unlink(missing_ok=True)
        self._count_places()

    def restore(self, step: int, digest: np.ndarray) -> None:
        """Goes back to the rows of a checkpoint.

        Args:
          step: of the checkpoint.
          digest: from `seal`.

        Raises:
          ValueError: if they are not there, or others.
        """
        path = self.folder / _MAP.format(step)
        found = self._kept.get(step)
        if found is None or not np.array_equal(_digest(found), digest):
            what = "is missing" if found is None else "was changed"
            raise ValueError(
                f"{path} {what}: remove the folder of the run to start again"
            )
        self._map = found.copy()
        self._count_places()

    def _read_map(self, path: pathlib.Path, size: int) -> np.ndarray:
        found = npz.read_npy(path)
        if found.shape != (size, 2) or found.dtype != np.int64:
            raise ValueError(
                f"{path} is damaged: it holds {found.dtype} {found.shape}, not int64 "
                f"{(size, 2)}"
            )
        return found

    def _count_places(self) -> None:
        """Finds the places that are needed, and those that are free."""
        maps = [*self._kept.values(), self._map]
        self._count = 1 + max(int(found[:, 0].max()) for found in maps)
        self._needed = np.zeros(self._count, bool)
        for found in self._kept.values():
            self._needed[found[:, 0][found[:, 0] != _NOWHERE]] = True
        used = self._needed.copy()
        used[self._map[:, 0][self._map[:, 0] != _NOWHERE]] = True
        # The lowest ones are taken first.
        self._free = np.flatnonzero(~used)[::-1].tolist()

    def _new_place(self) -> int:
        if self._count == len(self._needed):
            more = np.zeros(max(1024, len(self._needed)), bool)
            self._needed = np.concatenate([self._needed, more])
        self._count += 1
        return self._count - 1

    def _where(self, place: int) -> tuple[int, int]:
        """The number of the file, and where in its rows a place begins, in bytes."""
        number, row = divmod(place, self._rows_a_file)
        return number, row * self._row_bytes

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"rows_{number:05d}.npy"

    def _open(self, number: int, *, there: bool = False) -> int:
        """The handle of a file."""
        found = self._files.get(self._name, number)
        if found is not None:
            return found
        path = self._path(number)
        header = self._header()
        if there and not path.exists():
            raise ValueError(
                f"{path} is missing: remove the folder of the run to start again"
            )
        with self._naming(number):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if os.pread(handle, len(header), 0) != header:
                os.pwrite(handle, header, 0)
                # Full size without its bytes, so that others can read it, too.
                whole = self._rows_a_file * self._row_bytes
                os.ftruncate(handle, len(header) + whole)
        self._files.add(self._name, number, handle)
        return handle

    def _header(self) -> bytes:
        # NumPy has no name for bfloat16.
        plain = self.dtype if self.dtype.kind in "biuf" else np.dtype(np.uint16)
        file = io.BytesIO()
        about = {
            "descr": np.lib.format.dtype_to_descr(plain),
            "fortran_order": False,
            "shape": (self._rows_a_file, *self.shape),
        }
        np.lib.format.write_array_header_1_0(file, about)
        return file.getvalue()

    @contextlib.contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written ({error.strerror or error})"
            raise OSError(error.errno, reason, str(self._path(number))) from error


def _empty_map(size: int) -> np.ndarray:
    """(R, 2): where each row lies, and its checksum."""
    found = np.zeros((size, 2), np.int64)
    found[:, 0] = _NOWHERE
    return found


def _digest(found: np.ndarray) -> np.ndarray:
    digest = hashlib.sha256(np.ascontiguousarray(found, "<i8").data).digest()
    return np.frombuffer(digest, np.uint8).copy()
