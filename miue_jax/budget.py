"""Budgets: a norm and a radius, whole gray levels, and the audit of what changed."""

import dataclasses
import math
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._checks import check_number

NORMS = ("linf", "l2", "l0", "unbounded")


@dataclasses.dataclass(frozen=True)
class Budget:
    """The budget of one image's perturbation.

    Attributes:
      norm: "linf", the largest change of a value; "l2", the Euclidean norm of the whole
        image; "l0", the pixels changed in any channel; "unbounded".
      radius: the largest value of the norm: gray levels for "linf", [0, 1] units for
        "l2", pixels for "l0"; None for "unbounded".

    Raises:
      ValueError: if the norm is unknown, or the radius out of its range: from 1 to 255
        gray levels, positive, a whole number of pixels, or None.

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
            raise _checks.unknown("norm", norm, NORMS)
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


def check_l2_radius(radius: float, image_shape: tuple[int, ...]) -> None:
    """Checks that a radius bounds what can be done to an image at all.

    Args:
      radius: of the Euclidean norm, in [0, 1] units.
      image_shape: (H, W, C).

    Raises:
      ValueError: if no perturbation of such an image is longer.

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


# How `quantize` comes to whole gray levels.
EXPORTS = ("round", "truncate", "drop_negative")

# Values of a block of images: bounds temporaries to some 50 MB.
_BLOCK = 1 << 21


def to_unit(levels: Any) -> Any:
    """Converts gray levels to [0, 1] units, in which images are computed with.

    Args:
      levels: a number or an array, in gray levels.

    Returns:
      levels / 255.

    Example:
      >>> from miue_jax.budget import to_unit
      >>> round(to_unit(8), 4)
      0.0314
    """
    return levels / 255


def quantize(
    images: np.ndarray, delta: ArrayLike, *, radius: float, export: str = "round"
) -> np.ndarray:
    """Adds a perturbation to 8-bit images within the budget in gray levels.

    The change is 255 * delta in whole gray levels, cut to the budget and to [0, 255]
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
      radius: in gray levels (8, not 8/255), >= 1; a fraction of a level is cut off.
      export: one of `EXPORTS`.

    Returns:
      uint8 images with |result - images| <= floor(radius).

    Raises:
      ValueError: for a wrong dtype, shapes that differ, a perturbation that is not
        finite, a radius that leaves no whole gray level, or an unknown export.

    Example:
      >>> import numpy as np
      >>> from miue_jax import budget
      >>> clean = np.full((1, 2, 2, 3), 250, np.uint8)
      >>> delta = np.full(clean.shape, 0.03, np.float32)
      >>> protected = budget.quantize(clean, delta, radius=4)
      >>> int(protected.max())
      254
    """
    images, delta = np.asarray(images), np.asarray(delta)
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
    """Checks the name of a way to whole gray levels, see `quantize`.

    Args:
      export: the name.

    Raises:
      ValueError: if it is not one of `EXPORTS`.

    Example:
      >>> from miue_jax import budget
      >>> budget.check_export("truncate")
    """
    if export not in EXPORTS:
        raise _checks.unknown("export", export, EXPORTS)


class PerturbationAudit(NamedTuple):
    """What a perturbation did to 8-bit images. A value is one channel of one pixel.

    Attributes:
      max_change: largest absolute change of a value, in gray levels.
      mean_change: mean absolute change of all values, in gray levels.
      max_l2: largest Euclidean norm of an image's perturbation, in [0, 1] units.
      max_l0: largest number of pixels changed, in any channel, in one image.
      saturated: share of the values of the protected images at 0 or 255.
      at_max: share of the values changed by ``max_change``; 0 where nothing changed.

    Example:
      >>> import numpy as np
      >>> from miue_jax import budget
      >>> same = np.zeros((1, 2, 2, 3), np.uint8)
      >>> budget.audit(same, same).saturated
      1.0
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

    Example:
      >>> import numpy as np
      >>> from miue_jax import budget
      >>> clean = np.full((1, 2, 2, 3), 250, np.uint8)
      >>> delta = np.full(clean.shape, 0.03, np.float32)
      >>> protected = budget.quantize(clean, delta, radius=4)
      >>> found = budget.audit(clean, protected)
      >>> found.max_change, found.max_l0
      (4, 4)
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


def _blocks(images: np.ndarray) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield slice(start, start + size)
