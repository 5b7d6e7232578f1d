"""Mixup: convex combinations of images and labels; and what CutMix shares with it."""

import jax
import jax.numpy as jnp

from miue_jax._checks import check_number
from miue_jax.defenses.base import Defense


def mixup(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    alpha: float = 1.0,
    probability: float = 1.0,
) -> Defense:
    r"""Trains on weighted means of two images and of their labels.

    .. math:: \tilde x = \lambda x_i + (1 - \lambda) x_j, \quad
       \tilde y = \lambda y_i + (1 - \lambda) y_j, \quad
       \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Partners j are a permutation of the images of a shard's batch; each image has a
    weight of its own, where the authors' code draws one for the batch. EM, ISS and PIL
    mix every image twice, each time with probability one half.

    Args:
      image_shape: unused.
      num_classes: classes of the labels.
      alpha: of the Beta distribution; 1, with which weights are uniform, is the choice
        of the field's benchmarks.
      probability: that an image is mixed.

    Returns:
      A defense whose `augment` returns (B, classes) class probabilities.

    Raises:
      ValueError: if `alpha` is not above 0 or `probability` not in [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import defenses
      >>> defense = defenses.mixup((16, 16, 3), 2)
      >>> images, labels = jnp.ones((2, 16, 16, 3)), jnp.arange(2)
      >>> changed, targets = defense.augment(jax.random.key(0), images, labels)
      >>> changed.shape
      (2, 16, 16, 3)

    References:
      Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization",
      ICLR 2018, section 2.
    """
    del image_shape
    check_settings("mixup", alpha, probability)

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        partners, weights = draw(key, len(images), alpha, probability)
        own = weights.astype(images.dtype)[:, None, None, None]
        return (
            own * images + (1 - own) * images[partners],
            mixed_labels(labels, partners, weights, num_classes),
        )

    return Defense(augment=augment)


def check_settings(name: str, alpha: float, probability: float) -> None:
    """Checks the settings of a defense that mixes images.

    Args:
      name: of the defense, for the message.
      alpha: parameter of the Beta distribution of the weights.
      probability: that an image is mixed.

    Raises:
      ValueError: if `alpha` is not above 0 or `probability` not in [0, 1].
    """
    check_number(f"{name} alpha", alpha, "> 0")
    check_number(f"{name} probability", probability, "in [0, 1]")


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
    """
    partner_key, weight_key, toss_key = jax.random.split(key, 3)
    partners = jax.random.permutation(partner_key, batch_size).astype(jnp.int32)
    shape = (batch_size,)
    alpha = float(alpha)
    weights = jax.random.beta(weight_key, alpha, alpha, shape, jnp.float32)
    mixed = jax.random.bernoulli(toss_key, float(probability), shape)
    return partners, jnp.where(mixed, weights, 1)


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
    """
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    weights = weights.astype(jnp.float32)[:, None]
    return weights * own + (1 - weights) * own[partners]
