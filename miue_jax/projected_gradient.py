"""Perturbations in a ball around images: projection, projected gradient.

Images and perturbations are in [0, 1] units; published images are in whole gray levels,
see `miue_jax.budget`.
"""

import math
import operator
import sys
import warnings
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from optax import projections

from miue_jax import _checks
from miue_jax._arguments import check_callable, check_real
from miue_jax._floats import is_narrow, power_of_two, toward_zero
from miue_jax.budget import Budget, to_unit

_NORMS = ("linf", "l2")
_STEPS = ("sign", "normalized")
_LARGEST = sys.float_info.max


class NonFiniteGradientWarning(UserWarning):
    """Values of a perturbation had no finite gradient and stayed where they were.

    Example:
      >>> import warnings
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> images = jnp.full((1, 2, 2, 3), 0.5)
      >>> def distance(perturbed):  # its gradient is NaN where nothing has moved
      ...     return jnp.linalg.norm((perturbed - images).ravel())
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     delta = mj.pgd(distance, images, radius=8 / 255, num_steps=1)
      >>> caught[0].category.__name__, float(abs(delta).max())
      ('NonFiniteGradientWarning', 0.0)
    """


def project(
    delta: ArrayLike,
    *,
    radius: ArrayLike,
    norm: Literal["linf", "l2"] = "linf",
) -> jax.Array:
    """Projects every image's perturbation onto the ball of ``radius``.

    In types narrower than float32 the stored values lie in the ball, measured exactly:
    what has to move is rounded toward 0. In float32 and wider the ball is that of the
    radius in this type, and an L2 norm may exceed it by rounding.

    Args:
      delta: (B, ...) perturbations, one per image, in [0, 1] units.
      radius: > 0, a scalar in [0, 1] units (8/255, not 8); may be traced. For "linf"
        also an array with 1 or all in each axis of ``delta``: a radius for each value.
      norm: "linf" bounds every value; "l2" the Euclidean norm of the whole image, of
        any size that the type can hold: squares neither overflow nor vanish.

    Returns:
      The nearest perturbations in the ball, of the shape and dtype of ``delta``.

    Raises:
      ValueError: for an unknown norm, a radius that is not positive (or, for "linf",
        above 1: in gray levels) or does not fit, or a perturbation that is not floating
        point.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import projected_gradient
      >>> delta = jnp.array([[0.5, -0.125, 0.25]])
      >>> projected_gradient.project(delta, radius=0.25).tolist()
      [[0.25, -0.125, 0.25]]
    """
    _check_name("norm", norm, _NORMS)
    check_real("delta", delta)
    delta = jnp.asarray(delta)
    _check_floating("delta", delta)
    if delta.ndim == 0:
        raise ValueError("delta must have a leading image axis, got a scalar")
    _check_radius(radius, norm, delta.shape)
    if norm == "linf":
        return projections.projection_linf_ball(delta, _stored(radius, delta.dtype))
    return _project_l2(delta, radius)


