"""Budgets of perturbations: norm and radius, whole gray levels, and their audit.

Radii and step sizes are in gray levels, images in computations are in [0, 1]; `to_unit`
converts. `quantize` adds a perturbation to 8-bit images within a budget.
"""

import dataclasses
import math
import numbers
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax._checks import check_number, unknown
from miue_jax._rows import Rows, as_rows, blocks

NORMS = ("linf", "l2", "l0", "unbounded")

# How `quantize` rounds to whole gray levels.
EXPORTS = ("round", "truncate", "drop_negative")


@dataclasses.dataclass(frozen=True)
class Budget:
    """The budget of one image's perturbation.

    Attributes:
      norm: "linf", the largest change of a value; "l2", the Euclidean norm of the whole
        image; "l0", the number of pixels changed in any channel; "unbounded".
      radius: the largest value of the norm: gray levels for "linf", [0, 1] units for
        "l2", pixels for "l0"; None for "unbounded".

    Raises:
      ValueError: if the norm is unknown or the radius out of range: from 1 to 255 gray
        levels, positive, a positive integer, or None.

    Example:
      >>> from miue_jax import Budget
      >>> str(Budget("linf", 8)), str(Budget("l2", 1.0))
      ('linf 8 gray levels', 'l2 1')
    """

    norm: str = "linf"
    radius: float | None = 8.0

    def __post_init__(self) -> None:
        norm, radius = self.norm, self.radius
        if not isinstance(norm, str) or norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        if norm == "unbounded":
            if radius is not None:
                raise ValueError(f"radius is {radius!r}; 'unbounded' has none")
        elif norm == "linf":
            fits = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
            if not fits or not 1 <= radius <= 255:
                raise ValueError(
                    f"radius is in gray levels, from 1 to 255, got {radius!r}"
                )
        elif norm == "l2":
            check_number("radius", radius, "> 0")
        else:
            check_number("radius", radius, "> 0", whole=True)

    def __str__(self) -> str:
        if self.radius is None:
            return self.norm
        unit = {"linf": "gray level", "l2": "", "l0": "pixel"}[self.norm]
        if unit and self.radius != 1:
            unit += "s"
        return f"{self.norm} {self.radius:.4g} {unit}".rstrip()


def to_unit(levels: Any) -> Any:
    """Converts gray levels to [0, 1] units.

    Args:
      levels: a number or array of floats, in gray levels.

    Returns:
      levels / 255.

    Example:
      >>> from miue_jax import budget
      >>> round(budget.to_unit(8), 4)
      0.0314
    """
    return levels / 255


def check_l2_radius(radius: float, image_shape: tuple[int, ...]) -> None:
    """Checks that an L2 radius is a constraint at all.

    Args:
      radius: the radius, in [0, 1] units.
      image_shape: (H, W, C).

    Raises:
      ValueError: if no perturbation of such an image has a larger norm.

    Example:
      >>> from miue_jax import budget
      >>> budget.check_l2_radius(1.0, (32, 32, 3))
    """
    longest = math.sqrt(math.prod(image_shape))
    if radius > longest:
        raise ValueError(
            f"radius is {radius!r}; allowed for images of {image_shape}: up to "
            f"{longest:.4g}, in [0, 1] units of the L2 norm"
        )


def check_export(export: str) -> None:
    """Checks the name of a way to round to whole gray levels.

    Args:
      export: the name, see `quantize`.

    Raises:
      ValueError: if it is not one of ``EXPORTS``.

    Example:
      >>> from miue_jax import budget
      >>> budget.check_export("truncate")
    """
    if export not in EXPORTS:
        raise unknown("export", export, EXPORTS)


