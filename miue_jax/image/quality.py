"""How visible a perturbation is: PSNR and SSIM between two sets of 8-bit images."""

import math
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax._rows import Rows, as_rows, at, blocks
from miue_jax.budget import to_unit
from miue_jax.image import ssim_window

# Values that are worked on at once, some 40 bytes each: 64 images of 32x32 pixels.
_CHUNK = 64 * 32 * 32 * 3

# SSIM is summed over tiles of so many windows a side: a blur is then a product with a
# small matrix, on the CPU three times faster than with one of 512 pixels and ten times
# faster than the convolutions that dm_pix would choose. A group of tiles stays in the
# cache (measured: 64 rather than 256); so many tiles are cut at a time.
_TILE, _GROUP, _TILES = 22, 64, 2048


def psnr(clean: np.ndarray | Rows, images: np.ndarray | Rows) -> float:
    r"""Mean peak signal-to-noise ratio of the images that differ from the clean ones.

    .. math:: \mathrm{PSNR}(x, x') = -10 \log_{10} \mathrm{mean}((x - x')^2)

    for pixels in [0, 1]. Images that were left alone have an infinite ratio and would
    hide the others, so they do not count.

    Args:
      clean: (N, H, W, C) uint8.
      images: the same shape, uint8.

    Returns:
      Decibels; infinity if no image differs.

    Raises:
      ValueError: if shapes or types differ from the above.

    Example:
      >>> import numpy as np
      >>> from miue_jax.image.quality import psnr
      >>> clean = np.zeros((1, 16, 16, 3), np.uint8)
      >>> round(psnr(clean, clean + np.uint8(8)), 2)
      30.07
    """
    clean, images = as_rows(clean), as_rows(images)
    values = _per_image(clean, images, np.flatnonzero(changed(clean, images)))
    return float(np.mean(values, dtype=np.float64)) if values.size else float("inf")


def ssim(clean: np.ndarray | Rows, images: np.ndarray | Rows) -> float:
    """Mean structural similarity of the images that differ from the clean ones.

    Gaussian window of 11 pixels and standard deviation 1.5 without padding, mean over
    the channels.

    Args:
      clean: (N, H, W, C) uint8, H and W at least 11.
      images: the same shape, uint8.

    Returns:
      A number up to 1; 1 if no image differs.

    Raises:
      ValueError: if shapes or types differ from the above.

    Example:
      >>> import numpy as np
      >>> from miue_jax.image.quality import ssim
      >>> clean = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
      >>> round(ssim(clean, clean), 4)
      1.0

    References:
      Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility
      to structural similarity", 2004, section III.
    """
    clean, images = as_rows(clean), as_rows(images)
    rows = np.flatnonzero(changed(clean, images))
    if min(clean.shape[1:3]) < ssim_window.SIZE:
        raise ValueError(
            f"SSIM needs images of at least {ssim_window.SIZE}x{ssim_window.SIZE} "
            f"pixels, got {clean.shape[2]}x{clean.shape[1]}"
        )
    if isinstance(clean, Rows) or isinstance(images, Rows):
        parts = [rows[part] for part in blocks((len(rows), *clean.shape[1:]))]
        found = [
            _similarities(at(clean, part), at(images, part), np.arange(len(part)))
            for part in parts
        ]
        values = np.concatenate(found) if found else np.empty(0)
    else:
        values = _similarities(clean, images, rows)
    return float(np.mean(values, dtype=np.float64)) if values.size else 1.0


