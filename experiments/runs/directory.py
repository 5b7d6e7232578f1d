"""Run directories: of one configuration each, locked while someone works in them."""

import contextlib
import fcntl
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from runs.results import read_json, write_json

from miue_jax import atomic, parallel


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
      workdir: the directory; it is made where it is missing.
      config: everything the results depend on, as JSON.
      resume: whether a directory that was used before may be continued.
      shared: whether other processes that say so too may work in it meanwhile.

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
    # Looked at first: another process may write its configuration meanwhile, and that
    # is the first file of a run.
    occupied = workdir.exists() and (not workdir.is_dir() or any(_contents(workdir)))
    if file.exists():
        check_same(workdir, read_json(file), config)
        if not resume:
            raise ValueError(f"{workdir} holds a run already; pass --resume to go on")
    elif occupied:
        raise ValueError(f"{workdir} is not empty and holds no run: choose another")
    # Of a run on several hosts all have looked before the first one writes.
    parallel.barrier("run directory checked")
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        busy = first and not _lock(workdir, stack, shared=shared)
        # And all give way where the first one must.
        if any(parallel.largest(int(busy))):
            raise Busy(f"another process is working in {workdir}")
        if first:
            _claim(workdir, config)
            if not shared:
                atomic.remove_unfinished(workdir)
        parallel.barrier("run directory claimed")
        # All processes say so, or those that see it would wait for the others.
        if any(parallel.largest(int(not file.exists()))):
            raise ValueError(
                f"{workdir} is not one and the same for all processes: choose one on a "
                "file system that they share"
            )
        yield


def _claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
    """Writes the configuration where none is; of several processes one is the first."""
    file = workdir / "config.json"
    with (workdir / ".config.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            check_same(workdir, read_json(file), config)
        else:
            write_json(file, config)


def _lock(workdir: pathlib.Path, stack: contextlib.ExitStack, *, shared: bool) -> bool:
    """Tries to lock a directory until the stack is closed; says whether it could."""
    workdir.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context((workdir / ".lock").open("a+"))
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _contents(workdir: pathlib.Path) -> list[pathlib.Path]:
    # A run that died while it wrote its configuration leaves only hidden files.
    return [path for path in workdir.iterdir() if not path.name.startswith(".")]


def check_same(
    path: pathlib.Path, old: dict[str, Any], new: dict[str, Any], *, whole: bool = True
) -> None:
    """Checks that what lies in a run directory is of this configuration.

    Args:
      path: what lies there.
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
