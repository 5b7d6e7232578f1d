"""Orthogonal projection: what a linear classifier uses is removed from the images."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax._checks import check_number
from miue_jax.budget import to_unit
from miue_jax.defenses.base import Defense, check_images
from miue_jax.train.classifier import cross_entropy

_HIGHEST = jax.lax.Precision.HIGHEST
# Values of a block of images that go through the device together.
_AT_ONCE = 1 << 22

_Step = Callable[[jax.Array, np.ndarray, np.ndarray, float], jax.Array]


def orthogonal_projection(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    learning_rate: float = 0.1,
) -> Defense:
    r"""Projects the training images off the weights of a softmax regression on them.

    A linear classifier without bias, :math:`W` with a row for each of the K classes, is
    trained on the pixels of the protected images: perturbations that are linearly
    separable are what it learns first. Then

    .. math:: x \leftarrow x - Q Q^\top x, \qquad W^\top = Q R,

    so that no trace of the K directions is left. SGD without momentum, a tenth of the
    learning rate from half and again from three quarters of the epochs.

    The publication keeps the projected images as floats, values out of range among
    them; here they become 8-bit images again, as from every purification. After as many
    steps as published (980: 20 epochs of CIFAR-10, 200 of 5,000 of its images) clipping
    to [0, 255] concerns 2 % of the values. After fewer, the brightness that all images
    share may still be in W, and what is projected off them is more: after 20 epochs of
    5,000 images 3 to 25 % of the values were clipped, depending on the key. Scale the
    epochs up for small data sets.

    The publication takes the batches in the order of the data set, here they are those
    of one random order, so that a data set sorted by class makes no difference. The
    last batch may be smaller.

    The key seeds the weights and the order. Test images are not projected. Victims of
    the publication train by `protocols.PROTOCOLS["orthogonal_projection"]`.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: K, fewer than the values of an image.
      epochs: passes over the images; 20 are published, for 50,000 images.
      batch_size: images in a batch; of a smaller data set, all.
      learning_rate: of SGD in its first epoch.

    Returns:
      A defense whose `purify` takes and returns (N, H, W, C) uint8.

    Raises:
      ValueError: if a setting is out of range, or an image has no more values than
        there are classes, so that nothing would be left of it.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import defenses
      >>> defense = defenses.orthogonal_projection((16, 16, 3), 2, epochs=1)
      >>> images = np.zeros((4, 16, 16, 3), np.uint8)
      >>> labels = np.arange(4) % 2
      >>> defense.purify(jax.random.key(0), images, labels).shape
      (4, 16, 16, 3)

    References:
      Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, "What can we learn from
      unlearnable datasets?", NeurIPS 2023, on orthogonal projection.
    """
    check_number("orthogonal_projection epochs", epochs, "> 0", whole=True)
    check_number("orthogonal_projection batch_size", batch_size, "> 0", whole=True)
    check_number("orthogonal_projection learning_rate", learning_rate, "> 0")
    size = math.prod(image_shape)
    if size <= num_classes:
        raise ValueError(
            f"orthogonal_projection removes a direction for each of {num_classes} "
            f"classes; images of shape {tuple(image_shape)} have only {size}"
        )
    step = jax.jit(_step)
    remove = jax.jit(_remove)

    def purify(key: jax.Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        images = check_images(images, image_shape)
        flat = images.reshape(len(images), -1)
        weights = _train(
            key,
            step,
            flat,
            np.asarray(labels),
            num_classes=num_classes,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
        )
        basis = _basis(weights)
        result = np.empty_like(flat)
        block = max(1, _AT_ONCE // size)
        for start in range(0, len(flat), block):
            part = slice(start, start + block)
            result[part] = np.asarray(remove(basis, flat[part]))
        return result.reshape(images.shape)

    return Defense(purify=purify)


def _train(
    key: jax.Array,
    step: _Step,
    flat: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> jax.Array:
    """The weights (K, D) of the regression on (N, D) uint8."""
    init_key, order_key = jax.random.split(key)
    bound = flat.shape[1] ** -0.5
    weights = jax.random.uniform(
        init_key, (num_classes, flat.shape[1]), jnp.float32, -bound, bound
    )
    order = np.asarray(jax.random.permutation(order_key, len(flat)))
    for epoch in range(epochs):
        passed = (2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)
        rate = learning_rate * 0.1**passed
        for start in range(0, len(flat), batch_size):
            rows = order[start : start + batch_size]
            weights = step(weights, flat[rows], labels[rows], rate)
    return weights


def _step(
    weights: jax.Array, pixels: jax.Array, labels: jax.Array, rate: jax.Array
) -> jax.Array:
    images = to_unit(pixels.astype(jnp.float32))

    def loss(weights: jax.Array) -> jax.Array:
        return cross_entropy(jnp.dot(images, weights.T, precision=_HIGHEST), labels)

    return weights - rate * jax.grad(loss)(weights)


def _basis(weights: jax.Array) -> jax.Array:
    """An orthonormal basis (D, K) of the rows of (K, D)."""
    norms = jnp.linalg.norm(weights, axis=1, keepdims=True)
    return jnp.linalg.qr((weights / norms).T)[0]


def _remove(basis: jax.Array, pixels: jax.Array) -> jax.Array:
    values = pixels.astype(jnp.float32)
    along = jnp.dot(values, basis, precision=_HIGHEST)
    left = values - jnp.dot(along, basis.T, precision=_HIGHEST)
    return jnp.rint(jnp.clip(left, 0, 255)).astype(jnp.uint8)