def quantize(
    images: np.ndarray | Rows,
    delta: "ArrayLike | Rows",
    *,
    radius: float,
    export: str = "round",
) -> np.ndarray:
    """Adds a perturbation to 8-bit images within a budget in gray levels.

    The change is 255 * delta in whole gray levels, clipped to the budget; the result is
    clipped to [0, 255]. The budget is per value: for perturbations that are bounded in
    another norm, give the largest change of a value that is allowed.

    Published implementations differ in how they round, by half a level on average, and
    one loses half of its perturbation:

    - "round": to the nearest level, halves to even, as images are usually saved;
    - "truncate": down, as a cast of floats to 8 bits does;
    - "drop_negative": down, and no value becomes darker, as in the code of EM, which
      reads perturbations as 8-bit numbers before it adds them.

    Args:
      images: (N, H, W, C) uint8.
      delta: (N, H, W, C) float, in [0, 1] units.
      radius: in gray levels (8, not 8/255), at least 1; a fraction of a level is cut
        off.
      export: one of ``EXPORTS``.

    Returns:
      uint8 images that differ from `images` by at most floor(radius).

    Raises:
      ValueError: if a dtype or shape is wrong, the perturbation is not finite, the
        radius leaves no whole gray level, or the export is unknown.

    Example:
      >>> import numpy as np
      >>> from miue_jax import budget
      >>> clean = np.full((1, 2, 2, 3), 250, np.uint8)
      >>> delta = np.full(clean.shape, 0.03, np.float32)
      >>> int(budget.quantize(clean, delta, radius=4).max())
      254
    """
    images, delta = as_rows(images), as_rows(delta)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    if images.shape != delta.shape:
        raise ValueError(
            f"images and delta must have one shape, got {images.shape} and "
            f"{delta.shape}"
        )
    if not jnp.issubdtype(delta.dtype, jnp.floating):
        raise ValueError(f"delta must be floating point, got {delta.dtype}")
    if not 1 <= radius <= 255:
        raise ValueError(f"radius is in gray levels, from 1 to 255, got {radius}")
    check_export(export)
    levels = math.floor(radius)
    protected = np.empty(images.shape, np.uint8)
    for block in blocks(images.shape):
        part = delta[block]
        if not np.all(np.isfinite(part)):
            raise ValueError(
                f"delta holds NaN or infinity in images {block.start} to "
                f"{block.stop - 1}"
            )
        # No change is larger than 1; float32 could not hold every number beyond.
        part = np.clip(part, -1, 1).astype(np.float32)
        change = np.clip(_whole_levels(255 * part, export), -levels, levels)
        perturbed = images[block].astype(np.int16) + change.astype(np.int16)
        protected[block] = np.clip(perturbed, 0, 255)
    return protected


def _whole_levels(levels: np.ndarray, export: str) -> np.ndarray:
    if export == "round":
        return np.rint(levels)
    # In float32, 255 * (8 / 255) may fall just short of 8.
    down = np.floor(levels + 1e-4)
    return np.maximum(down, 0) if export == "drop_negative" else down


def check_within(
    clean: np.ndarray | Rows,
    delta: np.ndarray | Rows,
    images: np.ndarray | Rows,
    budget: Budget,
    *,
    export: str = "round",
) -> None:
    """Checks that a perturbation and the images it gave keep a budget.

    Rounding moves a value by up to half a gray level, truncation by up to a whole one.
    A perturbation may exceed the radius by what `quantize` cuts off again, and images
    an L2 radius by what rounding adds.

    Args:
      clean: (N, H, W, C) uint8.
      delta: (N, H, W, C) float, in [0, 1] units.
      images: (N, H, W, C) uint8, from `quantize`.
      budget: the budget.
      export: how `quantize` rounded.

    Raises:
      ValueError: naming the first image that exceeds the budget by more than that.

    Example:
      >>> import numpy as np
      >>> from miue_jax import Budget, budget
      >>> clean = np.full((1, 2, 2, 3), 250, np.uint8)
      >>> delta = np.full(clean.shape, 0.03, np.float32)
      >>> images = budget.quantize(clean, delta, radius=8)
      >>> budget.check_within(clean, delta, images, Budget("linf", 8))
    """
    norm, radius = budget.norm, budget.radius
    if radius is None:
        return
    wanted, done = np.empty(len(images)), np.empty(len(images))
    for block in blocks(images.shape):
        pair = images[block], clean[block]
        change = np.maximum(*pair) - np.minimum(*pair)
        wanted[block] = _sizes(delta[block], norm)
        done[block] = _sizes(change, norm)
    if norm == "linf":
        wanted *= 255
        unit, allowed = "gray levels", ((radius + 0.5) * (1 + 1e-6), radius)
    elif norm == "l2":
        done, unit = to_unit(done), "in L2"
        off = 0.5 if export == "round" else 1.0
        rounding = to_unit(off) * math.sqrt(math.prod(clean.shape[1:]))
        allowed = radius * (1 + 1e-4), (radius + rounding) * (1 + 1e-4)
    else:
        unit, allowed = "pixels", (radius, radius)
    for largest, most in zip((wanted, done), allowed, strict=True):
        over = np.flatnonzero(~(largest <= most))  # NaN is over, too
        if over.size:
            raise ValueError(
                f"the perturbation of image {over[0]} reaches {largest[over[0]]:g} "
                f"{unit}, the radius allows {radius:g} ({over.size} of "
                f"{len(images)} images exceed it)"
            )


