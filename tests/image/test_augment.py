"""Augmentations move pixels and do nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.image import augment


def _images(count: int = 64) -> jax.Array:
    return jax.random.uniform(jax.random.key(7), (count, 8, 8, 3), minval=0.1)


def test_flip_mirrors_about_half_of_the_images():
    images = _images(200)
    flipped = np.asarray(augment.random_flip(jax.random.key(0), images))
    mirrored = np.asarray(images)[:, :, ::-1]
    same = (flipped == np.asarray(images)).all((1, 2, 3))
    assert (same ^ (flipped == mirrored).all((1, 2, 3))).all()
    assert 60 < same.sum() < 140


def test_crop_shows_a_window_of_the_padded_image():
    images = _images()
    cropped = np.asarray(augment.random_crop(jax.random.key(1), images, padding=2))
    padded = np.pad(np.asarray(images), ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for image, source in zip(cropped, padded, strict=True):
        found = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(source[i : i + 8, j : j + 8], image)
        ]
        assert found, "a crop is not a window of its padded image"
        places.add(found[0])
    assert len(places) > 10


def test_chain_gives_each_its_own_key_in_order():
    noise = lambda key, x: x + jax.random.normal(key, x.shape)  # noqa: E731
    twice = augment.chain(noise, noise)(jax.random.key(0), jnp.zeros((4, 2)))
    once = augment.chain(noise)(jax.random.key(0), jnp.zeros((4, 2)))
    assert not np.allclose(twice, 2 * once)
    halve_then_add = augment.chain(lambda _, x: x / 2, lambda _, x: x + 1)
    np.testing.assert_allclose(halve_then_add(jax.random.key(0), jnp.ones(2)), 1.5)
