"""Generators that work in stages: one follows the other, a batch at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Shards

Step = Callable[[jax.Array, State, Shards], tuple[State, Metrics]]


class Stage(NamedTuple):
    """A number of steps of one kind.

    Attributes:
      step: (key, count, state, data) -> (state, metrics), where count is the () int32
        number of steps that the stage has taken before. It leaves `State.step` alone.
      num_steps: steps of the stage.
      measures: names of the metrics that its steps return.
    """

    step: Callable[
        [jax.Array, jax.Array, State, Shards],
        tuple[State, Metrics],
    ]
    num_steps: int
    measures: tuple[str, ...]


def in_turn(stages: Sequence[Stage]) -> tuple[Step, int]:
    """Joins stages into the step function of a generator.

    Args:
      stages: what is done, in this order.

    Returns:
      (key, state, data) -> (state, metrics), where metrics of other stages than the one
      under way have weight 0, and the number of steps in all.
    """
    ends = np.cumsum([stage.num_steps for stage in stages])
    names = dict.fromkeys(name for stage in stages for name in stage.measures)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        # The type is said, as it would be float64 with x64 enabled.
        zero = jnp.zeros((), jnp.float32)
        nothing = dict.fromkeys(names, Mean(zero, zero))

        def branch(stage: Stage, end: int) -> Callable[..., tuple[State, Metrics]]:
            def run(state: State) -> tuple[State, Metrics]:
                count = state.step - (end - stage.num_steps)
                state, metrics = stage.step(key, count, state, data)
                return state, {**nothing, **metrics}

            return run

        branches = [
            branch(stage, int(end)) for stage, end in zip(stages, ends, strict=True)
        ]
        current = jnp.sum(state.step >= ends[:-1], dtype=jnp.int32)
        state, metrics = lax.switch(current, branches, state)
        return state._replace(step=state.step + 1), metrics

    return step, int(ends[-1])
