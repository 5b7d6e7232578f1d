"""Partners of images that are mixed, for Mixup and CutMix, and the labels of both."""

import jax
import jax.numpy as jnp

from miue_jax.image.box import random_box


def draw(
    key: jax.Array, batch_size: int, alpha: float, probability: float
) -> tuple[jax.Array, jax.Array]:
    """Draws every image's partner and the weight that it keeps itself.

    The weights are those of the images one by one, not one for the batch.

    Args:
      key: a PRNG key.
      batch_size: B.
      alpha: weights are Beta(alpha, alpha).
      probability: that an image is mixed; the weight of one that is not is 1.

    Returns:
      The partners (B,) int32, a permutation of the batch, and the weights (B,) float32
      in [0, 1].

    Example:
      >>> import jax
      >>> from miue_jax.image import mixing
      >>> partners, weights = mixing.draw(jax.random.key(0), 4, 1.0, 0.0)
      >>> sorted(partners.tolist()), weights.tolist()
      ([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0])
    """
    partner_key, weight_key, toss_key = jax.random.split(key, 3)
    partners = jax.random.permutation(partner_key, batch_size).astype(jnp.int32)
    shape = (batch_size,)
    alpha = float(alpha)
    weights = jax.random.beta(weight_key, alpha, alpha, shape, jnp.float32)
    mixed = jax.random.bernoulli(toss_key, float(probability), shape)
    return partners, jnp.where(mixed, weights, 1)


def draw_boxes(
    key: jax.Array,
    batch_size: int,
    sides: tuple[int, int],
    alpha: float,
    probability: float,
) -> tuple[jax.Array, jax.Array]:
    r"""Draws every image's partner and the box that comes from it, as CutMix does.

    .. math:: h = \lfloor H \sqrt{1 - \lambda} \rfloor, \quad
       w = \lfloor W \sqrt{1 - \lambda} \rfloor, \quad
       \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Args:
      key: a PRNG key.
      batch_size: B.
      sides: H and W.
      alpha: of the Beta distribution.
      probability: that an image is mixed; the box of one that is not is empty.

    Returns:
      The partners (B,) int32, a permutation of the batch, and the boxes (B, H, W) bool.

    Example:
      >>> import jax
      >>> from miue_jax.image import mixing
      >>> _, box = mixing.draw_boxes(jax.random.key(0), 4, (8, 8), 1.0, 0.0)
      >>> bool(box.any())
      False
    """
    mix_key, row_key, column_key = jax.random.split(key, 3)
    partners, weights = draw(mix_key, batch_size, alpha, probability)

    def length(side: int) -> jax.Array:
        return jnp.floor(side * jnp.sqrt(1 - weights)).astype(jnp.int32)[:, None]

    lengths = (length(sides[0]), length(sides[1]))
    return partners, random_box(row_key, column_key, batch_size, sides, lengths)


def mixed_labels(
    labels: jax.Array, partners: jax.Array, weights: jax.Array, num_classes: int
) -> jax.Array:
    """The labels of mixed images.

    Args:
      labels: (B,) int32.
      partners: (B,) int32.
      weights: (B,) float in [0, 1], of an image's own label; its partner's gets the
        rest.
      num_classes: K.

    Returns:
      (B, K) float32 class probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import mixing
      >>> labels, partners = jnp.array([0, 1]), jnp.array([1, 0])
      >>> mixing.mixed_labels(labels, partners, jnp.array([1.0, 0.25]), 2).tolist()
      [[1.0, 0.0], [0.75, 0.25]]
    """
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    weights = weights.astype(jnp.float32)[:, None]
    return weights * own + (1 - weights) * own[partners]
