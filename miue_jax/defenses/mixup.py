"""Mixup: convex combinations of images and labels."""

import jax

from miue_jax._checks import check_number
from miue_jax.defenses.base import Defense
from miue_jax.image import mixing


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
        partners, weights = mixing.draw(key, len(images), alpha, probability)
        own = weights.astype(images.dtype)[:, None, None, None]
        return (
            own * images + (1 - own) * images[partners],
            mixing.mixed_labels(labels, partners, weights, num_classes),
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
