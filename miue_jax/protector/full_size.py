"""A perturbation made at a small size, laid on a picture of any size."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

# (images (1, h, w, 3) uint8) -> (1, h, w, 3) float in [0, 1] units
Delta = Callable[[np.ndarray], Any]

# Pixels of the shorter side that a picture must have.
SMALLEST = 16
# Small pictures have sides of a multiple of it, and long sides are padded to four
# times as much, so that there are few programs to compile.
_STEP = 8
# Values of the enlarged perturbation that are made at once: they fit into a cache.
_VALUES = 2**17


def thumbnail(pixels: np.ndarray, size: int) -> np.ndarray:
    """Makes the small picture that a protector sees.

    Args:
      pixels: (H, W, 3) or gray (H, W, 1) uint8, upright.
      size: of its shorter side; smaller pictures have that of their own, rounded down
        to a multiple of 8.

    Returns:
      (h, w, 3) uint8, of the same proportions up to rounding.

    Raises:
      ValueError: if a side has fewer than 16 pixels.

    Example:
      >>> import numpy as np
      >>> from miue_jax.protector import full_size
      >>> full_size.thumbnail(np.zeros((300, 400, 3), np.uint8), 96).shape
      (96, 128, 3)
    """
    height, width, channels = pixels.shape
    short = min(height, width)
    if short < SMALLEST:
        raise ValueError(too_small(width, height))
    small = min(short, size) // _STEP * _STEP
    shape = [max(small, round(side * small / short)) for side in (width, height)]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    resized = image.resize(
        (shape[0], shape[1]), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    return np.asarray(resized.convert("RGB"))


def too_small(width: int, height: int) -> str:
    """Says why a picture is too small.

    Args:
      width: its pixels in a row.
      height: its rows.

    Returns:
      What it is.

    Example:
      >>> from miue_jax.protector import full_size
      >>> full_size.too_small(8, 9)
      'is 8x9: only pictures of at least 16 pixels a side can be protected'
    """
    return (
        f"is {width}x{height}: only pictures of at least {SMALLEST} pixels a side can "
        "be protected"
    )


def square(thumb: np.ndarray, place: float) -> np.ndarray:
    """Cuts a square of the whole shorter side.

    Args:
      thumb: (h, w, C).
      place: where along the longer side, in [0, 1].

    Returns:
      (s, s, C), a view.

    Example:
      >>> import numpy as np
      >>> from miue_jax.protector import full_size
      >>> full_size.square(np.zeros((96, 128, 3), np.uint8), 0.5).shape
      (96, 96, 3)
    """
    side = min(thumb.shape[:2])
    down, across = (round(place * (size - side)) for size in thumb.shape[:2])
    return thumb[down : down + side, across : across + side]


def exactly(square: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square that has not quite the size that is needed.

    Args:
      square: (s, s, 3) uint8.
      size: pixels of a side.

    Returns:
      (size, size, 3) uint8.

    Example:
      >>> import numpy as np
      >>> from miue_jax.protector import full_size
      >>> full_size.exactly(np.zeros((96, 96, 3), np.uint8), 32).shape
      (32, 32, 3)
    """
    if len(square) == size:
        return square
    return np.asarray(Image.fromarray(square).resize((size, size)))


def lay(pixels: np.ndarray, delta: Delta, *, size: int) -> np.ndarray:
    """Adds to a picture the perturbation of its thumbnail, enlarged.

    Enlarging is linear: nothing gets beyond the largest change of the small one, and
    who makes the picture small again sees the small one.

    Args:
      pixels: (H, W, 3) or gray (H, W, 1) uint8, upright.
      delta: maps thumbnails (1, h, w, 3) uint8 to perturbations in [0, 1] units.
      size: see `thumbnail`.

    Returns:
      uint8 of the shape of `pixels`.

    Raises:
      ValueError: if a side has fewer than 16 pixels.

    Example:
      >>> import numpy as np
      >>> from miue_jax.protector import full_size
      >>> picture = np.full((300, 400, 3), 100, np.uint8)
      >>> changed = full_size.lay(picture, lambda x: np.full(x.shape, 4 / 255), size=96)
      >>> int(changed.min()), int(changed.max())
      (104, 104)
    """
    thumb = thumbnail(pixels, size)
    height, width = thumb.shape[:2]
    step = 4 * _STEP
    pads = [
        (0, -side % step if side > min(height, width) else 0)
        for side in (height, width)
    ]
    padded = np.pad(thumb, [*pads, (0, 0)], mode="edge")
    small = np.asarray(delta(padded[None]), np.float32)[0, :height, :width] * 255
    if pixels.shape[-1] == 1:
        small = small.mean(-1, keepdims=True)
    result = np.empty_like(pixels)
    before, share = _linear(width, pixels.shape[1])
    low = small[:, before]
    wide = low + share[:, None] * (small[:, before + 1] - low)
    before, share = _linear(height, pixels.shape[0])
    for rows in _bands(pixels):
        first = int(before[rows][0])
        # As a product of matrices, each band is made in one go.
        near = wide[first : int(before[rows][-1]) + 2]
        places, shares = before[rows] - first, share[rows]
        weights = np.zeros((len(places), len(near)), np.float32)
        weights[np.arange(len(places)), places] = 1 - shares
        weights[np.arange(len(places)), places + 1] = shares
        band = (weights @ near.reshape(len(near), -1)).reshape(pixels[rows].shape)
        band += pixels[rows]
        np.rint(band, out=band)
        result[rows] = band.clip(0, 255, out=band)
    return result


def _linear(small: int, large: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each large pixel lies among the small ones: the one before, and a share."""
    places = np.arange(large)
    centers = np.clip((places + 0.5) * small / large - 0.5, 0, small - 1)
    before = np.minimum(centers.astype(int), small - 2)
    return before, (centers - before).astype(np.float32)


def _bands(pixels: np.ndarray) -> Iterator[slice]:
    step = max(1, _VALUES // pixels[0].size)
    for row in range(0, len(pixels), step):
        yield slice(row, min(row + step, len(pixels)))