def _sizes(change: np.ndarray, norm: str) -> np.ndarray:
    """The norm of each image's change, in the units of its values, in float64."""
    axes = (1, 2, 3)
    if norm == "l0":
        return (change != 0).any(3).sum((1, 2)).astype(np.float64)
    # Squares and even levels of narrow types overflow, and bytes have no sign.
    if norm == "linf":
        low, high = (f(change, axes).astype(np.float64) for f in (np.min, np.max))
        return np.maximum(high, -low)
    flat = change.astype(np.float64).reshape(len(change), -1)
    largest = np.abs(flat).max(axis=1, initial=0)
    flat /= np.where(largest > 0, largest, 1)[:, None]
    return largest * np.linalg.norm(flat, axis=1)


class PerturbationAudit(NamedTuple):
    """What a perturbation did to 8-bit images. A value is one channel of one pixel.

    Attributes:
      max_change: largest absolute change of a value, in gray levels.
      mean_change: mean absolute change of all values, in gray levels.
      max_l2: largest Euclidean norm of an image's perturbation, in [0, 1] units.
      max_l0: largest number of pixels changed, in any channel, in one image.
      saturated: fraction of the values of the protected images at 0 or 255.
      at_max: fraction of the values changed by ``max_change``; 0 if nothing changed.

    Example:
      >>> import numpy as np
      >>> from miue_jax import budget
      >>> black = np.zeros((1, 2, 2, 3), np.uint8)
      >>> budget.audit(black, black).saturated
      1.0
    """

    max_change: int
    mean_change: float
    max_l2: float
    max_l0: int
    saturated: float
    at_max: float


def audit(clean: np.ndarray | Rows, protected: np.ndarray | Rows) -> PerturbationAudit:
    """Measures the perturbation between clean and protected 8-bit images.

    Works in blocks of images, so that it needs little memory beyond them.

    Args:
      clean: (N, H, W, C) uint8.
      protected: (N, H, W, C) uint8.

    Returns:
      The measurements, as Python numbers.

    Raises:
      ValueError: if the arrays are not uint8, not (N, H, W, C), empty, or of different
        shapes.

    Example:
      >>> import numpy as np
      >>> from miue_jax import budget
      >>> clean = np.full((1, 2, 2, 3), 250, np.uint8)
      >>> found = budget.audit(clean, clean + np.uint8(4))
      >>> found.max_change, found.max_l0
      (4, 4)
    """
    clean, protected = as_rows(clean), as_rows(protected)
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
    for block in blocks(clean.shape):
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
        max_l2=to_unit(math.sqrt(max_l2_squared)),
        max_l0=max_l0,
        saturated=float(saturated / clean.size),
        at_max=float(histogram[largest] / clean.size) if largest else 0.0,
    )
