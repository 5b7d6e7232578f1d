"""Objects in buckets, named by addresses such as s3://bucket/runs or gs://bucket/runs.

An object appears whole or not at all, and can be created only where none is; there are
no folders, locks or renames. fsspec carries the bytes (s3fs, gcsfs), which finds
credentials and endpoints as its users know it.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from miue_jax import _checks
from miue_jax._rows import RandomRows

__all__ = ["Address", "Copy", "Place", "is_address", "local", "place"]

# How the names of local copies begin, in the system's temporary folder.
SCRATCH = "miue-bucket-"
# Locked in a copy by the process that uses it.
_MARK = ".in-use"

# What reads a scheme, and the extra that installs it.
_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}

_ADDRESS = re.compile(r"(s3|gs)://([^/]*)/?(.*)", re.DOTALL)
# What is meant as an address and is none: as a path it would be a folder "s3:".
_MISTAKEN = re.compile(r"(s3|gs):/|[a-z][a-z0-9+.-]*://", re.IGNORECASE)

# Within which a bucket must answer: its libraries would try for minutes.
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_ANSWER = 20.0

# What the libraries raise without right credentials, and where nobody answers.
_REFUSALS = re.compile(r"Credential|RefreshError|TokenRetrieval|SSOToken")
_DISCONNECTIONS = re.compile(r"Connect|Endpoint|Proxy|SSL|HTTPClient|ClientOS|Payload")


class Entry(NamedTuple):
    """What a bucket says of an object.

    Attributes:
      st_size: bytes.
      st_mtime: seconds since 1970 at which it was written, by the clock of the bucket.
    """

    st_size: int
    st_mtime: float


@dataclasses.dataclass(frozen=True, order=True)
class Address:
    """The address of an object, or of all that begin with it and a slash.

    What it has in common with `pathlib.Path` has the same names.

    Attributes:
      scheme: s3 or gs.
      key: the bucket and the name in it.

    Example:
      >>> from miue_jax.data.bucket import Address
      >>> run = Address("s3", "bucket/runs") / "em"
      >>> str(run), run.name, str(run.parent)
      ('s3://bucket/runs/em', 'em', 's3://bucket/runs')
    """

    scheme: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str) -> "Address":
        return Address(self.scheme, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The part behind the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self.key.partition("/")[0]

    @property
    def parent(self) -> "Address":
        """The address without its last part."""
        return Address(self.scheme, self.key.rpartition("/")[0] or self.key)

    def with_suffix(self, suffix: str) -> "Address":
        """The address with another end of its name."""
        return self.parent / pathlib.PurePosixPath(self.name).with_suffix(suffix).name

    def absolute(self) -> "Address":
        """The address itself."""
        return self

    def exists(self) -> bool:
        """Whether there is an object, or one that begins with the address."""
        return bool(listing(self))

    def is_dir(self) -> bool:
        """Whether there are objects that begin with the address and a slash."""
        return any(listing(self).keys() - {""})

    def stat(self) -> Entry:
        """What the bucket says of the object."""
        return _entry(_call(self, "info", self.key))

    def read_bytes(self) -> bytes:
        """The bytes of the object."""
        return _call(self, "cat_file", self.key)

    def read_text(self) -> str:
        """The text of the object, which is UTF-8."""
        return self.read_bytes().decode()

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            _call(self, "rm_file", self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Does nothing: a bucket has no folders."""


# Where something is read or written.
Place = pathlib.Path | Address


def is_address(given: object) -> bool:
    """Tells an address in a bucket from a local path.

    Args:
      given: a path or an address.

    Returns:
      Whether it is one, right or wrong.

    Example:
      >>> from miue_jax.data import bucket
      >>> bucket.is_address("gs://bucket/runs"), bucket.is_address("runs")
      (True, False)
    """
    return isinstance(given, Address) or bool(
        isinstance(given, str) and _ADDRESS.fullmatch(given)
    )


def place(given: "str | os.PathLike[str] | Address") -> Place:
    """Converts a path, or an address in a bucket.

    Args:
      given: such as "runs/em", "s3://bucket/runs/em" or "gs://bucket/runs/em".

    Returns:
      A path or an address.

    Raises:
      ValueError: if an address names no bucket or nothing in it, is of another kind,
        or what reads it is not installed.

    Example:
      >>> from miue_jax.data import bucket
      >>> bucket.place("runs/em").name
      'em'
    """
    if isinstance(given, Address):
        return given
    text = os.fspath(given)
    found = _ADDRESS.fullmatch(text)
    if found is None and _MISTAKEN.match(text):
        # A path has lost one of the slashes.
        others = ", s3://bucket/name or gs://bucket/name" if text is given else ""
        raise ValueError(f"{text}: allowed: a local path{others}")
    if found is None:
        return pathlib.Path(text)
    scheme, name, key = found.groups()
    parts = key.rstrip("/").split("/")
    if not name or not all(part not in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{text}: allowed: {scheme}://bucket/name, the name without empty parts"
        )
    # The libraries take what follows for the version of an object.
    if "?" in key or "#" in key:
        raise ValueError(f"{text}: allowed: names without ? and #")
    package, extra = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{text}: needs {package}: pip install miue_jax[{extra}]")
    return Address(scheme, "/".join([name, *parts]))


