"""CutMix: a box of every image is replaced by that of another, and so is its label."""

import jax
import jax.numpy as jnp

from miue_jax.defenses.base import Defense
from miue_jax.defenses.mixup import check_settings
from miue_jax.image import mixing


def cutmix(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    alpha: float = 1.0,
    probability: float = 1.0,
) -> Defense:
    r"""Trains on images with a box from another image, labels weighted by area.

    .. math:: h = \lfloor H \sqrt{1 - \lambda} \rfloor, \quad
       w = \lfloor W \sqrt{1 - \lambda} \rfloor, \quad
       \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    The middle of the h x w box is uniform over the pixels, what lies beyond the border
    is cut off, and the label of the other image gets the share of pixels that are
    really its own. Partners are a permutation of the images of a shard's batch; each
    image has a box of its own, where the authors' code draws one for the batch.

    Evaluations of protected data differ: kornia's, of APBench and MI-UE, lays boxes
    wholly inside the image, so that they are larger on average; those of EM, ISS and
    PIL mix every image twice, each time with probability one half.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: classes of the labels.
      alpha: of the Beta distribution.
      probability: that an image is mixed.

    Returns:
      A defense whose `augment` returns (B, classes) class probabilities.

    Raises:
      ValueError: if `alpha` is not above 0 or `probability` not in [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import defenses
      >>> defense = defenses.cutmix((16, 16, 3), 2)
      >>> images, labels = jnp.ones((2, 16, 16, 3)), jnp.arange(2)
      >>> changed, targets = defense.augment(jax.random.key(0), images, labels)
      >>> changed.shape
      (2, 16, 16, 3)

    References:
      Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: regularization strategy to train strong
      classifiers with localizable features", ICCV 2019, section 3.
    """
    check_settings("cutmix", alpha, probability)
    height, width = image_shape[:2]

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        partners, box = mixing.draw_boxes(
            key, len(images), (height, width), alpha, probability
        )
        return (
            jnp.where(box[..., None], images[partners], images),
            mixing.mixed_labels(
                labels, partners, 1 - jnp.mean(box, (1, 2)), num_classes
            ),
        )

    return Defense(augment=augment)