def _similarities(
    clean: np.ndarray, images: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """The similarity of each of some images, summed over tiles of one size."""
    (height, tops, above), (width, lefts, before) = (
        _tiling(side - ssim_window.SIZE + 1) for side in clean.shape[1:3]
    )
    window = [size + ssim_window.SIZE - 1 for size in (height, width)]
    # (N, H', W', C, h, w), which is a view.
    views = [
        np.lib.stride_tricks.sliding_window_view(z, window, (1, 2))
        for z in (clean, images)
    ]
    shape = len(rows), len(tops), len(lefts), clean.shape[3]
    total = math.prod(shape)
    # Few programs: of powers of two.
    size = min(_TILES, _GROUP * 2 ** max(0, (total - 1) // _GROUP).bit_length())
    sums = np.empty(total, np.float32)
    for start in range(0, total, size):
        # Beyond the last tile it is repeated, so that all chunks have one shape.
        tiles = np.minimum(np.arange(start, start + size), total - 1)
        image, row, column, channel = np.unravel_index(tiles, shape)
        first, second = (
            view[rows[image], tops[row], lefts[column], channel] for view in views
        )
        found = _tile_sums(first, second, above[row], before[column])
        sums[start : start + size] = found[: total - start]
    windows = math.prod(n - ssim_window.SIZE + 1 for n in clean.shape[1:3]) * shape[3]
    by_image = sums.reshape(len(rows), math.prod(shape[1:]))
    return np.sum(by_image, axis=1, dtype=np.float64) / windows


def _tiling(size: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Windows along a side of a tile, where tiles start, and how many to leave out.

    The last tile ends with the image, and leaves out what the one before it counts.
    """
    count = -(-size // _TILE)
    tile = -(-size // count)
    wanted = tile * np.arange(count)
    starts = np.minimum(wanted, size - tile)
    return tile, starts, wanted - starts


@jax.jit
def _tile_sums(
    clean: jax.Array, images: jax.Array, above: jax.Array, before: jax.Array
) -> jax.Array:
    """Sums of the similarity over the windows of tiles (M, h, w) that count, (M,)."""
    rows, columns = (ssim_window.blur_matrix(size) for size in clean.shape[1:])

    def blur(x: jax.Array) -> jax.Array:
        # One plain matrix product along each axis: (h, G, w) to (h', G, w').
        precision = jax.lax.Precision.HIGHEST
        x = jnp.tensordot(rows, x, 1, precision=precision)
        return jnp.tensordot(x, columns.T, 1, precision=precision)

    # Its annotation has the filter's arguments but not their batch.
    filter_fn: Any = blur

    def add_up(group: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        *pair, above, before = group
        pixels = [to_unit(z.swapaxes(0, 1).astype(jnp.float32)) for z in pair]
        similarity = jnp.asarray(
            dm_pix.ssim(*pixels, filter_fn=filter_fn, return_map=True)
        )
        counts = jnp.arange(len(rows))[:, None, None] >= above[:, None]
        counts &= jnp.arange(len(columns)) >= before[:, None]
        return jnp.sum(jnp.where(counts, similarity, 0), axis=(0, 2))

    groups = [
        z.reshape(-1, _GROUP, *z.shape[1:]) for z in (clean, images, above, before)
    ]
    return jax.lax.map(add_up, tuple(groups)).reshape(-1)


def changed(clean: np.ndarray | Rows, images: np.ndarray | Rows) -> np.ndarray:
    """Finds the images that differ from the clean ones.

    Args:
      clean: (N, H, W, C) uint8.
      images: the same shape, uint8.

    Returns:
      (N,) bool.

    Raises:
      ValueError: if shapes or types differ from the above.

    Example:
      >>> import numpy as np
      >>> from miue_jax.image.quality import changed
      >>> clean = np.zeros((2, 16, 16, 3), np.uint8)
      >>> changed(clean, clean + np.uint8([[[[0]]], [[[8]]]])).tolist()
      [False, True]
    """
    clean, images = as_rows(clean), as_rows(images)
    if clean.shape != images.shape or clean.ndim != 4:
        raise ValueError(
            f"both must have one shape (N, H, W, C), got {clean.shape} and "
            f"{images.shape}"
        )
    if clean.dtype != np.uint8 or images.dtype != np.uint8:
        raise ValueError(f"both must be uint8, got {clean.dtype} and {images.dtype}")
    found = np.empty(len(clean), bool)
    for block in blocks(clean.shape):
        found[block] = (clean[block] != images[block]).any(axis=(1, 2, 3))
    return found


def _per_image(
    clean: np.ndarray | Rows, images: np.ndarray | Rows, rows: np.ndarray
) -> np.ndarray:
    size = min(max(1, _CHUNK // max(1, math.prod(clean.shape[1:]))), len(rows))

    def padded(chunk: np.ndarray) -> np.ndarray:
        # One shape, so that the last chunk is not compiled again.
        return np.pad(chunk, [(0, size - len(chunk)), (0, 0), (0, 0), (0, 0)])

    values = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), size or 1):
        part = slice(start, start + size)
        chosen = rows[part]
        found = _psnr(padded(at(clean, chosen)), padded(at(images, chosen)))
        values[part] = found[: len(chosen)]
    return values


@jax.jit
def _psnr(clean: jax.Array, images: jax.Array) -> jax.Array:
    pair = [to_unit(z.astype(jnp.float32)) for z in (clean, images)]
    return jnp.asarray(dm_pix.psnr(*pair))
