"""A view is drawn once and moves image and perturbation as its settings say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.generators import views

CONFIG = generators.AlternationConfig()


def _draw(seed: int = 0, **changes):
    images = jax.random.uniform(jax.random.key(9), (2, 16, 8, 8, 3), minval=0.2)
    config = dataclasses.replace(CONFIG, **changes)
    view = views.draw(jax.random.key(seed), jnp.array([0, 1]), images, config)
    return np.asarray(images).reshape(-1, 8, 8, 3), view


def test_the_plain_view_changes_nothing():
    images, view = _draw()
    np.testing.assert_array_equal(view.carriers, images)
    np.testing.assert_array_equal(view.seen(images), images)


def test_image_only_mirrors_under_the_perturbation_and_joint_with_it():
    images, view = _draw(flip="image_only")
    mirrored = (np.asarray(view.carriers) != images).any((1, 2, 3))
    assert 4 < mirrored.sum() < 28
    np.testing.assert_array_equal(view.seen(images), images)
    images, view = _draw(flip="joint")
    np.testing.assert_array_equal(view.carriers, images)
    seen = np.asarray(view.seen(images))
    expected = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(seen, expected)


def test_a_crop_is_the_same_each_time_and_loses_only_what_leaves_the_image():
    images, view = _draw(crop=2)
    first = np.asarray(view.seen(images))
    np.testing.assert_array_equal(first, view.seen(images))
    assert (first != images).any((1, 2, 3)).sum() > 16
    inner = first[:, 2:-2, 2:-2]
    assert (inner > 0).all(), "a shift of two pixels reaches no pixel further in"
    gradient = jax.grad(lambda x: view.seen(x).sum())(jnp.asarray(images))
    assert set(np.unique(gradient)) == {0.0, 1.0}


def test_normalization_is_of_the_input_alone():
    images, view = _draw(normalization="imagenet")
    np.testing.assert_array_equal(view.carriers, images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        view.seen(images), (images - mean) / std, rtol=1e-4, atol=1e-5
    )


def test_keys_matter_and_a_negative_crop_is_refused():
    images, view = _draw(seed=0, flip="joint", crop=2)
    _, other = _draw(seed=1, flip="joint", crop=2)
    assert (np.asarray(view.seen(images)) != np.asarray(other.seen(images))).any()
    with pytest.raises(ValueError, match="crop is -1"):
        dataclasses.replace(CONFIG, crop=-1)
