"""OPS: the pixel and color that differ most consistently from a class's images."""

import dataclasses
import itertools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax._checks import check_choice, check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators.base import DataSpec, Generator, single_step
from miue_jax.train.metrics import Metrics
from miue_jax.train.sampling import Shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnePixelConfig:
    """Settings of OPS.

    Attributes:
      pixels: number of pixels set in every image: the best positions, each in its best
        color. The released code takes the best pairs of a position and a color, two of
        which may share a position.
      spread: what the mean change of a pixel is divided by, its "deviation" or its
        "variance".
    """

    pixels: int = 1
    spread: Literal["deviation", "variance"] = "deviation"

    def __post_init__(self) -> None:
        check_number("pixels", self.pixels, "> 0", whole=True)
        check_choice("spread", self.spread, ("deviation", "variance"))


# The released code, which the tables come from, divides by the standard deviation; the
# text of the paper divides by the variance.
PRESETS: dict[str, OnePixelConfig] = {
    "authors_code": OnePixelConfig(),
    "paper": OnePixelConfig(spread="variance"),
}


# Below every nonzero deviation and variance that a class of 8-bit images can have.
_SMALLEST = 1e-7


class _Moments(NamedTuple):
    """Moments of the gray levels by class, position, channel: (K, H, W, C) float32."""

    mean: jax.Array
    variance: jax.Array


def one_pixel(config: OnePixelConfig, spec: DataSpec) -> Generator:
    r"""Builds OPS, the one-pixel shortcut.

    For a position p and a color t in :math:`\{0, 1\}^C`, the score of a class is

    .. math:: \frac{\mathbb E\, |t - x_p|}{\operatorname{spread} |t - x_p|}

    over all its images x, selected or not, and the channels. The classes choose in
    turn, and no two of them take the same color at the same position.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. It draws nothing. To perturb on top of another perturbation
      (CIFAR10-S), run it on protected images.

    Raises:
      ValueError: if the images have fewer pixels and colors than the classes take.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.one_pixel import one_pixel
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("one_pixel", pixels=2)
      >>> one_pixel(config, spec).budget.radius
      2

    References:
      Wu, Chen, Xie, Huang, "One-pixel shortcut: on the learning preference of deep
      neural networks", ICLR 2023, arXiv 2205.12141, section 3.
    """
    shape, num_classes = spec.image_shape, spec.num_classes
    positions, num_colors = math.prod(shape[:2]), 2 ** shape[2]
    # The positions that the other classes can have used up, and those of the last one.
    taken = (num_classes - 1) * config.pixels // num_colors + config.pixels
    if taken > positions:
        raise ValueError(
            f"pixels is {config.pixels} for each of {num_classes} classes; images of "
            f"{positions} pixels and {num_colors} colors do not have that many"
        )

    def perturb(key: jax.Array, data: Shards) -> tuple[jax.Array, Metrics]:
        del key
        colors = jnp.asarray(list(itertools.product((0, 1), repeat=shape[2])), bool)
        moments, present = _moments(data, spec)
        flat = jax.tree.map(lambda x: x.reshape(num_classes, positions, -1), moments)

        def choose(
            used: jax.Array, of_class: tuple[_Moments, jax.Array]
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            moments, present = of_class
            scores = jnp.where(used, -1, _scores(moments, colors, config.spread))
            # A position can be set only once, to its best color.
            best = jnp.argmax(scores, axis=1)
            _, where = lax.top_k(jnp.max(scores, axis=1), config.pixels)
            chosen = jnp.zeros(positions, bool).at[where].set(True)
            # A class without images takes nothing from the others.
            used = used.at[where, best[where]].max(present)
            return used, (chosen, colors[best])

        unused = jnp.zeros((positions, len(colors)), bool)
        _, (chosen, targets) = lax.scan(choose, unused, (flat, present))
        chosen = chosen.reshape(num_classes, *shape[:2], 1)
        targets = targets.reshape(num_classes, *shape).astype(jnp.float32)
        images = to_unit(data.images.astype(jnp.float32))
        change = targets[data.labels] - images
        return jnp.where(chosen[data.labels], change, 0), {}

    return single_step(perturb, budget=Budget("l0", config.pixels))


def _scores(moments: _Moments, colors: jax.Array, spread: str) -> jax.Array:
    """Scores of one class: moments (P, C) and T colors (T, C) give (P, T)."""
    mean = moments.mean[:, None]
    change = jnp.where(colors, 255 - mean, mean)
    overall = jnp.mean(change, axis=2)
    # The channels' own variances, and that of their means.
    variance = jnp.mean(moments.variance, axis=1, keepdims=True)
    variance += jnp.mean(jnp.square(change - overall[..., None]), axis=2)
    divisor = variance if spread == "variance" else jnp.sqrt(variance)
    # Where all images agree the score is highest; the larger change then wins.
    return overall / jnp.maximum(divisor, _SMALLEST)


def _moments(data: Shards, spec: DataSpec) -> tuple[_Moments, jax.Array]:
    """Moments over all images, and the (K,) bool classes that have any.

    The result does not depend on the shards. All sums are of integers modulo 2^32, so
    their order does not matter. The sum of squares around the rounded mean k is
    computed as S2 - 2 k S1 + n k^2: it is at most n 255^2 / 4, below 2^32 for classes
    of up to 264,000 images, although its terms are not.
    """
    rows = jnp.arange(data.labels.shape[1])
    valid = rows < data.count[:, None]
    # Labels that are not a class are left out of the sums.
    labels = jnp.where(valid, data.labels, spec.num_classes).reshape(-1)
    values = data.images.reshape(-1, *data.images.shape[2:]).astype(jnp.uint32)

    def total(array: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(array, labels, spec.num_classes)
        return spec.sum(sums)

    count = total(jnp.ones_like(labels, jnp.uint32)).reshape(-1, 1, 1, 1)
    size = jnp.maximum(count, 1)
    sums, squares = total(values), total(jnp.square(values))
    center = (2 * sums + size) // (2 * size)
    around = squares - 2 * center * sums + count * jnp.square(center)
    rest = lax.bitcast_convert_type(sums - count * center, jnp.int32)
    size = size.astype(jnp.float32)
    off = rest.astype(jnp.float32) / size
    variance = around.astype(jnp.float32) / size - jnp.square(off)
    moments = _Moments(center.astype(jnp.float32) + off, jnp.maximum(variance, 0))
    return moments, (count > 0).reshape(-1)
