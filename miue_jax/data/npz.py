"""``.npz`` files: written reproducibly, read without trust."""

import lzma
import math
import os
import pathlib
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Container, Mapping
from typing import IO, BinaryIO

import numpy as np

from miue_jax._checks import one_line, shown
from miue_jax._rows import RandomRows, Rows, blocks
from miue_jax.data import aligned, atomic, memory

# What NumPy and zipfile raise on files that are damaged or something else.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray | Rows]) -> None:
    """Writes arrays by name, as `numpy.load` reads them.

    Equal arrays give equal bytes: there are no timestamps, and no compression, whose
    output depends on the version of zlib (images hardly shrink anyway).

    Args:
      file: a binary file, open for writing.
      arrays: the arrays, without Python objects.

    Example:
      >>> import io
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> file = io.BytesIO()
      >>> npz.write(file, {"a": np.arange(3)})
      >>> np.load(io.BytesIO(file.getvalue()))["a"].tolist()
      [0, 1, 2]
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            with archive.open(info, "w", force_zip64=True) as stream:
                if isinstance(array, Rows):
                    write_npy(stream, array, array.dtype.str)
                    continue
                array = np.asarray(array, order="C")
                if array.dtype == np.uint8 and array.ndim:
                    write_npy(stream, array, "|u1")
                else:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
    file.flush()


def write_npy(file: IO[bytes], array: np.ndarray | Rows, dtype: str) -> None:
    """Writes an array as `numpy.save` does, block by block.

    Args:
      file: a binary file, open for writing.
      array: the array.
      dtype: of the values in the file, such as "<f4".

    Example:
      >>> import io
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> file = io.BytesIO()
      >>> npz.write_npy(file, np.arange(3.0), "<f4")
      >>> np.load(io.BytesIO(file.getvalue())).tolist()
      [0.0, 1.0, 2.0]
    """
    header = {
        "descr": dtype,
        "fortran_order": False,
        "shape": tuple(map(int, array.shape)),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks(array.shape):
        file.write(np.ascontiguousarray(array[block], dtype=dtype).data)
    file.flush()


def read(
    path: str | os.PathLike[str], *, except_for: Container[str] = ()
) -> dict[str, np.ndarray]:
    """Reads all arrays and checks their checksums, without executing anything.

    Args:
      path: the file.
      except_for: names of arrays that are left out.

    Returns:
      The arrays by name.

    Raises:
      ValueError: in one line naming the file, if it is missing, truncated, damaged, not
        a ``.npz`` file, or holds Python objects or more than there is memory for.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/data.npz", a=np.arange(3))
      ...     npz.read(f"{folder}/data.npz")["a"].tolist()
      [0, 1, 2]
    """
    path = pathlib.Path(path)
    if not path.is_file():
        problem = "is a directory" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {problem}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                member
                for member in archive.namelist()
                if member.removesuffix(".npy") not in except_for
            ]
            needed = sum(_declared(archive, member) for member in members)
            memory.check(needed, f"its {len(members)} arrays")
            return {
                member.removesuffix(".npy"): _read_member(archive, member)
                for member in members
            }
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a ``.npy`` file without executing anything.

    Args:
      path: the file.

    Returns:
      The array.

    Raises:
      ValueError: in one line naming the file, if it is truncated, damaged, not such a
        file, or holds Python objects or more than there is memory for.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.save(f"{folder}/a.npy", np.arange(3))
      ...     npz.read_npy(f"{folder}/a.npy").tolist()
      [0, 1, 2]
    """
    atomic.check_file(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            declared = declared_bytes(file)
            held = size - file.tell()
            # Before as much is allocated as a damaged header says.
            if declared > held:
                raise ValueError(f"its header says {declared} bytes, it holds {held}")
            memory.check(declared, "its array")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def rows_of_npy(path: str | os.PathLike[str]) -> np.ndarray | Rows:
    """Opens a ``.npy`` file whose rows are read when they are needed.

    Args:
      path: the file.

    Returns:
      Its rows; the whole array if it has none, or is stored by columns.

    Raises:
      ValueError: in one line naming the file, as `read_npy` does; reading a row, too,
        if the file was cut since.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.save(f"{folder}/a.npy", np.arange(6).reshape(3, 2))
      ...     npz.rows_of_npy(f"{folder}/a.npy")[1:2].tolist()
      [[2, 3]]
    """
    atomic.check_file(path)
    try:
        with open(path, "rb") as file:
            shape, by_columns, dtype = _header(file)
            first = file.tell()
            held = os.fstat(file.fileno()).st_size - first
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    row = math.prod(shape[1:]) * dtype.itemsize
    if not shape or min(shape) <= 0 or by_columns or shape[0] * row > held:
        return read_npy(path)

    def read(start: int, stop: int) -> np.ndarray:
        try:
            with open(path, "rb") as file:
                file.seek(first + start * row)
                data = file.read((stop - start) * row)
            return np.frombuffer(data, dtype).reshape(stop - start, *shape[1:])
        except UNREADABLE as error:
            raise unreadable(path, error) from error

    return Rows(shape, dtype, read)


def rows_of_member(path: str | os.PathLike[str], name: str) -> RandomRows:
    """Opens an array of a ``.npz`` file whose rows are read when they are needed.

    Its checksum is not checked.

    Args:
      path: the file.
      name: of the array.

    Returns:
      Its rows.

    Raises:
      ValueError: in one line naming the file, if it cannot be read, or the array is
        compressed or stored by columns; reading rows, too, if the file was cut since.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/a.npz", a=np.arange(6).reshape(3, 2))
      ...     npz.rows_of_member(f"{folder}/a.npz", "a")[1:2].tolist()
      [[2, 3]]
    """
    atomic.check_file(path)
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            info = archive.getinfo(f"{name}.npy")
            compressed = info.compress_type != zipfile.ZIP_STORED
            with archive.open(info) as stream:
                shape, by_columns, dtype = _header(stream)
                begin = stream.tell()
            # Behind the member's own header, whose last two parts vary in size.
            file.seek(info.header_offset + 26)
            sizes = struct.unpack("<HH", file.read(4))
            first = info.header_offset + 30 + sum(sizes) + begin
            held = info.file_size - begin
        if not shape or min(shape) <= 0:
            raise ValueError(f"{name} has no rows: its shape is {shape}")
        if math.prod(shape) * dtype.itemsize > held:
            raise EOFError(f"{name}: its header says more than the {held} bytes held")
    except KeyError as error:
        raise ValueError(f"{path}: it has no array {name}") from error
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if compressed or by_columns:
        what = "compressed" if compressed else "stored by columns"
        raise ValueError(
            f"{path}: {name} is {what}; allowed with stream: arrays in C order as "
            "numpy.savez writes them"
        )
    return RandomRows.of(shape, dtype, _gather(path, first, shape, dtype))


def rows_of_whole(path: str | os.PathLike[str]) -> RandomRows:
    """Opens a ``.npy`` file that was written here, for rows in any order.

    Args:
      path: the file.

    Returns:
      Its rows.

    Raises:
      ValueError: in one line naming the file, if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            shape, _, dtype = _header(file)
            first = file.tell()
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return RandomRows.of(shape, dtype, _gather(path, first, shape, dtype))


def _gather(
    path: str | os.PathLike[str], first: int, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[np.ndarray, np.ndarray], None]:
    """Reads rows of an array that begins at some byte of a file."""
    size = math.prod(shape[1:]) * dtype.itemsize

    def gather(numbers: np.ndarray, out: np.ndarray) -> None:
        if not len(numbers):
            return
        flat = out.reshape(len(numbers), -1).view(np.uint8)
        try:
            with open(path, "rb") as file:
                for target, number in zip(flat, numbers.tolist(), strict=True):
                    if (
                        os.preadv(file.fileno(), [target.data], first + number * size)
                        < size
                    ):
                        raise EOFError(f"row {number} is beyond its end")
        except UNREADABLE as error:
            raise unreadable(path, error) from error

    return gather


def declared_bytes(file: IO[bytes]) -> int:
    """Reads the header of an array.

    Args:
      file: a binary file at the beginning of an ``.npy`` file.

    Returns:
      The bytes of the array that follows, as the header declares it.

    Raises:
      ValueError: if it is no such header.

    Example:
      >>> import io
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> file = io.BytesIO()
      >>> np.save(file, np.zeros((2, 3)))
      >>> npz.declared_bytes(io.BytesIO(file.getvalue()))
      48
    """
    shape, _, dtype = _header(file)
    return math.prod(max(0, size) for size in shape) * dtype.itemsize


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether columns come first, and the type of an array that follows."""
    version = np.lib.format.read_magic(file)
    # Versions 2 and 3 differ in the characters that names of fields may have.
    header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    with warnings.catch_warnings():
        # A damaged header may read like odd code.
        warnings.simplefilter("ignore", SyntaxWarning)
        shape, by_columns, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are pickles")
    return shape, by_columns, dtype


def unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """Returns the error for a file of arrays that cannot be read, in one line.

    Args:
      path: the file.
      error: what was raised.

    Returns:
      The error, for the caller to raise.

    Example:
      >>> from miue_jax.data import npz
      >>> print(npz.unreadable("a.npy", EOFError("no data left")))
      a.npy: truncated, damaged or not a file of arrays: no data left
    """
    reason = one_line(str(error)) or type(error).__name__
    # These say nothing about what is in the file.
    if isinstance(error, memory.Exceeded):
        return ValueError(f"{path}: {reason}")
    if isinstance(error, PermissionError):
        return ValueError(f"{path}: permission denied")
    return ValueError(f"{path}: truncated, damaged or not a file of arrays: {reason}")


def names(path: str | os.PathLike[str]) -> set[str]:
    """Returns the names of the arrays in a file.

    Args:
      path: the file.

    Returns:
      The names; none if it is not a ``.npz`` file.

    Example:
      >>> from miue_jax.data import npz
      >>> npz.names("missing.npz")
      set()
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.removesuffix(".npy") for member in archive.namelist()}
    except UNREADABLE:
        return set()


def _declared(archive: zipfile.ZipFile, member: str) -> int:
    with archive.open(member) as stream:
        return declared_bytes(stream)


def _read_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        shape, by_columns, dtype = _header(stream)
        plain = dtype.kind in "biuf" and not by_columns and min(shape, default=0) >= 0
        if plain:
            array = aligned.empty(shape, dtype)
            _fill(array, stream)
            _check_end(member, stream)
            return array
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        _check_end(member, stream)
    return array


def _fill(array: np.ndarray, stream: IO[bytes]) -> None:
    values = array.reshape(-1).view(np.uint8)
    for block in blocks(values.shape):
        # One read would hold all of it a second time.
        data = stream.read(block.stop - block.start)
        if len(data) < block.stop - block.start:
            raise EOFError(f"array data: {len(values)} bytes expected")
        values[block] = np.frombuffer(data, np.uint8)


def _check_end(member: str, stream: IO[bytes]) -> None:
    # zipfile checks the checksum when it reads to the end.
    if stream.read(1):
        raise ValueError(f"{shown(member)} is longer than its header says")
