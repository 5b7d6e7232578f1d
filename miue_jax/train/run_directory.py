"""Run directories: one configuration each, locked while in use, and their files.

A run directory holds ``config.json``, all that its results depend on. A run may be
resumed with the same configuration only, by one process at a time (or several that
share it).
"""

import contextlib
import fcntl
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from miue_jax import _json
from miue_jax.data import atomic, bucket
from miue_jax.data.bucket import Address, Place
from miue_jax.train import lease, mirror, parallel

# The file that is locked, in the directory.
LOCK = ".lock"
# Between two tries to claim one.
_SECONDS_TO_WAIT = 1.0
# The file that is locked while a shared directory is claimed.
_CLAIM_LOCK = ".config.lock"
# The entry of a JSON file that tells whether the others changed.
_DIGEST = "sha256"


class Busy(ValueError):
    """Raised if another process is working in a run directory.

    Example:
      >>> from miue_jax.train import run_directory
      >>> issubclass(run_directory.Busy, ValueError)
      True
    """


class Failed(ValueError):
    """Raised if a run ends without a result, as it would again.

    Example:
      >>> from miue_jax.train import run_directory
      >>> issubclass(run_directory.Failed, ValueError)
      True
    """


class Diverged(Failed):
    """Raised if a metric is not finite.

    Example:
      >>> from miue_jax.train import run_directory
      >>> issubclass(run_directory.Diverged, run_directory.Failed)
      True
    """


class Run(NamedTuple):
    """A run directory that is open.

    Attributes:
      path: where to work: the directory, or a local copy of one in a bucket.
      fetch: (folder) -> None: brings there what a bucket holds of a folder of it.
      keep: () -> None: puts what has changed into the bucket, as a run does whenever it
        has saved.

    Example:
      >>> import pathlib
      >>> from miue_jax.train.run_directory import Run
      >>> Run(pathlib.Path("run")).keep()
    """

    path: pathlib.Path
    fetch: Callable[[pathlib.Path], None] = lambda folder: None
    keep: Callable[[], None] = lambda: None


@contextlib.contextmanager
def open_directory(
    workdir: Place,
    config: dict[str, Any],
    *,
    resume: bool,
    shared: bool = False,
) -> Iterator[Run]:
    """Claims a run directory for a configuration while the context lasts.

    A directory that it created and in which a run fails before it has made anything is
    removed again.

    Args:
      workdir: the directory; created if missing.
      config: everything the results depend on, as JSON.
      resume: whether a run that is in the directory may be resumed.
      shared: whether other processes that share the directory may work in it meanwhile.
        In a bucket, nothing is brought from it then.

    Yields:
      The run.

    Raises:
      ValueError: if the directory holds another configuration or something else, or a
        setting is not finite; or several processes share a run in a bucket.
      Busy: if another process is working in it.
      OSError: if its bucket is missing, refuses or cannot be reached.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.train import run_directory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder) / "run"
      ...     with run_directory.open_directory(workdir, {"seed": 0}, resume=True):
      ...         run_directory.read_json(workdir / "config.json")
      {'seed': 0}
    """
    config = json.loads(json.dumps(config))
    for key, value in _flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be finite")
    if isinstance(workdir, Address):
        if jax.process_count() > 1:
            raise ValueError(
                f"{workdir}: a bucket is for runs of one process, and this run has "
                f"{jax.process_count()}; choose a --workdir on a file system that they "
                "share"
            )
        opened = _open_shared if shared else _open_copy
        with opened(workdir, config, resume=resume) as run:
            yield run
        return
    file = workdir / "config.json"
    check_agreement(config)
    # With several hosts, all have checked before the first one writes.
    with parallel.together():
        _check_claim(workdir, config, resume=resume)
    first = jax.process_index() == 0
    created = first and not workdir.exists()
    with contextlib.ExitStack() as stack:
        busy = first and not _lock(workdir, stack, shared=shared)
        # All processes raise if the first one must.
        if any(parallel.process_max(int(busy))):
            raise Busy(f"another process is working in {workdir}")
        with parallel.together():
            if first:
                _claim(workdir, config)
                # Others may be at work below a shared directory.
                atomic.remove_unfinished(workdir, below=not shared)
        # All processes raise, or those that see the file would wait for the others.
        if any(parallel.process_max(int(not file.exists()))):
            raise ValueError(
                f"{workdir} is not one and the same for all processes: choose one on a "
                "file system that they share"
            )
        try:
            yield Run(workdir)
        except Failed:
            raise  # a result, too
        except Exception:
            if created and not shared:
                _forget(workdir)
            raise


