r"""How the perturbations of all images are stored between the visits of a batch.

The largest part of a generator's state is one value for each value of the images. In
float32 it takes four times the memory of the images themselves. Two compact forms fit
the ball of radius r (in gray levels):

- "int8": whole numbers k from -127 to 127 that stand for :math:`k\, r / 127` gray
  levels, 1/16 of a level apart for r = 8;
- "bfloat16": gray levels with 8 significant bits, 1/32 of a level apart just below 8
  and closer for smaller values.

Both hold 0 and :math:`\pm r` exactly, round to the nearest value that they have, and
give nothing outside the ball. What they hold is given back as it is, so that images
that are not visited do not drift. A batch is decoded, moved in float32 and encoded.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax._checks import check_choice
from miue_jax.budget import to_unit

Storage = Literal["float32", "bfloat16", "int8"]

STORAGES: tuple[Storage, ...] = ("float32", "bfloat16", "int8")

# The largest code of "int8": -128 has no counterpart.
_STEPS = 127
# Digits of a bfloat16 after the first.
_BITS = 7
# The largest distance of two values, in gray levels: images are in whole ones.
_COARSEST = 0.5


@dataclasses.dataclass(frozen=True)
class PerturbationStore:
    """A form for perturbations in an L-infinity ball.

    Attributes:
      storage: "float32", "bfloat16" or "int8".
      radius: of the ball, in whole gray levels from 1 to 255.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.generators.perturbation_store import PerturbationStore
      >>> store = PerturbationStore("int8", 8)
      >>> codes = store.encode(jnp.array([0, 1.6, 8]) / 255)
      >>> codes.tolist(), [round(255 * float(x), 2) for x in store.decode(codes)]
      ([0, 25, 127], [0.0, 1.57, 8.0])
    """

    storage: Storage
    radius: float

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the codes."""
        return jnp.dtype(self.storage)

    @property
    def resolution(self) -> float:
        """The largest distance of values that are told apart, in gray levels."""
        if self.storage == "int8":
            return self.radius / _STEPS
        if self.storage == "bfloat16":
            # That of the numbers just below the radius.
            return 2.0 ** (math.ceil(math.log2(self.radius)) - 1 - _BITS)
        return 0.0

    @property
    def _unit(self) -> np.float32:
        """What a code of 1 stands for, in [0, 1] units.

        It is rounded up, so that the clip makes the largest code exactly the radius.
        """
        levels = self.radius / _STEPS if self.storage == "int8" else 1.0
        exact = levels / 255
        unit = np.float32(exact)
        return unit if float(unit) >= exact else np.nextafter(unit, np.float32(1))

    def encode(self, delta: ArrayLike) -> jax.Array:
        """Rounds perturbations to the nearest that the form has.

        Args:
          delta: float32, in [0, 1] units.

        Returns:
          Codes of the same shape.
        """
        delta = jnp.asarray(delta)
        if self.storage == "float32":
            return delta
        levels = jnp.clip(255 * delta, -self.radius, self.radius)
        if self.storage == "int8":
            levels = jnp.rint(levels * np.float32(_STEPS / self.radius))
        return levels.astype(self.dtype)

    def decode(self, codes: ArrayLike) -> jax.Array:
        """Gives back what was stored.

        Args:
          codes: from `encode`.

        Returns:
          float32 of the same shape, in [0, 1] units; in the ball, unless the form is
          "float32", which is given back unchanged.
        """
        codes = jnp.asarray(codes)
        if self.storage == "float32":
            return codes
        radius = to_unit(self.radius)
        return jnp.clip(codes.astype(jnp.float32) * self._unit, -radius, radius)


def check(storage: Storage, radius: float, **step_sizes: float) -> None:
    """Checks that a form is fine enough for a ball and for the steps in it.

    A step that is shorter than the distance of two values may vanish or double.

    Args:
      storage: the form.
      radius: of the ball, in gray levels.
      **step_sizes: by the names of the settings, in gray levels.

    Raises:
      ValueError: if the form is unknown or too coarse.

    Example:
      >>> from miue_jax.generators import perturbation_store
      >>> perturbation_store.check("int8", 8.0, step_size=0.8)
    """
    check_choice("storage", storage, STORAGES)
    store = PerturbationStore(storage, radius)
    if store.resolution > _COARSEST:
        most = {"int8": int(_COARSEST * _STEPS), "bfloat16": 128}[storage]
        raise ValueError(
            f"radius is {radius:g}; allowed with storage {storage!r}: up to {most} "
            "gray levels, or storage 'float32'"
        )
    for name, size in step_sizes.items():
        if size < store.resolution:
            raise ValueError(
                f"{name} is {size:g}; allowed with storage {storage!r} and radius "
                f"{radius:g}: at least {store.resolution:.3g} gray levels, or storage "
                "'float32'"
            )
