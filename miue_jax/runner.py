"""Runs any step function on a mesh, many steps in one compiled loop."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from miue_jax import parallel
from miue_jax.metrics import Mean, Metrics
from miue_jax.parallel import COPIED_SPEC, DATA_SPEC, STATE_SPEC, State
from miue_jax.sampling import Shards

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
    """Compiles the making of a first state, each leaf where it belongs on the mesh.

    Args:
      init: (key, data) -> state.
      mesh: the devices.

    Returns:
      A function (key, data) -> state of global arrays. It raises a ValueError for a
      state that is no `parallel.State`.
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
      to the last bit however a run is cut. The state that goes in is used up. A
      ValueError is raised for a step whose metrics are no `metrics.Mean`.
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
