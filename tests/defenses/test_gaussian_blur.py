"""Gaussian blur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from miue_jax.defenses.gaussian_blur import gaussian_blur

_SHAPE = (7, 10, 3)


def _blur(images, **settings):
    augment = jax.jit(gaussian_blur(images.shape[1:], 10, **settings).augment)
    labels = jnp.arange(len(images))
    result, same = augment(jax.random.key(0), images, labels)
    np.testing.assert_array_equal(same, labels)
    return np.asarray(result)


def _images(count=3):
    return jax.random.uniform(jax.random.key(1), (count, *_SHAPE))


@pytest.mark.parametrize(("kernel_size", "sigma"), [(3, 0.8), (5, 1.5)])
def test_is_scipys_with_a_reflected_border(kernel_size, sigma):
    images = _images()
    settings = {"min_sigma": sigma, "max_sigma": sigma}
    result = _blur(images, kernel_size=kernel_size, **settings)
    expected = scipy.ndimage.gaussian_filter(
        np.asarray(images),
        sigma,
        axes=(1, 2),
        radius=kernel_size // 2,
        mode="mirror",
    )
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_widths_are_uniform_and_one_an_image():
    # The middle of a blurred point is the square of the kernel's largest weight.
    point = jnp.zeros((2000, 3, 3, 1)).at[:, 1, 1].set(1)
    largest = np.sqrt(_blur(point)[:, 1, 1, 0])
    ratio = (1 / largest - 1) / 2
    sigma = np.sqrt(-0.5 / np.log(np.maximum(ratio, 1e-30)))
    seen = sigma[sigma > 0.4]  # below, the weight is 1 up to rounding
    shares = np.histogram(seen, np.linspace(0.4, 2.0, 5))[0] / len(sigma)
    np.testing.assert_allclose(shares, 0.4 / 1.9, atol=0.04)
    assert seen.max() <= 2 + 1e-3
    assert 0.1 < (sigma <= 0.4).mean() < 0.22


def test_a_tenth_of_a_pixel_is_the_identity():
    images = _images()
    result = _blur(images, min_sigma=0.1, max_sigma=0.1)
    np.testing.assert_allclose(result, images, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4; allowed: odd numbers up to 13"),
        ({"kernel_size": 15}, "odd numbers up to 13 for 10x7 images"),
        ({"kernel_size": 0}, "kernel_size is 0; allowed: whole numbers > 0"),
        ({"kernel_size": 3.0}, "kernel_size is 3.0; allowed: whole"),
        ({"min_sigma": 0}, "min_sigma is 0; allowed: finite numbers > 0"),
        ({"max_sigma": float("inf")}, "max_sigma is inf"),
        ({"min_sigma": 2.5}, "max_sigma is 2.0; allowed: at least min_sigma, 2.5"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        gaussian_blur(_SHAPE, 10, **settings)


def test_largest_kernel_fits():
    assert np.isfinite(_blur(_images(), kernel_size=13)).all()