def refuse(**given: object) -> None:
    """Refuses addresses where only local paths will do.

    Args:
      **given: paths by the name of their option.

    Raises:
      ValueError: naming the first address.

    Example:
      >>> from miue_jax.data import bucket
      >>> bucket.refuse(output="protector.safetensors")
    """
    for name, value in given.items():
        if is_address(value):
            raise ValueError(f"{name} is {value}; allowed here: a local path")


def listing(address: Address) -> dict[str, Entry]:
    """Lists an object, or all that begin with an address and a slash.

    Args:
      address: where.

    Returns:
      What the bucket says of each, by the name behind the slash; "" is the object of
      this address itself.

    Raises:
      OSError: naming the address, if the bucket is missing, refuses or cannot be
        reached.
    """
    try:
        found = _call(address, "find", address.key, detail=True)
    except FileNotFoundError as error:
        raise _no_bucket(address) from error
    # Some clients make empty objects that end with a slash, to show folders, and s3fs
    # finds a folder where the first object is written while it looks.
    return {
        name[len(address.key) + 1 :]: _entry(entry)
        for name, entry in sorted(found.items())
        if entry["type"] == "file" and not name.endswith("/")
    }


def create(address: Address, data: bytes) -> bool:
    """Writes an object unless there is one; of several writers one succeeds.

    Args:
      address: of the object.
      data: its bytes, which are like no other writer's.

    Returns:
      Whether it was written.

    Raises:
      OSError: naming the address, if it cannot be written.
    """
    for _ in range(3):
        try:
            _call(address, "pipe_file", address.key, data, mode="create")
        except FileExistsError:
            # The answer to a first try may have been lost, and the library tried again.
            with contextlib.suppress(FileNotFoundError):
                return address.read_bytes() == data
            return False
        except FileNotFoundError as error:
            raise _no_bucket(address) from error
        except OSError as error:
            if "ConditionalRequestConflict" not in str(error):
                raise
            continue  # S3 asks to try again while another writer is at it
        return True
    return False


def put(file: str | os.PathLike[str], address: Address) -> None:
    """Writes an object, in place of one that is there.

    Args:
      file: the local file.
      address: of the object.

    Raises:
      OSError: naming the address, if it cannot be written; an object that was there
        stays as it was.
    """
    try:
        _call(address, "put_file", os.fspath(file), address.key, large=True)
    except FileNotFoundError as error:
        raise _no_bucket(address) from error


def fetch(address: Address, file: pathlib.Path) -> None:
    """Reads an object into a file.

    Args:
      address: of the object.
      file: the local file; its folder is created if missing.

    Raises:
      OSError: naming the address, if it cannot be read.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    _call(address, "get_file", address.key, os.fspath(file), large=True)


@contextlib.contextmanager
def local(given: "str | os.PathLike[str] | Address") -> Iterator[pathlib.Path]:
    """Brings a file or folder of a bucket here while the context lasts.

    Args:
      given: a path, which is yielded as it is, or an address.

    Yields:
      The path; where there is nothing, it is missing.

    Raises:
      OSError: naming the address, if the bucket is missing, refuses or cannot be
        reached.

    Example:
      >>> from miue_jax.data import bucket
      >>> with bucket.local("protected.npz") as path:
      ...     path.name
      'protected.npz'
    """
    where = place(given)
    if isinstance(where, pathlib.Path):
        yield where
        return
    with scratch(where) as path:
        for name in listing(where):
            fetch(where / name if name else where, path / name if name else path)
        yield path


@contextlib.contextmanager
def scratch(address: Address) -> Iterator[pathlib.Path]:
    """A local path for what an address names, while the context lasts.

    It lies in the system's temporary folder (``TMPDIR``). Errors that name it name the
    address instead.

    Args:
      address: what the path stands for.

    Yields:
      The path; nothing is there.
    """
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH) as folder,
        _marked(pathlib.Path(folder)),
    ):
        path = pathlib.Path(folder).resolve() / address.name
        with _naming(path, address):
            yield path


@contextlib.contextmanager
def _naming(path: pathlib.Path, address: Address) -> Iterator[None]:
    """Names an address in errors in place of its local path."""
    try:
        yield
    except Exception as error:
        _rename(error, str(path), str(address))
        raise


class Copy:
    """A local copy that is removed with the last reference to it.

    Args:
      address: of a file or a folder in a bucket.
      file: what the copy is made from without asking the bucket; None to bring it here.

    Attributes:
      address: as given.
      path: of the copy; where there is nothing, it is missing.

    Raises:
      OSError: naming the address, if the bucket is missing, refuses or cannot be
        reached.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.data import bucket
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = pathlib.Path(folder) / "a.npz"
      ...     _ = file.write_bytes(b"rows")
      ...     copy = bucket.Copy(bucket.Address("s3", "pictures/a.npz"), file)
      >>> copy.path.name, copy.path.read_bytes()
      ('a.npz', b'rows')
    """

    def __init__(self, address: Address, file: pathlib.Path | None = None):
        self.address = address
        with contextlib.ExitStack() as stack:
            if file is None:
                remove_copies()
                self.path = stack.enter_context(local(address))
            else:
                self.path = stack.enter_context(scratch(address))
                try:
                    os.link(file, self.path)
                except OSError:  # not on every file system
                    shutil.copyfile(file, self.path)
            weakref.finalize(self, stack.pop_all().close)

    def naming(self) -> contextlib.AbstractContextManager[None]:
        """Names the address in errors in place of the path, while the context lasts."""
        return _naming(self.path, self.address)

    def rows(self, rows: RandomRows) -> RandomRows:
        """The same rows, read from the copy, which lasts as long as they do."""

        def gather(numbers: np.ndarray, out: np.ndarray) -> None:
            with self.naming():
                rows.gather(numbers, out)

        return RandomRows.of(rows.shape, rows.dtype, gather)


@contextlib.contextmanager
def _marked(folder: pathlib.Path) -> Iterator[None]:
    """Marks a copy as in use, as long as this process lives."""
    with (folder / _MARK).open("w") as mark:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(mark, fcntl.LOCK_EX)
        yield


def remove_copies() -> None:
    """Removes the copies of this user's processes that were killed."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            with (folder / _MARK).open() as mark:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _rename(error: BaseException, path: str, address: str) -> None:
    """Names an address in an error in place of the local path."""
    error.args = tuple(
        text.replace(path, address) if isinstance(text, str) else text
        for text in error.args
    )
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = error.filename.replace(path, address)


