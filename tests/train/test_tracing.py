"""Tracing finds what a procedure would trip over, and computes nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.train import metrics, parallel, sampling, tracing


def _trace(step, **functions):
    data = sampling.deal(np.zeros((16, 4, 4, 3), np.uint8), np.arange(16) % 2, 8)

    def init(key, data):
        del key
        delta = jnp.zeros(data.images.shape, jnp.float32)
        return parallel.State(jnp.zeros((), jnp.int32), None, delta)

    return tracing.trace(init, step, parallel.data_mesh(), data, **functions)


def test_the_shapes_of_the_state_are_returned():
    state = _trace(lambda key, state, data: (state, {}))
    assert state.per_example.shape == (8, 2, 4, 4, 3)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda state: None, r"must return \(state, metrics\), got None"),
        (lambda state: (None, {}), "must return a state like init's, got None"),
        (
            lambda state: (state._replace(per_example=state.per_example[:, 1:]), {}),
            r"float32 \(1, 2, 4, 4, 3\) became float32 \(1, 1, 4, 4, 3\)",
        ),
        (lambda state: (state._replace(step=1.0), {}), "int32 .* became float32"),
        (lambda state: (state, {"loss": state.step}), r"metrics\.Mean"),
    ],
)
def test_a_wrong_step_is_refused(step, message):
    with pytest.raises(ValueError, match=message):
        _trace(lambda key, state, data: step(state))


def test_an_evaluation_is_traced_too():
    seen = []

    def evaluate(state, data):
        seen.append(data.images.shape)
        return {"accuracy": metrics.mean_of(jnp.mean(state.per_example))}

    _trace(lambda key, state, data: (state, {}), evaluate=evaluate)
    assert seen == [(1, 2, 4, 4, 3)]
