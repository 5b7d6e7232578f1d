"""Tensors in a file written by ``torch.save``, read without executing it.

Such a file is a zip archive: the raw numbers are in ``<name>/data/<key>``, and
``<name>/data.pkl`` is a pickle that builds tensors from them. A pickle is a program, so
only the calls that build a tensor are understood, and functions of this module answer
them; anything else is refused.
"""

import collections
import io
import math
import os
import pathlib
import pickle
import zipfile
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

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
        format), or refers to anything but tensors, lists, tuples, dictionaries, numbers
        and strings.

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
            loaded = _load(archive)
    except Exception as error:  # A hostile pickle can provoke any exception.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be read: {reason}") from error
    return _tensors(loaded)


def _load(archive: zipfile.ZipFile) -> Any:
    members = {info.filename: info for info in archive.infolist()}
    programs = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(programs) != 1:
        raise ValueError("not a file of torch.save: it holds no data.pkl")
    for info in members.values():
        # torch never compresses; a small file that unpacks to a huge one is hostile.
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"not a file of torch.save: {info.filename} is compressed")
    prefix = programs[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in members:
        order = archive.read(f"{prefix}byteorder")
        if order != b"little":
            raise ValueError(f"only little-endian numbers can be read, not {order!r}")
    return _Unpickler(archive, prefix).load()


# The pickle can neither call nor change these.
class _Storage(NamedTuple):
    values: np.ndarray


class _Tensor(NamedTuple):
    values: np.ndarray


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2`` in the pickle."""

    __slots__ = ()

    def __call__(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *unused: Any,
    ) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without numbers")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(
            type(n) is int and 0 <= n < 2**48 for n in numbers
        ):
            raise ValueError(f"a tensor of impossible shape {size}, stride {stride}")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.values.size:
            raise ValueError(
                f"a tensor of shape {size} with {storage.values.size} numbers"
            )
        itemsize = storage.values.itemsize
        strides = [s * itemsize for s in stride]
        start = storage.values[offset:]
        return _Tensor(
            np.lib.stride_tricks.as_strided(start, size, strides, writeable=False)
        )


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        self._refuse(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _DTYPES or not isinstance(key, str):
            self._refuse(repr(pid))
        if key not in self._storages:
            raw = self._archive.read(f"{self._prefix}data/{key}")
            values = np.frombuffer(raw, np.dtype(_DTYPES[dtype]))
            if values.size != count:
                raise ValueError(
                    f"storage {key} holds {values.size} of {count} numbers"
                )
            self._storages[key] = _Storage(values)
        return self._storages[key]

    def _refuse(self, found: str) -> NoReturn:
        raise ValueError(
            f"refers to {found}, which is not part of a tensor; nothing was executed; "
            f"{_CONVERT}"
        )


def _tensors(loaded: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    waiting, seen = [("", loaded)], set()
    while waiting:
        place, value = waiting.pop(0)
        if isinstance(value, _Tensor):
            found[place] = value.values
        # A pickle can make a list that holds itself.
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{place}[{name!r}]", item) for name, item in items]
    return found
