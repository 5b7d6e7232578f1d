"""The interface of a defence: up to three pure functions around a victim's training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Purify = Callable[[jax.Array, np.ndarray, np.ndarray], np.ndarray]
Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Forward = Callable[[jax.Array], tuple[jax.Array, Any]]
Loss = Callable[
    [jax.Array, Forward, jax.Array, jax.Array],
    tuple[jax.Array, tuple[jax.Array, Any]],
]


class Defense(NamedTuple):
    """What someone who trains on protected images may do against the protection.

    Each function is optional; ``Defense()`` is no defence. All take a PRNG key first
    and depend on nothing but their arguments.

    Attributes:
      purify: ``purify(key, images, labels) -> images``, once before training, on the
        host: the whole training set, (N, H, W, C) uint8 in and out, labels (N,) int32.
      augment: ``augment(key, images, labels) -> (images, labels)``, in every training
        step, traced: images (B, H, W, C) float in [0, 1]; labels (B,) int32 in, and
        out either the same or (B, classes) class probabilities (Mixup, CutMix).
      loss: ``loss(key, forward, images, labels) -> (value, (logits, state))`` in place
        of cross-entropy, traced: ``forward(images) -> (logits, state)`` is the model in
        training mode with its updated batch statistics; the pair returned is the one
        of the forward pass that counts, the value a scalar to differentiate.
    """

    purify: Purify | None = None
    augment: Augment | None = None
    loss: Loss | None = None
