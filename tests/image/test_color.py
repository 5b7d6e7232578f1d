"""Operations on values against Pillow, and the amounts at which they do nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from miue_jax.image import color

_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}

_equalize = jax.jit(color.equalize)


def _pictures(channels=3):
    """Noise, a dark picture, one with piles at both ends, a plain one."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 40, channels))
    noise[1] //= 3
    noise[2] = np.clip(noise[2], 60, 180)
    noise[3] = 77
    return noise.astype(np.uint8)


def _floats(pictures):
    return jnp.asarray(pictures, jnp.float32) / 255


def _assert_like_pillow(result, pictures, pillow, levels):
    expected = np.stack(
        [np.asarray(pillow(Image.fromarray(p.squeeze()))) for p in pictures]
    )
    error = np.asarray(result) * 255 - expected.reshape(pictures.shape)
    assert np.abs(error).max() <= levels, "differs from Pillow by gray levels"


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_is_pillows_but_for_its_truncation(channels):
    pictures = _pictures(channels)
    result = color.autocontrast(_floats(pictures))
    _assert_like_pillow(result, pictures, ImageOps.autocontrast, 1.001)
    np.testing.assert_array_equal(result[:3].min((1, 2)), 0)
    np.testing.assert_array_equal(result[:3].max((1, 2)), 1)


def test_autocontrast_is_differentiable_at_a_plain_channel():
    gradient = jax.grad(lambda x: color.autocontrast(x).sum())
    assert jnp.isfinite(gradient(_floats(_pictures()))).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_is_pillows(channels):
    pictures = _pictures(channels)
    result = _equalize(_floats(pictures))
    _assert_like_pillow(result, pictures, ImageOps.equalize, 1e-3)
    assert not np.allclose(result[1], _floats(pictures)[1]), "nothing was equalized"


def test_equalize_of_few_pixels_beside_the_brightest_does_nothing():
    pictures = np.full((4, 16, 20, 3), 200, np.uint8)
    pictures[:, :12] = np.arange(240).reshape(12, 20, 1) % 199
    result = _equalize(_floats(pictures))
    np.testing.assert_allclose(result, _floats(pictures), atol=1e-6)


def test_invert_is_pillows():
    pictures = _pictures()
    result = color.invert(_floats(pictures))
    _assert_like_pillow(result, pictures, ImageOps.invert, 1e-3)


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize_is_pillows(bits):
    pictures = _pictures()
    result = color.posterize(_floats(pictures), bits)
    _assert_like_pillow(result, pictures, lambda x: ImageOps.posterize(x, bits), 1e-3)


def test_posterize_to_no_bits_is_black():
    assert not color.posterize(_floats(_pictures()), 0).any()


@pytest.mark.parametrize("level", [0, 77, 128, 256])
def test_solarize_is_pillows(level):
    pictures = _pictures()
    result = color.solarize(_floats(pictures), level / 255)
    _assert_like_pillow(result, pictures, lambda x: ImageOps.solarize(x, level), 1e-3)


@pytest.mark.parametrize("factor", [0, 0.4, 1, 1.9])
@pytest.mark.parametrize("name", _ENHANCERS)
def test_enhancements_are_pillows_but_for_rounding(name, factor):
    pictures = _pictures()
    result = getattr(color, name)(_floats(pictures), factor)
    # Pillow rounds the gray version to 8 bits before, and truncates after.
    _assert_like_pillow(
        result, pictures, lambda x: _ENHANCERS[name](x).enhance(factor), 1.6
    )
    if factor == 1:
        np.testing.assert_allclose(result, _floats(pictures), atol=1e-6)


@pytest.mark.parametrize("name", ["contrast", "sharpness"])
def test_enhancements_of_one_channel(name):
    pictures = _pictures(channels=1)
    result = getattr(color, name)(_floats(pictures), 1.9)
    _assert_like_pillow(
        result, pictures, lambda x: _ENHANCERS[name](x).enhance(1.9), 1.6
    )


def test_color_of_one_channel_does_nothing():
    images = _floats(_pictures(channels=1))
    np.testing.assert_allclose(color.color(images, 0.0), images)


@pytest.mark.parametrize("name", ["color", "contrast"])
def test_luma_needs_one_or_three_channels(name):
    with pytest.raises(ValueError, match="1 or 3 channels, these have 2"):
        getattr(color, name)(jnp.zeros((1, 4, 4, 2)), 0.5)


@pytest.mark.parametrize("name", [*_ENHANCERS, "posterize", "solarize"])
def test_amounts_are_one_an_image(name):
    images = _floats(_pictures())
    amounts = jnp.array([0.0, 1.0, 2.0, 0.5])
    function = getattr(color, name)
    together = jax.jit(function)(images, amounts)
    for i, amount in enumerate(amounts):
        alone = function(images[i : i + 1], amount)[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-6)
    assert not np.allclose(together[0], function(images, 2.0)[0])
