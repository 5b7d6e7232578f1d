"""Mixup."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.mixup import mixup

_SHAPE = (2, 2, 1)
_COUNT = 1500


@functools.lru_cache
def _mix(**settings):
    """Image i is i / 1500 and its label i, so that what was mixed can be read off."""
    values = jnp.arange(_COUNT) / _COUNT
    images = jnp.broadcast_to(values[:, None, None, None], (_COUNT, *_SHAPE))
    augment = jax.jit(mixup(_SHAPE, _COUNT, **settings).augment)
    mixed, labels = augment(jax.random.key(0), images, jnp.arange(_COUNT))
    return np.asarray(images), np.asarray(mixed), np.asarray(labels)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_images_and_labels_are_mixed_alike(alpha):
    images, mixed, labels = _mix(alpha=alpha)
    expected = np.tensordot(labels, images, 1)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    assert ((labels > 0).sum(1) <= 2).all(), "more than two images in a mixture"
    assert (labels >= 0).all()
    others = labels * (1 - np.eye(_COUNT))
    partners = np.argmax(others, 1)[others.any(1)]
    assert len(partners) > 0.9 * _COUNT
    assert len(np.unique(partners)) == len(partners), "two images have one partner"


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.3, 0.25 / 1.6)])
def test_weights_are_beta_and_one_an_image(alpha, variance):
    weights = np.diagonal(_mix(alpha=alpha)[2])
    assert abs(weights.mean() - 0.5) < 0.04
    assert abs(weights.var() - variance) < 0.012


def test_probability_is_the_share_of_mixed_images():
    images, mixed, labels = _mix(probability=0.3)
    alone = np.diagonal(labels) == 1
    assert 0.65 < alone.mean() < 0.75
    np.testing.assert_array_equal(mixed[alone], images[alone])


def test_nothing_is_mixed_with_probability_zero():
    images, mixed, labels = _mix(probability=0)
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(labels, np.eye(_COUNT))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "mixup alpha is 0; allowed: finite numbers > 0"),
        ({"alpha": float("nan")}, "mixup alpha is nan"),
        ({"probability": 1.1}, r"mixup probability is 1.1; .*in \[0, 1\]"),
        ({"probability": -0.1}, "mixup probability is -0.1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        mixup(_SHAPE, 10, **settings)
