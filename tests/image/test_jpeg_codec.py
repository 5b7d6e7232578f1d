"""JPEG on the device against Pillow."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from miue_jax.image.jpeg import (
    _scale_coefficients,
    jpeg,
    jpeg_straight_through,
)


def _images(count, height, width, channels, seed=0):
    """Waves with noise, and one image of noise alone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    phase = rng.uniform(0, 6, (count, 1, 1, channels))
    wave = 128 + 100 * np.sin(4 * y[None, ..., None] + 3 * x[None, ..., None] + phase)
    images = wave + rng.normal(0, 12, (count, height, width, channels))
    images[0] = rng.uniform(0, 256, images.shape[1:])
    return np.clip(images, 0, 255).astype(np.uint8)


def _pillow(images, quality, **options):
    decoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            buffer, "JPEG", quality=quality, **options
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


# Color at full resolution ---------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32, 3), (17, 31, 3)])
def test_full_color_equals_pillow_and_images_choose_for_themselves(shape):
    images = _images(6, *shape)
    floats = jnp.asarray(images, jnp.float32) / 255
    coded = jax.jit(jpeg)
    for quality in (10, 50, 90):
        full = _pillow(images, quality, subsampling=0)
        ours = 255 * coded(floats, quality=quality, subsampled=False)
        np.testing.assert_array_equal(jnp.rint(ours), full)
        half = _pillow(images, quality)
        chosen = np.arange(6) % 2 == 0
        ours = 255 * coded(floats, quality=quality, subsampled=chosen)
        expected = np.where(chosen[:, None, None, None], half, full)
        np.testing.assert_array_equal(jnp.rint(ours), expected)


def test_a_choice_for_another_number_of_images_is_refused():
    with pytest.raises(ValueError, match=r"one for each of 3 images, got shape \(2,\)"):
        jpeg(jnp.zeros((3, 16, 16, 3)), quality=50, subsampled=jnp.ones(2, bool))


# Gradients ------------------------------------------------------------------------


def _orthonormal() -> np.ndarray:
    places, frequencies = np.arange(8) + 0.5, np.arange(8)[:, None]
    matrix = np.cos(np.pi / 8 * frequencies * places) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def _blockwise(plane: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    result = np.empty(plane.shape)
    for i in range(0, plane.shape[0], 8):
        for j in range(0, plane.shape[1], 8):
            block = plane[i : i + 8, j : j + 8]
            result[i : i + 8, j : j + 8] = matrix @ block @ matrix.T
    return result


_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


@pytest.mark.parametrize("gradient", ["identity", "surviving", "soft"])
def test_gray_gradients_are_those_of_the_stated_functions(gradient):
    """Written out in NumPy at quality 50, where the table is that of the standard."""
    image = _images(2, 16, 24, 1)[1]
    weights = np.random.default_rng(0).normal(size=image.shape)

    def value(x):
        coded = jpeg_straight_through(x, quality=50, gradient=gradient)
        return jnp.sum(weights * coded[0])

    actual = jax.grad(value)(jnp.asarray(image[None], jnp.float32) / 255)[0, ..., 0]
    matrix = _orthonormal()
    table = np.tile(_LUMINANCE, (2, 3))
    steps = _blockwise(image[..., 0] - 128.0, matrix) / table
    slope = {
        "identity": np.ones_like(steps),
        "surviving": np.rint(steps) != 0,
        "soft": 3 * (steps - np.rint(steps)) ** 2,
    }[gradient]
    expected = _blockwise(_blockwise(weights[..., 0], matrix) * slope, matrix.T)
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    assert np.mean(slope != 1) > 0 or gradient == "identity"


@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("shape", [(32, 32, 3), (17, 31, 3)])
def test_the_smooth_function_becomes_the_codec_where_coefficients_are_rounded(
    shape, subsampled
):
    # Away from the ends of the range, where the codec clips at every stage.
    images = 0.25 + jnp.asarray(_images(4, *shape)[1:], jnp.float32) / 510

    def rounding(steps):
        return jnp.where(
            steps == 0, 0, jnp.rint(steps) / jnp.where(steps == 0, 1, steps)
        )

    for quality in (10, 75):
        rounded = _scale_coefficients(images, quality, subsampled, rounding)
        coded = jpeg(images, quality=quality, subsampled=subsampled)
        # The codec rounds at every stage, which tips coefficients near a half.
        difference = np.mean(np.abs(jnp.clip(rounded, 0, 1) - coded))
        assert difference < 0.3 * np.mean(np.abs(coded - images)), quality
    kept = _scale_coefficients(images, 50, False, jnp.ones_like)
    np.testing.assert_allclose(kept, images, atol=1e-2)


@pytest.mark.parametrize("gradient", ["surviving", "soft"])
@pytest.mark.parametrize("subsampled", [True, False])
def test_values_are_the_codecs_and_gradients_pass_the_color_transform(
    gradient, subsampled
):
    images = jnp.asarray(_images(3, 32, 32, 3), jnp.float32) / 255

    def see(x):
        return jpeg_straight_through(
            x, quality=30, subsampled=subsampled, gradient=gradient
        )

    coded = jpeg(images, quality=30, subsampled=subsampled)
    np.testing.assert_allclose(see(images), coded, atol=1e-5)
    rng = np.random.default_rng(1)
    first, second = (
        jnp.asarray(rng.normal(size=images.shape), jnp.float32) for _ in range(2)
    )
    _, forward = jax.jvp(see, (images,), (first,))
    _, back = jax.vjp(see, images)
    np.testing.assert_allclose(
        jnp.sum(second * forward), jnp.sum(back(second)[0] * first), rtol=1e-3
    )
    gray = jnp.mean(first, -1, keepdims=True) * jnp.ones(3)
    _, seen = jax.jvp(see, (images,), (gray,))
    # Gray changes stay gray: the planes of color see nothing of them.
    np.testing.assert_allclose(seen, seen[..., :1] * jnp.ones(3), atol=1e-2)


def test_an_unknown_gradient_is_refused():
    with pytest.raises(ValueError, match="gradient is 'hard'; allowed: identity"):
        jpeg_straight_through(jnp.zeros((1, 16, 16, 3)), quality=50, gradient="hard")
