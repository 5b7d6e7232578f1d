"""The operations of automatic augmentation by name, chosen image by image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from miue_jax import image_geometry, image_tones, names

# (images, amounts) -> images.
_TONES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "autocontrast": lambda images, _: image_tones.autocontrast(images),
    "equalize": lambda images, _: image_tones.equalize(images),
    "invert": lambda images, _: image_tones.invert(images),
    "posterize": image_tones.posterize,
    "solarize": image_tones.solarize,
    "brightness": image_tones.brightness,
    "contrast": image_tones.contrast,
    "color": image_tones.color,
    "sharpness": image_tones.sharpness,
}
# amounts -> maps.
_MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "rotate": image_geometry.rotation,
    "shear_x": image_geometry.shear_x,
    "shear_y": image_geometry.shear_y,
    "translate_x": image_geometry.translation_x,
    "translate_y": image_geometry.translation_y,
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
      ValueError: if there is no operation of a name, or for other numbers of channels.
    """
    for name in operations:
        if name not in OPERATIONS:
            raise names.unknown("operation", name, OPERATIONS)
    result = images
    if any(name in _MAPS for name in operations):
        maps = image_geometry.identity(len(images))
        for index, name in enumerate(operations):
            if name in _MAPS:
                chosen = (choice == index)[:, None, None]
                maps = jnp.where(chosen, _MAPS[name](amounts), maps)
        result = image_geometry.resample(images, maps)
    for index, name in enumerate(operations):
        if name in _TONES:
            chosen = (choice == index)[:, None, None, None]
            result = jnp.where(chosen, _TONES[name](images, amounts), result)
    return result
