"""Perturbations in a ball around images: projection, projected gradient, audit.

`project`, `clip_to_images` and `pgd` are pure JAX on images and perturbations in
[0, 1] units. `quantize` and `audit` are NumPy on whole 8-bit data sets and speak of
grey levels (1 grey level = 1/255).
"""

import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from optax import projections

from miue_jax import names

_NORMS = ("linf", "l2")
_STEPS = ("sign", "normalized")
# How `quantize` comes to whole grey levels.
EXPORTS = ("round", "truncate", "drop_negative")
_LARGEST = sys.float_info.max
# Values a block of the NumPy functions: bounds their temporaries to some 50 MB.
_BLOCK = 1 << 21


def project(
    delta: ArrayLike,
    *,
    radius: ArrayLike,
    norm: Literal["linf", "l2"] = "linf",
) -> jax.Array:
    """Projects every image's perturbation onto the ball of ``radius``.

    Args:
      delta: (B, ...) perturbations, one an image, in [0, 1] units.
      radius: > 0, a scalar in [0, 1] units (8/255, not 8); may be traced.
      norm: "linf" bounds every value; "l2" the Euclidean norm of the whole image.

    Returns:
      The nearest perturbations in the ball, of the shape and dtype of ``delta``.

    Raises:
      ValueError: for an unknown norm, a radius that is not positive (or, for "linf",
        above 1: in grey levels), or a perturbation that is not floating point.
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

    For images in [0, 1] every value moves towards 0 only, so that a perturbation inside
    a ball stays inside it.

    Args:
      images: (B, H, W, C) in [0, 1].
      delta: perturbations of the same shape, in [0, 1] units.

    Returns:
      clip(images + delta, 0, 1) - images.
    """
    images = jnp.asarray(images)
    return jnp.clip(images + delta, 0, 1) - images


def pgd(
    loss_fn: Callable[[jax.Array], jax.Array],
    images: ArrayLike,
    delta: ArrayLike,
    *,
    radius: ArrayLike,
    step_size: ArrayLike,
    num_steps: int,
    ascend: bool = False,
    norm: Literal["linf", "l2"] = "linf",
    step: Literal["sign", "normalized"] = "sign",
) -> jax.Array:
    """Projected gradient steps on a perturbation, starting from ``delta``.

    Each step moves ``delta`` against (``ascend``: along) the gradient of
    ``loss_fn(images + delta)``, projects onto the ball, then shortens to the image box.
    Steps of both kinds ignore the scale of the loss, so under `jax.shard_map` a loss of
    the global batch needs no correction for the device count.

    Args:
      loss_fn: perturbed images (B, H, W, C) -> scalar.
      images: (B, H, W, C) floating point in [0, 1].
      delta: perturbations of the same shape to start from, in [0, 1] units.
      radius: of the ball, > 0, a scalar in [0, 1] units; may be traced.
      step_size: length of a step in [0, 1] units: of every value for "sign", of the
        Euclidean norm of every image for "normalized". A scalar, or what broadcasts
        against ``images``, as (B, 1, 1, 1) for one an image; may be traced.
      num_steps: number of steps, a Python integer; 0 returns ``delta`` as it is.
      ascend: maximise the loss instead of minimising it.
      norm: of the ball, see `project`.
      step: "sign" of the gradient, or the gradient "normalized" to unit Euclidean norm
        in every image. Where the gradient is zero neither moves.

    Returns:
      The perturbations after the last step, of the shape and dtype of ``delta``.

    Raises:
      ValueError: for shapes that differ, images or perturbations that are not floating
        point, unknown names, a number of steps that is negative or no integer and, as
        far as they are not traced, images outside [0, 1], a perturbation or step size
        that is not finite, a negative step size, a radius out of range.

    References:
      Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018.
    """
    return pgd_with_losses(
        loss_fn,
        images,
        delta,
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
        ascend=ascend,
        norm=norm,
        step=step,
    )[0]


