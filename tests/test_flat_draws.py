"""Draws as rows of numbers: the same bits, and loops over one axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from miue_jax import _flat_draws, models
from miue_jax.models import _layers


@pytest.mark.parametrize(
    ("sampler", "arguments"),
    [
        (jax.random.normal, (jnp.float32,)),
        (jax.random.uniform, (jnp.float32, -2.0, 3.0)),
        (jax.random.bits, ()),
    ],
    ids=["normal", "uniform", "bits"],
)
def test_draws_are_those_of_the_sampler_to_the_last_bit(sampler, arguments):
    key, shape = jax.random.key(5), (3, 5, 2, 7)

    def flat(key):
        return _flat_draws.draw(sampler, key, shape, *arguments)

    wanted = sampler(key, shape, *arguments)
    np.testing.assert_array_equal(flat(key), wanted)
    np.testing.assert_array_equal(jax.jit(flat)(key), wanted)


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (1, 1, 8, 3), (3, 3, 1, 8)])
def test_kernels_begin_as_flax_has_them(shape):
    # Over the fan out, also of depthwise kernels, which have one channel in.
    flax = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    key = jax.random.key(1)
    wanted = jax.jit(lambda key: flax(key, shape, jnp.float32))(key)
    found = jax.jit(lambda key: _layers._kernel_init(key, shape))(key)
    np.testing.assert_array_equal(found, wanted)


def test_a_network_draws_no_kernel_over_four_axes():
    module = models.create("resnet10", num_classes=2, width=2)

    def init(key):
        return module.init(key, jnp.zeros((1, 8, 8, 3)), train=False)

    drawn = [
        equation.outvars[0].aval.ndim
        for equation in _equations(jax.make_jaxpr(init)(jax.random.key(0)).jaxpr)
        if equation.primitive.name == "random_bits"
    ]
    assert len(drawn) == 13
    # The head is a matrix.
    assert max(drawn) == 2


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
