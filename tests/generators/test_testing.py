"""`check_generator` finds what breaks the contract."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.budget import Budget
from miue_jax.generators.testing import check_generator
from miue_jax.train.metrics import mean_of
from miue_jax.train.parallel import State


@dataclasses.dataclass(frozen=True)
class NoConfig:
    """No settings."""


def _noise(key, images, labels, *, radius: float = 8.0):
    del labels
    limit = radius / 255
    return jax.random.uniform(key, images.shape, jnp.float32, -limit, limit)


def _fixed(key, images, labels):
    del key, labels
    return jnp.full_like(images, 4 / 255)


def _sharded(step, **changes):
    """Builds a sharded generator from (key, state, data) -> perturbation."""

    def build(config: NoConfig, spec: generators.DataSpec) -> generators.Generator:
        del config

        def init(key, data):
            del key
            delta = jnp.zeros(data.images.shape, jnp.float32)
            return State(jnp.zeros((), jnp.int32), None, delta)

        def count(key, state, data):
            delta = step(key, state, data, spec)
            metrics = {"mean": mean_of(spec.mean(jnp.mean(delta)))}
            return State(state.step + 1, None, delta), metrics

        settings: dict[str, Any] = {
            "perturbation": lambda state: state.per_example,
            "num_steps": 2,
            **changes,
        }
        return generators.Generator(init, count, sharded=True, **settings)

    return build


def _signs(key, state, data, spec):
    """Signs of its own for every shard."""
    del spec
    keys = jax.vmap(lambda shard: jax.random.fold_in(key, shard))(data.shard)
    shape = data.images.shape[1:]
    signs = jax.vmap(lambda k: jax.random.rademacher(k, shape, jnp.float32))(keys)
    return state.per_example + signs / 255


def test_those_that_keep_it_pass():
    check_generator(_noise)
    check_generator("random_noise")
    check_generator("random_noise/uniform", num_classes=7, image_shape=(9, 6, 1))
    check_generator(
        "random_noise", generators.preset("random_noise", perturbation="class")
    )
    check_generator(_sharded(_signs))
    check_generator(_fixed, draws=False)


def test_settings_are_taken_and_batches_clipped():
    small = {"model": "linear", "epochs": 1, "pgd_steps": 1}
    config = generators.preset("mi_ue", "interleaved", batch_size=4096, **small)
    check_generator("mi_ue", config)
    strong = generators.preset("random_noise", radius=4.0)
    check_generator("random_noise", strong)
    with pytest.raises(ValueError, match="unknown generator 'random_nose'"):
        check_generator("random_nose")
    with pytest.raises(ValueError, match="has the parameters"):
        check_generator(lambda images: images)


def _with(delta=None, **changes):
    """Builds a generator of whole arrays in one step."""

    def build(config: NoConfig, spec: generators.DataSpec) -> generators.Generator:
        del config, spec
        step = _noise if delta is None else delta
        return generators.Generator(
            init=lambda key, images, labels: 0 * images,
            step=lambda key, state, images, labels: step(key, images, labels),
            **changes,
        )

    return build


def _zero(key, images, labels):
    del key, labels
    return 0 * images


def _nan(key, images, labels):
    return _noise(key, images, labels).at[3, 2, 1, 0].set(jnp.nan)


def _too_far(key, images, labels):
    """Beyond the budget where an image is white."""
    return jnp.minimum(_noise(key, images, labels), 1 - 1.04 * images)


def _by_device(key, state, data, spec):
    index = 0 if spec.axis_name is None else jax.lax.axis_index(spec.axis_name)
    return _signs(jax.random.fold_in(key, index), state, data, spec)


def _not_finite_mean(config: NoConfig, spec: generators.DataSpec):
    del config, spec
    return generators.Generator(
        init=lambda key, images, labels: 0 * images,
        step=lambda key, state, images, labels: (
            _noise(key, images, labels),
            {"loss": jnp.log(-1.0)},
        ),
    )


def _in_float64(config: NoConfig, spec: generators.DataSpec):
    del config
    return generators.Generator(
        init=lambda key, images, labels: jnp.zeros(images.shape),
        step=lambda key, state, images, labels: _noise(key, images, labels),
        perturbation=lambda state: state,
    )


def _turns_float64(config: NoConfig, spec: generators.DataSpec):
    del config

    def init(key, data):
        del key
        delta = jnp.zeros(data.images.shape, jnp.float32)
        return State(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), delta)

    def step(key, state, data):
        delta = _signs(key, state, data, spec)
        total = jnp.asarray(state.shared, float) + 1
        return State(state.step + 1, total, delta), {}

    return generators.Generator(
        init, step, perturbation=lambda state: state.per_example, sharded=True
    )


def _misses_a_row(config: NoConfig, spec: generators.DataSpec):
    del config

    def init(key, data):
        del key
        delta = jnp.zeros(data.images.shape, jnp.float32)
        return State(jnp.zeros((), jnp.int32), None, delta)

    def step(key, state, data):
        return State(state.step + 1, None, _signs(key, state, data, spec)), {}

    return generators.Generator(
        init, step, perturbation=lambda state: state.per_example[:, 1:], sharded=True
    )


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (_with(_nan), AssertionError, "holds NaN or infinity"),
        (
            _with(budget=Budget("linf", 4)),
            AssertionError,
            r"linf norm is 7\.\d+, its budget is linf 4 gray levels",
        ),
        (_with(budget=Budget("l2", 0.1)), AssertionError, "l2 norm is .*budget is l2"),
        (_with(budget=Budget("l0", 3)), AssertionError, "l0 norm is 64, .* 3 pixels"),
        (_with(_too_far), AssertionError, "linf norm is 10"),
        (_fixed, AssertionError, "same result for other keys; set draws=False"),
        (_not_finite_mean, AssertionError, "the metric 'loss' is nan"),
        (_in_float64, AssertionError, "with x64 enabled the state holds float64"),
        (_turns_float64, AssertionError, "changes the dtypes of the state from"),
        (_sharded(_by_device), AssertionError, "differ between one device and 8"),
        (_misses_a_row, ValueError, r"has shape \(G, n, H, W, C\) with G n >= 60"),
    ],
)
def test_those_that_break_it_fail(build, error, message):
    with pytest.raises(error, match=message):
        check_generator(build)


def test_a_generator_that_changes_nothing_fails():
    with pytest.raises(AssertionError, match="changes no image that is selected"):
        check_generator(_with(_zero), draws=False)


def test_what_is_kept_outside_the_state_is_found():
    calls: list[int] = []

    def leaky(key, state, data, spec):
        seen = jax.pure_callback(
            lambda: np.float32(calls.append(0) or len(calls) % 7),
            jax.ShapeDtypeStruct((), jnp.float32),
        )
        return _signs(key, state, data, spec) * seen / 7

    with pytest.raises(AssertionError, match="another result for the same key"):
        check_generator(_sharded(leaky))
