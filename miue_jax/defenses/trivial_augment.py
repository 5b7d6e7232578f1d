"""TrivialAugment: one random operation of random strength on every image."""

import jax
import jax.numpy as jnp

from miue_jax.image.operations import apply_chosen


def trivial_augment(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Applies one of twelve operations to every image.

    Each image draws its own operation, all being equally likely, and its own amount,
    uniform in a range:

    ==================================  ===========================================
    operation                           amount
    ==================================  ===========================================
    autocontrast, equalize              none
    rotate                              -30 to 30 degrees
    shear_x, shear_y                    -0.3 to 0.3 pixels a pixel
    translate_x, translate_y            -1/2 to 1/2 of the side
    brightness, contrast, sharpness     factor 0.1 to 1.9
    posterize                           1, 2, 3 or 4 bits are kept
    solarize                            threshold 0 to 1
    ==================================  ===========================================

    These are the operations and ranges of the implementation that UEraser uses, which
    differs from this one: there one operation is drawn for a whole batch, geometric
    amounts are never negative, and posterize may keep 0 bits. A black image says
    nothing of its label, yet would often be the one of highest loss.

    Args:
      keys: (B,) PRNG keys, one per image.
      images: (B, H, W, C) float in [0, 1], sides at least 3, C 1 or 3.

    Returns:
      (B, H, W, C), of the same dtype, in [0, 1].

    Raises:
      ValueError: for other numbers of channels.

    References:
      Müller, Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data
      Augmentation, 2021, section 3.
    """
    height, width = images.shape[1:3]
    ranges = {
        "autocontrast": (0.0, 0.0),
        "equalize": (0.0, 0.0),
        "rotate": (-30.0, 30.0),
        "posterize": (1.0, 5.0),
        "solarize": (0.0, 1.0),
        "contrast": (0.1, 1.9),
        "brightness": (0.1, 1.9),
        "sharpness": (0.1, 1.9),
        "shear_x": (-0.3, 0.3),
        "shear_y": (-0.3, 0.3),
        "translate_x": (-0.5 * width, 0.5 * width),
        "translate_y": (-0.5 * height, 0.5 * height),
    }
    operations = tuple(ranges)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        choice_key, amount_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (), 0, len(operations), jnp.int32)
        return choice, jax.random.uniform(amount_key, dtype=jnp.float32)

    choice, place = jax.vmap(draw)(keys)
    low, high = jnp.array(list(ranges.values()), jnp.float32)[choice].T
    amounts = low + place * (high - low)
    whole = choice == operations.index("posterize")
    amounts = jnp.where(whole, jnp.floor(amounts), amounts)
    return apply_chosen(images, operations, choice, amounts)
