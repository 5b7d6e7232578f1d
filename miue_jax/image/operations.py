"""The operations of automatic augmentation by name, chosen image by image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from miue_jax import _checks
from miue_jax.image import affine, color

# (images, amounts) -> images.
_TONES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "autocontrast": lambda images, _: color.autocontrast(images),
    "equalize": lambda images, _: color.equalize(images),
    "invert": lambda images, _: color.invert(images),
    "posterize": color.posterize,
    "solarize": color.solarize,
    "brightness": color.brightness,
    "contrast": color.contrast,
    "color": color.color,
    "sharpness": color.sharpness,
}
# amounts -> maps.
_MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "rotate": affine.rotation,
    "shear_x": affine.shear_x,
    "shear_y": affine.shear_y,
    "translate_x": affine.translation_x,
    "translate_y": affine.translation_y,
}

OPERATIONS: tuple[str, ...] = ("identity", *_TONES, *_MAPS)


def apply_chosen(
    images: jax.Array,
    operations: tuple[str, ...],
    choice: jax.Array,
    amounts: jax.Array,
) -> jax.Array:
    """Applies one of several operations to each image.

    Every operation on values is computed for all images, as a batch on a device must;
    those on places share a single resampling.

    Args:
      images: (B, H, W, C) float in [0, 1], C 1 or 3.
      operations: K names among `OPERATIONS`.
      choice: (B,) int32 in [0, K), the operation of each image.
      amounts: (B,) float, in the unit of the chosen operation: the argument of the
        function of that name in `image_tones`, or of the map in `image_geometry`
        (degrees, factors, pixels). Ignored where an operation takes none.

    Returns:
      (B, H, W, C), of the same dtype, in [0, 1].

    Raises:
      ValueError: for an unknown operation, or for other numbers of channels.
    """
    for name in operations:
        if name not in OPERATIONS:
            raise _checks.unknown("operation", name, OPERATIONS)
    result = images
    if any(name in _MAPS for name in operations):
        maps = affine.identity(len(images))
        for index, name in enumerate(operations):
            if name in _MAPS:
                chosen = (choice == index)[:, None, None]
                maps = jnp.where(chosen, _MAPS[name](amounts), maps)
        result = affine.resample(images, maps)
    for index, name in enumerate(operations):
        if name in _TONES:
            chosen = (choice == index)[:, None, None, None]
            result = jnp.where(chosen, _TONES[name](images, amounts), result)
    return result
