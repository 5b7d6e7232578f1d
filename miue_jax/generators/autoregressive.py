"""AR: noise from the autoregressive process of the image's class."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax._checks import check_choice, check_number
from miue_jax.budget import Budget, check_l2_radius, to_unit
from miue_jax.generators import autoregressive_process as process
from miue_jax.generators.base import DataSpec, Generator, by_class, single_step
from miue_jax.generators.surrogate import check_radius
from miue_jax.projected_gradient import clip_to_images
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.sampling import Shards

# Keys of a run are folded with these, so that no two uses share a stream.
_FILTERS, _IMAGES = range(2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    """Settings of AR and of the search for its filters.

    Attributes:
      norm: of an image's perturbation, "l2" or "linf".
      radius: that norm before the perturbation is shortened to the image box, in [0, 1]
        units for "l2", in gray levels for "linf".
      burn_in: rows and columns of the process cut off at the top and left, in pixels,
        at least the two that it starts from.
      trials: signals drawn to test a filter.
      max_norm: largest Euclidean norm allowed for a signal from a standard normal
        boundary. A norm of 50 is a root mean square of 0.9 in 32x32x3 images.
      min_response: smallest response allowed of a class's signals of unit norm to the
        filters of earlier classes. Responses grow with the sides of the images.
      max_draws: filters drawn for one class before the best of them is taken.
    """

    norm: Literal["l2", "linf"] = "l2"
    radius: float = 1.0
    burn_in: int = 4
    trials: int = 3
    max_norm: float = 50.0
    min_response: float = 10.0
    max_draws: int = 100_000

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, ("l2", "linf"))
        if self.norm == "linf":
            check_radius(self.radius)
        check_number("radius", self.radius, "> 0")
        check_number("burn_in", self.burn_in, "> 0", whole=True)
        if self.burn_in < 2:
            raise ValueError(
                f"burn_in is {self.burn_in}; allowed: 2 pixels or more, those that the "
                "process starts from"
            )
        check_number("trials", self.trials, "> 0", whole=True)
        check_number("max_norm", self.max_norm, "> 0")
        check_number("min_response", self.min_response, ">= 0")
        check_number("max_draws", self.max_draws, "> 0", whole=True)


# The published filters of a hundred classes have to differ less than those of ten. The
# published search draws up to a million times and then fails; ours draws up to
# `max_draws` times per class and then takes the best candidate (see `process.search`).
# The released search checks for NaN in the last trial only and lets diverging processes
# pass, one of its hundred classes among them; here all trials count.
PRESETS: dict[str, AutoregressiveConfig] = {
    "published": AutoregressiveConfig(),
    "published_100_classes": AutoregressiveConfig(min_response=3.0),
    "linf": AutoregressiveConfig(norm="linf", radius=8.0),
}


def autoregressive(config: AutoregressiveConfig, spec: DataSpec) -> Generator:
    r"""Builds AR, autoregressive perturbations.

    Every class has a filter b for each channel. An image's signal is

    .. math:: z_{i,j} = \sum_{k=0}^2 \sum_{l=0}^2 b_{k,l}\, z_{i-2+k,\, j-2+l}, \qquad
              b_{2,2} = 0,

    from two rows and two columns of its own normal noise, and its perturbation is
    :math:`r\, z / \lVert z \rVert`. The signal is linear in that noise: one matrix
    product per class.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. Its metric "filters_found" counts the classes whose filters meet
      the criterion of the search (see `autoregressive_process.search`); for the others
      `max_draws` was too small.

    Raises:
      ValueError: if the radius or the filters do not fit the images.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.autoregressive import autoregressive
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("autoregressive", "linf")
      >>> str(autoregressive(config, spec).budget)
      'linf 8 gray levels'

    References:
      Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, Jacobs, "Autoregressive
      perturbations for data poisoning", NeurIPS 2022, arXiv 2206.03693, section 3.
    """
    in_levels = config.norm == "linf"
    shape = spec.image_shape
    if config.norm == "l2":
        check_l2_radius(config.radius, shape)
    if min(shape[:2]) < 3:
        raise ValueError(
            f"the filters need images of at least 3x3 pixels, got {shape[0]}x{shape[1]}"
        )
    height, width = shape[0] + config.burn_in, shape[1] + config.burn_in
    size = process.boundary_size(height, width)

    def perturb(key: jax.Array, data: Shards) -> tuple[jax.Array, Metrics]:
        filters, found = process.search(
            jax.random.fold_in(key, _FILTERS),
            spec.num_classes,
            shape,
            burn_in=config.burn_in,
            trials=config.trials,
            max_norm=config.max_norm,
            min_response=config.min_response,
            max_draws=config.max_draws,
        )
        image_key = jax.random.fold_in(key, _IMAGES)

        def draw(shard: jax.Array) -> jax.Array:
            shard_key = jax.random.fold_in(image_key, shard)
            rows = data.labels.shape[1]
            return jax.random.normal(shard_key, (rows, size, shape[2]), jnp.float32)

        boundaries = jax.vmap(draw)(data.shard)

        def of_class(label: jax.Array) -> jax.Array:
            whole = process.linear_map(filters[label], height, width)
            # Lower precision would hide the structure that filters detect.
            return jnp.einsum(
                "gnmc,hwmc->gnhwc",
                boundaries,
                whole[config.burn_in - 2 :, config.burn_in - 2 :],
                precision=lax.Precision.HIGHEST,
            )

        signals = by_class(of_class, data.labels, spec.num_classes)
        if in_levels:
            norms = jnp.max(jnp.abs(signals), axis=(2, 3, 4), keepdims=True)
            delta = to_unit(config.radius) * signals / norms
        else:
            squares = jnp.sum(jnp.square(signals), axis=(2, 3, 4), keepdims=True)
            delta = config.radius * signals / jnp.sqrt(squares)
        images = to_unit(data.images.astype(jnp.float32))
        return clip_to_images(images, delta), {"filters_found": mean_of(found)}

    return single_step(perturb, budget=Budget(config.norm, config.radius))
