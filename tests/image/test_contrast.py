"""Local contrast against NumPy, and the radii that follow from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.image import contrast
from miue_jax.projected_gradient import pgd


def _brute_force(image):
    """Of one image, in float64."""
    padded = np.pad(image.astype(np.float64), ((2, 2), (2, 2), (0, 0)), mode="edge")
    result = np.empty((*image.shape[:2], 1))
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            patch = padded[i : i + 5, j : j + 5]
            result[i, j] = np.sqrt(np.mean(patch.var(axis=(0, 1))))
    return result


@pytest.mark.parametrize("shape", [(7, 9, 3), (1, 1, 1), (3, 12, 4)])
def test_contrast_is_the_deviation_of_the_neighborhood(shape):
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    found = contrast.local_contrast(jnp.asarray(images))
    want = np.stack([_brute_force(image) for image in images])
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_a_bright_even_picture_has_no_contrast():
    images = jnp.full((1, 8, 8, 3), 0.9999)
    assert float(contrast.local_contrast(images).max()) == 0


def test_the_type_is_kept():
    images = jnp.zeros((1, 8, 8, 3), jnp.bfloat16)
    assert contrast.local_contrast(images).dtype == jnp.bfloat16


def test_radii_are_the_contrast_between_the_two():
    images = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    images[:, :8] = 0.5 + (images[:, :8] - 0.5) / 50
    radii = contrast.radius_map(
        jnp.asarray(images), radius=8 / 255, smooth_radius=1 / 255
    )
    want = np.clip(_brute_force(images[0]), 1 / 255, 8 / 255)[None]
    np.testing.assert_allclose(radii, want, atol=1e-7)
    levels = 255 * np.asarray(radii)
    assert levels[0, 15].min() == pytest.approx(8)
    assert 1 < levels[0, :4].max() < 8


def test_projected_gradient_keeps_each_radius():
    images = jnp.asarray(np.random.default_rng(2).random((2, 8, 8, 3), np.float32))
    radii = contrast.radius_map(images, radius=8 / 255, smooth_radius=2 / 255)
    run = jax.jit(
        lambda images, radii: pgd(
            jnp.sum, images, radius=radii, num_steps=3, step_size=4 / 255
        )
    )
    delta = run(images, radii)
    want = np.maximum(np.broadcast_to(-radii, delta.shape), -np.asarray(images))
    np.testing.assert_allclose(delta, want, atol=1e-7)
