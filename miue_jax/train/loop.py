"""The run loop: compiled steps over a mesh, stopped by a signal and resumed exactly.

`start`, `advance` and `evaluation` compile the functions of a procedure for a mesh.
`resume` and `run_until` drive them from one mark to the next, with `stop_signals` and
`progress` around them. However a run is cut into calls, every step is computed by the
same compiled code, so that the results are equal to the last bit.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from tqdm import tqdm

from miue_jax.train import checkpoints, metrics, parallel
from miue_jax.train import device_invariant as invariance
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import DATA_SPEC, REPLICATED_SPEC, STATE_SPEC, State
from miue_jax.train.sampling import Shards

Start = Callable[[jax.Array, Shards], State]
Evaluate = Callable[..., Metrics]

_STOPPED = "stopped by a signal; rerun the same command to resume"


class Advance(Protocol):
    """The type of what `advance` returns."""

    def __call__(
        self,
        key: jax.Array,
        state: State,
        data: Shards,
        stop: int,
        totals: Metrics | None = None,
    ) -> tuple[State, Metrics]:
        """Runs from the state's step up to `stop`, adding to `totals` if given."""
        ...


def start(
    init: Callable[[jax.Array, Shards], State],
    mesh: Mesh,
    *,
    device_invariant: bool = False,
) -> Start:
    """Compiles the initialization of a state, each leaf placed on the mesh.

    Args:
      init: (key, data) -> state.
      mesh: the devices.
      device_invariant: whether the state is equal to the last bit on any number of
        devices; every device then computes all of it.

    Returns:
      A function (key, data) -> state of global arrays. It raises a ValueError if the
      state is not a `parallel.State`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import loop, parallel, sampling
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 1)
      >>> def init(key, data):
      ...     return parallel.State(jnp.int32(0), jax.random.normal(key, (3,)), None)
      >>> mesh = parallel.data_mesh(jax.devices()[:1])
      >>> loop.start(init, mesh)(jax.random.key(0), data).shared.shape
      (3,)
    """
    # Made here, so that the victims of a run are compiled once.
    whole = invariance.of_whole_arrays(
        init, mesh, in_specs=(REPLICATED_SPEC, DATA_SPEC), out_specs=STATE_SPEC
    )

    def make(key: jax.Array, data: Shards) -> State:
        shape = jax.eval_shape(init, key, data)
        if not isinstance(shape, State):
            raise ValueError(
                f"init must return a parallel.State, got a {type(shape).__name__}"
            )
        if device_invariant:
            return whole(key, data)
        placed = parallel.shardings(mesh, STATE_SPEC, shape)
        return jax.jit(init, out_shardings=placed)(key, data)

    return make