def put_folder(folder: pathlib.Path, address: Address) -> None:
    """Writes a folder of files; a failure on the way removes those that are written.

    Args:
      folder: the local folder.
      address: what the names of the objects begin with.

    Raises:
      OSError: naming the object that cannot be written.
    """
    written: list[Address] = []
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = address / file.relative_to(folder).as_posix()
            put(file, target)
            written.append(target)
    except BaseException:
        for target in written:
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
        raise


def _call(
    address: Address, method: str, *args: Any, large: bool = False, **options: Any
) -> Any:
    """Calls a method of the file system; what it raises becomes one line."""
    from fsspec import asyn

    timeout = None if large else _SECONDS_TO_ANSWER
    try:
        files = _file_system(address.scheme)
        call = getattr(files, f"_{method}")
        return asyn.sync(files.loop, call, *args, timeout=timeout, **options)
    except (FileNotFoundError, FileExistsError) as error:
        code = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EEXIST
        raise type(error)(code, os.strerror(code), str(address)) from error
    except Exception as error:  # the libraries have no base in common
        raise _failure(address, error) from error


def _file_system(scheme: str) -> Any:
    """The file system of this thread; fsspec keeps one for equal arguments."""
    if scheme == "s3":
        from s3fs import S3FileSystem

        return S3FileSystem(
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": _SECONDS_TO_CONNECT,
                "read_timeout": _SECONDS_TO_ANSWER,
                "retries": {"total_max_attempts": 3, "mode": "standard"},
            },
        )
    # The plain one: another asks for the kind of every bucket first.
    from gcsfs.core import GCSFileSystem

    return GCSFileSystem(use_listings_cache=False, requests_timeout=_timeouts())


@functools.cache
def _timeouts() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(
        total=None, sock_connect=_SECONDS_TO_CONNECT, sock_read=_SECONDS_TO_ANSWER
    )


def _entry(found: dict[str, Any]) -> Entry:
    written = found.get("LastModified") or found.get("mtime")
    return Entry(int(found.get("size") or 0), written.timestamp() if written else 0.0)


def _no_bucket(address: Address) -> OSError:
    return OSError(f"{address}: there is no bucket {address.bucket}")


def _failure(address: Address, error: Exception) -> OSError:
    text = _checks.one_line(str(error), 300) or type(error).__name__
    refused = (
        isinstance(error, PermissionError)
        or getattr(error, "code", None) in (401, 403)
        or text.startswith("Forbidden")
        or _REFUSALS.search(type(error).__name__)
    )
    if refused:
        return PermissionError(f"{address}: access is refused ({text})")
    if isinstance(error, TimeoutError):
        text = f"no answer within {_SECONDS_TO_ANSWER:.0f} seconds"
    elif not _DISCONNECTIONS.search(type(error).__name__):
        return OSError(f"{address}: {text}")
    return OSError(f"{address}: cannot be reached ({text})")
