"""Gaussian noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.gaussian_noise import gaussian_noise

_SHAPE = (16, 16, 3)


def _noise(value, **settings):
    images = jnp.full((50, *_SHAPE), value)
    labels = jnp.arange(50)
    augment = gaussian_noise(_SHAPE, 10, **settings).augment
    result, same = augment(jax.random.key(0), images, labels)
    np.testing.assert_array_equal(same, labels)
    return np.asarray(result - images) * 255


@pytest.mark.parametrize("sigma", [2, 8.0])
def test_sigma_is_in_gray_levels(sigma):
    noise = _noise(0.5, sigma=sigma)
    assert abs(noise.mean()) < 0.02 * sigma
    assert abs(noise.std() - sigma) < 0.02 * sigma
    inside = np.abs(noise) < sigma
    assert abs(inside.mean() - 0.683) < 0.01, "not normal"


def test_values_are_independent():
    noise = _noise(0.5).reshape(50, -1)
    assert np.abs(np.corrcoef(noise[:, :40].T) - np.eye(40)).max() < 0.7
    assert len(np.unique(noise)) > 0.9 * noise.size


def test_eight_levels_unless_set():
    assert abs(_noise(0.5).std() - 8) < 0.2


def test_noise_in_bfloat16_is_that_of_float32():
    """jax 0.12.0.1 draws 128 biased numbers in it (findings/jax_narrow_normal.sh)."""
    images = jnp.full((300, *_SHAPE), 0.5, jnp.bfloat16)
    augment = gaussian_noise(_SHAPE, 10, sigma=32).augment
    noisy, _ = augment(jax.random.key(0), images, jnp.arange(300))
    noise = np.asarray(noisy, np.float64).ravel() - 0.5
    assert abs(noise.mean()) < 4 * noise.std() / noise.size**0.5
    want, _ = augment(jax.random.key(0), images.astype("float32"), jnp.arange(300))
    np.testing.assert_allclose(noise, np.asarray(want).ravel() - 0.5, atol=0.008)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_result_is_clipped_and_not_rounded(value):
    noise = _noise(value, sigma=20)
    assert 0.45 < (noise == 0).mean() < 0.55, "half of the noise should be clipped"
    beyond = noise[np.abs(noise) > 1e-3]
    assert (np.sign(beyond) == 1 - 2 * value).all()
    assert np.abs(beyond - np.round(beyond)).mean() > 0.2, "rounded to gray levels"


def test_no_noise_changes_nothing():
    assert not _noise(0.3, sigma=0).any()


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf"), "8", True])
def test_sigma_out_of_range(sigma):
    with pytest.raises(ValueError, match=r"gaussian_noise sigma is .*numbers >= 0"):
        gaussian_noise(_SHAPE, 10, sigma=sigma)
