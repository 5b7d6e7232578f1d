"""JPEG compression and its decoding, on the device, as libjpeg does it."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from miue_jax._checks import check_choice
from miue_jax.budget import to_unit

Gradient = Literal["identity", "surviving", "soft"]
GRADIENTS: tuple[Gradient, ...] = ("identity", "surviving", "soft")

# Tables K.1 and K.2 of the standard: luminance and chrominance at quality 50.
_TABLES = np.array(
    [
        [
            [16, 11, 10, 16, 24, 40, 51, 61],
            [12, 12, 14, 19, 26, 58, 60, 55],
            [14, 13, 16, 24, 40, 57, 69, 56],
            [14, 17, 22, 29, 51, 87, 80, 62],
            [18, 22, 37, 56, 68, 109, 103, 77],
            [24, 35, 55, 64, 81, 104, 113, 92],
            [49, 64, 78, 87, 103, 121, 120, 101],
            [72, 92, 95, 98, 112, 100, 103, 99],
        ],
        [
            [17, 18, 24, 47, 99, 99, 99, 99],
            [18, 21, 26, 66, 99, 99, 99, 99],
            [24, 26, 56, 99, 99, 99, 99, 99],
            [47, 66, 99, 99, 99, 99, 99, 99],
            [99, 99, 99, 99, 99, 99, 99, 99],
            [99, 99, 99, 99, 99, 99, 99, 99],
            [99, 99, 99, 99, 99, 99, 99, 99],
            [99, 99, 99, 99, 99, 99, 99, 99],
        ],
    ],
    np.int32,
)

# 8192 sqrt(8) times the orthonormal DCT matrix, as libjpeg's integers have it: products
# of rounded factors, so that some are one off the nearest. Second halves of the rows
# are the first ones mirrored, with the other sign where the frequency is odd.
_HALF_OF_DCT = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ],
    np.int32,
)
_SIGNS = np.array([[1], [-1]] * 4, np.int32)
_DCT = np.concatenate([_HALF_OF_DCT, _SIGNS * _HALF_OF_DCT[:, ::-1]], axis=1)

# The same without rounding, orthonormal.
_COSINES = np.cos(np.pi / 8 * np.outer(np.arange(8), np.arange(8) + 0.5)) / 2
_COSINES[0] /= np.sqrt(2)

_FIXED = 1 << 16  # libjpeg's color weights are whole multiples of 1 / 65536
_TO_YCC = ((0.299, 0.587, 0.114), (-0.16874, -0.33126, 0.5), (0.5, -0.41869, -0.08131))


def jpeg(
    images: ArrayLike, *, quality: ArrayLike, subsampled: ArrayLike = True
) -> jax.Array:
    """Compresses images and decodes them again.

    Baseline JPEG with the tables of the standard and color subsampled 4:2:0, which is
    the default of libjpeg and Pillow. The integers are libjpeg's at each stage: with
    its default, accurate transform the result equals Pillow's to the last bit. Float
    images are rounded to 8 bits first. The gradient is 0: see `jpeg_straight_through`.

    Args:
      images: (B, H, W, C) float in [0, 1], C being 1 or 3; H and W are any.
      quality: () or, one per image, (B,) int: libjpeg's quality in [1, 100]. It may be
        traced, and is then clipped to this range.
      subsampled: () or, one per image, (B,) bool: whether color has half the resolution
        along both axes (4:2:0), or all of it (4:4:4).

    Returns:
      (B, H, W, C) float of the same dtype: whole gray levels over 255.

    Raises:
      ValueError: for another shape, images that are not floating, a quality out of
        range, or a number of either that is not the batch's.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image.jpeg import jpeg
      >>> gray = jnp.full((1, 16, 16, 3), 0.5)
      >>> bool(jnp.abs(jpeg(gray, quality=50) - gray).max() < 0.02)
      True

    References:
      ITU-T T.81 | ISO/IEC 10918-1, 1992, annexes A and K.
    """
    images = _check_images(images)
    levels = jnp.rint(255 * jnp.clip(images.astype(jnp.float32), 0, 1))
    luminance, chrominance = _scaled_tables(quality, len(images))
    channels = jnp.unstack(levels.astype(jnp.int32), axis=-1)
    if len(channels) == 1:
        decoded = _code(channels[0], luminance)[..., None]
    else:
        y, *color = _to_ycc(channels)
        cb, cr = _by_subsampling(
            subsampled,
            jnp.stack(color),
            lambda plane: _code_subsampled(plane, chrominance),
            lambda plane: _code(plane, chrominance),
        )
        decoded = jnp.stack(_to_rgb(_code(y, luminance), cb, cr), axis=-1)
    return (to_unit(decoded.astype(jnp.float32))).astype(images.dtype)


def jpeg_straight_through(
    images: jax.Array,
    *,
    quality: ArrayLike,
    subsampled: ArrayLike = True,
    gradient: Gradient = "identity",
) -> jax.Array:
    r"""`jpeg`, with the gradient of something smooth in its place.

    What is rounded has no useful derivative. With c the coefficients of the cosine
    transform in steps of the quantizer, and r = round(c), the gradient is that of

    - "identity": the images themselves;
    - "surviving": compression with c in place of r where r is not 0, and 0 elsewhere:
      only what survives counts;
    - "soft": compression with :math:`r + (c - r)^3` in place of r, whose slope
      :math:`3 (c - r)^2` is largest where c is about to be rounded otherwise.

    The latter two pass through the color transform and its subsampling; they neglect
    that values are clipped, and rounded to gray levels.

    Args:
      images: (B, H, W, C) float in [0, 1], C being 1 or 3.
      quality: () or (B,) int, as in `jpeg`.
      subsampled: () or (B,) bool, as in `jpeg`.
      gradient: "identity", "surviving" or "soft".

    Returns:
      (B, H, W, C) float of the same dtype.

    Raises:
      ValueError: as `jpeg`, and for an unknown gradient.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image.jpeg import jpeg_straight_through
      >>> images = jnp.full((1, 16, 16, 3), 0.5)
      >>> loss = lambda x: jpeg_straight_through(x, quality=50).sum()
      >>> bool((jax.grad(loss)(images) == 1).all())
      True

    References:
      Shin, Song, JPEG-resistant adversarial images, NIPS 2017 workshop, for "soft".
    """
    check_choice("gradient", gradient, GRADIENTS)
    smooth = images
    if gradient != "identity":
        slope = _surviving if gradient == "surviving" else soft_slope
        smooth = _scale_coefficients(images, quality, subsampled, slope)
    coded = jpeg(images, quality=quality, subsampled=subsampled)
    return smooth + lax.stop_gradient(coded - smooth)


def soft_slope(values: jax.Array) -> jax.Array:
    r"""The slope of soft rounding, :math:`r + (c - r)^3` with r = round(c).

    Args:
      values: c, of any shape.

    Returns:
      3 (c - r)^2, of the same shape: 0 at whole numbers, 3/4 halfway between them.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image.jpeg import soft_slope
      >>> soft_slope(jnp.array([1.0, 1.5])).tolist()
      [0.0, 0.75]
    """
    return 3 * jnp.square(values - jnp.rint(values))


def _surviving(coefficients: jax.Array) -> jax.Array:
    return (jnp.rint(coefficients) != 0).astype(coefficients.dtype)


def _scale_coefficients(
    images: ArrayLike,
    quality: ArrayLike,
    subsampled: ArrayLike,
    slope: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """A function, linear but for an offset, that scales every coefficient by a slope.

    The slope, of the coefficient in steps of the quantizer, is held constant.
    """
    images = _check_images(images)
    luminance, chrominance = _scaled_tables(quality, len(images))
    levels = 255 * images.astype(jnp.float32)

    def scale(plane: jax.Array, table: jax.Array) -> jax.Array:
        return _scale_plane(plane, table.astype(jnp.float32), slope)

    def scale_subsampled(plane: jax.Array) -> jax.Array:
        height, width = plane.shape[1:]
        pad = ((0, 0), (0, height % 2), (0, width % 2))
        padded = jnp.pad(plane, pad, mode="edge")
        sums = padded[:, ::2] + padded[:, 1::2]
        means = (sums[..., ::2] + sums[..., 1::2]) / 4
        rows = _between(scale(means, chrominance), axis=1)
        return (_between(rows, axis=2) / 16)[:, :height, :width]

    if images.shape[-1] == 1:
        scaled = (scale(levels[..., 0] - 128, luminance) + 128)[..., None]
    else:
        y, *color = jnp.unstack(_exact(levels, np.transpose(_TO_YCC)), axis=-1)
        y = scale(y - 128, luminance) + 128
        cb, cr = _by_subsampling(
            subsampled,
            jnp.stack(color),
            scale_subsampled,
            lambda plane: scale(plane, chrominance),
        )
        scaled = jnp.stack(
            [y + 1.402 * cr, y - 0.34414 * cb - 0.71414 * cr, y + 1.772 * cb], axis=-1
        )
    return to_unit(scaled).astype(images.dtype)


def _scale_plane(
    plane: jax.Array, table: jax.Array, slope: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Scales the coefficients of a plane (B, h, w), any h and w."""
    height, width = plane.shape[1:]
    blocks = _to_blocks(plane)
    shape = blocks.shape
    # A transform of 64 values is one product with a matrix, which is fast everywhere.
    transform = np.kron(_COSINES, _COSINES)
    coefficients = _exact(blocks.reshape(*shape[:3], 64), transform.T)
    steps = lax.stop_gradient(coefficients) / table.reshape(*table.shape[:3], 64)
    blocks = _exact(coefficients * slope(steps), transform).reshape(shape)
    return _from_blocks(blocks)[:, :height, :width]


