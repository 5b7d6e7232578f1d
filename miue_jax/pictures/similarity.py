"""Structural similarity of large pictures, measured on a sample of them."""

import numpy as np

from miue_jax.image.ssim_window import SIZE, blur_matrix

# `miue_jax.image.quality.ssim` compiles a program for every size.
_TILE = 64
_MOST_TILES = 32


def ssim(before: np.ndarray, after: np.ndarray) -> float | None:
    """Mean structural similarity of two pictures.

    Gaussian window of 11 pixels and standard deviation 1.5, mean over the channels. Of
    pictures of more than 32 tiles of 64x64 pixels, 32 tiles spread over them count, and
    in these every other window across and down.

    Args:
      before: (H, W, C) uint8.
      after: the same shape, uint8.

    Returns:
      A number up to 1, or None if the picture is smaller than the window.

    Example:
      >>> import numpy as np
      >>> from miue_jax.pictures import similarity
      >>> picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
      >>> round(similarity.ssim(picture, picture), 4)
      1.0

    References:
      Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility
      to structural similarity", 2004, section III.
    """
    height, width, _ = before.shape
    if min(height, width) < SIZE:
        return None
    tall, wide = min(_TILE, height), min(_TILE, width)
    tops, lefts = _starts(height, tall), _starts(width, wide)
    corners = [(top, left) for top in tops for left in lefts]
    chosen = np.linspace(0, len(corners) - 1, min(_MOST_TILES, len(corners)))

    def tiles(pixels: np.ndarray) -> np.ndarray:
        places = (corners[i] for i in chosen.astype(int))
        cut = [pixels[t : t + tall, x : x + wide] for t, x in places]
        # Channels first: the products are of whole matrices.
        return np.moveaxis(np.stack(cut), -1, 1).astype(np.float32) / 255

    step = 2 if len(corners) > _MOST_TILES else 1
    rows = np.ascontiguousarray(blur_matrix(tall)[::step])
    columns = np.ascontiguousarray(blur_matrix(wide)[::step].T)

    def mean(values: np.ndarray) -> np.ndarray:
        return rows @ (values @ columns)

    total = 0.0
    small, large = 0.01**2, 0.03**2
    # A few at once stay in the cache of a processor.
    for x, y in zip(tiles(before), tiles(after), strict=True):
        mean_x, mean_y = mean(x), mean(y)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        variance = mean(x * x + y * y) - squares
        covariance = mean(x * y) - product
        similarity = (2 * product + small) * (2 * covariance + large)
        similarity /= (squares + small) * (variance + large)
        total += float(similarity.mean(dtype=np.float64))
    return total / len(chosen)


def _starts(size: int, tile: int) -> list[int]:
    step = tile - SIZE + 1
    return [*range(0, size - tile, step), size - tile]
