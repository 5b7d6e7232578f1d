"""Tensors in a file written by ``torch.save``, read without executing it.

Such a file is a zip archive: the raw numbers are in ``<name>/data/<key>``, and
``<name>/data.pkl`` is a pickle that builds tensors from them. A pickle is a program, so
`pickle_program` interprets the part of it that builds a tensor, and functions of this
module answer its calls; anything else is refused.
"""

import collections
import math
import os
import pathlib
import zipfile
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from miue_jax._checks import one_line, shown
from miue_jax.data import memory, pickle_program

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
}
# Levels of containers, of which a state has a few, and axes of a tensor.
_DEEPEST = 32
_MOST_AXES = 32
_CONVERT = (
    "load it where you trust it and save the array with np.save('perturbation.npy', "
    "tensor.numpy())"
)


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads every tensor of a ``.pt`` file in torch's zip format (torch >= 1.6).

    Args:
      path: the file.

    Returns:
      The tensors as read-only arrays, by path: "" for the object itself, "['delta']" or
      "[0]" inside dictionaries, lists and tuples.

    Raises:
      ValueError: naming the file, if it is missing, truncated, a bare pickle (the old
        format), too large or too deeply nested, or refers to anything but tensors,
        lists, tuples, dictionaries, numbers and strings.

    Example:
      >>> from miue_jax.data import torch_file
      >>> tensors = torch_file.read_tensors("delta.pt")  # doctest: +SKIP
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: truncated, or a bare pickle (as torch before 1.6 wrote), which "
            f"cannot be read without executing it; {_CONVERT}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _tensors(_load(archive, path.stat().st_size))
    except Exception as error:  # A hostile pickle can provoke any exception.
        reason = one_line(str(error), 600) or type(error).__name__
        raise ValueError(f"{path}: cannot be read: {reason}") from error


def _load(archive: zipfile.ZipFile, size: int) -> Any:
    members = {info.filename: info for info in archive.infolist()}
    programs = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(programs) != 1:
        raise ValueError("not a file of torch.save: it holds no data.pkl")
    for info in members.values():
        # torch never compresses; a small file that unpacks to a huge one is hostile.
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"not a file of torch.save: {shown(info.filename)} is compressed"
            )
    # Nor do its parts share bytes, as in a file that is smaller than they are.
    total = sum(info.file_size for info in archive.infolist())
    if total > size:
        raise ValueError(f"its parts have {total} bytes, the file has {size}")
    memory.check(total, "its tensors")
    prefix = programs[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in members:
        order = archive.read(f"{prefix}byteorder")
        if order != b"little":
            raise ValueError(
                f"only little-endian numbers can be read, not {shown(order)}"
            )
    storages: dict[str, _Storage] = {}

    def load(identifier: Any) -> _Storage:
        kind, dtype, key, _, count = identifier
        named = kind == "storage" and isinstance(dtype, str) and isinstance(key, str)
        if not named or dtype not in _DTYPES:
            _refuse(shown(identifier))
        if f"{prefix}data/{key}" not in members:
            raise ValueError(f"there is no item named {shown(f'{prefix}data/{key}')}")
        if key not in storages:
            raw = archive.read(f"{prefix}data/{key}")
            values = np.frombuffer(raw, np.dtype(_DTYPES[dtype]))
            if type(count) is not int or values.size != count:
                raise ValueError(
                    f"storage {shown(key)} holds {values.size} of {shown(count)} "
                    "numbers"
                )
            storages[key] = _Storage(values)
        return storages[key]

    program = archive.read(f"{prefix}data.pkl")
    return pickle_program.run(program, refer=_refer, call=_call, load=load)


class _Storage(NamedTuple):
    values: np.ndarray


class _Tensor(NamedTuple):
    values: np.ndarray


class _Function(NamedTuple):
    """Stands for a function of torch or Python."""

    name: str


_REBUILD = _Function("_rebuild_tensor_v2")
_ORDERED = _Function("OrderedDict")


def _refer(module: str, name: str) -> Any:
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _REBUILD
    if (module, name) == ("collections", "OrderedDict"):
        return _ORDERED
    if module == "torch" and name in _DTYPES:
        return name
    _refuse(one_line(f"{module}.{name}", 100))


def _refuse(found: str) -> NoReturn:
    raise ValueError(
        f"refers to {found}, which is not part of a tensor; nothing was executed; "
        f"{_CONVERT}"
    )


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function is _REBUILD:
        return _rebuild(*arguments)
    if function is _ORDERED and not arguments:
        return {}
    raise ValueError(f"{shown(function)} is not callable with {shown(arguments)}")


def _rebuild(
    storage: Any, offset: Any, size: Any, stride: Any, *unused: Any
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without numbers")
    fits = isinstance(size, tuple) and isinstance(stride, tuple)
    if (
        not fits
        or not len(size) == len(stride) <= _MOST_AXES
        or not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *size, *stride))
    ):
        raise ValueError(
            f"a tensor of impossible shape {shown(size)}, stride {shown(stride)}"
        )
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.values.size:
        raise ValueError(f"a tensor of shape {size} with {storage.values.size} numbers")
    itemsize = storage.values.itemsize
    strides = [s * itemsize for s in stride]
    start = storage.values[offset:]
    return _Tensor(
        np.lib.stride_tricks.as_strided(start, size, strides, writeable=False)
    )


def _tensors(loaded: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    waiting, seen = collections.deque([("", 0, loaded)]), set()
    while waiting:
        place, depth, value = waiting.popleft()
        if isinstance(value, _Tensor):
            found[place] = value.values
        # A pickle can make a list that holds itself.
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            if depth == _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{place}[{shown(k)}]", depth + 1, item) for k, item in items]
    return found
