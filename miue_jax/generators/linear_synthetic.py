"""LSP: patches of color, drawn around one vertex of a hypercube per class."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax._checks import check_number
from miue_jax.budget import Budget, check_l2_radius, to_unit
from miue_jax.generators.base import DataSpec, Generator, by_class, single_step
from miue_jax.projected_gradient import clip_to_images
from miue_jax.train.metrics import Metrics
from miue_jax.train.sampling import Shards

# Keys of a run are folded with these, so that no two uses share a stream.
_CENTERS, _SPREADS, _IMAGES = range(3)

# Bits of a vertex that distinguish the classes; the others are drawn independently.
_DISTINCT_BITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearSyntheticConfig:
    """Settings of LSP.

    Attributes:
      radius: Euclidean norm of an image's perturbation before it is shortened to the
        image box, in [0, 1] units.
      patch_size: side of the squares of one color, in pixels; it divides the height and
        the width of the images.
      class_separation: distance of a class's center from 0 in every feature. The
        features, F in all patches and channels, have a standard deviation of about
        sqrt(F / 3) around it.
    """

    radius: float = to_unit(6) * (32 * 32 * 3) ** 0.5
    patch_size: int = 8
    class_separation: float = 10.0

    def __post_init__(self) -> None:
        check_number("radius", self.radius, "> 0")
        check_number("patch_size", self.patch_size, "> 0", whole=True)
        check_number("class_separation", self.class_separation, "> 0")


# The radius is a root mean square of 6 gray levels in 32x32x3 images, 1.304. For other
# sizes, scale it with the square root of the number of values. The published images are
# truncated to gray levels: the export "truncate".
PRESETS: dict[str, LinearSyntheticConfig] = {"published": LinearSyntheticConfig()}


def linear_synthetic(config: LinearSyntheticConfig, spec: DataSpec) -> Generator:
    r"""Builds LSP, linearly separable perturbations.

    With F features, one per patch and channel, an image of class c gets

    .. math:: v = s \mu_c + A_c^\top z, \qquad
              \delta = r\, P(v) / \lVert P(v) \rVert_2,

    where :math:`\mu_c` is a vertex of :math:`\{-1, 1\}^F`, a different one for each
    class, s is `class_separation`, the entries of the F x F matrix :math:`A_c` are
    uniform in (-1, 1), z is the image's own normal noise, and P paints every patch in
    its color. This is scikit-learn's `make_classification` with all features
    informative and one cluster per class. Its random order of the features is omitted:
    all features have the same distribution.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator.

    Raises:
      ValueError: if the sides of the images are not multiples of the patch, the images
        have too few patches for so many classes, or the radius exceeds any norm they
        can have.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.linear_synthetic import linear_synthetic
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("linear_synthetic", radius=0.5)
      >>> str(linear_synthetic(config, spec).budget)
      'l2 0.5'

    References:
      Yu, Zhang, Chen, Yin, Liu, "Availability attacks create shortcuts", KDD 2022,
      arXiv 2111.00898, section 4.
      Guyon, "Design of experiments of the NIPS 2003 variable selection benchmark".
    """
    num_classes = spec.num_classes
    check_l2_radius(config.radius, spec.image_shape)
    height, width, channels = spec.image_shape
    if height % config.patch_size or width % config.patch_size:
        raise ValueError(
            f"patch_size is {config.patch_size} pixels, the images have "
            f"{height}x{width}: both sides must be multiples of it"
        )
    rows, columns = height // config.patch_size, width // config.patch_size
    features = rows * columns * channels
    most = 2 ** min(features, _DISTINCT_BITS)
    if num_classes > most:
        raise ValueError(
            f"{num_classes} classes are too many for the {features} features that "
            f"{rows}x{columns} patches have in {channels} channels: at most {most}"
        )

    def perturb(key: jax.Array, data: Shards) -> tuple[jax.Array, Metrics]:
        signs = _vertices(jax.random.fold_in(key, _CENTERS), num_classes, features)
        centers = config.class_separation * signs
        spreads = jax.random.uniform(
            jax.random.fold_in(key, _SPREADS),
            (num_classes, features, features),
            jnp.float32,
            -1,
            1,
        )
        image_key = jax.random.fold_in(key, _IMAGES)

        def draw(shard: jax.Array) -> jax.Array:
            shape = (data.labels.shape[1], features)
            shard_key = jax.random.fold_in(image_key, shard)
            return jax.random.normal(shard_key, shape, jnp.float32)

        noise = jax.vmap(draw)(data.shard)

        def of_class(label: jax.Array) -> jax.Array:
            product = jnp.matmul(noise, spreads[label], precision=lax.Precision.HIGHEST)
            return centers[label] + product

        values = by_class(of_class, data.labels, num_classes)
        patches = values.reshape(*data.labels.shape, rows, columns, channels)
        painted = patches.repeat(config.patch_size, 2).repeat(config.patch_size, 3)
        norm = jnp.linalg.norm(values, axis=2)[..., None, None, None]
        delta = config.radius * painted / (config.patch_size * norm)
        return clip_to_images(to_unit(data.images.astype(jnp.float32)), delta), {}

    return single_step(perturb, budget=Budget("l2", config.radius))


def _vertices(key: jax.Array, num_classes: int, features: int) -> jax.Array:
    """Draws distinct vertices of {-1, 1}^F, (K, F) float32."""
    number_key, rest_key = jax.random.split(key)
    bits = min(features, _DISTINCT_BITS)
    draws = jax.random.uniform(number_key, (2**bits,), jnp.float32)
    _, numbers = lax.top_k(draws, num_classes)
    distinct = (numbers[:, None] >> jnp.arange(bits)) & 1
    rest = jax.random.bernoulli(rest_key, shape=(num_classes, features - bits))
    ones = jnp.concatenate([distinct.astype(jnp.float32), rest.astype(jnp.float32)], 1)
    return 2 * ones - 1
