"""The state of a min-min generator."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean


class Shared(NamedTuple):
    """What all devices hold a copy of.

    Attributes:
      learner: the surrogate.
      class_delta: (K, H, W, C) float32 in [0, 1] units when every class has a
        perturbation.
      mistakes: of the surrogate, on the images of the visit under way.
      finished: () bool, whether the stopping rule was met.
    """

    learner: Learner
    class_delta: jax.Array | None
    mistakes: Mean
    finished: jax.Array


class PerExample(NamedTuple):
    """What is split over the devices as the data are.

    Attributes:
      delta: (g, n, H, W, C) float32 in [0, 1] units when every image has a
        perturbation.
      train_order: (g, n) int32, of the pass of training under way.
      perturb_order: (g, n) int32, of the visit under way.
    """

    delta: jax.Array | None
    train_order: jax.Array
    perturb_order: jax.Array


def nothing() -> Mean:
    """The mean of no values, float32 also with x64 enabled."""
    return Mean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
