"""Projected-gradient steps on a batch, of the perturbations of images or of classes.

Perturbations of all images are (g, n, H, W, C), split into g shards like the data, and
may be stored in a compact form; those of classes are (K, H, W, C) float32, the same on
every device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax.generators.perturbation_store import PerturbationStore
from miue_jax.projected_gradient import pgd_with_losses
from miue_jax.train.sampling import Batch


def of_images(stored: jax.Array, batch: Batch, store: PerturbationStore) -> jax.Array:
    """Takes the perturbations of a batch of images.

    Args:
      stored: (g, n, H, W, C), the codes of all images.
      batch: of g times b images.
      store: the form of the codes.

    Returns:
      (g * b, H, W, C) float32, 0 where an image is not selected.
    """
    taken = jax.vmap(lambda values, rows: values[rows])(stored, batch.rows)
    taken = store.decode(taken.reshape(-1, *taken.shape[2:]))
    return jnp.where(batch.selected.reshape(-1, 1, 1, 1), taken, 0)


def of_classes(delta: jax.Array, batch: Batch) -> jax.Array:
    """Takes the perturbations of the classes of a batch.

    Args:
      delta: (K, H, W, C), of all classes.
      batch: of g times b images.

    Returns:
      (g * b, H, W, C), 0 where an image is not selected.
    """
    taken = delta[batch.labels.reshape(-1)]
    return jnp.where(batch.selected.reshape(-1, 1, 1, 1), taken, 0)


def add_clipped(carriers: jax.Array, delta: jax.Array) -> jax.Array:
    """Adds perturbations of classes, which are not confined to an image's box.

    Args:
      carriers: (B, H, W, C) in [0, 1].
      delta: (B, H, W, C), in [0, 1] units.

    Returns:
      (B, H, W, C) in [0, 1].
    """
    return jnp.clip(carriers + delta, 0, 1)


def move_images(
    delta: jax.Array,
    batch: Batch,
    carriers: jax.Array,
    loss_fn: Callable[..., jax.Array],
    *,
    radius: ArrayLike,
    step_size: jax.Array | float,
    num_steps: int,
    redraws: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Moves the perturbations of a batch of images by projected gradient.

    Args:
      delta: (g * b, H, W, C), of the batch, from `of_images`.
      batch: of g times b images.
      carriers: (g * b, H, W, C) in [0, 1], to which the perturbations are added.
      loss_fn: perturbed carriers -> () loss to minimize; images that are not selected
        are passed to it unperturbed.
      radius: of the L-infinity ball, in [0, 1] units; a scalar, or one for each pixel
        that broadcasts against `carriers`.
      step_size: in [0, 1] units.
      num_steps: projected-gradient steps.
      redraws: whether `loss_fn` takes the () int32 number of the step, too.

    Returns:
      The perturbations (g * b, H, W, C), those of images that are not selected too, and
      (num_steps,) the loss before every step.
    """
    selected = batch.selected.reshape(-1, 1, 1, 1)
    return _descend(
        lambda perturbed, *step: loss_fn(
            jnp.where(selected, perturbed, carriers), *step
        ),
        carriers,
        delta,
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
        redraws=redraws,
    )


def move_classes(
    delta: jax.Array,
    batch: Batch,
    carriers: jax.Array,
    loss_fn: Callable[..., jax.Array],
    *,
    radius: float,
    step_size: jax.Array | float,
    num_steps: int,
    axis_name: str | None = None,
    redraws: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Moves the perturbations of classes by projected gradient on a global batch.

    Args:
      delta: (K, H, W, C), the same on every device.
      batch: the device's share, g times b images.
      carriers: (g * b, H, W, C) in [0, 1], to which the perturbations are added.
      loss_fn: perturbed carriers -> () loss of the global batch to minimize.
      radius: of the L-infinity ball, in [0, 1] units, below 0.5.
      step_size: in [0, 1] units.
      num_steps: projected-gradient steps.
      axis_name: the mesh axis over which the batch is sharded.
      redraws: whether `loss_fn` takes the () int32 number of the step, too.

    Returns:
      The perturbations (K, H, W, C), and (num_steps,) the loss before every step.
    """
    # Around mid-gray, since they are not confined to the box of any single image.
    middle = jnp.full_like(delta, 0.5)

    def class_loss(moved: jax.Array, *step: jax.Array) -> jax.Array:
        if axis_name is not None:
            # The identity on replicated values; it averages their gradients.
            moved = lax.pmean(moved, axis_name)
        added = add_clipped(carriers, of_classes(moved - middle, batch))
        return loss_fn(added, *step)

    return _descend(
        class_loss,
        middle,
        delta,
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
        redraws=redraws,
    )


def _descend(
    loss_fn: Callable[..., jax.Array],
    images: jax.Array,
    delta: jax.Array,
    *,
    radius: ArrayLike,
    step_size: jax.Array | float,
    num_steps: int,
    redraws: bool,
) -> tuple[jax.Array, jax.Array]:
    """`pgd_with_losses`, where the loss may know the number of the step."""
    options = {"radius": radius, "step_size": step_size}
    if not redraws:
        return pgd_with_losses(loss_fn, images, delta, num_steps=num_steps, **options)

    def move(delta: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        delta, losses = pgd_with_losses(
            lambda perturbed: loss_fn(perturbed, step),
            images,
            delta,
            num_steps=1,
            **options,
        )
        return delta, losses[0]

    return lax.scan(move, delta, jnp.arange(num_steps, dtype=jnp.int32))
