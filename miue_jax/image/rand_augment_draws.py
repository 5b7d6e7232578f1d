"""What RandAugment draws: an operation for every image, and its amount."""

import jax
import jax.numpy as jnp

# Magnitudes are whole parts of this.
LARGEST = 30
# Largest translation in AutoAugment, a share of a side: 150 pixels of 331.
_TRANSLATION = 150 / 331

# The operations, in the order in which they are numbered.
NAMES: tuple[str, ...] = (
    *("identity", "autocontrast", "equalize", "posterize", "solarize"),
    *("brightness", "contrast", "color", "sharpness"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)


def draw(
    key: jax.Array, batch_size: int, magnitude: float, image_shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Draws one of 14 operations for every image, and the sign of its amount.

    Args:
      key: a PRNG key.
      batch_size: B.
      magnitude: of all operations, in [0, 30].
      image_shape: (H, W, C).

    Returns:
      The numbers of the operations in `NAMES`, (B,) int32, and their amounts, (B,)
      float32, as `operations.apply_chosen` takes them.

    Example:
      >>> import jax
      >>> from miue_jax.image import rand_augment_draws
      >>> choice, amounts = rand_augment_draws.draw(
      ...     jax.random.key(0), 3, 9.0, (32, 32, 3)
      ... )
      >>> choice.shape, amounts.shape
      ((3,), (3,))
    """
    table = _amounts(magnitude / LARGEST, image_shape)
    ranges = jnp.array([table[name] for name in NAMES], jnp.float32)
    choice_key, sign_key = jax.random.split(key)
    choice = jax.random.randint(choice_key, (batch_size,), 0, len(NAMES))
    sign = jax.random.rademacher(sign_key, (batch_size,), jnp.float32)
    middle, swing = ranges[choice].T
    return choice, middle + sign * swing


def _amounts(m: float, image_shape: tuple[int, ...]) -> dict[str, tuple[float, float]]:
    """The operations with the middle of their amounts and the part with a sign."""
    height, width = image_shape[:2]
    factor = (1.0, 0.9 * m)
    return {
        "identity": (0.0, 0.0),
        "autocontrast": (0.0, 0.0),
        "equalize": (0.0, 0.0),
        "posterize": (8.0 - round(4 * m), 0.0),
        "solarize": (256 * (1 - m) / 255, 0.0),
        "brightness": factor,
        "contrast": factor,
        "color": factor,
        "sharpness": factor,
        "rotate": (0.0, 30 * m),
        "shear_x": (0.0, 0.3 * m),
        "shear_y": (0.0, 0.3 * m),
        "translate_x": (0.0, float(int(_TRANSLATION * m * width))),
        "translate_y": (0.0, float(int(_TRANSLATION * m * height))),
    }
