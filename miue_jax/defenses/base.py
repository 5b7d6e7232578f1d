"""The interface of a defense: pure functions around a victim's training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from miue_jax.train.classifier import Forward

Purify = Callable[[jax.Array, np.ndarray, np.ndarray], np.ndarray]
Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Loss = Callable[
    [jax.Array, jax.Array, Forward, jax.Array, jax.Array],
    tuple[jax.Array, tuple[jax.Array, Any]],
]
Predict = Callable[[jax.Array], jax.Array]
Attack = Callable[[jax.Array, Predict, jax.Array, jax.Array], jax.Array]


class Defense(NamedTuple):
    """What a person who trains on protected images may do against the protection.

    Each function is optional; ``Defense()`` is no defense. All are deterministic
    functions of their arguments, the PRNG keys among them.

    Attributes:
      purify: ``purify(key, images, labels) -> images``, once before training, on the
        host: the whole training set, (N, H, W, C) uint8 in and out, labels (N,) int32.
        All victims get the same key, so their spread does not include it.
      augment: ``augment(key, images, labels) -> (images, labels)``, in every training
        step after crops and flips, traced, for the images of one shard: images
        (B, H, W, C) float in [0, 1]; labels (B,) int32 in, and out either the same or
        (B, classes) class probabilities (Mixup, CutMix).
      loss: ``loss(keys, progress, forward, images, labels) -> (value, (logits,
        state))`` in place of cross-entropy in every training step, traced. ``keys``
        (B,), one per image; ``progress`` () float32, the share of the training done, in
        [0, 1); the rest is a `miue_jax.train.classifier.Objective`.
      attack: ``attack(keys, predict, images, labels) -> images`` that the trained
        victim is to withstand, traced; its accuracy on what this returns is reported as
        robust accuracy. ``keys`` (B,), one per image; ``predict(images) -> logits`` is
        the victim in evaluation mode.

    Example:
      >>> from miue_jax import defenses
      >>> defense = defenses.Defense(purify=lambda key, images, labels: 255 - images)
      >>> defense.augment is None
      True
    """

    purify: Purify | None = None
    augment: Augment | None = None
    loss: Loss | None = None
    attack: Attack | None = None


def check_images(images: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Checks the images of a purification.

    Args:
      images: (N, H, W, C) uint8.
      image_shape: (H, W, C), those that the defense was made for.

    Returns:
      The images as a NumPy array.

    Raises:
      ValueError: if they are of another type or shape.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape):
        size = ", ".join(map(str, image_shape))
        raise ValueError(
            f"the defense was made for uint8 images (N, {size}), got {images.dtype} "
            f"{images.shape}"
        )
    return images


def freeze(forward: Forward, images: jax.Array, *, train: bool) -> Predict:
    """Takes a network out of the derivative with respect to its parameters.

    What a loss computes with the result, gradients by the images among it, is not
    differentiated again, and nothing of it is kept for a backward pass. Stopping the
    gradient of what comes out would give the same numbers, but only after tracing and
    compiling the derivative of every step of an attack.

    Args:
      forward: the network under training.
      images: (B, H, W, C) float, of the shape and dtype of those to come; their values
        are not used.
      train: whether to normalize with the statistics of the batch; the updated running
        ones are dropped.

    Returns:
      A function from images (B, H, W, C) to logits (B, K).
    """

    def predict(images: jax.Array) -> jax.Array:
        return forward(images, train=train)[0]

    converted, constants = jax.closure_convert(predict, images)
    frozen: list[Any] = [lax.stop_gradient(constant) for constant in constants]
    return lambda images: converted(images, *frozen)
