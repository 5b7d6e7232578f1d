"""CUDA: filters every image with a random kernel of its class."""

import dataclasses

import jax
import jax.numpy as jnp

from miue_jax._checks import check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators.base import DataSpec, Generator, single_step
from miue_jax.train.metrics import Metrics
from miue_jax.train.sampling import Shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvolutionFilterConfig:
    """Settings of CUDA.

    Attributes:
      blur: largest weight of a filter, except for the one that is 1.
      filter_size: side of the filters, in pixels, an odd number.
    """

    blur: float = 0.3
    filter_size: int = 3

    def __post_init__(self) -> None:
        check_number("blur", self.blur, ">= 0")
        check_number("filter_size", self.filter_size, "> 0", whole=True)
        if self.filter_size % 2 == 0:
            raise ValueError(
                f"filter_size is {self.filter_size}; allowed: odd numbers of pixels"
            )


# The published images are truncated to gray levels: the export "truncate".
PRESETS: dict[str, ConvolutionFilterConfig] = {"published": ConvolutionFilterConfig()}


def convolution_filter(config: ConvolutionFilterConfig, spec: DataSpec) -> Generator:
    r"""Builds CUDA, convolution-based unlearnable data sets.

    An image x of class c becomes

    .. math:: \frac{w_c * x}{\max(w_c * x)},

    which also stretches the contrast. The weights of :math:`w_c` are uniform in
    (0, `blur`), except for one at random that is 1. All channels share them, and images
    are padded with zeros.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. Its perturbation is what the filter changes, without a budget.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.convolution_filter import convolution_filter
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("convolution_filter", blur=0.1)
      >>> convolution_filter(config, spec).budget.norm
      'unbounded'

    References:
      Sadasivan, Soltanolkotabi, Feizi, "CUDA: convolution-based unlearnable datasets",
      CVPR 2023, arXiv 2303.04278, section 4.
    """

    def perturb(key: jax.Array, data: Shards) -> tuple[jax.Array, Metrics]:
        images = to_unit(data.images.astype(jnp.float32))
        filters = draw_filters(key, spec.num_classes, config)[data.labels]
        filtered = _correlate(images, filters[..., None, None, None])
        largest = jnp.max(filtered, axis=(2, 3, 4), keepdims=True)
        # A black image stays black.
        return filtered / jnp.where(largest > 0, largest, 1) - images, {}

    return single_step(perturb, budget=Budget("unbounded", None))


def draw_filters(
    key: jax.Array, num_classes: int, config: ConvolutionFilterConfig
) -> jax.Array:
    """Draws the filter of every class.

    Args:
      key: the run's PRNG key.
      num_classes: K.
      config: the settings.

    Returns:
      (K, S, S) float32 for filters of S x S pixels.
    """
    weight_key, place_key = jax.random.split(key)
    size = config.filter_size
    shape = (num_classes, size**2)
    weights = jax.random.uniform(weight_key, shape, jnp.float32, 0, config.blur)
    places = jax.random.randint(place_key, (num_classes, 1), 0, size**2)
    one = jnp.arange(size**2) == places
    return jnp.where(one, 1, weights).reshape(num_classes, size, size)


def _correlate(images: jax.Array, filters: jax.Array) -> jax.Array:
    """Correlates zero-padded (g, n, H, W, C) with filters (g, n, S, S, 1, 1, 1)."""
    height, width = images.shape[2:4]
    size = filters.shape[2]
    edge = (size // 2, size // 2)
    padded = jnp.pad(images, ((0, 0), (0, 0), edge, edge, (0, 0)))
    result = jnp.zeros_like(images)
    for i in range(size):
        for j in range(size):
            shifted = padded[:, :, i : i + height, j : j + width]
            result += filters[:, :, i, j] * shifted
    return result
