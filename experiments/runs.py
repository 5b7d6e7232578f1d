"""Run directories: one configuration each, metrics, locks, and a clean way to stop."""

import contextlib
import fcntl
import json
import math
import operator
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm

from miue_jax import atomic, checkpoints, parallel, runner
from miue_jax import metrics as means
from miue_jax.parallel import State
from miue_jax.sampling import Shards

# A call of the compiled loop is aimed to last this long, so that signals are answered.
_SECONDS_A_CALL = 2.0


class Stopped(SystemExit):
    """Raised after the state was saved because of a signal."""


class Busy(ValueError):
    """Raised where another process works in a run directory."""


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic.write_file(path) as file:
        file.write(text.encode())


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON; a damaged file is a ValueError that names it."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error


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
      ValueError: if it holds another configuration or something else.
      Busy: if another process works in it.
    """
    config = json.loads(json.dumps(config))
    file = workdir / "config.json"
    if file.exists():
        _check_same(workdir, read_json(file), config)
        if not resume:
            raise ValueError(f"{workdir} holds a run already; pass --resume to go on")
    elif workdir.exists() and (not workdir.is_dir() or any(_contents(workdir))):
        raise ValueError(f"{workdir} is not empty and holds no run: choose another")
    # Of a run on several hosts all have looked before the first one writes.
    parallel.barrier("run directory checked")
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        busy = first and not _lock(workdir, stack, shared=shared)
        # And all give way where the first one must.
        if any(parallel.largest(int(busy))):
            raise Busy(f"another process is working in {workdir}")
        if first and file.exists():
            # Another process may have been faster.
            _check_same(workdir, read_json(file), config)
        elif first:
            write_json(file, config)
        yield


def _lock(workdir: pathlib.Path, stack: contextlib.ExitStack, *, shared: bool) -> bool:
    """Tries to lock a directory until the stack is closed; says whether it could."""
    workdir.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context((workdir / ".lock").open("w"))
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _contents(workdir: pathlib.Path) -> list[pathlib.Path]:
    # A run that died while it wrote its configuration leaves only hidden files.
    return [path for path in workdir.iterdir() if not path.name.startswith(".")]


def _check_same(workdir: pathlib.Path, old: Any, new: Any) -> None:
    before, now = _flatten(old), _flatten(new)
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if changed:
        key = changed[0]
        raise ValueError(
            f"{workdir} holds a run of another configuration ({key} is "
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


class MetricsFile:
    """A file of JSON lines, written by the first process only."""

    def __init__(self, path: pathlib.Path, *, keep_until: int):
        self._path = path
        kept = [line for line in self.read() if line["step"] <= keep_until]
        if jax.process_index() == 0:
            with atomic.write_file(path) as file:
                file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)

    def read(self) -> list[dict[str, Any]]:
        """The lines that are whole; a kill may have cut the last one short."""
        lines = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(line))
        return lines

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends a line; a mean that is not finite is an error.

        Args:
          step: steps taken so far.
          values: what was measured.

        Raises:
          ValueError: if training has diverged.
        """
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{name} is {value} at step {step}: training diverged (lower the "
                    f"learning rate?); see {self._path}"
                )
        if jax.process_index() == 0:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def progress(total: int, done: int, *, label: str = "", quiet: bool = False) -> tqdm:
    """A progress bar with the time left; in a log file a line now and then."""
    return tqdm(
        total=total,
        initial=done,
        desc=label or None,
        disable=quiet,
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list instead of dying of them.

    Yields:
      The signals received so far.

    Raises:
      Stopped: at the end, if a signal came that nobody has answered.
    """
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in signals
    }
    try:
        yield received
        if received:
            # It came after the last call: nothing must go on as if it had not.
            raise Stopped(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until(
    mark: int,
    advance: runner.Advance,
    key: jax.Array,
    state: State,
    data: Shards,
    *,
    step: int,
    saved: checkpoints.Checkpoints | None,
    received: list[int],
) -> tuple[State, dict[str, float]]:
    """Advances to a step in calls of a few seconds; a signal saves and exits.

    Args:
      mark: the step to reach.
      advance: the compiled loop.
      key: the run's key.
      state: the state at `step`; used up.
      data: the data on the mesh.
      step: the steps taken so far.
      saved: where to save on a signal; None leaves it at the last checkpoint.
      received: signals, from `stop_signals`.

    Returns:
      The state at the mark and the means over the steps in between.

    Raises:
      Stopped: after a signal, once the state is saved.
    """
    totals: dict[str, Any] = {}
    size = 1
    while step < mark:
        # Clocks and signals differ between hosts, what they run must not.
        size, stopping = parallel.largest(size, max(received, default=0))
        if stopping:
            if saved is not None:
                saved.save(step, state)
            print("stopped by a signal; the same command goes on", file=sys.stderr)
            raise Stopped(128 + stopping)
        began = time.perf_counter()
        stop = min(mark, step + size)
        state, metrics = advance(key, state, data, stop)
        metrics = jax.device_get(metrics)
        for name, mean in metrics.items():
            old = totals.get(name, mean._replace(total=0, weight=0))
            totals[name] = jax.tree.map(operator.add, old, mean)
        seconds = max(time.perf_counter() - began, 1e-4) / (stop - step)
        # The first call compiles and says nothing of the speed.
        size = min(max(1, int(_SECONDS_A_CALL / seconds)), 4 * size)
        step = stop
    return state, means.values(totals)
