"""Views: how a published picture may look when somebody trains on it.

Every image of a batch draws one of eleven transformations, or none, and its strength. A
generator that optimizes through such views makes perturbations that outlast them. All
pass gradients on to the image: smooth ones exactly, the others as they say.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax import _checks, _flat_draws, _settings
from miue_jax._checks import check_choice, check_number
from miue_jax.budget import to_unit
from miue_jax.image import augment, blur, color, mixing, rand_augment_draws, resize
from miue_jax.image.box import random_box
from miue_jax.image.jpeg import (
    GRADIENTS,
    Gradient,
    jpeg_straight_through,
    soft_slope,
)
from miue_jax.image.operations import apply_chosen
from miue_jax.image.rand_augment_draws import LARGEST, NAMES

KINDS = (
    *("jpeg", "grayscale", "blur", "noise", "bit_depth", "resize", "crop"),
    *("cutout", "cutmix", "mixup", "rand_augment"),
)

# The mildest strengths; the settings are the hardest ones.
_LEAST_SIGMA, _MOST_BITS = 0.1, 7
_KERNEL = 5
_PADDING = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Settings of views. By default every view is plain: the image itself.

    Attributes:
      jpeg: share of the images that are compressed, with a quality of their own.
      grayscale: share whose channels are replaced by their luma.
      blur: share with a Gaussian blur over 5 pixels.
      noise: share with Gaussian noise, clipped to [0, 1].
      bit_depth: share with fewer gray levels, as `defenses.bit_depth` has them.
      resize: share that is reduced in size and enlarged again.
      crop: share that is padded by 4 pixels, cropped and mirrored, as victims do.
      cutout: share with a black square.
      cutmix: share with a box from another image of its shard's batch.
      mixup: share that is averaged with another image of its shard's batch.
      rand_augment: share with operations of RandAugment, see `defenses.rand_augment`.
      min_quality: of JPEG; qualities are uniform whole numbers.
      max_quality: of JPEG.
      full_color: share of the JPEGs that keep the resolution of color (4:4:4).
      max_blur_sigma: largest standard deviation of the blur in pixels; the smallest is
        0.1.
      max_noise_sigma: largest standard deviation of the noise in gray levels.
      min_bits: fewest bits that are kept; the most are 7.
      min_size: smallest size that images are reduced to, as a share of theirs.
      cutout_size: side of the square as a share of the image's shorter side.
      mix_alpha: of the Beta distribution of CutMix's areas and Mixup's weights.
      num_ops: of RandAugment.
      magnitude: of RandAugment, in [0, 30].
      gradient: of JPEG, see `jpeg.jpeg_straight_through`, and of fewer gray levels: the
        identity; the identity where what is kept is not 0; or the slope of soft
        rounding.
      warmup: share of the training over which qualities, sigmas, bits and sizes
        spread from the mildest strength to the hardest.
      redraw: whether a "visit" of a batch has one view, that all of its steps and the
        training of the surrogate see, or each "step" a new one.

    Raises:
      ValueError: if a setting is out of range, or the shares sum to more than 1.

    Example:
      >>> from miue_jax.image.views import ViewsConfig
      >>> ViewsConfig(jpeg=0.7, grayscale=0.15).plain
      0.15
    """

    jpeg: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    bit_depth: float = 0.0
    resize: float = 0.0
    crop: float = 0.0
    cutout: float = 0.0
    cutmix: float = 0.0
    mixup: float = 0.0
    rand_augment: float = 0.0
    min_quality: int = 10
    max_quality: int = 90
    full_color: float = 0.0
    max_blur_sigma: float = 1.0
    max_noise_sigma: float = 8.0
    min_bits: int = 2
    min_size: float = 0.5
    cutout_size: float = 0.5
    mix_alpha: float = 1.0
    num_ops: int = 2
    magnitude: float = 9.0
    gradient: Gradient = "identity"
    warmup: float = 0.0
    redraw: Literal["visit", "step"] = "visit"

    def __post_init__(self) -> None:
        for name in (*KINDS, "full_color", "warmup"):
            check_number(name, getattr(self, name), "in [0, 1]")
        # Shares such as 0.1 do not sum exactly.
        total = sum(getattr(self, name) for name in KINDS)
        if total > 1 + 1e-6:
            raise ValueError(
                f"the shares of the views sum to {total:g}; allowed: at most 1, the "
                "rest is plain"
            )
        for name in ("min_quality", "max_quality"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        if not self.min_quality <= self.max_quality <= 100:
            raise ValueError(
                f"min_quality and max_quality are {self.min_quality} and "
                f"{self.max_quality}; allowed: 1 <= min_quality <= max_quality <= 100"
            )
        for name in ("max_blur_sigma", "mix_alpha"):
            check_number(name, getattr(self, name), "> 0")
        if self.max_blur_sigma < _LEAST_SIGMA:
            raise ValueError(
                f"max_blur_sigma is {self.max_blur_sigma!r}; allowed: at least "
                f"{_LEAST_SIGMA}"
            )
        for name in ("max_noise_sigma", "magnitude"):
            check_number(name, getattr(self, name), ">= 0")
        for name in ("min_bits", "num_ops"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        if self.min_bits > _MOST_BITS:
            raise ValueError(f"min_bits is {self.min_bits}; allowed: 1 to {_MOST_BITS}")
        for name in ("min_size", "cutout_size"):
            check_number(name, getattr(self, name), "in (0, 1]")
        if self.magnitude > LARGEST:
            raise ValueError(
                f"magnitude is {self.magnitude!r}; allowed: numbers in [0, {LARGEST}]"
            )
        check_choice("gradient", self.gradient, GRADIENTS)
        check_choice("redraw", self.redraw, ("visit", "step"))

    @property
    def plain(self) -> float:
        """The share of images that are seen as they are."""
        return max(0.0, round(1 - sum(getattr(self, name) for name in KINDS), 6))

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, and with them their labels."""
        return self.cutmix + self.mixup > 0


# "compression" and "robust" are ours. The first is what was found to outlast JPEG: hard
# compression, a share of gray and of plain images, and steps along the coefficients
# that survive, without which effort goes into those that are rounded away. "robust"
# gives a share to whatever else the defenses of this package do.
PRESETS: dict[str, ViewsConfig] = {
    "none": ViewsConfig(),
    "compression": ViewsConfig(
        jpeg=0.7,
        grayscale=0.15,
        min_quality=5,
        max_quality=40,
        gradient="surviving",
    ),
    "robust": ViewsConfig(
        jpeg=0.45,
        grayscale=0.15,
        blur=0.04,
        noise=0.03,
        bit_depth=0.06,
        resize=0.04,
        cutout=0.03,
        cutmix=0.03,
        rand_augment=0.04,
        min_quality=5,
        max_quality=40,
        full_color=0.1,
    ),
}


def preset(given: "str | Mapping[str, Any] | ViewsConfig", /) -> ViewsConfig:
    """Looks up views.

    Args:
      given: a name of `PRESETS`, a mapping of settings, or a `ViewsConfig`.

    Returns:
      The settings.

    Raises:
      ValueError: if the name is unknown or a setting is not allowed.

    Example:
      >>> from miue_jax.image import views
      >>> views.preset("compression").min_quality
      5
    """
    if isinstance(given, ViewsConfig):
        return given
    if isinstance(given, Mapping):
        return _settings.from_plain(ViewsConfig, given, "views")
    if isinstance(given, str) and given in PRESETS:
        return PRESETS[given]
    raise _checks.unknown("views", given, PRESETS)


class Draws(NamedTuple):
    """What a batch of b images has drawn.

    Attributes:
      kind: (b,) int32, the place of an image's transformation in `KINDS`, or their
        number for plain images.
      strengths: what each transformation that has a share needs, by its name.

    Example:
      >>> import jax
      >>> from miue_jax.image import views
      >>> config = views.ViewsConfig(jpeg=0.5, grayscale=0.2)
      >>> draws = views.draw(jax.random.key(0), 4, (16, 16, 3), config)
      >>> draws.kind.shape, list(draws.strengths)
      ((4,), ['jpeg', 'grayscale'])
    """

    kind: jax.Array
    strengths: dict[str, Any]


def check(config: ViewsConfig, image_shape: tuple[int, ...]) -> None:
    """Checks that images can be seen as the settings say.

    Args:
      config: the settings.
      image_shape: (H, W, C).

    Raises:
      ValueError: if a transformation does not fit the images.

    Example:
      >>> from miue_jax.image import views
      >>> views.check(views.PRESETS["robust"], (32, 32, 3))
    """
    height, width, channels = image_shape
    colored = ("jpeg", "grayscale", "rand_augment")
    for name in colored:
        if getattr(config, name) and channels not in (1, 3):
            raise ValueError(
                f"views {name}: images have 1 or 3 channels, these have {channels}"
            )
    if config.blur and min(height, width) <= _KERNEL // 2:
        raise ValueError(
            f"views blur: images have at least {_KERNEL // 2 + 1} pixels a side, these "
            f"have {height}x{width}"
        )
    if config.rand_augment and min(height, width) < 3:
        raise ValueError(
            f"views rand_augment: images have at least 3 pixels a side, these have "
            f"{height}x{width}"
        )


def draw(
    key: jax.Array,
    batch_size: int,
    image_shape: tuple[int, ...],
    config: ViewsConfig,
    hardness: jax.Array | float = 1.0,
) -> Draws:
    """Draws a view for every image of a batch.

    Args:
      key: a PRNG key.
      batch_size: b.
      image_shape: (H, W, C).
      config: the settings.
      hardness: () in [0, 1], how far the strengths spread from the mildest to the
        hardest; may be traced. See `hardness`.

    Returns:
      The draws.

    Example:
      >>> import jax
      >>> from miue_jax.image import views
      >>> config = views.ViewsConfig(jpeg=1.0, min_quality=20, max_quality=20)
      >>> draws = views.draw(jax.random.key(0), 2, (16, 16, 3), config)
      >>> draws.kind.tolist(), draws.strengths["jpeg"][0].tolist()
      ([0, 0], [20, 20])
    """
    shares = jnp.array([getattr(config, name) for name in KINDS], jnp.float32)
    keys = jax.random.split(key, len(KINDS) + 1)
    place = jax.random.uniform(keys[-1], (batch_size, 1), jnp.float32)
    kind = jnp.sum(place >= jnp.cumsum(shares), axis=1, dtype=jnp.int32)
    hardness = jnp.asarray(hardness, jnp.float32)
    strengths = {
        name: _TRANSFORMATIONS[name].draw(
            keys[number], batch_size, image_shape, config, hardness
        )
        for number, name in enumerate(KINDS)
        if getattr(config, name)
    }
    return Draws(kind, strengths)


def see(images: jax.Array, draws: Draws, config: ViewsConfig) -> jax.Array:
    """Shows images as they were drawn to be seen.

    Args:
      images: (b, H, W, C) float in [0, 1].
      draws: from `draw`, of as many images.
      config: the settings of the draws.

    Returns:
      (b, H, W, C), of the same dtype; plain images are the same to the bit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import views
      >>> config = views.ViewsConfig(grayscale=1.0)
      >>> draws = views.draw(jax.random.key(0), 1, (8, 8, 3), config)
      >>> red = jnp.zeros((1, 8, 8, 3)).at[..., 0].set(1.0)
      >>> [round(float(x), 3) for x in views.see(red, draws, config)[0, 0, 0]]
      [0.299, 0.299, 0.299]
    """
    seen = images
    for name, strengths in draws.strengths.items():
        # Each is computed for all images, as a batch on a device must.
        changed = _TRANSFORMATIONS[name].apply(images, strengths, config)
        chosen = draws.kind == KINDS.index(name)
        seen = jnp.where(chosen[:, None, None, None], changed, seen)
    return seen


def targets(
    labels: jax.Array, draws: Draws, config: ViewsConfig, num_classes: int
) -> jax.Array:
    """The labels of images as they are seen.

    Args:
      labels: (b,) int32.
      draws: from `draw`, of as many images.
      config: the settings of the draws.
      num_classes: K.

    Returns:
      The labels (b,) where no view mixes images, else (b, K) float32 class
      probabilities: the shares of an image's own label and of its partner's.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import views
      >>> config = views.ViewsConfig(mixup=1.0)
      >>> draws = views.draw(jax.random.key(0), 2, (8, 8, 3), config)
      >>> views.targets(jnp.arange(2), draws, config, 2).shape
      (2, 2)
    """
    if not config.mixes:
        return labels
    partners, weights = jnp.arange(len(labels)), jnp.ones(len(labels), jnp.float32)
    for name in ("cutmix", "mixup"):
        if name in draws.strengths:
            others, mixed = draws.strengths[name]
            if name == "cutmix":
                mixed = 1 - jnp.mean(mixed, (1, 2), dtype=jnp.float32)
            chosen = draws.kind == KINDS.index(name)
            partners = jnp.where(chosen, others, partners)
            weights = jnp.where(chosen, mixed, weights)
    return mixing.mixed_labels(labels, partners, weights, num_classes)


def hardness(config: ViewsConfig, progress: jax.Array | float) -> jax.Array:
    """How far strengths spread at a time of the training.

    Args:
      config: the settings; only `warmup` matters.
      progress: () float, the share of the training that is done, in [0, 1].

    Returns:
      () float32 in [0, 1].

    Example:
      >>> from miue_jax.image import views
      >>> float(views.hardness(views.ViewsConfig(warmup=0.5), 0.25))
      0.5
    """
    if not config.warmup:
        return jnp.ones((), jnp.float32)
    return jnp.minimum(1, jnp.asarray(progress, jnp.float32) / config.warmup)


# The transformations.


class _Transformation(NamedTuple):
    """How one kind of view draws its strengths for a batch, and what it does."""

    # (key, batch_size, image_shape, config, hardness) -> strengths
    draw: Callable[..., Any]
    # (images (b, H, W, C), strengths, config) -> images
    apply: Callable[[jax.Array, Any, ViewsConfig], jax.Array]


def _whole(key: jax.Array, batch_size: int, least: jax.Array, most: int) -> jax.Array:
    """Uniform whole numbers (b,) from `least`, which is traced, to `most`."""
    place = jax.random.uniform(key, (batch_size,), jnp.float32)
    number = jnp.floor(least + place * (most + 1 - least)).astype(jnp.int32)
    return jnp.minimum(number, most)


def _draw_jpeg(key, batch_size, image_shape, config, hardness):
    del image_shape
    quality_key, color_key = jax.random.split(key)
    span = config.max_quality - config.min_quality
    least = jnp.rint(config.max_quality - hardness * span)
    quality = _whole(quality_key, batch_size, least, config.max_quality)
    if config.full_color in (0, 1):
        return quality, config.full_color == 0
    toss = jax.random.bernoulli(color_key, config.full_color, (batch_size,))
    return quality, ~toss


def _see_jpeg(images, strengths, config):
    quality, subsampled = strengths
    return jpeg_straight_through(
        images, quality=quality, subsampled=subsampled, gradient=config.gradient
    )


def _draw_nothing(key, batch_size, image_shape, config, hardness):
    del key, batch_size, image_shape, config, hardness
    return ()


def _see_grayscale(images, strengths, config):
    del strengths, config
    return color.color(images, 0.0)


def _draw_blur(key, batch_size, image_shape, config, hardness):
    del image_shape
    place = jax.random.uniform(key, (batch_size, 1), jnp.float32)
    return _LEAST_SIGMA + place * hardness * (config.max_blur_sigma - _LEAST_SIGMA)


def _see_blur(images, strengths, config):
    del config
    return blur.gaussian_blur(images, strengths, kernel_size=_KERNEL)


def _draw_noise(key, batch_size, image_shape, config, hardness):
    sigma_key, noise_key = jax.random.split(key)
    sigma = jax.random.uniform(sigma_key, (batch_size, 1, 1, 1), jnp.float32)
    sigma = sigma * hardness * to_unit(float(config.max_noise_sigma))
    shape = (batch_size, *image_shape)
    return sigma * _flat_draws.draw(jax.random.normal, noise_key, shape, jnp.float32)


def _see_noise(images, strengths, config):
    del config
    return jnp.clip(images + strengths.astype(images.dtype), 0, 1)


def _draw_bit_depth(key, batch_size, image_shape, config, hardness):
    del image_shape
    least = jnp.rint(_MOST_BITS - hardness * (_MOST_BITS - config.min_bits))
    return _whole(key, batch_size, least, _MOST_BITS)


def _see_bit_depth(images, strengths, config):
    coarse = color.posterize(images, strengths)
    if config.gradient == "identity":
        slope = jnp.ones_like(images)
    elif config.gradient == "surviving":
        slope = (coarse > 0).astype(images.dtype)
    else:
        # Steps are where levels are whole multiples of the spacing.
        spacing = 2.0 ** (8 - strengths.astype(images.dtype)).reshape(-1, 1, 1, 1)
        slope = soft_slope(255 * images / spacing - 0.5)
    smooth = images * lax.stop_gradient(slope)
    return smooth + lax.stop_gradient(coarse - smooth)


def _draw_resize(key, batch_size, image_shape, config, hardness):
    del image_shape, config
    least = jnp.rint((resize.SIZES - 1) * (1 - hardness))
    return _whole(key, batch_size, least, resize.SIZES - 1)


def _see_resize(images, strengths, config):
    return resize.down_and_up(images, strengths, least=float(config.min_size))


def _draw_crop(key, batch_size, image_shape, config, hardness):
    del image_shape, config, hardness
    return jax.random.split(key, batch_size)


def _see_crop(images, strengths, config):
    del config

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        cropped = augment.random_crop(crop_key, image[None], padding=_PADDING)
        return augment.random_flip(flip_key, cropped)[0]

    return jax.vmap(one)(strengths, images)


def _draw_cutout(key, batch_size, image_shape, config, hardness):
    del hardness
    size = max(1, round(config.cutout_size * min(image_shape[:2])))
    keys = jax.random.split(key)
    return random_box(keys[0], keys[1], batch_size, image_shape[:2], (size, size))


def _see_cutout(images, strengths, config):
    del config
    return jnp.where(strengths[..., None], 0, images)


def _draw_cutmix(key, batch_size, image_shape, config, hardness):
    del hardness
    return mixing.draw_boxes(key, batch_size, image_shape[:2], config.mix_alpha, 1.0)


def _see_cutmix(images, strengths, config):
    del config
    partners, box = strengths
    return jnp.where(box[..., None], images[partners], images)


def _draw_mixup(key, batch_size, image_shape, config, hardness):
    del image_shape, hardness
    return mixing.draw(key, batch_size, config.mix_alpha, 1.0)


def _see_mixup(images, strengths, config):
    del config
    partners, weights = strengths
    own = weights.astype(images.dtype)[:, None, None, None]
    return own * images + (1 - own) * images[partners]


def _draw_rand_augment(key, batch_size, image_shape, config, hardness):
    del hardness
    keys = jax.random.split(key, config.num_ops)
    draws = [
        rand_augment_draws.draw(k, batch_size, config.magnitude, image_shape)
        for k in keys
    ]
    return tuple(draws)


def _see_rand_augment(images, strengths, config):
    del config
    stepwise = [NAMES.index(name) for name in ("equalize", "posterize")]
    for choice, amounts in strengths:
        changed = apply_chosen(images, NAMES, choice, amounts)
        # Operations on gray levels have gradient 0: that of the identity instead.
        through = images + lax.stop_gradient(changed - images)
        flat = jnp.isin(choice, jnp.array(stepwise))[:, None, None, None]
        images = jnp.where(flat, through, changed)
    return images


_TRANSFORMATIONS = {
    "jpeg": _Transformation(_draw_jpeg, _see_jpeg),
    "grayscale": _Transformation(_draw_nothing, _see_grayscale),
    "blur": _Transformation(_draw_blur, _see_blur),
    "noise": _Transformation(_draw_noise, _see_noise),
    "bit_depth": _Transformation(_draw_bit_depth, _see_bit_depth),
    "resize": _Transformation(_draw_resize, _see_resize),
    "crop": _Transformation(_draw_crop, _see_crop),
    "cutout": _Transformation(_draw_cutout, _see_cutout),
    "cutmix": _Transformation(_draw_cutmix, _see_cutmix),
    "mixup": _Transformation(_draw_mixup, _see_mixup),
    "rand_augment": _Transformation(_draw_rand_augment, _see_rand_augment),
}
