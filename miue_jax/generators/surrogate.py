"""The surrogate of a generator: its settings, and what it sees of an image."""

import dataclasses
import numbers

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax import models
from miue_jax._checks import check_choice, check_number

_MEAN_AND_STD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
NORMALIZATIONS = ("none", *_MEAN_AND_STD)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Settings of a surrogate and of its SGD.

    Attributes:
      model: architecture (`models.NAMES`).
      width: its width; None for the architecture's own.
      dtype: its compute type, "float32" or "bfloat16".
      normalization: of its input, "none", or by the mean and deviation of the channels
        of "imagenet" or "cifar10".
      batch_size: global batch of its training.
      learning_rate: of its first epoch.
      momentum: of its SGD.
      weight_decay: of its SGD.
    """

    model: str = "resnet18"
    width: int | None = None
    dtype: str = "float32"
    normalization: str = "none"
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        if self.width is not None:
            check_number("width", self.width, "> 0", whole=True)
        check_number("batch_size", self.batch_size, "> 0", whole=True)
        check_number("learning_rate", self.learning_rate, "> 0")
        check_number("momentum", self.momentum, "in [0, 1)")
        check_number("weight_decay", self.weight_decay, ">= 0")


def create(
    config: SurrogateConfig, *, num_classes: int, axis_name: str | None
) -> nn.Module:
    """Makes the surrogate's network, which takes normalized images.

    Args:
      config: its settings.
      num_classes: number of logits.
      axis_name: the mesh axis over which batch statistics are shared.

    Returns:
      The module.
    """
    return models.create(
        config.model,
        num_classes=num_classes,
        width=config.width,
        dtype=jnp.dtype(config.dtype),
        axis_name=axis_name,
    )


def normalize(images: jax.Array, config: SurrogateConfig) -> jax.Array:
    """Brings images to the scale that the surrogate takes.

    Args:
      images: (..., C) float in [0, 1].
      config: its `normalization`.

    Returns:
      An array of the same shape.
    """
    if config.normalization == "none":
        return images
    mean, std = map(jnp.asarray, _MEAN_AND_STD[config.normalization])
    return (images - mean) / std


def check_images(image_shape: tuple[int, ...], config: SurrogateConfig) -> None:
    """Checks that the normalization is one for these images.

    Args:
      image_shape: (H, W, C).
      config: its `normalization`.

    Raises:
      ValueError: if it is for another number of channels.
    """
    if config.normalization != "none" and image_shape[-1] != 3:
        raise ValueError(
            f"normalization {config.normalization!r} is for three channels, the images "
            f"have {image_shape[-1]}; set it to 'none'"
        )


def check_crop(image_shape: tuple[int, ...], crop: int) -> None:
    """Checks that a random crop leaves something of an image.

    Args:
      image_shape: (H, W, C).
      crop: pixels by which it is shifted at most.

    Raises:
      ValueError: if that is a side of the image or more.
    """
    height, width = image_shape[:2]
    if crop >= min(height, width):
        raise ValueError(
            f"crop is {crop} pixels, the images have {height}x{width}: "
            "a shift as large as the image leaves nothing of it"
        )


def check_radius(radius: float) -> None:
    """Checks a budget per value: published images are 8-bit, it is in whole levels.

    Args:
      radius: largest change of a channel, in gray levels.

    Raises:
      ValueError: if it is not a whole number from 1 to 255.
    """
    fits = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
    if not fits or not 1 <= radius <= 255 or radius != round(radius):
        raise ValueError(
            f"radius is {radius!r}; allowed: whole gray levels from 1 to 255"
        )