def advance(
    step: Callable[[jax.Array, State, Shards], tuple[State, Metrics]],
    mesh: Mesh,
    *,
    device_invariant: bool = False,
) -> Advance:
    """Compiles a step function into a loop of any number of steps.

    The number is an argument of the compiled program, so that one program serves all
    calls.

    Args:
      step: (key, state, data) -> (state, metrics), for one device's share.
      mesh: the devices.
      device_invariant: whether results are equal to the last bit on any number of
        devices, see `train.device_invariant`.

    Returns:
      A function (key, state, data, stop, totals=None) -> (state, metrics) that runs
      from the state's step up to `stop`. The metrics are means over these steps and
      those of `totals`, the metrics of an earlier call, so that sums too are equal to
      the last bit however a run is cut. The input state is donated. It raises a
      ValueError if the metrics of a step are not `metrics.Mean`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import loop, metrics, parallel, sampling
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 1)
      >>> def step(key, state, data):
      ...     mean = {"step": metrics.mean_of(state.step)}
      ...     return state._replace(step=state.step + 1), mean
      >>> state = parallel.State(jnp.int32(0), None, None)
      >>> advance = loop.advance(step, parallel.data_mesh(jax.devices()[:1]))
      >>> state, means = advance(jax.random.key(0), state, data, 5)
      >>> int(state.step), metrics.values(means)
      (5, {'step': 2.0})
    """
    # Its metrics are looked at first, then it is compiled: it is traced once for both.
    step = jax.jit(step, inline=True)

    def loop(
        key: jax.Array, state: State, data: Shards, stop: jax.Array, totals: Metrics
    ) -> tuple[State, Metrics]:
        def body(_: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, totals = carry
            state, metrics = step(key, state, data)
            return state, jax.tree.map(jnp.add, totals, metrics)

        return lax.fori_loop(state.step, stop, body, (state, totals))

    inputs = (REPLICATED_SPEC, STATE_SPEC, DATA_SPEC)
    parallelize = invariance.parallelize if device_invariant else parallel.parallelize
    compiled = parallelize(
        loop,
        mesh,
        in_specs=(*inputs, REPLICATED_SPEC, REPLICATED_SPEC),
        out_specs=(STATE_SPEC, REPLICATED_SPEC),
        donate_argnums=1,
    )
    measured = parallelize(
        lambda key, state, data: step(key, state, data)[1],
        mesh,
        in_specs=inputs,
        out_specs=REPLICATED_SPEC,
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
            check_metrics(shapes)
            totals = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        # Always from the host: another placement would compile another program.
        totals = jax.device_get(totals)
        return compiled(key, state, data, jnp.int32(stop), totals)

    return run


def check_metrics(metrics: object) -> None:
    """Checks the metrics of a step.

    Args:
      metrics: what a step returned.

    Raises:
      ValueError: if they are not `metrics.Mean` by name: anything else would be summed
        over the steps and reported as a mean.

    Example:
      >>> from miue_jax.train import loop
      >>> loop.check_metrics({})
    """
    means = isinstance(metrics, dict) and all(
        isinstance(value, Mean) for value in metrics.values()
    )
    if not means:
        raise ValueError(
            "step must return its metrics as a dictionary of metrics.Mean (see "
            f"metrics.mean_of), got {metrics}"
        )


def evaluation(
    evaluate: Evaluate, mesh: Mesh, *, device_invariant: bool = False
) -> Evaluate:
    """Compiles an evaluation for a mesh.

    Args:
      evaluate: (state, data) -> metrics, for one device's share; where the data have a
        window, (state, data, batches), see `classifier.accuracy_of`.
      mesh: the devices.
      device_invariant: whether results are equal to the last bit on any number of
        devices, see `train.device_invariant`.

    Returns:
      The same function of global arrays.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import loop, metrics, parallel, sampling
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 1)
      >>> state = parallel.State(jnp.int32(0), None, None)
      >>> evaluate = loop.evaluation(
      ...     lambda state, data: {"label": metrics.mean_of(jnp.mean(data.labels))},
      ...     parallel.data_mesh(jax.devices()[:1]),
      ... )
      >>> metrics.values(evaluate(state, data))
      {'label': 0.5}
    """
    parallelize = invariance.parallelize if device_invariant else parallel.parallelize
    specs = (STATE_SPEC, DATA_SPEC)
    whole = parallelize(evaluate, mesh, in_specs=specs, out_specs=REPLICATED_SPEC)
    part = parallelize(
        evaluate,
        mesh,
        in_specs=(*specs, REPLICATED_SPEC),
        out_specs=REPLICATED_SPEC,
    )

    def run(state: State, data: Shards, batches: np.ndarray | None = None) -> Metrics:
        if batches is None:
            return whole(state, data)
        return part(state, data, batches)

    return run


# Target duration of a call of the compiled loop; signals are handled between calls.
_SECONDS_A_CALL = 2.0


class Stopped(SystemExit):
    """Raised after a signal, once the state is saved.

    Example:
      >>> from miue_jax.train import loop
      >>> issubclass(loop.Stopped, SystemExit)
      True
    """


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM, SIGINT and SIGHUP in a list instead of terminating.

    A second signal of the same kind terminates, since the first may never be handled
    where a process waits for others that are gone.

    Yields:
      The signals received so far.

    Raises:
      Stopped: on exit, if a signal was received and not handled.

    Example:
      >>> from miue_jax.train import loop
      >>> with loop.stop_signals() as received:
      ...     print(received)
      []
    """
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def receive(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT:
            # Not by print, which a signal must not interrupt itself in.
            os.write(2, b"\nstopping after this step; once more to stop at once\n")

    before = {number: signal.signal(number, receive) for number in signals}
    try:
        yield received
        if received:
            # It came after the last call: the run must not continue regardless.
            raise Stopped(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_now(number: int) -> NoReturn:
    """Says that a run stopped after a signal and can be resumed, and exits.

    Args:
      number: of the signal.

    Raises:
      Stopped: always, with the exit status of the signal.

    Example:
      >>> from miue_jax.train import loop
      >>> try:
      ...     loop.stop_now(15)
      ... except loop.Stopped as stopped:
      ...     print(stopped.code)
      143
    """
    if sys.stderr is not None:
        print(_STOPPED, file=_Forgiving(sys.stderr))
    raise Stopped(128 + number)


def progress(
    total: int, done: int, *, label: str = "", quiet: bool = False, delay: float = 0
) -> tqdm:
    """Returns a progress bar with the time left; in a log file, an occasional line.

    Args:
      total: steps in all; with none, nothing is drawn.
      done: steps before the first update.
      label: text in front of the bar.
      quiet: whether to draw nothing.
      delay: seconds before the bar is drawn; it never is if closed earlier.

    Returns:
      The bar.

    Example:
      >>> from miue_jax.train import loop
      >>> with loop.progress(10, 4, quiet=True) as bar:
      ...     bar.total
      10
    """
    closed = sys.stderr is None
    return tqdm(
        total=total,
        initial=done,
        desc=label or None,
        disable=quiet or closed or not total,
        delay=delay,
        file=None if closed else _Forgiving(sys.stderr),
        mininterval=30 if closed or not sys.stderr.isatty() else 0.5,
    )


class _Forgiving:
    """A file that loses what it cannot write: no run may fail for its progress bar."""

    def __init__(self, file: Any):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()


def resume(
    saved: checkpoints.Checkpoints, state: State
) -> tuple[int, State, Metrics | None]:
    """Restores a run from its newest checkpoint, if there is one.

    Args:
      saved: the checkpoints of the run.
      state: the state before the first step; donated if there is a checkpoint, so that
        two states are never there at once.

    Returns:
      The steps taken, the state after them, and the totals for `run_until` if the run
      was stopped between two marks.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import checkpoints, loop, parallel
      >>> state = parallel.State(jnp.int32(0), None, None)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with checkpoints.Checkpoints(folder) as saved:
      ...         step, state, totals = loop.resume(saved, state)
      >>> step, totals
      (0, None)
    """
    step = saved.latest_step or 0
    if not step:
        return 0, state, None
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        state,
    )
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    state, notes = saved.restore(shapes)
    if not notes:
        return step, state, None
    as_saved: Any = np.float32
    totals = {
        name: Mean(as_saved(total), as_saved(weight))
        for name, (total, weight) in notes.items()
    }
    return step, state, totals


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
      totals: metrics of the steps since the last mark, from `resume`.
      saved: where to save on a signal.
      received: the signals, from `stop_signals`.

    Returns:
      The state at the mark, and the means over the steps since the last one.

    Raises:
      Stopped: after a signal, once the state and the totals are saved.

    Example:
      >>> import tempfile
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import checkpoints, loop, metrics, parallel, sampling
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 1)
      >>> def step(key, state, data):
      ...     mean = {"step": metrics.mean_of(state.step)}
      ...     return state._replace(step=state.step + 1), mean
      >>> state = parallel.State(jnp.int32(0), None, None)
      >>> advance = loop.advance(step, parallel.data_mesh(jax.devices()[:1]))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with (
      ...         checkpoints.Checkpoints(folder) as saved,
      ...         loop.stop_signals() as received,
      ...     ):
      ...         state, means = loop.run_until(
      ...             *(5, advance, jax.random.key(0), state, data),
      ...             step=0,
      ...             saved=saved,
      ...             received=received,
      ...         )
      >>> int(state.step), means
      (5, {'step': 2.0})
    """
    state, totals = advance_until(
        *(mark, advance, key, state, data),
        step=step,
        totals=totals,
        save=lambda step, state, notes: saved.save(step, state, notes=notes),
        received=received,
    )
    return state, metrics.values(totals or {})


def advance_until(
    mark: int,
    advance: Advance,
    key: jax.Array,
    state: State,
    data: Shards,
    *,
    step: int,
    totals: Metrics | None = None,
    save: Callable[[int, State, Any], None],
    received: list[int],
) -> tuple[State, Metrics | None]:
    """Advances as `run_until` does, and returns the totals for another call.

    Args:
      mark: the step to reach.
      advance: the compiled loop.
      key: the run's key.
      state: the state at `step`; donated.
      data: the data on the mesh.
      step: the steps taken so far.
      totals: metrics of the steps since the last mark.
      save: (step, state, notes) -> None, called after a signal.
      received: the signals, from `stop_signals`.

    Returns:
      The state at the mark, and the totals of the steps since the last one.

    Raises:
      Stopped: after a signal, once the state and the totals are saved.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import loop, metrics, parallel, sampling
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 1)
      >>> def step(key, state, data):
      ...     mean = {"step": metrics.mean_of(state.step)}
      ...     return state._replace(step=state.step + 1), mean
      >>> state = parallel.State(jnp.int32(0), None, None)
      >>> advance = loop.advance(step, parallel.data_mesh(jax.devices()[:1]))
      >>> state, totals = loop.advance_until(
      ...     *(3, advance, jax.random.key(0), state, data),
      ...     step=0,
      ...     save=lambda step, state, notes: None,
      ...     received=[],
      ... )
      >>> float(totals["step"].weight)
      3.0
    """
    size = 1
    while step < mark:
        # Clocks and signals differ between hosts, but all must run the same calls.
        size, stopping = parallel.process_max(size, max(received, default=0))
        if stopping:
            notes = {k: [float(x) for x in mean] for k, mean in (totals or {}).items()}
            save(step, state, notes)
            stop_now(stopping)
        began = time.perf_counter()
        stop = min(mark, step + size)
        state, totals = advance(key, state, data, stop, totals)
        totals = jax.device_get(totals)
        seconds = max(time.perf_counter() - began, 1e-4) / (stop - step)
        # The first call compiles and says nothing about the speed.
        size = min(max(1, int(_SECONDS_A_CALL / seconds)), 4 * size)
        step = stop
    return state, totals
