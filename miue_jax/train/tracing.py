"""A procedure traced without computing anything, so that faults come before a run."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from miue_jax._checks import shown
from miue_jax.data import memory
from miue_jax.train import parallel
from miue_jax.train.loop import Evaluate, check_metrics
from miue_jax.train.parallel import DATA_SPEC, REPLICATED_SPEC, STATE_SPEC, State
from miue_jax.train.sampling import Shards


def trace(
    init: Callable[[jax.Array, Shards], State],
    step: Callable[[jax.Array, State, Shards], Any],
    mesh: Mesh,
    data: Shards,
    *,
    evaluate: Evaluate | None = None,
) -> Any:
    """Traces the functions of a procedure on data of the sizes of a run.

    Args:
      init: (key, data) -> state.
      step: (key, state, data) -> (state, metrics), for one device's share.
      mesh: the devices.
      data: dealt to shards.
      evaluate: (state, data) -> metrics, for one device's share; None for none.

    Returns:
      The shapes and dtypes of the state.

    Raises:
      ValueError: if a step does not keep the structure, shapes and dtypes of the state,
        or its metrics are not `metrics.Mean`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import parallel, sampling, tracing
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 1)
      >>> def init(key, data):
      ...     return parallel.State(jnp.int32(0), jax.random.normal(key, (3,)), None)
      >>> def step(key, state, data):
      ...     return state._replace(step=state.step + 1), {}
      >>> mesh = parallel.data_mesh(jax.devices()[:1])
      >>> tracing.trace(init, step, mesh, data).shared.shape
      (3,)
    """

    def once(key: jax.Array, state: State, data: Shards) -> Any:
        result = step(key, state, data)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"step must return (state, metrics), got {shown(result)}")
        _check_kept(state, result[0])
        return result[1]

    key = jax.random.key(0)
    state = jax.eval_shape(init, key, data)
    specs = (REPLICATED_SPEC, STATE_SPEC, DATA_SPEC)
    stepped = parallel.parallelize(
        once, mesh, in_specs=specs, out_specs=REPLICATED_SPEC
    )
    check_metrics(jax.eval_shape(stepped, key, state, data))
    if evaluate is not None:
        evaluated = parallel.parallelize(
            evaluate, mesh, in_specs=specs[1:], out_specs=REPLICATED_SPEC
        )
        jax.eval_shape(evaluated, state, data)
    return state


def check_memory(state: Any, what: str) -> None:
    """Compares the size of a state with the memory there is, before it is made.

    Args:
      state: the shapes and dtypes of the state.
      what: whose state it is, for the message.

    Raises:
      ValueError: if two of them, one before and one after a step, do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import tracing
      >>> tracing.check_memory(jax.ShapeDtypeStruct((3,), jnp.float32), "a network")
    """
    sizes = [
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    ]
    memory.check(2 * sum(sizes), f"the state of {what}")


def _check_kept(before: Any, after: Any) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"step must return a state like init's, got {shown(after)} after "
            f"{shown(before)}"
        )
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        kept = jax.typeof(old), jax.typeof(new)
        if kept[0].shape != kept[1].shape or kept[0].dtype != kept[1].dtype:
            raise ValueError(
                "step must keep the shapes and dtypes of the state: "
                f"{kept[0].dtype} {kept[0].shape} became {kept[1].dtype} "
                f"{kept[1].shape}"
            )
