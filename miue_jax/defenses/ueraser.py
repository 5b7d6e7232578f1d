"""UEraser: training on the one of several strong augmentations that is worst."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax import _checks
from miue_jax._checks import check_choice, check_number
from miue_jax.defenses.base import Defense, Predict, freeze
from miue_jax.defenses.plasma import plasma_brightness, plasma_contrast
from miue_jax.defenses.trivial_augment import trivial_augment
from miue_jax.image import jpeg
from miue_jax.train.classifier import Forward, cross_entropy

# The share of the training in which several augmentations compete.
_SHARES = {"standard": 50 / 200, "readme": 60 / 200, "lite": 0.0, "max": 1.0}

# JPEG qualities: of the authors' compression; the benchmark's lowest, and above all.
_AFTER, _BEFORE = 10, (10, 100)

# Keys of an augmentation are folded with this for the quality of its compression.
_QUALITY = 2


def ueraser(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    variant: str = "standard",
    repeats: int = 5,
    probability: float = 0.5,
    compression: str = "none",
) -> Defense:
    """Trains on strong random augmentations, at first on the worst of several.

    An augmentation is plasma brightness (roughness 0.3 to 0.7, intensity 0.5 to 1),
    plasma contrast (roughness 0.3 to 0.7) and a shuffle of the channels, each with
    `probability`, and then `trivial_augment`. While several compete, the loss is

        1/B sum_i max_k cross-entropy(f(augmentation_k(x_i)), y_i), k = 1 ... repeats;

    afterwards it is the cross-entropy of one augmentation. The variants differ in when
    that is: "standard" after a quarter of the training, as in the authors' scripts;
    "readme" after 30 %, as they write beside the code; "lite" from the start; "max"
    never. Its victims train by `protocols.PROTOCOLS["ueraser"]`. The columns "U-max" of
    a common benchmark are not the authors' settings but "max" with `probability` 1, or
    with 0.8 and `compression` "before".

    Against AP and AR the authors compress an augmentation as JPEG of quality 10
    ("after"); the benchmark compresses the image, with a quality drawn from 10 to 99,
    before it is augmented ("before"). Here every image is compressed by itself; the
    authors compress the whole batch as one picture, whose colors bleed over the edges
    between images.

    The worst augmentation of each image is found by passes that are not differentiated,
    one after another, in training mode as the authors' are. The loss, its gradient and
    the statistics of batch normalization are those of one more pass, which sees the
    chosen augmentations together; without competition it is the only one. Of a network
    without batch normalization this is the loss above and its gradient, at the memory
    of a single pass. With it, the batch that normalizes is the chosen one, where the
    authors normalize each image with the batch of its augmentation, and the running
    statistics move once in a step, not `repeats` times.

    Args:
      image_shape: (H, W, C) of the images, sides at least 3, C 1 or 3.
      num_classes: unused.
      variant: "standard", "readme", "lite" or "max".
      repeats: augmentations that compete, at least 2; unused in "lite".
      probability: of each of the first three parts, in [0, 1].
      compression: as JPEG, "none", "after" the augmentation or "before" it.

    Returns:
      A defense with `loss`.

    Raises:
      ValueError: for an unknown variant or compression, a number out of range, or
        images that are too small or of another number of channels.

    Example:
      >>> from miue_jax import defenses
      >>> defenses.ueraser((32, 32, 3), 10, variant="lite").loss is not None
      True

    References:
      Qin et al., Learning the Unlearnable: Adversarial Augmentations Suppress
      Unlearnable Example Attacks, 2023, section 3.
    """
    del num_classes
    if not isinstance(variant, str) or variant not in _SHARES:
        raise _checks.unknown("variant of UEraser", variant, _SHARES)
    share = _SHARES[variant]
    check_number("repeats", repeats, "> 0", whole=True)
    if repeats < 2:
        raise ValueError(f"repeats is {repeats}; allowed: whole numbers >= 2")
    check_number("probability", probability, "in [0, 1]")
    check_choice("compression", compression, ("none", "after", "before"))
    if min(image_shape[:2]) < 3 or image_shape[-1] not in (1, 3):
        raise ValueError(
            "UEraser needs images of at least 3x3 pixels with 1 or 3 channels, got "
            f"(H, W, C) = {tuple(image_shape)}"
        )

    def augment(keys: jax.Array, k: jax.Array, images: jax.Array) -> jax.Array:
        """Applies to each image its augmentation of number k, () or (B,) int32."""
        numbers = jnp.broadcast_to(k, keys.shape)
        keys = jax.vmap(jax.random.fold_in)(keys, numbers)
        own_keys, trivial_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        if compression == "before":
            quality_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _QUALITY)
            draw = jax.vmap(
                lambda key: jax.random.randint(key, (), *_BEFORE, jnp.int32)
            )
            images = jpeg.jpeg(images, quality=draw(quality_keys))
        changed = jax.vmap(lambda key, x: _cloud_and_shuffle(key, x, probability))
        images = trivial_augment(trivial_keys, changed(own_keys, images))
        if compression == "after":
            images = jpeg.jpeg(images, quality=_AFTER)
        return images

    def loss(
        keys: jax.Array,
        progress: jax.Array,
        forward: Forward,
        images: jax.Array,
        labels: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        each = jax.vmap(lambda row, label: cross_entropy(row[None], label[None]))
        first = jnp.zeros(keys.shape, jnp.int32)

        def worst(predict: Predict) -> jax.Array:
            losses = lax.map(
                lambda k: each(predict(augment(keys, k, images)), labels),
                jnp.arange(repeats, dtype=jnp.int32),
            )
            return jnp.argmax(losses, 0).astype(jnp.int32)

        chosen = first
        if share > 0:
            frozen = freeze(forward, images, train=True)
            chosen = lax.cond(progress < share, lambda: worst(frozen), lambda: first)
        logits, state = forward(augment(keys, chosen, images))
        return cross_entropy(logits, labels), (logits, state)

    return Defense(loss=loss)


def _cloud_and_shuffle(
    key: jax.Array, image: jax.Array, probability: float
) -> jax.Array:
    keys = jax.random.split(key, 6)
    happens = jax.random.bernoulli(keys[0], probability, (3,))
    rough = jax.random.uniform(keys[1], (2,), jnp.float32, 0.3, 0.7)
    intensity = jax.random.uniform(keys[2], (), jnp.float32, 0.5, 1.0)
    brighter = plasma_brightness(keys[3], image, rough[0], intensity)
    image = jnp.where(happens[0], brighter, image)
    image = jnp.where(happens[1], plasma_contrast(keys[4], image, rough[1]), image)
    shuffled = jax.random.permutation(keys[5], image, axis=-1)
    return jnp.where(happens[2], shuffled, image)
