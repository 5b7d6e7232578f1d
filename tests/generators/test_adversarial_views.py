"""Attacked views: what may happen to an image, and how gradients pass through it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators.adversarial_views import adversarial_views

SHARDS, SHARE, CLASSES = 2, 3, 3
SHAPE = (4, 4, 1)
RADIUS = 16 / 255


def _images() -> jax.Array:
    images = jax.random.uniform(jax.random.key(5), (SHARDS, SHARE, *SHAPE))
    # Black and white values, which the adversary may change in one direction only.
    return images.at[:, :, 0].set(0.0).at[:, :, 1].set(1.0)


LABELS = jnp.array([[0, 1, 2], [2, 1, 0]])
WEIGHTS = jax.random.normal(jax.random.key(6), (16, CLASSES))


def _loss(images, labels):
    logits = jnp.tanh(4 * images.reshape(len(images), -1)) @ WEIGHTS
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def _views(images=None, *, seed=0, shard=(0, 1), **changes):
    settings: dict[str, Any] = {
        "views": 4,
        "crop": 1,
        "mirror": True,
        "radius": RADIUS,
        "step_size": 4 / 255,
        "num_steps": 5,
        **changes,
    }
    images = _images() if images is None else images
    indices = jnp.asarray(shard)
    labels = LABELS[: len(shard)]
    return adversarial_views(
        jax.random.key(seed), indices, images, labels, _loss, **settings
    )


def test_without_an_adversary_a_view_is_a_shifted_and_perhaps_mirrored_image():
    seen, labels = _views(radius=0, views=40)
    assert seen.shape == (40 * SHARDS * SHARE, *SHAPE)
    np.testing.assert_array_equal(labels, np.tile(LABELS.ravel(), 40))
    images = np.asarray(_images()).reshape(-1, *SHAPE)
    found = [set() for _ in images]
    for i, view in enumerate(np.asarray(seen)):
        source = images[i % len(images)]
        for mirrored in (False, True):
            padded = np.pad(
                source[:, ::-1] if mirrored else source, [(1, 1)] * 2 + [(0, 0)]
            )
            found[i % len(images)] |= {
                (top, left, mirrored)
                for top in range(3)
                for left in range(3)
                if np.array_equal(view, padded[top : top + 4, left : left + 4])
            }
    for places in found:
        # 40 draws of 18 equally likely views leave out 2 of them on average.
        assert len(places) >= 12, f"only {places}"
    for i, view in enumerate(np.asarray(_views(radius=0, views=1, crop=0)[0])):
        assert any(np.array_equal(view, x) for x in (images[i], images[i][:, ::-1]))
    plain, _ = _views(radius=0, crop=0, mirror=False)
    np.testing.assert_array_equal(plain, np.tile(images, (4, 1, 1, 1)))


@pytest.mark.parametrize("num_steps", [0, 1, 20])
def test_the_adversary_stays_in_its_ball_and_in_the_image_box(num_steps):
    plain, _ = _views(radius=0)
    attacked, _ = _views(num_steps=num_steps)
    change = np.asarray(attacked - plain)
    assert np.abs(change).max() <= RADIUS + 1e-6
    assert np.abs(change).max() > 0.9 * RADIUS
    assert attacked.min() >= 0
    assert attacked.max() <= 1 + 1e-6


def test_no_steps_leave_uniform_noise_of_its_own_for_every_view():
    plain, _ = _views(radius=0, views=64)
    attacked, _ = _views(num_steps=0, views=64)
    inside = (np.asarray(plain) > RADIUS) & (np.asarray(plain) < 1 - RADIUS)
    change = np.asarray(attacked - plain)[inside] / RADIUS
    assert abs(change.mean()) < 4 / np.sqrt(3 * change.size)
    assert change.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)
    assert len(np.unique(change)) > 0.95 * change.size
    black = np.asarray(plain) == 0
    cut = np.asarray(attacked)[black]
    assert (cut == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_the_adversary_climbs_by_its_step_size():
    plain, labels = _views(radius=0)
    losses = [_loss(*_views(num_steps=steps)) for steps in (0, 1, 10)]
    assert _loss(plain, labels) < losses[1] < losses[2]
    assert losses[0] < losses[1]
    start, _ = _views(num_steps=0)
    one, _ = _views(num_steps=1)
    inside = (np.abs(one - plain) < RADIUS - 1e-6) & (one > 0) & (one < 1)
    moved = np.abs(np.asarray(one - start))[np.asarray(inside)]
    np.testing.assert_allclose(moved, 4 / 255, atol=1e-6)


def test_the_gradient_is_that_at_the_attacked_view_taken_back_through_the_views():
    images = _images()
    flat = images.ravel()

    def views_of(x):
        return _views(x.reshape(images.shape), radius=0)[0].ravel()

    # Views are linear: their matrix has the view of each pixel as a column.
    matrix = np.stack([views_of(pixel) for pixel in jnp.eye(flat.size)], 1)
    np.testing.assert_allclose(matrix @ flat, views_of(flat), atol=1e-6)
    attacked, labels = _views()
    expected = matrix.T @ np.asarray(jax.grad(_loss)(attacked, labels)).ravel()
    found = jax.grad(lambda x: _loss(*_views(x)))(images)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-7)
    # Elsewhere the gradient is another one, so that this can tell.
    plain = matrix.T @ np.asarray(jax.grad(_loss)(*_views(radius=0))).ravel()
    assert np.abs(plain - expected).max() > 1e-3


def test_a_shard_draws_the_same_whoever_holds_it_and_keys_matter():
    both, _ = _views()
    both = np.asarray(both).reshape(4, SHARDS, SHARE, *SHAPE)
    for shard in range(SHARDS):
        alone, _ = adversarial_views(
            jax.random.key(0),
            jnp.array([shard]),
            _images()[shard : shard + 1],
            LABELS[shard : shard + 1],
            _loss,
            views=4,
            crop=1,
            mirror=True,
            radius=RADIUS,
            step_size=4 / 255,
            num_steps=5,
        )
        alone = np.asarray(alone).reshape(4, SHARE, *SHAPE)
        np.testing.assert_allclose(alone, both[:, shard], atol=1e-6)
    other, _ = _views(seed=1)
    assert not np.array_equal(other.reshape(both.shape), both)
