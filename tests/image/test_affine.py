"""Maps of places against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from miue_jax.image import affine

_resample = jax.jit(affine.resample)


def _images(height=8, width=8):
    return jax.random.uniform(jax.random.key(0), (2, height, width, 3))


def test_identity_changes_no_bit():
    images = _images(7, 10)
    result = _resample(images, affine.identity(2))
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("quarters", [1, -1, 2])
def test_rotation_is_counter_clockwise_about_the_middle(quarters):
    images = _images()
    maps = affine.rotation(jnp.full(2, 90.0 * quarters))
    result = _resample(images, maps)
    expected = np.rot90(np.asarray(images), quarters, axes=(1, 2))
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("pixels", [3, -2])
def test_translation_moves_to_the_right_or_down(pixels):
    images = np.asarray(_images(7, 10))
    for make, axis in (
        (affine.translation_x, 2),
        (affine.translation_y, 1),
    ):
        result = _resample(images, make(jnp.full(2, pixels)))
        expected = np.roll(images, pixels, axis)
        edge = [slice(None)] * 4
        edge[axis] = slice(0, pixels) if pixels > 0 else slice(pixels, None)
        expected[tuple(edge)] = 0
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_shear_moves_rows_or_columns_by_their_distance_from_the_middle():
    images = np.asarray(_images(7, 10))
    across = _resample(images, affine.shear_x(jnp.ones(2)))
    down = _resample(images, affine.shear_y(jnp.ones(2)))
    np.testing.assert_allclose(across[:, 3], images[:, 3], atol=1e-6)
    np.testing.assert_allclose(across[:, 5, :-2], images[:, 5, 2:], atol=1e-6)
    np.testing.assert_allclose(across[:, 5, -2:], 0)
    between = (images[:, :-1] + images[:, 1:]) / 2
    np.testing.assert_allclose(down[:, 1:, 4], between[:, :, 4], atol=1e-6)
    np.testing.assert_allclose(down[:, :-2, 6], between[:, 1:, 6], atol=1e-6)
    np.testing.assert_allclose(down[:, -1, 6], 0)


def test_resample_is_scipys_bilinear_map():
    images = np.asarray(_images(7, 10))
    maps = np.array(
        [
            [[0.9, 0.3, 1.3], [-0.2, 1.1, -0.7]],
            [[1.2, 0.0, 0.0], [0.4, 0.8, 2.1]],
        ],
        np.float32,
    )
    result = _resample(images, maps)
    middle = np.array([3.0, 4.5])
    for image, matrix, drawn in zip(images, maps, result, strict=True):
        linear = matrix[:, :2]
        offset = matrix[:, 2] + middle - linear @ middle
        for c in range(3):
            expected = scipy.ndimage.affine_transform(
                image[..., c], linear, offset, order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(drawn[..., c], expected, atol=1e-5)


def test_resample_is_differentiable_in_the_map():
    images = _images()

    @jax.jit
    def brightness(degrees):
        maps = affine.rotation(degrees)
        return _resample(images, maps)[..., 2, 5, 0].sum()

    at, step = jnp.array([10.0, 20.0]), 0.05
    slope = (brightness(at + step) - brightness(at - step)) / (2 * step)
    total = jax.jit(jax.grad(brightness))(at).sum()
    np.testing.assert_allclose(total, slope, rtol=0.02, atol=1e-4)
