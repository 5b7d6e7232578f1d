"""Perturbations in a ball around images: projection, projected gradient.

Images and perturbations are in [0, 1] units; published images are in whole gray levels,
see `miue_jax.budget`.
"""

import operator
import sys
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from optax import projections

from miue_jax import _checks
from miue_jax.budget import Budget, to_unit

_NORMS = ("linf", "l2")
_STEPS = ("sign", "normalized")
_LARGEST = sys.float_info.max


def project(
    delta: ArrayLike,
    *,
    radius: ArrayLike,
    norm: Literal["linf", "l2"] = "linf",
) -> jax.Array:
    """Projects every image's perturbation onto the ball of ``radius``.

    Args:
      delta: (B, ...) perturbations, one per image, in [0, 1] units.
      radius: > 0, a scalar in [0, 1] units (8/255, not 8); may be traced.
      norm: "linf" bounds every value; "l2" the Euclidean norm of the whole image.

    Returns:
      The nearest perturbations in the ball, of the shape and dtype of ``delta``.

    Raises:
      ValueError: for an unknown norm, a radius that is not positive (or, for "linf",
        above 1: in gray levels), or a perturbation that is not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import projected_gradient
      >>> delta = jnp.array([[0.5, -0.125, 0.25]])
      >>> projected_gradient.project(delta, radius=0.25).tolist()
      [[0.25, -0.125, 0.25]]
    """
    _check_name("norm", norm, _NORMS)
    _check_radius(radius, norm)
    delta = jnp.asarray(delta)
    _check_floating("delta", delta)
    if delta.ndim == 0:
        raise ValueError("delta must have a leading image axis, got a scalar")
    radius = jnp.asarray(radius, delta.dtype)
    if norm == "linf":
        return projections.projection_linf_ball(delta, radius)
    # Optax takes the norm of all it is given: one image at a time.
    return jax.vmap(lambda image: projections.projection_l2_ball(image, radius))(delta)


def clip_to_images(images: ArrayLike, delta: ArrayLike) -> jax.Array:
    """Shortens ``delta`` so that ``images + delta`` lies in [0, 1].

    For images in [0, 1] every value moves toward 0 only, so that a perturbation inside
    a ball stays inside it.

    Args:
      images: (B, H, W, C) in [0, 1].
      delta: perturbations of the same shape, in [0, 1] units.

    Returns:
      clip(images + delta, 0, 1) - images.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import projected_gradient
      >>> images, delta = jnp.array([0.75, 0.5]), jnp.array([0.5, 0.25])
      >>> projected_gradient.clip_to_images(images, delta).tolist()
      [0.25, 0.25]
    """
    images = jnp.asarray(images)
    return jnp.clip(images + delta, 0, 1) - images


def pgd(
    loss_fn: Callable[[jax.Array], jax.Array],
    images: ArrayLike,
    delta: ArrayLike | None = None,
    *,
    budget: Budget | None = None,
    radius: ArrayLike | None = None,
    norm: Literal["linf", "l2"] = "linf",
    step_size: ArrayLike | None = None,
    num_steps: int,
    ascend: bool = False,
    step: Literal["sign", "normalized"] = "sign",
) -> jax.Array:
    """Takes projected gradient steps on a perturbation.

    Each step moves ``delta`` against (``ascend``: along) the gradient of
    ``loss_fn(images + delta)``, projects it onto the ball, then shortens it to the
    image box. Neither kind of step depends on the scale of the loss, so under
    `jax.shard_map` a loss of the global batch needs no correction for the number of
    devices.

    Args:
      loss_fn: perturbed images (B, H, W, C) -> scalar.
      images: (B, H, W, C) floating point in [0, 1].
      delta: perturbations of the same shape to start from, in [0, 1] units; None for 0.
      budget: the ball, "linf" (radius in gray levels) or "l2".
      radius: of the ball in place of a budget, > 0, a scalar in [0, 1] units; may be
        traced.
      norm: of the ball with this radius, see `project`.
      step_size: length of a step in [0, 1] units: of every value for "sign", of the
        Euclidean norm of every image for "normalized". A scalar, or an array that
        broadcasts against ``images``, such as (B, 1, 1, 1) for one per image; may be
        traced. None for 2.5 radius / num_steps.
      num_steps: number of steps, a Python integer; 0 returns ``delta`` as it is.
      ascend: maximize the loss instead of minimizing it.
      step: "sign" of the gradient, or the gradient "normalized" to unit Euclidean norm
        in every image. Where the gradient is zero neither moves.

    Returns:
      The perturbations after the last step, of the shape and dtype of ``delta``.

    Raises:
      ValueError: for shapes that differ, images or perturbations that are not floating
        point, unknown names, not exactly one of budget and radius, a number of steps
        that is negative or not an integer and, unless traced, images outside [0, 1], a
        perturbation or step size that is not finite, a negative step size, a radius out
        of range.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> images = jnp.full((2, 4, 4, 3), 0.5)
      >>> delta = mj.pgd(jnp.sum, images, budget=mj.Budget("linf", 8), num_steps=4)
      >>> round(255 * float(delta.min()), 3)
      -8.0

    References:
      Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018.
    """
    return pgd_with_losses(
        loss_fn,
        images,
        delta,
        budget=budget,
        radius=radius,
        norm=norm,
        step_size=step_size,
        num_steps=num_steps,
        ascend=ascend,
        step=step,
    )[0]


