"""The loop of a run: a bar, checkpoints taken up again, and a clean way to stop."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from miue_jax import checkpoints, parallel, runner
from miue_jax import metrics as means
from miue_jax.parallel import State
from miue_jax.sampling import Shards

# A call of the compiled loop is aimed to last this long, so that signals are answered.
_SECONDS_A_CALL = 2.0


class Stopped(SystemExit):
    """Raised after the state was saved because of a signal."""


def progress(
    total: int, done: int, *, label: str = "", quiet: bool = False, delay: float = 0
) -> tqdm:
    """A progress bar with the time left; in a log file a line now and then.

    Args:
      total: steps in all.
      done: steps before the first update.
      label: what the bar is of.
      quiet: no bar.
      delay: seconds before it is drawn; one that is closed earlier never is.

    Returns:
      The bar.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=label or None,
        disable=quiet,
        delay=delay,
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list instead of dying of them, at first.

    The second one of a kind kills: the first may never be read where a process waits
    for others that are gone.

    Yields:
      The signals received so far.

    Raises:
      Stopped: at the end, if a signal came that nobody has answered.
    """
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)

    def receive(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, receive) for number in signals}
    try:
        yield received
        if received:
            # It came after the last call: nothing must go on as if it had not.
            raise Stopped(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_on(
    saved: checkpoints.Checkpoints, state: State
) -> tuple[int, State, means.Metrics | None]:
    """Takes up a run at its newest checkpoint, if there is one.

    Args:
      saved: the checkpoints of the run.
      state: the state before the first step.

    Returns:
      The steps taken, the state after them, and the totals that `run_until` had saved
      where it was stopped between two marks.
    """
    step = saved.latest_step or 0
    if not step:
        return 0, state, None
    state, totals = saved.restore(state)
    if not totals:
        return step, state, None
    as_saved: Any = np.float32
    return (
        step,
        state,
        {
            name: means.Mean(as_saved(total), as_saved(weight))
            for name, (total, weight) in totals.items()
        },
    )


def run_until(
    mark: int,
    advance: runner.Advance,
    key: jax.Array,
    state: State,
    data: Shards,
    *,
    step: int,
    totals: means.Metrics | None = None,
    saved: checkpoints.Checkpoints,
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
      totals: of the steps since the mark before, from `go_on`.
      saved: where to save on a signal.
      received: signals, from `stop_signals`.

    Returns:
      The state at the mark and the means over the steps since the mark before.

    Raises:
      Stopped: after a signal, once the state and the totals are saved.
    """
    size = 1
    while step < mark:
        # Clocks and signals differ between hosts, what they run must not.
        size, stopping = parallel.largest(size, max(received, default=0))
        if stopping:
            notes = {k: [float(x) for x in mean] for k, mean in (totals or {}).items()}
            saved.save(step, state, notes=notes)
            print("stopped by a signal; the same command goes on", file=sys.stderr)
            raise Stopped(128 + stopping)
        began = time.perf_counter()
        stop = min(mark, step + size)
        state, totals = advance(key, state, data, stop, totals)
        totals = jax.device_get(totals)
        seconds = max(time.perf_counter() - began, 1e-4) / (stop - step)
        # The first call compiles and says nothing of the speed.
        size = min(max(1, int(_SECONDS_A_CALL / seconds)), 4 * size)
        step = stop
    return state, means.values(totals or {})
