"""Perturbations that are kept between visits: one for every image, or every class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax import projected_gradient
from miue_jax.train import sampling

# Images that carry a perturbation (B, H, W, C) in [0, 1] -> () loss.
Loss = Callable[[jax.Array], jax.Array]


def of_images(delta: jax.Array, batch: sampling.Batch) -> jax.Array:
    """The perturbations of a batch, of which every image has its own.

    Args:
      delta: (g, n, H, W, C) float32 in [0, 1] units.
      batch: of g times b images.

    Returns:
      (g * b, H, W, C), 0 where an image is not selected.
    """
    own = jax.vmap(lambda values, rows: values[rows])(delta, batch.rows)
    return _of_selected(own.reshape(-1, *own.shape[2:]), batch)


def of_classes(delta: jax.Array, batch: sampling.Batch) -> jax.Array:
    """The perturbations of a batch, of which every class has its own.

    Args:
      delta: (K, H, W, C) float32 in [0, 1] units.
      batch: of g times b images.

    Returns:
      (g * b, H, W, C), 0 where an image is not selected.
    """
    return _of_selected(delta[batch.labels.reshape(-1)], batch)


def _of_selected(delta: jax.Array, batch: sampling.Batch) -> jax.Array:
    return jnp.where(batch.selected.reshape(-1, 1, 1, 1), delta, 0)


def add_clipped(carriers: jax.Array, delta: jax.Array) -> jax.Array:
    """Adds perturbations of classes: no one image's box bounds them.

    Args:
      carriers: (B, H, W, C) in [0, 1].
      delta: (B, H, W, C) in [0, 1] units.

    Returns:
      (B, H, W, C) in [0, 1].
    """
    return jnp.clip(carriers + delta, 0, 1)


def move_images(
    delta: jax.Array,
    batch: sampling.Batch,
    movable: jax.Array,
    carriers: jax.Array,
    loss_fn: Loss,
    *,
    radius: float,
    step_size: ArrayLike,
    num_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Moves the perturbations of a batch by projected gradient.

    Args:
      delta: (g, n, H, W, C), of all images.
      batch: of g times b images.
      movable: (g, b) bool; the other images keep what they have.
      carriers: (g * b, H, W, C) in [0, 1], what the perturbations are added to.
      loss_fn: what is to fall; images that are not selected stay as they are in it.
      radius: of the L-infinity ball, in [0, 1] units.
      step_size: in [0, 1] units.
      num_steps: of projected gradient.

    Returns:
      The perturbations (g, n, H, W, C), and (num_steps,) the loss before every step.
    """
    selected = batch.selected.reshape(-1, 1, 1, 1)
    after, losses = projected_gradient.pgd_with_losses(
        lambda perturbed: loss_fn(jnp.where(selected, perturbed, carriers)),
        carriers,
        of_images(delta, batch),
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
    )
    chosen = movable & batch.selected
    return sampling.store(delta, batch, chosen, after), losses


def move_classes(
    delta: jax.Array,
    batch: sampling.Batch,
    carriers: jax.Array,
    loss_fn: Loss,
    *,
    radius: float,
    step_size: ArrayLike,
    num_steps: int,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Moves the perturbations of classes by projected gradient on a global batch.

    Args:
      delta: (K, H, W, C), the same on every device.
      batch: the device's share, g times b images.
      carriers: (g * b, H, W, C) in [0, 1], what the perturbations are added to.
      loss_fn: what is to fall, of the global batch.
      radius: of the L-infinity ball, in [0, 1] units, below 0.5.
      step_size: in [0, 1] units.
      num_steps: of projected gradient.
      axis_name: the mesh axis over which the batch is sharded.

    Returns:
      The perturbations (K, H, W, C), and (num_steps,) the loss before every step.
    """
    # They move around mid-gray, as there is no image in whose box they have to stay.
    middle = jnp.full_like(delta, 0.5)

    def class_loss(moved: jax.Array) -> jax.Array:
        if axis_name is not None:
            # Of copies this is the identity, and makes their gradients one.
            moved = lax.pmean(moved, axis_name)
        return loss_fn(add_clipped(carriers, of_classes(moved - middle, batch)))

    return projected_gradient.pgd_with_losses(
        class_loss,
        middle,
        delta,
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
    )
