"""Compiled loops of steps over a mesh, which stop on a signal and resume exactly."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from tqdm import tqdm

from miue_jax.train import checkpoints, metrics, parallel
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import COPIED_SPEC, DATA_SPEC, STATE_SPEC, State
from miue_jax.train.sampling import Shards

Start = Callable[[jax.Array, Shards], State]
Evaluate = Callable[[State, Shards], Metrics]


class Advance(Protocol):
    """What `advance` compiles."""

    def __call__(
        self,
        key: jax.Array,
        state: State,
        data: Shards,
        stop: int,
        totals: Metrics | None = None,
    ) -> tuple[State, Metrics]:
        """Runs from the state's step up to stop, adding to the totals if given."""
        ...


def start(init: Callable[[jax.Array, Shards], State], mesh: Mesh) -> Start:
    """Compiles the initialization of a state, each leaf placed on the mesh.

    Args:
      init: (key, data) -> state.
      mesh: the devices.

    Returns:
      A function (key, data) -> state of global arrays. It raises a ValueError for a
      state that is not a `parallel.State`.
    """

    def make(key: jax.Array, data: Shards) -> State:
        shape = jax.eval_shape(init, key, data)
        _check_state("init", shape)
        placed = parallel.shardings(mesh, STATE_SPEC, shape)
        return jax.jit(init, out_shardings=placed)(key, data)

    return make


def advance(
    step: Callable[[jax.Array, State, Shards], tuple[State, Metrics]], mesh: Mesh
) -> Advance:
    """Compiles a step function into a loop of any number of steps.

    The number is an argument of the compiled program, not a part of it: however a run
    is cut into calls, every step is computed by the same code, and the results are
    equal to the last bit.

    Args:
      step: (key, state, data) -> (state, metrics), for one device's share.
      mesh: the devices.

    Returns:
      A function (key, state, data, stop, totals=None) -> (state, metrics) that runs
      from the state's step up to stop. The metrics are means over these steps and those
      of the totals, if given: what an earlier call returned, so that sums too are equal
      to the last bit however a run is cut. The input state is donated. A
      ValueError is raised for a step whose metrics are not `metrics.Mean`.
    """

    def loop(
        key: jax.Array, state: State, data: Shards, stop: jax.Array, totals: Metrics
    ) -> tuple[State, Metrics]:
        def body(_: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, totals = carry
            state, metrics = step(key, state, data)
            return state, jax.tree.map(jnp.add, totals, metrics)

        return lax.fori_loop(state.step, stop, body, (state, totals))

    compiled = parallel.parallelize(
        loop,
        mesh,
        in_specs=(COPIED_SPEC, STATE_SPEC, DATA_SPEC, COPIED_SPEC, COPIED_SPEC),
        out_specs=(STATE_SPEC, COPIED_SPEC),
        donate_argnums=1,
    )
    measured = parallel.parallelize(
        lambda key, state, data: step(key, state, data)[1],
        mesh,
        in_specs=(COPIED_SPEC, STATE_SPEC, DATA_SPEC),
        out_specs=COPIED_SPEC,
    )

    def run(
        key: jax.Array,
        state: State,
        data: Shards,
        stop: int,
        totals: Metrics | None = None,
    ) -> tuple[State, Metrics]:
        if totals is None:
            shapes = jax.eval_shape(measured, key, state, data)
            _check_metrics("step", shapes)
            totals = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        # From the host, wherever they were: another placement would compile anew.
        totals = jax.device_get(totals)
        return compiled(key, state, data, jnp.int32(stop), totals)

    return run


def _check_state(name: str, state: object) -> None:
    if not isinstance(state, State):
        raise ValueError(
            f"{name} must return a parallel.State, got a {type(state).__name__}"
        )


def _check_metrics(name: str, metrics: object) -> None:
    """Anything else would be summed over the steps, and taken for a mean."""
    means = isinstance(metrics, dict) and all(
        isinstance(value, Mean) for value in metrics.values()
    )
    if not means:
        raise ValueError(
            f"{name} must return its metrics as a dictionary of metrics.Mean, as "
            f"metrics.mean_of gives them, got {metrics}"
        )


def evaluation(evaluate: Evaluate, mesh: Mesh) -> Evaluate:
    """Compiles an evaluation for a mesh.

    Args:
      evaluate: (state, data) -> metrics, for one device's share.
      mesh: the devices.

    Returns:
      The function of global arrays.
    """
    return parallel.parallelize(
        evaluate, mesh, in_specs=(STATE_SPEC, DATA_SPEC), out_specs=COPIED_SPEC
    )


# Target duration of a call of the compiled loop, between which signals are handled.
_SECONDS_A_CALL = 2.0


class Stopped(SystemExit):
    """Raised after a signal, once the state is saved."""


def progress(
    total: int, done: int, *, label: str = "", quiet: bool = False, delay: float = 0
) -> tqdm:
    """Makes a progress bar with the time left; in a log file, an occasional line.

    Args:
      total: steps in all.
      done: steps before the first update.
      label: text in front of the bar.
      quiet: whether to draw no bar.
      delay: seconds before it is drawn; if closed earlier, it never is.

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
    """Collects SIGTERM and SIGINT in a list instead of terminating.

    A second signal of the same kind terminates: the first may never be handled where a
    process waits for others that are gone.

    Yields:
      The signals received so far.

    Raises:
      Stopped: at the end, if a signal was received and not handled.
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
            # It came after the last call: the run must not continue as if it had not.
            raise Stopped(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_on(
    saved: checkpoints.Checkpoints, state: State
) -> tuple[int, State, Metrics | None]:
    """Resumes a run from its newest checkpoint, if there is one.

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
            name: Mean(as_saved(total), as_saved(weight))
            for name, (total, weight) in totals.items()
        },
    )


def run_until(
    mark: int,
    advance: Advance,
    key: jax.Array,
    state: State,
    data: Shards,
    *,
    step: int,
    totals: Metrics | None = None,
    saved: checkpoints.Checkpoints,
    received: list[int],
) -> tuple[State, dict[str, float]]:
    """Advances to a step in calls of a few seconds; a signal saves and exits.

    Args:
      mark: the step to reach.
      advance: the compiled loop.
      key: the run's key.
      state: the state at `step`; donated.
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
        # Clocks and signals differ between hosts; what they run must not.
        size, stopping = parallel.largest(size, max(received, default=0))
        if stopping:
            notes = {k: [float(x) for x in mean] for k, mean in (totals or {}).items()}
            saved.save(step, state, notes=notes)
            print(
                "stopped by a signal; rerun the same command to resume", file=sys.stderr
            )
            raise Stopped(128 + stopping)
        began = time.perf_counter()
        stop = min(mark, step + size)
        state, totals = advance(key, state, data, stop, totals)
        totals = jax.device_get(totals)
        seconds = max(time.perf_counter() - began, 1e-4) / (stop - step)
        # The first call compiles and says nothing of the speed.
        size = min(max(1, int(_SECONDS_A_CALL / seconds)), 4 * size)
        step = stop
    return state, metrics.values(totals or {})
