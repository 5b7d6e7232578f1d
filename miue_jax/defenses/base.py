"""The interface of a defense: pure functions around a victim's training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

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
    """What someone who trains on protected images may do against the protection.

    Each function is optional; ``Defense()`` is no defense. All are deterministic
    functions of their arguments, the PRNG keys among them.

    Attributes:
      purify: ``purify(key, images, labels) -> images``, once before training, on the
        host: the whole training set, (N, H, W, C) uint8 in and out, labels (N,) int32.
        The experiments give one key to all victims: their spread is not of this.
      augment: ``augment(key, images, labels) -> (images, labels)``, in every training
        step after crops and flips, traced, for the images of one shard: images
        (B, H, W, C) float in [0, 1]; labels (B,) int32 in, and out either the same or
        (B, classes) class probabilities (Mixup, CutMix).
      loss: ``loss(keys, progress, forward, images, labels) -> (value, (logits,
        state))`` in place of cross-entropy in every training step, traced. ``keys``
        (B,), one an image; ``progress`` () float32, the share of the training done, in
        [0, 1); the rest is a `miue_jax.train.classifier.Objective`.
      attack: ``attack(keys, predict, images, labels) -> images`` that the trained
        victim is to withstand, traced; its accuracy on what this returns is reported as
        robust accuracy. ``keys`` (B,), one an image; ``predict(images) -> logits`` is
        the victim in evaluation mode.
    """

    purify: Purify | None = None
    augment: Augment | None = None
    loss: Loss | None = None
    attack: Attack | None = None
