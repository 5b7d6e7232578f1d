"""Files and folders that appear whole or not at all."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
# NumPy writes files in a way that forgets why it failed.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


@contextlib.contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file that is renamed to `path` on success.

    Args:
      path: the file to create or replace; its folder must exist.

    Yields:
      The binary file to write to.

    Raises:
      ValueError: if the folder does not exist.
      OSError: naming `path`, if it cannot be written; nothing is left behind and a file
        that was there before stays as it was.
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _named(error, temporary, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder(root: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Makes a temporary folder that is renamed to `root` on success.

    Args:
      root: the folder to create; it must not exist, or be empty.

    Yields:
      The temporary folder to fill.

    Raises:
      ValueError: if the folder above does not exist or `root` is not empty.
      OSError: naming `root`, if something cannot be written; nothing is left behind.
    """
    root = pathlib.Path(root)
    check_new_folder(root)
    temporary = _beside(root)
    try:
        temporary.mkdir()
        yield temporary
        # Once for all of them: of thousands of small files each would take its time.
        os.sync()
        os.replace(temporary, root)
    except OSError as error:
        raise _named(error, temporary, root) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(root: str | os.PathLike[str]) -> None:
    """Checks that `write_folder` may make a folder.

    Args:
      root: the folder to create.

    Raises:
      ValueError: if the folder above does not exist or `root` is not empty.
    """
    root = pathlib.Path(root)
    _check_parent(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(f"{root}: exists and is not an empty folder")


def check_new_file(path: str | os.PathLike[str]) -> None:
    """Checks that `write_file` may make a file.

    Args:
      path: the file to create or replace.

    Raises:
      ValueError: if the folder above does not exist or `path` is a folder.
    """
    path = pathlib.Path(path)
    _check_parent(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder")


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Removes what killed writers left in a folder and below it.

    Call it only where no other process is writing.

    Args:
      folder: the folder to clear.
    """
    for path in [*pathlib.Path(folder).rglob(".*.tmp")]:
        if _TEMPORARY.fullmatch(path.name) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
