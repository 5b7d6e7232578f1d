"""Runs any step function on a mesh, many steps in one compiled loop."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from miue_jax import parallel
from miue_jax.metrics import Metrics
from miue_jax.parallel import COPIED_SPEC, DATA_SPEC, STATE_SPEC, State
from miue_jax.sampling import Shards

Start = Callable[[jax.Array, Shards], State]
Advance = Callable[[jax.Array, State, Shards, int], tuple[State, Metrics]]
Evaluate = Callable[[State, Shards], Metrics]


def start(init: Callable[[jax.Array, Shards], State], mesh: Mesh) -> Start:
    """Compiles the making of a first state, each leaf where it belongs on the mesh.

    Args:
      init: (key, data) -> state.
      mesh: the devices.

    Returns:
      A function (key, data) -> state of global arrays.
    """

    def make(key: jax.Array, data: Shards) -> State:
        shape = jax.eval_shape(init, key, data)
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
      A function (key, state, data, stop) -> (state, metrics) that runs from the state's
      step up to stop; the metrics are means over these steps. The state that goes in is
      used up.
    """

    def loop(
        key: jax.Array, state: State, data: Shards, stop: jax.Array
    ) -> tuple[State, Metrics]:
        _, shapes = jax.eval_shape(step, key, state, data)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def body(_: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, totals = carry
            state, metrics = step(key, state, data)
            return state, jax.tree.map(jnp.add, totals, metrics)

        return lax.fori_loop(state.step, stop, body, (state, zeros))

    compiled = parallel.parallelize(
        loop,
        mesh,
        in_specs=(COPIED_SPEC, STATE_SPEC, DATA_SPEC, COPIED_SPEC),
        out_specs=(STATE_SPEC, COPIED_SPEC),
        donate_argnums=1,
    )
    return lambda key, state, data, stop: compiled(key, state, data, jnp.int32(stop))


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