def _check_claim(workdir: Place, config: dict[str, Any], *, resume: bool) -> None:
    check_place(workdir)
    file = workdir / "config.json"
    if file.exists():
        check_same(workdir, read_json(file), config)
        if not resume:
            raise ValueError(
                f"{workdir} holds a run already; pass --resume to resume it"
            )


@contextlib.contextmanager
def _open_copy(
    address: Address, config: dict[str, Any], *, resume: bool
) -> Iterator[Run]:
    """Opens a local copy of a run directory in a bucket."""
    _check_claim(address, config, resume=resume)
    try:
        with mirror.open_mirror(address) as copy:
            try:
                # Another process may have been there before it was locked.
                with open_directory(copy.path, config, resume=resume):
                    copy.keep()
                    yield Run(copy.path, copy.fetch, copy.keep)
            except BaseException:
                # What was saved is in the bucket; what else there is may be of use.
                with contextlib.suppress(OSError):
                    copy.keep()
                raise
            copy.keep()
    except lease.Held as error:
        raise Busy(str(error)) from error


@contextlib.contextmanager
def _open_shared(
    address: Address, config: dict[str, Any], *, resume: bool
) -> Iterator[Run]:
    """Claims a directory in a bucket that several processes share."""
    _check_claim(address, config, resume=resume)
    if not bucket.create(address / "config.json", _text(config).encode()):
        check_same(address, read_json(address / "config.json"), config)
    with bucket.scratch(address) as path:
        yield Run(path)


