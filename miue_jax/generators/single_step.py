"""Generators without a surrogate: one step computes the perturbation of every image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from miue_jax.budget import Budget
from miue_jax.generators.base import Generator
from miue_jax.train.metrics import Metrics
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Shards


def single_step(
    perturb: Callable[[jax.Array, Shards], tuple[jax.Array, Metrics]],
    *,
    check: Callable[[tuple[int, ...]], None],
    budget: Budget,
) -> Generator:
    """Makes a generator of a function that gives the whole perturbation.

    Args:
      perturb: (key, data) -> the perturbation in [0, 1] units, (g, n, H, W, C) float32,
        and what was measured on the way.
      check: raises a ValueError for images of a shape (H, W, C) that do not fit.
      budget: what the perturbation keeps to in every image.

    Returns:
      The generator.
    """

    def init(key: jax.Array, data: Shards) -> State:
        del key
        check(data.images.shape[2:])
        delta = jnp.zeros(data.images.shape, jnp.float32)
        return State(jnp.zeros((), jnp.int32), None, delta)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        delta, metrics = perturb(key, data)
        return state._replace(step=state.step + 1, per_example=delta), metrics

    return Generator(
        init=init,
        step=step,
        num_steps=1,
        perturbation=lambda state: state.per_example,
        finished=lambda state: jnp.zeros((), bool),
        per_class=False,
        budget=budget,
    )
