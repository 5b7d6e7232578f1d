"""What a perturbation may do to an image: a norm and the largest value it may take."""

import dataclasses
import math
import numbers

from miue_jax import names
from miue_jax.settings import check_number

NORMS = ("linf", "l2", "l0", "unbounded")


@dataclasses.dataclass(frozen=True)
class Budget:
    """The budget of one image's perturbation.

    Attributes:
      norm: "linf", the largest change of a value; "l2", the Euclidean norm of the whole
        image; "l0", the pixels changed in any channel; "unbounded".
      radius: the largest value of the norm: grey levels for "linf", [0, 1] units for
        "l2", pixels for "l0"; None for "unbounded".

    Raises:
      ValueError: if the norm is unknown, or the radius out of its range: from 1 to 255
        grey levels, positive, a whole number of pixels, or None.
    """

    norm: str = "linf"
    radius: float | None = 8.0

    def __post_init__(self) -> None:
        norm, radius = self.norm, self.radius
        if not isinstance(norm, str) or norm not in NORMS:
            raise names.unknown("norm", norm, NORMS)
        if norm == "unbounded":
            if radius is not None:
                raise ValueError(f"radius is {radius!r}; 'unbounded' has none")
        elif norm == "linf":
            fits = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
            if not fits or not 1 <= radius <= 255:
                raise ValueError(
                    f"radius is in grey levels, from 1 to 255, got {radius!r}"
                )
        elif norm == "l2":
            check_number("radius", radius, "> 0")
        else:
            check_number("radius", radius, "> 0", whole=True)

    def __str__(self) -> str:
        if self.radius is None:
            return self.norm
        unit = {"linf": "grey level", "l2": "", "l0": "pixel"}[self.norm]
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
    """
    longest = math.sqrt(math.prod(image_shape))
    if radius > longest:
        raise ValueError(
            f"radius is {radius!r}; allowed for images of {image_shape}: up to "
            f"{longest:.4g}, in [0, 1] units of the L2 norm"
        )
