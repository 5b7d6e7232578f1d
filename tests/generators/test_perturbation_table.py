"""Perturbations between visits, against projected gradient written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import perturbation_table
from miue_jax.train import sampling

SHAPE, CLASSES = (4, 4, 1), 3
RADIUS, STEP = 8 / 255, 3 / 255


def _batch(selected) -> sampling.Batch:
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE)).astype(np.uint8)
    labels = np.arange(6) % CLASSES
    data = sampling.deal(images, labels, 1, selected=np.asarray(selected))
    return sampling.take(data, jnp.arange(6)[None], jnp.int32(0), 6)


def _coupled(images: jax.Array) -> jax.Array:
    """A loss whose gradient at an image depends on all the others."""
    flat = jnp.tanh(3 * images.reshape(len(images), -1) - 1)
    return jnp.sum(jnp.sin(8 * flat @ flat.T)) + jnp.sum(jnp.sin(9 * flat))


def _smooth(images: jax.Array) -> jax.Array:
    """A loss that falls along many steps."""
    flat = jnp.tanh(3 * images.reshape(len(images), -1) - 1)
    return jnp.sum(jnp.square(flat @ flat.T))


def _descend(loss, carriers, delta, num_steps, *, box):
    for _ in range(num_steps):
        delta = np.clip(
            delta - STEP * np.sign(np.asarray(jax.grad(loss)(jnp.asarray(delta)))),
            -RADIUS,
            RADIUS,
        )
        if box:
            delta = np.clip(carriers + delta, 0, 1) - carriers
    return delta.astype(np.float32)


def test_images_that_are_not_selected_stay_clean_for_the_others_too():
    selected = np.array([True, True, False, True, False, True])
    batch = _batch(selected)
    carriers = np.asarray(batch.images).reshape(6, *SHAPE)
    mask = selected[:, None, None, None]
    found, losses = perturbation_table.move_images(
        jnp.zeros((1, 6, *SHAPE)),
        *(batch, jnp.ones((1, 6), bool), jnp.asarray(carriers), _coupled),
        radius=RADIUS,
        step_size=STEP,
        num_steps=3,
    )
    nothing = np.zeros_like(carriers)
    want = _descend(
        lambda d: _coupled(carriers + mask * d), carriers, nothing, 3, box=1
    )
    others_move = _descend(
        lambda d: _coupled(carriers + d), carriers, nothing, 3, box=1
    )
    assert (want != others_move)[selected].any(), "the loss does not couple the images"
    np.testing.assert_allclose(found[0], mask * want, atol=1e-6)
    assert losses[0] == pytest.approx(float(_coupled(jnp.asarray(carriers))), rel=1e-5)


def test_a_class_moves_against_the_gradient_of_all_its_images():
    selected = np.array([True, True, True, False, True, True])
    batch = _batch(selected)
    carriers = np.asarray(batch.images).reshape(6, *SHAPE)
    labels, mask = np.arange(6) % CLASSES, selected[:, None, None, None]

    def loss(classes):
        return _smooth(jnp.clip(carriers + mask * classes[labels], 0, 1))

    start = np.zeros((CLASSES, *SHAPE), np.float32)
    found, losses = perturbation_table.move_classes(
        jnp.asarray(start),
        *(batch, jnp.asarray(carriers), _smooth),
        radius=RADIUS,
        step_size=STEP,
        num_steps=4,
    )
    want = _descend(loss, carriers, start, 4, box=False)
    assert (np.abs(want).max((1, 2, 3)) > 2 * STEP).all()
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert losses[0] == pytest.approx(float(loss(start)), rel=1e-5)
    assert loss(want) < loss(start)