def pgd_with_losses(
    loss_fn: Callable[[jax.Array], jax.Array],
    images: ArrayLike,
    delta: ArrayLike | None = None,
    *,
    budget: Budget | None = None,
    radius: ArrayLike | None = None,
    norm: Literal["linf", "l2"] = "linf",
    step_size: ArrayLike | None = None,
    num_steps: int,
    ascend: bool = False,
    step: Literal["sign", "normalized"] = "sign",
) -> tuple[jax.Array, jax.Array]:
    """Takes the steps of `pgd`, and also returns the loss before each of them.

    Args:
      loss_fn: as in `pgd`.
      images: as in `pgd`.
      delta: as in `pgd`.
      budget: as in `pgd`.
      radius: as in `pgd`.
      norm: as in `pgd`.
      step_size: as in `pgd`.
      num_steps: as in `pgd`.
      ascend: as in `pgd`.
      step: as in `pgd`.

    Returns:
      The perturbations after the last step, and (num_steps,) losses of the dtype of
      ``delta``.

    Raises:
      ValueError: as in `pgd`.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import projected_gradient
      >>> images = jnp.full((2, 4, 4, 3), 0.5)
      >>> _, losses = projected_gradient.pgd_with_losses(
      ...     jnp.sum, images, radius=8 / 255, num_steps=2
      ... )
      >>> bool(losses[1] < losses[0])
      True
    """
    images = jnp.asarray(images)
    delta = jnp.zeros_like(images) if delta is None else jnp.asarray(delta)
    if (budget is None) == (radius is None):
        raise ValueError("give either budget or radius, not both or neither")
    if budget is not None:
        if budget.norm not in _NORMS or budget.radius is None:
            raise ValueError(f"budget is {budget}; allowed: {', '.join(_NORMS)}")
        norm = budget.norm
        radius = to_unit(budget.radius) if norm == "linf" else budget.radius
    assert radius is not None
    _check_name("norm", norm, _NORMS)
    _check_name("step", step, _STEPS)
    _check_radius(radius, norm)
    if images.shape != delta.shape:
        raise ValueError(
            f"images and delta must have one shape, got {images.shape} and "
            f"{delta.shape}"
        )
    _check_floating("images", images)
    _check_floating("delta", delta)
    _check_values("images", images, 0, 1, "lie in [0, 1]")
    _check_values("delta", delta, -_LARGEST, _LARGEST, "be finite")
    try:
        num_steps = operator.index(num_steps)
    except TypeError as error:
        raise ValueError(f"num_steps must be an integer, got {num_steps}") from error
    if num_steps < 0:
        raise ValueError(f"num_steps must be >= 0, got {num_steps}")
    if step_size is None:
        step_size = 2.5 * radius / max(num_steps, 1)
    _check_values("step_size", step_size, 0, _LARGEST, "be finite and >= 0")
    length = jnp.asarray(step_size, delta.dtype) * (1 if ascend else -1)
    direction = jnp.sign if step == "sign" else _normalize

    def update(delta: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        loss, gradient = jax.value_and_grad(lambda d: loss_fn(images + d))(delta)
        moved = delta + length * direction(gradient)
        inside = project(moved, radius=radius, norm=norm)
        shortened = clip_to_images(images, inside).astype(delta.dtype)
        return shortened, loss.astype(delta.dtype)

    return lax.scan(update, delta, None, length=num_steps)


def _normalize(gradient: jax.Array) -> jax.Array:
    axes = tuple(range(1, gradient.ndim))
    # The gradients of a well fitted network are so small that their squares vanish.
    largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=axes, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(largest > 0, squared, 1))


def _check_floating(name: str, array: jax.Array | np.ndarray) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {array.dtype}")


def _check_name(kind: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise _checks.unknown(kind, name, allowed)


def _check_values(
    name: str, array: ArrayLike, low: float, high: float, allowed: str
) -> None:
    if isinstance(array, jax.core.Tracer) or np.size(array) == 0:
        return
    with jax.ensure_compile_time_eval():  # known arrays inside of `jax.jit` too
        smallest, largest = float(jnp.min(array)), float(jnp.max(array))
    if not low <= smallest <= largest <= high:  # NaN is not, either
        raise ValueError(
            f"{name} must {allowed}, got values from {smallest:g} to {largest:g}"
        )


def _check_radius(radius: ArrayLike, norm: str) -> None:
    if np.ndim(radius) != 0:
        raise ValueError(f"radius must be a scalar, got shape {np.shape(radius)}")
    if isinstance(radius, jax.core.Tracer):
        return
    value = float(np.asarray(radius))
    if not value > 0:
        raise ValueError(f"radius must be > 0, got {radius}")
    if norm == "linf" and value > 1:
        raise ValueError(
            f"radius is in [0, 1] units (8 gray levels are 8/255), got {radius}"
        )