@contextlib.contextmanager
def claiming(workdir: Place) -> Iterator[None]:
    """Keeps other processes from claiming a shared directory; waits for them.

    Args:
      workdir: the directory, which exists.

    Yields:
      Nothing.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.train import run_directory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with run_directory.claiming(pathlib.Path(folder)):
      ...         pass
    """
    if not isinstance(workdir, Address):
        with (workdir / _CLAIM_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with contextlib.ExitStack() as stack:
        while True:
            with contextlib.suppress(lease.Held):
                stack.enter_context(lease.hold(workdir / _CLAIM_LOCK))
                break
            time.sleep(_SECONDS_TO_WAIT)
        yield


def is_locked(workdir: Place) -> bool:
    """Whether a process works in a run directory, as far as locks can be seen here.

    Args:
      workdir: the directory.

    Returns:
      Whether its lock is held.

    Example:
      >>> import pathlib
      >>> from miue_jax.train import run_directory
      >>> run_directory.is_locked(pathlib.Path("no-such-directory"))
      False
    """
    if isinstance(workdir, Address):
        return lease.holder(workdir / mirror.LOCK) is not None
    try:
        file = (workdir / LOCK).open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            # Whoever comes in this moment takes it for another process, and waits.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a file system without locks
    return False


def check_place(workdir: Place) -> None:
    """Checks that a directory is missing, empty or that of a run.

    Args:
      workdir: the directory.

    Raises:
      ValueError: if it holds something else.

    Example:
      >>> import pathlib
      >>> from miue_jax.train import run_directory
      >>> run_directory.check_place(pathlib.Path("no-such-directory"))
    """
    # Looked at first: another process may write its configuration, the first file of a
    # run, meanwhile.
    if isinstance(workdir, Address):
        occupied = bool(mirror.visible(workdir))
    else:
        there = workdir.exists()
        occupied = there and (not workdir.is_dir() or any(_visible(workdir)))
    if occupied and not (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is not empty and holds no run: choose another")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a directory while the context lasts.

    Args:
      workdir: the directory; created if missing, and removed again after an error that
        leaves nothing in it. It holds the lock, a hidden file.

    Yields:
      Nothing.

    Raises:
      Busy: if another process has locked it.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.train import run_directory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder)
      ...     with run_directory.locked(workdir), run_directory.locked(workdir):
      ...         pass
      Traceback (most recent call last):
      miue_jax.train.run_directory.Busy: another process is working in ...
    """
    created = not workdir.exists()
    with contextlib.ExitStack() as stack:
        if not _lock(workdir, stack, shared=False):
            raise Busy(f"another process is working in {workdir}")
        try:
            yield
        except BaseException:
            if created and [path.name for path in workdir.iterdir()] == [LOCK]:
                (workdir / LOCK).unlink()
                workdir.rmdir()
            raise


def _forget(workdir: pathlib.Path) -> None:
    """Removes a directory in which a run has made nothing yet."""
    with contextlib.suppress(OSError):
        if [path.name for path in _visible(workdir)] == ["config.json"]:
            for name in ("config.json", _CLAIM_LOCK, LOCK):
                (workdir / name).unlink()
            workdir.rmdir()


def check_agreement(config: Mapping[str, Any]) -> None:
    """Checks that all processes of a run were started with the same settings.

    Args:
      config: the settings, as JSON.

    Raises:
      ValueError: naming the first setting that differs.

    Example:
      >>> from miue_jax.train import run_directory
      >>> run_directory.check_agreement({"seed": 0})
    """
    given = [json.loads(text) for text in parallel.gather_text(json.dumps(config))]
    first = _flatten(given[0])
    for index, other in enumerate(map(_flatten, given)):
        for key in {**first, **other}:
            if first.get(key) != other.get(key):
                raise ValueError(
                    f"the processes of this run differ: {key} is {first.get(key)!r} in "
                    f"process 0 and {other.get(key)!r} in process {index}; start all "
                    "of them with the same command"
                )


def _visible(workdir: pathlib.Path) -> list[pathlib.Path]:
    # A run that was killed while writing its configuration leaves only hidden files.
    return [path for path in workdir.iterdir() if not path.name.startswith(".")]


def _lock(workdir: pathlib.Path, stack: contextlib.ExitStack, *, shared: bool) -> bool:
    """Tries to lock a directory until the stack closes; returns whether it did."""
    created = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    file = stack.enter_context(path.open("a+"))
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if created:
            with contextlib.suppress(OSError):
                path.unlink()
                workdir.rmdir()
        raise ValueError(
            f"{workdir} is on a file system without locks ({error.strerror}): choose "
            "another --workdir"
        ) from error
    return True


def _claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
    """Writes the configuration, unless another process that shares it has."""
    file = workdir / "config.json"
    with claiming(workdir):
        if file.exists():
            check_same(workdir, read_json(file), config)
        else:
            write_json(file, config)


def check_same(
    path: Place, old: dict[str, Any], new: dict[str, Any], *, whole: bool = True
) -> None:
    """Checks that a file or folder in a run directory has this configuration.

    Args:
      path: the file or folder.
      old: its configuration, as read from JSON.
      new: the configuration of this run.
      whole: whether `old` must hold nothing else.

    Raises:
      ValueError: naming the path and the first setting that differs.

    Example:
      >>> import pathlib
      >>> from miue_jax.train import run_directory
      >>> run_directory.check_same(pathlib.Path("run"), {"seed": 0}, {"seed": 0})
    """
    before, now = _flatten(old), _flatten(json.loads(json.dumps(new)))
    keys = {**before, **now} if whole else now
    changed = [k for k in keys if before.get(k) != now.get(k)]
    if changed:
        key = changed[0]
        hint = "choose another --workdir"
        if key == "num_shards":
            hint = f"set num_shards to {before.get(key)}, or {hint}"
        raise ValueError(
            f"{path} holds a run of another configuration "
            f"({difference(key, before, now)}): {hint}"
        )


def difference(key: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Says how a setting differs between two runs.

    Args:
      key: of the setting.
      there: the settings of a run that was found.
      here: those of this run.

    Returns:
      The text.

    Example:
      >>> from miue_jax.train import run_directory
      >>> run_directory.difference("seed", {"seed": 0}, {})
      'seed is 0 there and not set here'
    """
    before, now = (
        "not set" if found.get(key) is None else repr(found[key])
        for found in (there, here)
    )
    return f"{key} is {before} there and {now} here"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    items: dict[str, Any] = {}
    for key, inner in value.items():
        items |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return items


class MetricsFile:
    """A file of JSON lines, one per measured step, written by the first process only.

    Args:
      path: the file.
      keep_until: the step of the checkpoint to resume from; later lines are dropped.

    Attributes:
      path: the file.

    Raises:
      ValueError: naming the file, if it is damaged.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.train import run_directory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "metrics.jsonl"
      ...     metrics = run_directory.MetricsFile(path, keep_until=0)
      ...     metrics.write(1, {"loss": 0.5})
      ...     metrics.read()
      [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, path: pathlib.Path, *, keep_until: int):
        self.path = path
        kept = [line for line in self.read() if line["step"] <= keep_until]
        # Other processes read the file, and must not see the dropped lines.
        with parallel.together():
            if jax.process_index() == 0:
                with atomic.write_file(path) as file:
                    file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)

    def read(self) -> list[dict[str, Any]]:
        """Reads the complete lines; a kill may have truncated the last one.

        Returns:
          One dictionary per line.

        Raises:
          ValueError: naming the file, if another line does not hold metrics.
        """
        atomic.check_file(self.path)
        if not self.path.exists():
            return []
        texts = self.path.read_bytes().split(b"\n")
        lines = []
        for number, text in enumerate(texts, start=1):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                if number == len(texts):
                    break
                line = None
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise ValueError(
                    f"{self.path} is damaged: line {number} holds no metrics of a step"
                )
            lines.append(line)
        return lines

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends a line.

        Args:
          step: steps taken so far.
          values: the metrics.

        Raises:
          Diverged: if a metric is not finite; the line is written with null in its
            place.
          OSError: naming the file, if it cannot be written.
        """
        wrong = [
            name
            for name, value in values.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        line = {"step": step, **values, **dict.fromkeys(wrong)}
        with parallel.together():
            if jax.process_index() == 0:
                try:
                    with self.path.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                except OSError as error:
                    reason = f"cannot be written ({error.strerror or error})"
                    raise OSError(error.errno, reason, str(self.path)) from error
        if wrong:
            raise Diverged(
                f"{wrong[0]} is {values[wrong[0]]} at step {step}: training diverged "
                f"(lower the learning rate?); see {self.path}"
            )


def write_json(path: Place, value: dict[str, Any]) -> None:
    """Writes a JSON object atomically, with a digest that tells whether it changed.

    Args:
      path: the file.
      value: what JSON can hold.

    Raises:
      ValueError: if JSON cannot hold a number; nothing is written.
      OSError: naming the file, if it cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.train import run_directory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "results.json"
      ...     run_directory.write_json(path, {"accuracy": 0.5})
      ...     run_directory.read_json(path)
      {'accuracy': 0.5}
    """
    text = _text(value)
    with atomic.write_file(path) as file:
        file.write(text.encode())


def _text(value: dict[str, Any]) -> str:
    # As it will be read: JSON has neither tuples nor keys that are numbers.
    value = json.loads(json.dumps(value, allow_nan=False))
    return json.dumps({**value, _DIGEST: _json.digest(value)}, indent=1) + "\n"


def read_json(
    path: Place, *, needed: Iterable[str] = (), own: bool = True
) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      needed: keys that the object must have.
      own: whether `write_json` must have written the file. Others are read as they are.

    Returns:
      The object.

    Raises:
      ValueError: naming the file, if it is damaged or holds something else.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.train import run_directory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "results.json"
      ...     size = path.write_text('{"accuracy": 0.5}')
      ...     run_directory.read_json(path, needed=["accuracy"], own=False)
      {'accuracy': 0.5}
    """
    atomic.check_file(path)
    try:
        value = _json.parse(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    digest = value.pop(_DIGEST, None)
    missing = [key for key in needed if key not in value]
    if missing:
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing)}")
    if digest is None and own:
        raise ValueError(f"{path} is damaged: it has no {_DIGEST}")
    if digest is not None and digest != _json.digest(value):
        raise ValueError(f"{path} is damaged: it was changed since it was written")
    return value
