"""Sign descent on many checkpoints of one training, averaged or variance-reduced."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax import projected_gradient

# (checkpoint, perturbed images (B, H, W, C)) -> () sum over the images of their loss
Cost = Callable[[Any, jax.Array], jax.Array]


class Steps(NamedTuple):
    """The steps on a perturbation.

    Attributes:
      radius: of the L-infinity ball, in [0, 1] units.
      step_size: in [0, 1] units.
      num_steps: number of steps.
      inner_steps: steps of variance reduction within each step; 0 only averages.
    """

    radius: float
    step_size: float
    num_steps: int
    inner_steps: int


def save(stack: Any, index: jax.Array, checkpoint: Any, due: jax.Array) -> Any:
    """Stores a checkpoint in a stack of checkpoints.

    Args:
      stack: a pytree of leaves (n, ...).
      index: () integer in [0, n), where to store it.
      checkpoint: a pytree of leaves (...).
      due: () bool, whether to store it.

    Returns:
      The stack.
    """
    return jax.tree.map(
        lambda many, one: many.at[index].set(jnp.where(due, one, many[index])),
        stack,
        checkpoint,
    )


def descend(
    key: jax.Array,
    cost: Cost,
    stack: Any,
    images: jax.Array,
    steps: Steps,
    *,
    inner_stack: Any = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Moves a perturbation from 0 to lower the mean loss of the checkpoints.

    A step goes against the sign of :math:`\bar g = \frac1n \sum_k g_k`, where
    :math:`g_k` is the gradient of checkpoint k. With variance reduction it goes against
    the sign of the last of the sums

    .. math:: S_j = S_{j-1} + \nabla_k(x_{j-1}) - (g_k - \bar g),

    starting from :math:`S_0 = 0`, where k is drawn for every j, and :math:`x_j` is
    :math:`x_{j-1}` moved against the sign of :math:`S_j`; :math:`x_0` are the images of
    the step.

    Args:
      key: a PRNG key, the same on all devices.
      cost: the loss of one checkpoint.
      stack: the n checkpoints, leaves (n, ...), passed to `cost` one at a time.
      images: (B, H, W, C) float in [0, 1].
      steps: the settings.
      inner_stack: the checkpoints that :math:`\nabla_k(x_{j-1})` uses; None for those
        of `stack`.

    Returns:
      The perturbation (B, H, W, C), and the mean loss of the checkpoints before the
      last step.

    References:
      Chen et al., Self-Ensemble Protection, ICLR 2023, arXiv 2211.12005; Xiong et al.,
      Stochastic Variance Reduced Ensemble Adversarial Attack, CVPR 2022.
    """
    size = len(jax.tree.leaves(stack)[0])
    drawn_from = stack if inner_stack is None else inner_stack

    def moved(delta: jax.Array, direction: jax.Array) -> jax.Array:
        delta = delta - jnp.float32(steps.step_size) * jnp.sign(direction)
        delta = projected_gradient.project(delta, radius=steps.radius)
        return projected_gradient.clip_to_images(images, delta)

    def step(delta: jax.Array, step_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # One at a time: the activations of all at once would not fit in memory.
        losses, each = lax.map(
            lambda one: jax.value_and_grad(cost, argnums=1)(one, images + delta), stack
        )
        mean = jnp.mean(each, axis=0)
        if not steps.inner_steps:
            return moved(delta, mean), jnp.mean(losses)

        def inner(
            carry: tuple[jax.Array, jax.Array], inner_key: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            inner_delta, total = carry
            k = jax.random.randint(inner_key, (), 0, size)
            one = jax.tree.map(lambda many: many[k], drawn_from)
            gradient = jax.grad(cost, argnums=1)(one, images + inner_delta)
            total = total + gradient - (each[k] - mean)
            return (moved(inner_delta, total), total), None

        inner_keys = jax.random.split(step_key, steps.inner_steps)
        start = (delta, jnp.zeros_like(delta))
        (_, total), _ = lax.scan(inner, start, inner_keys)
        return moved(delta, total), jnp.mean(losses)

    step_keys = jax.random.split(key, steps.num_steps)
    delta, losses = lax.scan(step, jnp.zeros_like(images), step_keys)
    return delta, losses[-1]