def pgd_with_losses(
    loss_fn: Callable[[jax.Array], jax.Array],
    images: ArrayLike,
    delta: ArrayLike,
    *,
    radius: ArrayLike,
    step_size: ArrayLike,
    num_steps: int,
    ascend: bool = False,
    norm: Literal["linf", "l2"] = "linf",
    step: Literal["sign", "normalized"] = "sign",
) -> tuple[jax.Array, jax.Array]:
    """`pgd` that also returns the loss before each of its steps.

    Args:
      loss_fn: as in `pgd`.
      images: as in `pgd`.
      delta: as in `pgd`.
      radius: as in `pgd`.
      step_size: as in `pgd`.
      num_steps: as in `pgd`.
      ascend: as in `pgd`.
      norm: as in `pgd`.
      step: as in `pgd`.

    Returns:
      The perturbations after the last step, and (num_steps,) losses of the dtype of
      ``delta``.

    Raises:
      ValueError: as in `pgd`.
    """
    images, delta = jnp.asarray(images), jnp.asarray(delta)
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
    _check_values("step_size", step_size, 0, _LARGEST, "be finite and >= 0")
    try:
        num_steps = operator.index(num_steps)
    except TypeError as error:
        raise ValueError(f"num_steps must be an integer, got {num_steps}") from error
    if num_steps < 0:
        raise ValueError(f"num_steps must be >= 0, got {num_steps}")
    length = jnp.asarray(step_size, delta.dtype) * (1 if ascend else -1)
    direction = jnp.sign if step == "sign" else _normalize

    def update(delta: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        loss, gradient = jax.value_and_grad(lambda d: loss_fn(images + d))(delta)
        moved = delta + length * direction(gradient)
        inside = project(moved, radius=radius, norm=norm)
        shortened = clip_to_images(images, inside).astype(delta.dtype)
        return shortened, loss.astype(delta.dtype)

    return lax.scan(update, delta, None, length=num_steps)


def quantize(
    images: np.ndarray, delta: ArrayLike, *, radius: float, export: str = "round"
) -> np.ndarray:
    """Adds a perturbation to 8-bit images within the budget in grey levels.

    The change is 255 * delta in whole grey levels, cut to the budget and to [0, 255]
    afterwards. The budget is per value; for perturbations bounded in another norm give
    the largest change of a value that is allowed.

    Published implementations differ in how levels become whole, by half a level on
    average, and one loses half of its perturbation:

    - "round": to the nearest, halves to even, as images are commonly saved;
    - "truncate": down, as where floats are cast to 8 bits;
    - "drop_negative": down, and no value becomes darker, as in the code of EM, which
      reads perturbations as 8-bit numbers before it adds them.

    Args:
      images: uint8, (N, H, W, C).
      delta: floating point of the same shape, in [0, 1] units.
      radius: in grey levels (8, not 8/255), >= 1; a fraction of a level is cut off.
      export: one of `EXPORTS`.

    Returns:
      uint8 images with |result - images| <= floor(radius).

    Raises:
      ValueError: for a wrong dtype, shapes that differ, a perturbation that is not
        finite, a radius that leaves no whole grey level, or an unknown export.
    """
    images, delta = np.asarray(images), np.asarray(delta)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    if images.shape != delta.shape:
        raise ValueError(
            f"images and delta must have one shape, got {images.shape} and "
            f"{delta.shape}"
        )
    _check_floating("delta", delta)
    if not 1 <= radius <= 255:
        raise ValueError(f"radius is in grey levels, from 1 to 255, got {radius}")
    check_export(export)
    levels = math.floor(radius)
    protected = np.empty_like(images)
    for block in _blocks(images):
        part = delta[block].astype(np.float32)
        if not np.all(np.isfinite(part)):
            raise ValueError(
                f"delta holds NaN or infinity in images {block.start} to "
                f"{min(block.stop, len(images)) - 1}"
            )
        change = np.clip(_whole_levels(255 * part, export), -levels, levels)
        perturbed = images[block].astype(np.int16) + change.astype(np.int16)
        protected[block] = np.clip(perturbed, 0, 255)
    return protected


def check_export(export: str) -> None:
    """Checks the name of a way to whole grey levels, see `quantize`.

    Args:
      export: the name.

    Raises:
      ValueError: if it is not one of `EXPORTS`.
    """
    _check_name("export", export, EXPORTS)


class PerturbationAudit(NamedTuple):
    """What a perturbation did to 8-bit images. A value is one channel of one pixel.

    Attributes:
      max_change: largest absolute change of a value, in grey levels.
      mean_change: mean absolute change of all values, in grey levels.
      max_l2: largest Euclidean norm of an image's perturbation, in [0, 1] units.
      max_l0: largest number of pixels changed, in any channel, in one image.
      saturated: share of the values of the protected images at 0 or 255.
      at_max: share of the values changed by ``max_change``; 0 where nothing changed.
    """

    max_change: int
    mean_change: float
    max_l2: float
    max_l0: int
    saturated: float
    at_max: float


def audit(clean: np.ndarray, protected: np.ndarray) -> PerturbationAudit:
    """Measures the perturbation between clean and protected 8-bit images.

    Works through the images in blocks, so that it needs little memory beyond them.

    Args:
      clean: uint8, (N, H, W, C).
      protected: uint8 of the same shape.

    Returns:
      The measurements, as Python numbers.

    Raises:
      ValueError: for arrays that are not uint8, not (N, H, W, C), empty, or of
        different shapes.
    """
    clean, protected = np.asarray(clean), np.asarray(protected)
    for name, array in (("clean", clean), ("protected", protected)):
        if array.dtype != np.uint8 or array.ndim != 4:
            raise ValueError(
                f"{name} images must be uint8 (N, H, W, C), got {array.dtype} "
                f"{array.shape}"
            )
    if clean.shape != protected.shape or clean.size == 0:
        raise ValueError(
            "clean and protected images must have one shape and not be empty, got "
            f"{clean.shape} and {protected.shape}"
        )
    histogram = np.zeros(256, np.int64)
    saturated = max_l2_squared = max_l0 = 0
    for block in _blocks(clean):
        low, high = (
            f(clean[block], protected[block]) for f in (np.minimum, np.maximum)
        )
        change = high - low
        histogram += np.bincount(change.ravel(), minlength=256)
        saturated += np.count_nonzero(protected[block] % 255 == 0)
        squares = np.square(change, dtype=np.uint32).sum(axis=(1, 2, 3), dtype=np.int64)
        max_l2_squared = max(max_l2_squared, int(squares.max()))
        pixels = np.count_nonzero(change.any(axis=3), axis=(1, 2))
        max_l0 = max(max_l0, int(pixels.max()))
    levels = np.flatnonzero(histogram)
    largest = int(levels[-1])
    return PerturbationAudit(
        max_change=largest,
        mean_change=float(histogram @ np.arange(256) / clean.size),
        max_l2=math.sqrt(max_l2_squared) / 255,
        max_l0=max_l0,
        saturated=float(saturated / clean.size),
        at_max=float(histogram[largest] / clean.size) if largest else 0.0,
    )


def _whole_levels(levels: np.ndarray, export: str) -> np.ndarray:
    if export == "round":
        return np.rint(levels)
    # 255 * (8 / 255) in float32 may be a hair below 8.
    down = np.floor(levels + 1e-4)
    return np.maximum(down, 0) if export == "drop_negative" else down


def _normalize(gradient: jax.Array) -> jax.Array:
    axes = tuple(range(1, gradient.ndim))
    # The gradients of a well fitted network are so small that their squares vanish.
    largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=axes, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(largest > 0, squared, 1))


def _blocks(images: np.ndarray) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield slice(start, start + size)


def _check_floating(name: str, array: jax.Array | np.ndarray) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {array.dtype}")


def _check_name(kind: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise names.unknown(kind, name, allowed)


def _check_values(
    name: str, array: ArrayLike, low: float, high: float, allowed: str
) -> None:
    if isinstance(array, jax.core.Tracer) or np.size(array) == 0:
        return
    with jax.ensure_compile_time_eval():  # known arrays inside of `jax.jit` too
        smallest, largest = float(jnp.min(array)), float(jnp.max(array))
    if not low <= smallest <= largest <= high:  # nor is NaN
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
            f"radius is in [0, 1] units (8 grey levels are 8/255), got {radius}"
        )