def clip_to_images(images: ArrayLike, delta: ArrayLike) -> jax.Array:
    """Shortens ``delta`` so that ``images + delta`` lies in [0, 1].

    For images in [0, 1] every value moves toward 0 only, so that a perturbation inside
    a ball stays inside it: exactly for a ``delta`` narrower than float32, whose values
    stay what they are wherever they fit, and but for rounding otherwise.

    Args:
      images: (B, H, W, C) in [0, 1].
      delta: perturbations of the same shape, in [0, 1] units.

    Returns:
      clip(images + delta, 0, 1) - images, of the wider of both types.

    Raises:
      ValueError: for shapes that differ, or what are no real numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import projected_gradient
      >>> images, delta = jnp.array([0.75, 0.5]), jnp.array([0.5, 0.25])
      >>> projected_gradient.clip_to_images(images, delta).tolist()
      [0.25, 0.25]
    """
    check_real("images", images)
    check_real("delta", delta)
    images, delta = jnp.asarray(images), jnp.asarray(delta)
    if images.shape != delta.shape:
        raise ValueError(
            f"images and delta must have one shape, got {images.shape} and "
            f"{delta.shape}"
        )
    if not (jnp.issubdtype(delta.dtype, jnp.floating) and is_narrow(delta.dtype)):
        return jnp.clip(images + delta, 0, 1) - images
    # The sum is not formed: rounded to a narrow type, it would move by whole levels.
    pixels = jnp.clip(images.astype(jnp.promote_types(images.dtype, jnp.float32)), 0, 1)
    room = 1 - pixels
    room = jnp.where(1 - room < pixels, jnp.nextafter(room, jnp.zeros_like(room)), room)
    low, high = (toward_zero(bound, delta.dtype) for bound in (-pixels, room))
    return jnp.clip(delta, low, high).astype(
        jnp.promote_types(images.dtype, delta.dtype)
    )


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

    Values whose gradient is NaN or infinite do not move in that step, and do not enter
    the norm of a "normalized" one. A warning says how many there were; under `jax.jit`,
    where nothing can be said, `count_nonfinite_gradients` tells.

    Args:
      loss_fn: perturbed images (B, H, W, C) -> scalar.
      images: (B, H, W, C) floating point in [0, 1]. Values that miss the range by
        rounding (up to 5e-7, or one step of a narrower type) are clipped first, and the
        result belongs to the clipped images.
      delta: perturbations of the same shape to start from, in [0, 1] units; None for 0.
      budget: the ball, "linf" (radius in gray levels) or "l2".
      radius: of the ball in place of a budget, > 0, in [0, 1] units; may be traced. For
        "linf" a scalar, or an array with 1 or all in each axis of ``images``.
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

    Warns:
      NonFiniteGradientWarning: if values did not move for want of a finite gradient.

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

    Warns:
      NonFiniteGradientWarning: as in `pgd`.

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
    if (budget is None) == (radius is None):
        raise ValueError("give either budget or radius, not both or neither")
    check_callable("loss_fn", loss_fn)
    _checks.check_flag("ascend", ascend)
    if budget is not None:
        if not isinstance(budget, Budget):
            raise ValueError(
                f"budget is {_checks.shown(budget)}; it must be a Budget, such as "
                'Budget("linf", 8)'
            )
        if budget.norm not in _NORMS or budget.radius is None:
            raise ValueError(f"budget is {budget}; allowed: {', '.join(_NORMS)}")
        norm = budget.norm
        radius = to_unit(budget.radius) if norm == "linf" else budget.radius
    assert radius is not None
    _check_name("norm", norm, _NORMS)
    _check_name("step", step, _STEPS)
    images, delta = _check_arrays(images, delta)
    _check_radius(radius, norm, images.shape)
    images = _into_range(images)
    _check_values("delta", delta, -_LARGEST, _LARGEST, "be finite")
    try:
        num_steps = operator.index(num_steps)
    except TypeError as error:
        raise ValueError(f"num_steps must be an integer, got {num_steps}") from error
    if num_steps < 0:
        raise ValueError(f"num_steps must be >= 0, got {num_steps}")
    if step_size is None:
        step_size = 2.5 * radius / max(num_steps, 1)
    _check_step_size(step_size, images.shape)
    _check_values("step_size", step_size, 0, _LARGEST, "be finite and >= 0")
    length = jnp.asarray(step_size, delta.dtype) * (1 if ascend else -1)
    direction = jnp.sign if step == "sign" else _normalize

    def loss_of(delta: jax.Array) -> jax.Array:
        loss = loss_fn(images + delta)
        floating = jnp.issubdtype(jnp.result_type(loss), jnp.floating)
        if np.shape(loss) != () or not floating:
            raise ValueError(
                f"loss_fn returns {jnp.result_type(loss)} of shape {np.shape(loss)}; "
                "it must return a floating-point scalar"
            )
        return loss

    def update(
        delta: jax.Array, _: None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        loss, gradient = jax.value_and_grad(loss_of)(delta)
        finite = jnp.isfinite(gradient)
        moved = delta + length * direction(jnp.where(finite, gradient, 0))
        inside = project(moved, radius=radius, norm=norm)
        shortened = clip_to_images(images, inside).astype(delta.dtype)
        return shortened, (loss.astype(delta.dtype), jnp.sum(~finite))

    delta, (losses, stuck) = lax.scan(update, delta, None, length=num_steps)
    _warn_of_stuck(stuck, delta.size)
    return delta, losses


def count_nonfinite_gradients(
    loss_fn: Callable[[jax.Array], jax.Array],
    images: ArrayLike,
    delta: ArrayLike | None = None,
) -> jax.Array:
    """Counts the values that a step of `pgd` would leave where they are.

    Args:
      loss_fn: as in `pgd`.
      images: (B, H, W, C) floating point in [0, 1].
      delta: perturbations of the same shape, in [0, 1] units; None for 0.

    Returns:
      (B,) int32, the values of each image whose gradient is NaN or infinite.

    Raises:
      ValueError: for shapes that differ, or images or perturbations that are not
        floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import projected_gradient
      >>> images = jnp.zeros((2, 1, 1, 3)).at[1].set(0.5)
      >>> def loss(perturbed):  # the root has an infinite slope at 0
      ...     return jnp.sum(jnp.sqrt(perturbed))
      >>> projected_gradient.count_nonfinite_gradients(loss, images).tolist()
      [3, 0]
    """
    images, delta = _check_arrays(images, delta)
    gradient = jax.grad(lambda d: loss_fn(images + d))(delta)
    axes = tuple(range(1, gradient.ndim))
    return jnp.sum(~jnp.isfinite(gradient), axis=axes, dtype=jnp.int32)


def _warn_of_stuck(counts: jax.Array, size: int) -> None:
    if isinstance(counts, jax.core.Tracer) or counts.size == 0:
        return
    known = np.asarray(counts)
    if known.any():
        worst = int(np.argmax(known))
        warnings.warn(
            f"{known[worst]} of {size} values had no finite gradient in step "
            f"{worst + 1} of {len(known)} and did not move",
            NonFiniteGradientWarning,
            stacklevel=4,
        )


def _project_l2(delta: jax.Array, radius: ArrayLike) -> jax.Array:
    """Projects onto an L2 ball, at a scale where squares are neither 0 nor infinite."""
    values = delta.astype(jnp.promote_types(delta.dtype, jnp.float32))
    radius = jnp.asarray(radius, values.dtype)
    axes = tuple(range(1, values.ndim))
    largest = jnp.max(jnp.abs(values), axis=axes, keepdims=True, initial=0)
    scale = power_of_two(jnp.maximum(largest, radius))
    scaled, bound = values / scale, radius / scale
    if not is_narrow(delta.dtype):
        squared = jnp.sum(jnp.square(scaled), axis=axes, keepdims=True)
        outside = ~(squared <= jnp.square(bound))  # NaN stays NaN
        root = jnp.sqrt(jnp.where(outside, squared, 1))
        return jnp.where(outside, scaled * (radius / root), values)
    # Three short sums round less than a long one. Twice their rounding is taken off, so
    # that a second projection finds the first one inside.
    size = math.prod(values.shape[1:])
    side = max(1, math.ceil(size ** (1 / 3)))
    squares = jnp.square(scaled).reshape(len(scaled), size)
    squares = jnp.pad(squares, ((0, 0), (0, side**3 - size)))
    squared = squares.reshape(len(scaled), side, side, side).sum(3).sum(2).sum(1)
    squared = squared.reshape(scale.shape)
    slack = (3 * side + 8) * float(jnp.finfo(values.dtype).eps)
    outside = ~(squared <= jnp.square(bound * (1 - slack)))
    root = jnp.sqrt(jnp.where(outside, squared, 1))
    shrunk = scaled * (radius * (1 - 2 * slack) / root)
    return jnp.where(outside, toward_zero(shrunk, delta.dtype), delta)


def _stored(radius: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """The radius in a type: narrow ones have the largest number that is not above."""
    if not is_narrow(dtype):
        return jnp.asarray(radius, dtype)
    if isinstance(radius, jax.core.Tracer):
        return toward_zero(jnp.asarray(radius, jnp.float32), dtype)
    return jnp.asarray(toward_zero(np.asarray(radius, np.float64), dtype, xp=np))


def _normalize(gradient: jax.Array) -> jax.Array:
    # In float16 the sum of squares of a large image overflows, whatever its scale.
    dtype = gradient.dtype
    gradient = gradient.astype(jnp.promote_types(dtype, jnp.float32))
    axes = tuple(range(1, gradient.ndim))
    # The gradients of a well fitted network are so small that their squares vanish.
    largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=axes, keepdims=True)
    return (scaled / jnp.sqrt(jnp.where(largest > 0, squared, 1))).astype(dtype)


def _check_arrays(
    images: ArrayLike, delta: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    check_real("images", images)
    if delta is not None:
        check_real("delta", delta)
    images = jnp.asarray(images)
    delta = jnp.zeros_like(images) if delta is None else jnp.asarray(delta)
    if images.shape != delta.shape:
        raise ValueError(
            f"images and delta must have one shape, got {images.shape} and "
            f"{delta.shape}"
        )
    _check_floating("images", images)
    _check_floating("delta", delta)
    return images, delta


def _into_range(images: jax.Array) -> jax.Array:
    """Clips images that miss [0, 1] by rounding; refuses others, unless traced."""
    # Images are often computed in float32 and then cast.
    step = max(
        float(jnp.finfo(images.dtype).eps), 4 * float(jnp.finfo(jnp.float32).eps)
    )
    _check_values("images", images, 0, 1, "lie in [0, 1]", slack=step)
    if isinstance(images, jax.core.Tracer):
        return images
    with jax.ensure_compile_time_eval():
        return jnp.clip(images, 0, 1)


def _check_floating(name: str, array: jax.Array | np.ndarray) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {array.dtype}")


def _check_name(kind: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise _checks.unknown(kind, name, allowed)


def _check_values(
    name: str,
    array: ArrayLike,
    low: float,
    high: float,
    allowed: str,
    *,
    slack: float = 0.0,
) -> None:
    if isinstance(array, jax.core.Tracer) or np.size(array) == 0:
        return
    array = np.asarray(array) if isinstance(array, list | tuple) else array
    with jax.ensure_compile_time_eval():  # known arrays inside of `jax.jit` too
        smallest, largest = float(jnp.min(array)), float(jnp.max(array))
    if not low - slack <= smallest <= largest <= high + slack:  # NaN is not, either
        raise ValueError(
            f"{name} must {allowed}, got values from {smallest:g} to {largest:g}"
        )


def _check_step_size(step_size: ArrayLike, shape: tuple[int, ...]) -> None:
    check_real("step_size", step_size)
    given = np.shape(step_size)
    try:
        fits = np.broadcast_shapes(given, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"step_size has shape {given}; it must be a scalar or broadcast against "
            f"images of shape {shape}"
        )


def _check_radius(radius: ArrayLike, norm: str, shape: tuple[int, ...]) -> None:
    check_real("radius", radius)
    if isinstance(radius, bool | np.bool_):
        raise ValueError(f"radius is {radius}; it must be a number")
    given = np.shape(radius)
    if norm == "l2" and given != ():
        raise ValueError(f"radius must be a scalar, got shape {given}")
    # As many axes: (3,) may be meant for three images, and fits three channels.
    fits = len(given) == len(shape) and all(
        size in (1, whole) for size, whole in zip(given, shape, strict=True)
    )
    if given and not fits:
        raise ValueError(
            f"radius has shape {given}; it must be a scalar, or have 1 or all in each "
            f"axis of {shape}"
        )
    if isinstance(radius, jax.core.Tracer):
        return
    values = np.asarray(radius)
    wrong = values[~(values > 0)]
    if wrong.size:
        raise ValueError(f"radius must be > 0, got {wrong[0]}")
    if norm == "linf" and np.any(values > 1):
        raise ValueError(
            f"radius is in [0, 1] units (8 gray levels are 8/255), got {values.max()}"
        )
