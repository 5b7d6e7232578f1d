"""A frozen network: the same numbers, and nothing to differentiate."""

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.defenses.base import freeze

IMAGES = jax.random.uniform(jax.random.key(0), (4, 2, 2, 1))
WEIGHTS = jax.random.normal(jax.random.key(1), (4, 3))


def _network(weights):
    def forward(images, *, train=True):
        logits = images.reshape(len(images), -1) @ weights
        return (logits if train else 2 * logits), None

    return forward


def test_the_network_is_the_same_in_both_modes():
    for train in (True, False):
        frozen = freeze(_network(WEIGHTS), jnp.zeros_like(IMAGES), train=train)
        expected = _network(WEIGHTS)(IMAGES, train=train)[0]
        np.testing.assert_allclose(frozen(IMAGES), expected, rtol=1e-6)


def test_parameters_have_no_gradient_but_images_have():
    def loss(weights, images):
        frozen = freeze(_network(weights), images, train=True)
        return jnp.sum(jnp.sin(frozen(images)))

    by_weights, by_images = jax.jit(jax.grad(loss, (0, 1)))(WEIGHTS, IMAGES)
    np.testing.assert_array_equal(by_weights, jnp.zeros_like(WEIGHTS))
    slope = jnp.cos(IMAGES.reshape(4, -1) @ WEIGHTS) @ WEIGHTS.T
    np.testing.assert_allclose(by_images, slope.reshape(IMAGES.shape), rtol=1e-4)
