"""JPEG on the device against Pillow."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from miue_jax.image.jpeg import jpeg, jpeg_straight_through


def _images(count, height, width, channels, seed=0):
    """Waves with noise, and one image of noise alone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    phase = rng.uniform(0, 6, (count, 1, 1, channels))
    wave = 128 + 100 * np.sin(4 * y[None, ..., None] + 3 * x[None, ..., None] + phase)
    images = wave + rng.normal(0, 12, (count, height, width, channels))
    images[0] = rng.uniform(0, 256, images.shape[1:])
    return np.clip(images, 0, 255).astype(np.uint8)


def _pillow(images, quality):
    decoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            buffer, "JPEG", quality=quality
        )
        decoded.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return np.stack(decoded)


@jax.jit
def _ours(images, quality):
    decoded = jpeg(images.astype(jnp.float32) / 255, quality=quality)
    return jnp.rint(255 * decoded).astype(jnp.uint8)


@pytest.mark.parametrize(
    "shape",
    [(32, 32, 3), (17, 31, 3), (31, 18, 1), (5, 4, 3)],
    ids=["whole blocks", "odd sides", "gray", "too narrow to smooth"],
)
def test_every_value_equals_pillow(shape):
    images = _images(6, *shape)
    for quality in (1, 10, 49, 50, 75, 90, 100):
        expected = _pillow(images, quality)
        difference = np.abs(_ours(images, quality).astype(int) - expected)
        assert difference.max() == 0, (
            f"quality {quality}: {np.mean(difference > 0):.2%} of the values differ "
            f"from Pillow, by {difference.max()} at most"
        )
        assert (expected != images).any()


def test_images_compressed_before_equal_pillow_where_coefficients_lie_between_steps():
    # At quality 75 the steps are half of those at 50: every second one is a tie.
    images = _pillow(_images(6, 32, 32, 3, seed=1), 75)
    np.testing.assert_array_equal(_ours(images, 50), _pillow(images, 50))


def test_each_image_may_have_a_quality_of_its_own():
    images = _images(3, 32, 32, 3)
    qualities = jnp.array([10, 50, 90])
    result = np.asarray(_ours(images, qualities))
    for image, quality, compressed in zip(images, qualities, result, strict=True):
        expected = _pillow(image[None], int(quality))[0]
        np.testing.assert_array_equal(compressed, expected)


def test_floats_are_rounded_and_clipped_first():
    images = _images(2, 16, 16, 1).astype(np.float32) / 255
    compress = jax.jit(functools.partial(jpeg, quality=75))
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, images.shape) / 255
    np.testing.assert_array_equal(compress(images + jitter), compress(images))
    np.testing.assert_array_equal(
        compress(images * 3 - 1), compress(np.clip(images * 3 - 1, 0, 1))
    )


def test_the_gradient_of_the_straight_through_variant_is_the_identity():
    images = jnp.asarray(_images(1, 16, 16, 1), jnp.float32) / 255
    weights = jax.random.normal(jax.random.key(0), images.shape)

    def value(function):
        return jax.jit(
            jax.value_and_grad(lambda x: jnp.sum(weights * function(x, quality=10)))
        )(images)

    (plain, none), (through, gradient) = value(jpeg), value(jpeg_straight_through)
    np.testing.assert_allclose(through, plain, rtol=1e-5)
    np.testing.assert_array_equal(none, 0)
    np.testing.assert_array_equal(gradient, weights)


def test_the_dtype_is_kept():
    images = jnp.full((1, 8, 8, 1), 0.5, jnp.bfloat16)
    assert jpeg(images, quality=50).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "dtype", "quality", "message"),
    [
        ((2, 8, 8, 4), "float32", 10, r"1 or 3\), got \(2, 8, 8, 4\)"),
        ((8, 8, 3), "float32", 10, r"got \(8, 8, 3\)"),
        ((2, 8, 8, 3), "uint8", 10, r"floats in \[0, 1\], got uint8"),
        ((2, 8, 8, 3), "float32", 0, r"integer in \[1, 100\], got 0"),
        ((2, 8, 8, 3), "float32", 101, r"integer in \[1, 100\], got 101"),
        ((2, 8, 8, 3), "float32", 10.0, r"integer in \[1, 100\], got 10.0"),
        ((2, 8, 8, 3), "float32", True, r"integer in \[1, 100\], got True"),
        ((2, 8, 8, 3), "float32", [10, 20, 30], r"each of 2 images, got shape \(3,\)"),
    ],
)
def test_bad_input(shape, dtype, quality, message):
    with pytest.raises(ValueError, match=message):
        jpeg(np.zeros(shape, dtype), quality=quality)
