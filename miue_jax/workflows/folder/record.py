"""What has been written of a folder, kept so that the same command goes on."""

import hashlib
import json
import os
import pathlib
import threading
from typing import Any, BinaryIO, NamedTuple

from miue_jax import _json
from miue_jax.data import atomic

_BLOCK = 2**20


class Stamp(NamedTuple):
    """What tells whether a file is still the same.

    Attributes:
      size: its bytes.
      time: of its last change, in nanoseconds.
      sha256: of its content.

    Example:
      >>> from miue_jax.workflows.folder import record
      >>> record.Stamp(4, 0, "ab").size
      4
    """

    size: int
    time: int
    sha256: str


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """Stamps a file.

    Args:
      path: the file.

    Returns:
      Its stamp.

    Raises:
      OSError: if it cannot be read.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.workflows.folder import record
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a")
      ...     _ = path.write_bytes(b"data")
      ...     record.stamp(path).size
      4
    """
    found = os.stat(path)
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
    return Stamp(found.st_size, found.st_mtime_ns, sha256.hexdigest())


def is_same(path: str | os.PathLike[str], known: Stamp) -> bool:
    """Whether a file is the one that was stamped.

    One that has neither another size nor another time counts as unchanged; its content
    is compared only if its time is another.

    Args:
      path: the file, which may be missing.
      known: its stamp.

    Returns:
      Whether it is.

    Example:
      >>> from miue_jax.workflows.folder import record
      >>> record.is_same("no-such-file", record.Stamp(4, 0, "ab"))
      False
    """
    try:
        found = os.stat(path)
        if found.st_size != known.size:
            return False
        return found.st_mtime_ns == known.time or stamp(path).sha256 == known.sha256
    except FileNotFoundError:
        return False


class Written(NamedTuple):
    """A picture that has been written, or was being written.

    Attributes:
      name: of the picture below the input folder.
      target: of the file below the output folder.
      source: stamp of the picture; None while it is written.
      result: stamp of the file; None while it is written.
      label: its class or cluster.
      audit: the fields of `miue_jax.pictures.Audit`; None while it is written.

    Example:
      >>> from miue_jax.workflows.folder import record
      >>> record.Written("a.png", "a.png", None, None, None, None).done
      False
    """

    name: str
    target: str
    source: Stamp | None
    result: Stamp | None
    label: str | None
    audit: dict[str, Any] | None

    @property
    def done(self) -> bool:
        """Whether the file is whole."""
        return self.result is not None


class Record:
    """A file of JSON lines, one when a picture is begun and one when it is written.

    Args:
      path: the file; created with the first line.
      repair: whether to remove what a kill has left of a last line: nobody else may be
        writing then. Otherwise it is passed over.

    Attributes:
      entries: the last line of each picture, by name.

    Raises:
      ValueError: naming the file, if it is damaged.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.workflows.folder import record
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     kept = record.Record(pathlib.Path(folder, "pictures.jsonl"))
      ...     kept.add(record.Written("a.png", "a.png", None, None, None, None))
      ...     again = record.Record(pathlib.Path(folder, "pictures.jsonl"))
      ...     list(again.entries)
      ['a.png']
    """

    def __init__(self, path: pathlib.Path, *, repair: bool = False):
        self.path = path
        self.entries: dict[str, Written] = {}
        self._lock = threading.Lock()
        atomic.check_file(path)
        if not path.exists():
            return
        whole, _, rest = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
            try:
                entry = _entry(_json.parse(line.decode()))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged: line {number}") from error
            self.entries[entry.name] = entry
        if rest and repair:
            # A kill cut the last line short: what follows must not continue it.
            with atomic.write_file(path) as file:
                file.write(whole + b"\n" if whole else b"")

    def add(self, entry: Written) -> None:
        """Appends a line; threads may call it at once.

        Args:
          entry: the picture.

        Raises:
          OSError: naming the file, if it cannot be written.
        """
        plain = entry._asdict()
        for name in ("source", "result"):
            plain[name] = None if plain[name] is None else plain[name]._asdict()
        # Names of files may be no valid text.
        line = json.dumps(plain) + "\n"
        with self._lock:
            self.entries[entry.name] = entry
            try:
                with self.path.open("ab", buffering=0) as file:
                    _append(file, line.encode())
            except OSError as error:
                reason = f"cannot be written ({error.strerror or error})"
                raise OSError(error.errno, reason, str(self.path)) from error


def _append(file: BinaryIO, line: bytes) -> None:
    """Appends a whole line or, on a full disk, nothing."""
    size = os.fstat(file.fileno()).st_size
    try:
        while line:
            line = line[file.write(line) :]
        # A file must not appear on the disk before the line that announces it.
        os.fsync(file.fileno())
    except OSError:
        os.truncate(file.fileno(), size)
        raise


def _entry(plain: Any) -> Written:
    stamps = [
        None if plain[name] is None else Stamp(**plain[name])
        for name in ("source", "result")
    ]
    name, target, label = (plain[key] for key in ("name", "target", "label"))
    if not isinstance(name, str) or not isinstance(target, str):
        raise ValueError("names are texts")
    return Written(name, target, stamps[0], stamps[1], label, plain["audit"])
