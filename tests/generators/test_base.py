"""The interface of a generator, and how stages become a step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators.base import Stage, in_stages
from miue_jax.train.metrics import mean_of
from miue_jax.train.parallel import State


def _stage(number: int, num_steps: int, measures: tuple[str, ...]) -> Stage:
    def step(key, count, state, data):
        del key, data
        log = state.shared.at[state.step].set(10 * number + count)
        metrics = {name: mean_of(jnp.float32(number)) for name in measures}
        return state._replace(shared=log), metrics

    return Stage(step, num_steps, measures)


@pytest.mark.parametrize("shuffle", [False, True])
def test_stages_are_done_in_order_and_count_their_own_steps(shuffle):
    first, second = _stage(1, 3, ("loss",)), _stage(2, 2, ("loss", "accuracy"))
    third = _stage(3, 1, ())
    stages = (third, first, second) if shuffle else (first, second, third)
    step, num_steps = in_stages(stages)
    assert num_steps == 6
    state = State(jnp.int32(0), jnp.full(8, -1), ())
    nothing: Any = None
    compiled = jax.jit(lambda state: step(jax.random.key(0), state, nothing))
    measured = []
    for _ in range(num_steps):
        state, metrics = compiled(state)
        assert set(metrics) == {"loss", "accuracy"}
        measured.append([float(metrics[n].weight) for n in ("loss", "accuracy")])
    want = [30, 10, 11, 12, 20, 21] if shuffle else [10, 11, 12, 20, 21, 30]
    np.testing.assert_array_equal(state.shared, [*want, -1, -1])
    weights = {1: [1, 0], 2: [1, 1], 3: [0, 0]}
    assert measured == [weights[value // 10] for value in want]
    assert int(state.step) == 6
