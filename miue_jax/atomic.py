"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes the name `path` if all goes well.

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
    """Makes a temporary folder that takes the name `root` if all goes well.

    Args:
      root: the folder to create; it must not exist, or be empty.

    Yields:
      The temporary folder to fill.

    Raises:
      ValueError: if the folder above does not exist or `root` is not empty.
      OSError: naming `root`, if something cannot be written; nothing is left behind.
    """
    root = pathlib.Path(root)
    temporary = _beside(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(f"{root}: exists and is not an empty folder")
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, root)
    except OSError as error:
        raise _named(error, temporary, root) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: pathlib.Path) -> pathlib.Path:
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    # In the same folder, since a rename is atomic only within a file system.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _named(error: OSError, temporary: pathlib.Path, path: pathlib.Path) -> OSError:
    if error.filename and not str(error.filename).startswith(str(temporary)):
        return error
    reason = f"cannot be written ({error.strerror or error})"
    return OSError(error.errno, reason, str(path))
