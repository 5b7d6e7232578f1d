"""Atomic writes: files and folders appear complete or not at all."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from miue_jax.data import bucket
from miue_jax.data.bucket import Address

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
# When a write fails, NumPy does not say why.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


@contextlib.contextmanager
def write_file(path: str | os.PathLike[str] | Address) -> Iterator[BinaryIO]:
    """Opens a temporary file that is renamed to `path` on success.

    Args:
      path: the file to create or replace; its parent folder must exist. Or an address
        in a bucket.

    Yields:
      The binary file to write to.

    Raises:
      ValueError: if the parent folder does not exist, or `path` is a folder, a device
        or a pipe.
      OSError: naming `path`, if it cannot be written; nothing is left behind, and a
        file that was there before stays as it was.

    Example:
      >>> import os, tempfile
      >>> from miue_jax.data import atomic
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with atomic.write_file(f"{folder}/data.bin") as file:
      ...         size = file.write(b"data")
      ...     os.listdir(folder)
      ['data.bin']
    """
    path = bucket.place(path)
    if isinstance(path, Address):
        with bucket.scratch(path) as copy:
            with copy.open("wb") as file:
                yield file
            bucket.put(copy, path)
        return
    check_new_file(path)
    temporary = _beside(path)
    try:
        with _create_locked(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise _named(error, temporary, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder(
    root: str | os.PathLike[str] | Address,
) -> Iterator[pathlib.Path]:
    """Creates a temporary folder that is renamed to `root` on success.

    Args:
      root: the folder to create; it must not exist, or must be empty. Or an address in
        a bucket, where its files appear one after the other.

    Yields:
      The temporary folder to fill.

    Raises:
      ValueError: if the parent folder does not exist or `root` is not empty.
      OSError: naming `root`, if something cannot be written; nothing is left behind.

    Example:
      >>> import os, tempfile
      >>> from miue_jax.data import atomic
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with atomic.write_folder(f"{folder}/images") as images:
      ...         size = (images / "0.png").write_bytes(b"data")
      ...     os.listdir(f"{folder}/images")
      ['0.png']
    """
    root = bucket.place(root)
    check_new_folder(root)
    if isinstance(root, Address):
        with bucket.scratch(root) as copy:
            copy.mkdir()
            yield copy
            bucket.put_folder(copy, root)
        return
    temporary = _beside(root)
    try:
        temporary.mkdir()
        yield temporary
        # Once for all files: thousands of small ones would each take their time.
        os.sync()
        os.replace(temporary, root)
    except OSError as error:
        raise _named(error, temporary, root) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(root: str | os.PathLike[str] | Address) -> None:
    """Checks that `write_folder` may create a folder.

    Args:
      root: the folder to create.

    Raises:
      ValueError: if the parent folder does not exist or `root` is not empty.
      OSError: if its bucket is missing, refuses or cannot be reached.

    Example:
      >>> from miue_jax.data import atomic
      >>> atomic.check_new_folder("a-new-folder")
    """
    root = bucket.place(root)
    if isinstance(root, Address):
        if bucket.listing(root):
            raise ValueError(f"{root}: exists and is not an empty folder")
        return
    _check_parent(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(f"{root}: exists and is not an empty folder")


def check_new_file(path: str | os.PathLike[str] | Address) -> None:
    """Checks that `write_file` may write a file.

    Args:
      path: the file to create or replace.

    Raises:
      ValueError: if the parent folder does not exist, or `path` is a folder, a device
        or a pipe.
      OSError: if its bucket is missing, refuses or cannot be reached.

    Example:
      >>> from miue_jax.data import atomic
      >>> atomic.check_new_file("protected.npz")
    """
    path = bucket.place(path)
    if isinstance(path, Address):
        if bucket.listing(path).keys() - {""}:
            raise ValueError(f"{path}: is a folder")
        return
    _check_parent(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder")
    # The rename would put a file in the place of a device, such as /dev/null.
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is a device or a pipe, not a file")


def check_not_read(
    path: str | os.PathLike[str] | Address, inputs: Iterable[Any]
) -> None:
    """Checks that a file to write is none of those that are read to make it.

    Args:
      path: the file to create or replace.
      inputs: what is read; what is no file, such as the name of a data set, is passed
        over.

    Raises:
      ValueError: if it is one of them.

    Example:
      >>> from miue_jax.data import atomic
      >>> atomic.check_not_read("protected.npz", ["shapes"])
    """
    where = bucket.place(path)
    for given in inputs:
        if isinstance(where, Address):
            if str(given) == str(where):
                break
            continue
        with contextlib.suppress(OSError, TypeError, ValueError):
            if os.path.samefile(where, given):
                break
    else:
        return
    raise ValueError(f"{path}: is read by this command, and would be overwritten")


def check_file(path: str | os.PathLike[str] | Address) -> None:
    """Checks that what is there under a name can be read: a pipe would never end.

    Args:
      path: the file; it may be missing.

    Raises:
      ValueError: if it is a folder, a pipe or a device.

    Example:
      >>> from miue_jax.data import atomic
      >>> atomic.check_file("no_such.json")
    """
    if isinstance(path, Address):
        return
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{os.fspath(path)}: is no file")


def remove_unfinished(
    folder: str | os.PathLike[str] | Address, *, below: bool = True
) -> None:
    """Removes what killed writers left in a folder and below it.

    A file that is being written is locked, and stays. No other process may be writing a
    folder there.

    Args:
      folder: the folder.
      below: whether to look below it, too.

    Example:
      >>> import os, tempfile
      >>> from miue_jax.data import atomic
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     open(f"{folder}/.a.npz.{32 * '0'}.tmp", "w").close()
      ...     atomic.remove_unfinished(folder)
      ...     os.listdir(folder)
      []
    """
    if isinstance(folder, Address):
        return  # an object appears whole or not at all
    pattern = "**/.*.tmp" if below else ".*.tmp"
    for path in [*pathlib.Path(folder).glob(pattern)]:
        if _TEMPORARY.fullmatch(path.name) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            if below:
                shutil.rmtree(path, ignore_errors=True)
        elif not _is_written(path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _create_locked(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Creates a file that is locked as long as it is open."""
    while True:
        with open(path, "xb") as file:
            # Some file systems have no locks: nothing shares a directory there.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have removed the file before it was locked.
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return


def _is_written(path: pathlib.Path) -> bool:
    """Whether a process holds the lock of a temporary file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _check_parent(path: pathlib.Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")


def _beside(path: pathlib.Path) -> pathlib.Path:
    _check_parent(path)
    # In the same folder, since a rename is atomic only within a file system.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _named(error: OSError, temporary: pathlib.Path, path: pathlib.Path) -> OSError:
    if error.filename and not str(error.filename).startswith(str(temporary)):
        return error
    code, reason = error.errno, error.strerror or str(error)
    if code is None and _CUT_SHORT.search(reason):
        code, reason = errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {reason}"
    reason = f"cannot be written ({reason})"
    return OSError(errno.EIO if code is None else code, reason, str(path))