def _check_images(images: ArrayLike) -> jax.Array:
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"JPEG works on images of shape (B, H, W, 1 or 3), got {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"JPEG takes floats in [0, 1], got {images.dtype}")
    return images


def _by_subsampling(
    subsampled: ArrayLike,
    color: jax.Array,
    half: Callable[[jax.Array], jax.Array],
    full: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Codes the color (2, B, H, W) of each image at half or at full resolution."""
    if isinstance(subsampled, bool):
        return jax.vmap(half if subsampled else full)(color)
    chosen = jnp.asarray(subsampled, bool)
    if chosen.shape not in ((), color.shape[1:2]):
        raise ValueError(
            f"subsampled must be one bool or one for each of {color.shape[1]} images, "
            f"got shape {chosen.shape}"
        )
    chosen = chosen.reshape(-1, 1, 1)
    return jnp.where(chosen, jax.vmap(half)(color), jax.vmap(full)(color))


def _scaled_tables(quality: ArrayLike, batch: int) -> jax.Array:
    # (2, 1 or B, 1, 1, 8, 8), ready to divide the blocks of a plane.
    if not isinstance(quality, jax.core.Tracer):
        given = np.asarray(quality)
        if given.dtype.kind not in "iu" or np.any((given < 1) | (given > 100)):
            raise ValueError(
                f"JPEG quality must be an integer in [1, 100], got {quality!r}"
            )
    quality = jnp.asarray(quality, jnp.int32)
    if quality.shape not in ((), (batch,)):
        raise ValueError(
            f"JPEG quality must be one number or one for each of {batch} images, got "
            f"shape {quality.shape}"
        )
    quality = jnp.clip(quality, 1, 100)
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    percent = percent.reshape(-1, 1, 1, 1, 1)
    return jnp.clip((_TABLES[:, None, None, None] * percent + 50) // 100, 1, 255)


def _code(plane: jax.Array, table: jax.Array) -> jax.Array:
    """Rounds the DCT coefficients of a plane (B, h, w) in gray levels, any h and w."""
    height, width = plane.shape[1:]
    blocks = _to_blocks(plane) - 128
    # libjpeg keeps two binary places between the two passes, and three after them.
    passed = _halved(_multiply("...ij,vj->...iv", blocks), 11)
    coefficients = _halved(_multiply("...iv,ui->...uv", passed), 15)
    # Halves are rounded away from zero.
    magnitudes = (jnp.abs(coefficients) + 4 * table) // (8 * table)
    restored = jnp.sign(coefficients) * magnitudes * table
    passed = _halved(_multiply("...uv,ui->...iv", restored), 11)
    blocks = _halved(_multiply("...iv,vj->...ij", passed), 18) + 128
    return _from_blocks(jnp.clip(blocks, 0, 255))[:, :height, :width]


def _to_blocks(plane: jax.Array) -> jax.Array:
    """Cuts a plane (B, h, w), padded, into blocks (B, rows, columns, 8, 8)."""
    height, width = plane.shape[1:]
    rows, columns = -(-height // 8), -(-width // 8)
    pad = ((0, 0), (0, 8 * rows - height), (0, 8 * columns - width))
    padded = jnp.pad(plane, pad, mode="edge").reshape(-1, rows, 8, columns, 8)
    return padded.transpose(0, 1, 3, 2, 4)


def _from_blocks(blocks: jax.Array) -> jax.Array:
    """Joins blocks (B, rows, columns, 8, 8) to a plane (B, 8 rows, 8 columns)."""
    _, rows, columns, _, _ = blocks.shape
    return blocks.transpose(0, 1, 3, 2, 4).reshape(-1, 8 * rows, 8 * columns)


def _code_subsampled(plane: jax.Array, table: jax.Array) -> jax.Array:
    height, width = plane.shape[1:]
    # libjpeg pads to whole blocks with the last column before it takes the means, and
    # with the last row of means after.
    pad = ((0, 0), (0, height % 2), (0, -width % 16))
    padded = jnp.pad(plane, pad, mode="edge")
    sums = padded[:, ::2] + padded[:, 1::2]
    sums = sums[..., ::2] + sums[..., 1::2]
    means = (sums + 1 + jnp.arange(sums.shape[2]) % 2) // 4
    coded = _code(means, table)[..., : -(-width // 2)]
    if coded.shape[2] > 2:
        rows = _between(coded, axis=1)
        smooth = _between(rows, axis=2)
        # The two columns that a sample gives are rounded up and down in turn.
        doubled = (smooth + 8 - jnp.arange(smooth.shape[2]) % 2) // 16
    else:
        doubled = coded.repeat(2, 1).repeat(2, 2)
    return doubled[:, :height, :width]


def _between(plane: jax.Array, *, axis: int) -> jax.Array:
    """Twice as many samples, each 3 parts of the nearest and 1 of the next, summed."""
    size = plane.shape[axis]
    index = jnp.arange(size)
    before = jnp.take(plane, jnp.maximum(index - 1, 0), axis=axis)
    after = jnp.take(plane, jnp.minimum(index + 1, size - 1), axis=axis)
    pairs = jnp.stack([3 * plane + before, 3 * plane + after], axis=axis + 1)
    shape = list(plane.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)


def _to_ycc(rgb: Sequence[jax.Array]) -> list[jax.Array]:
    half = _FIXED // 2
    # Ties of the chrominances are rounded down.
    offsets = (half, 128 * _FIXED + half - 1, 128 * _FIXED + half - 1)
    planes = []
    for weights, offset in zip(_TO_YCC, offsets, strict=True):
        r, g, b = (round(w * _FIXED) * x for w, x in zip(weights, rgb, strict=True))
        planes.append((r + g + b + offset) // _FIXED)
    return planes


def _to_rgb(y: jax.Array, cb: jax.Array, cr: jax.Array) -> list[jax.Array]:
    def rounded(by_cb: float, by_cr: float) -> jax.Array:
        total = round(by_cb * _FIXED) * (cb - 128) + round(by_cr * _FIXED) * (cr - 128)
        return jnp.clip(y + (total + _FIXED // 2) // _FIXED, 0, 255)

    return [rounded(0, 1.402), rounded(-0.34414, -0.71414), rounded(1.772, 0)]


def _multiply(pattern: str, values: jax.Array) -> jax.Array:
    return jnp.einsum(pattern, values, _DCT)


def _exact(values: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Multiplies by a matrix; an accelerator's fast products would round to 8 bits."""
    factor = jnp.asarray(matrix, values.dtype)
    return jnp.matmul(values, factor, precision=lax.Precision.HIGHEST)


def _halved(values: jax.Array, times: int) -> jax.Array:
    return (values + (1 << (times - 1))) >> times
