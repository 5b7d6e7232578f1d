"""Run directories: one configuration each, locked while in use; their files."""

import contextlib
import fcntl
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from miue_jax.data import atomic
from miue_jax.train import parallel


class Busy(ValueError):
    """Raised where another process works in a run directory."""


@contextlib.contextmanager
def open_directory(
    workdir: pathlib.Path,
    config: dict[str, Any],
    *,
    resume: bool,
    shared: bool = False,
) -> Iterator[None]:
    """Claims a run directory for a configuration while the context lasts.

    Args:
      workdir: the directory; it is created if missing.
      config: everything the results depend on, as JSON.
      resume: whether to resume a run that is in the directory.
      shared: whether other processes that share it may work in it meanwhile.

    Yields:
      Nothing.

    Raises:
      ValueError: if it holds another configuration or something else, or a setting is
        not finite.
      Busy: if another process works in it.
    """
    config = json.loads(json.dumps(config))
    for key, value in _flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be finite")
    file = workdir / "config.json"
    # Checked first: another process may write its configuration meanwhile, which is the
    # first file of a run.
    occupied = workdir.exists() and (not workdir.is_dir() or any(_contents(workdir)))
    if file.exists():
        check_same(workdir, read_json(file), config)
        if not resume:
            raise ValueError(
                f"{workdir} holds a run already; pass --resume to resume it"
            )
    elif occupied:
        raise ValueError(f"{workdir} is not empty and holds no run: choose another")
    # With several hosts, all have checked before the first one writes.
    parallel.barrier("run directory checked")
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        busy = first and not _lock(workdir, stack, shared=shared)
        # All give way if the first one must.
        if any(parallel.largest(int(busy))):
            raise Busy(f"another process is working in {workdir}")
        if first:
            _claim(workdir, config)
            if not shared:
                atomic.remove_unfinished(workdir)
        parallel.barrier("run directory claimed")
        # All processes raise, or those that see the file would wait for the others.
        if any(parallel.largest(int(not file.exists()))):
            raise ValueError(
                f"{workdir} is not one and the same for all processes: choose one on a "
                "file system that they share"
            )
        yield


def _claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
    """Writes the configuration if there is none; one of several processes does."""
    file = workdir / "config.json"
    with (workdir / ".config.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            check_same(workdir, read_json(file), config)
        else:
            write_json(file, config)


def _lock(workdir: pathlib.Path, stack: contextlib.ExitStack, *, shared: bool) -> bool:
    """Tries to lock a directory until the stack is closed; returns whether it did."""
    workdir.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context((workdir / ".lock").open("a+"))
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _contents(workdir: pathlib.Path) -> list[pathlib.Path]:
    # A run that was killed while writing its configuration leaves only hidden files.
    return [path for path in workdir.iterdir() if not path.name.startswith(".")]


def check_same(
    path: pathlib.Path, old: dict[str, Any], new: dict[str, Any], *, whole: bool = True
) -> None:
    """Checks that a file or folder in a run directory is of this configuration.

    Args:
      path: the file or folder.
      old: its configuration, as read from JSON.
      new: the configuration of this run.
      whole: whether `old` must hold nothing else.

    Raises:
      ValueError: naming the path and the first setting that differs.
    """
    before, now = _flatten(old), _flatten(json.loads(json.dumps(new)))
    keys = {**before, **now} if whole else now
    changed = [k for k in keys if before.get(k) != now.get(k)]
    if changed:
        key = changed[0]
        raise ValueError(
            f"{path} holds a run of another configuration ({key} is "
            f"{before.get(key)!r} there and {now.get(key)!r} here): choose another "
            "--workdir"
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    items: dict[str, Any] = {}
    for key, inner in value.items():
        items |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return items


class Failed(ValueError):
    """Raised where a run ends without a result, as it would again."""


class Diverged(Failed):
    """Raised where a metric is not finite."""


class MetricsFile:
    """A file of JSON lines, written by the first process only."""

    def __init__(self, path: pathlib.Path, *, keep_until: int):
        self.path = path
        kept = [line for line in self.read() if line["step"] <= keep_until]
        if jax.process_index() == 0:
            with atomic.write_file(path) as file:
                file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)
        # Other processes read it, and must not see the dropped lines.
        parallel.barrier("metrics cut back")

    def read(self) -> list[dict[str, Any]]:
        """Reads the complete lines; a kill may have truncated the last one.

        Returns:
          One dictionary per line.

        Raises:
          ValueError: naming the file, if another line is not one of metrics.
        """
        if not self.path.exists():
            return []
        texts = self.path.read_bytes().split(b"\n")
        lines = []
        for number, text in enumerate(texts, start=1):
            try:
                line = json.loads(text)
            except ValueError:
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
        """Appends a line; a metric that is not finite is an error.

        Args:
          step: steps taken so far.
          values: what was measured.

        Raises:
          Diverged: if a value is not finite; the line is written with null in its
            place.
          OSError: naming the file, if it cannot be written.
        """
        wrong = [
            name
            for name, value in values.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        line = {"step": step, **values, **dict.fromkeys(wrong)}
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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic.write_file(path) as file:
        file.write(text.encode())


def read_json(path: pathlib.Path, *, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      needed: keys that it must have.

    Returns:
      The object.

    Raises:
      ValueError: naming the file, if it is damaged or something else.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    missing = [key for key in needed if key not in value]
    if missing:
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing)}")
    return value


def spread(values: list[float]) -> dict[str, Any]:
    """Summarizes the values of several seeds.

    Args:
      values: one per seed.

    Returns:
      Their `mean`, `std` (None for a single one) and the `values`.

    Example:
      >>> from miue_jax.train.run_directory import spread
      >>> spread([0.25, 0.75])["mean"]
      0.5
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": deviation, "values": values}


def check_seeds(name: str, seeds: Any) -> None:
    """Checks the seeds of runs that must differ.

    Args:
      name: their name in messages.
      seeds: of the runs, in a list or tuple.

    Raises:
      ValueError: if there are none, one is not an integer that can seed a key, or two
        are equal.
    """
    if not isinstance(seeds, list | tuple):
        raise ValueError(f"{name} is {seeds!r}; it must be a list of integers")
    if not seeds:
        raise ValueError(f"{name} is empty; name at least one")
    for seed in seeds:
        # A key takes only the lowest 32 bits of a larger number.
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(
                f"{name} holds {seed!r}; allowed: integers from 0 to 2**32 - 1"
            )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name} is {tuple(seeds)}; they must differ")


def number_of_shards(given: int | None, mesh: jax.sharding.Mesh) -> int:
    """Returns the given number of shards, or one per device.

    Args:
      given: `num_shards` of the configuration.
      mesh: the devices.

    Returns:
      A positive number.

    Raises:
      ValueError: if it is not a positive integer.
    """
    if given is None:
        return mesh.size
    if not isinstance(given, int) or given <= 0:
        raise ValueError(f"num_shards is {given!r}; it must be positive")
    return given
