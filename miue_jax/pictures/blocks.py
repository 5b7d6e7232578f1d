"""JPEG within a budget: what is encoded is changed until what is decoded holds.

Without subsampling, the blocks of 8x8 pixels of a JPEG file do not depend on each
other. Those that leave the budget are therefore encoded again alone, as a small picture
of blocks, and only at the end the whole picture once.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIDE = 8
# Blocks that are worked on at once: 1 megapixel.
_CHUNK = 2**14
# Blocks in a row of the picture that they are encoded as.
_ACROSS = 128
# How often what exceeds is taken off before the margin grows; more often at the last
# margin, at which no change is wanted any more.
_PULLS, _LAST_PULLS = 1, 4

Code = Callable[[np.ndarray], np.ndarray]


def coder(**options: Any) -> Code:
    """Returns what JPEG makes of an image.

    Args:
      **options: for Pillow's encoder.

    Returns:
      A function of (H, W, C) uint8 that encodes and decodes.

    Example:
      >>> import numpy as np
      >>> from miue_jax.pictures import blocks
      >>> code = blocks.coder(quality=100)
      >>> code(np.full((8, 8, 3), 77, np.uint8))[0, 0].tolist()
      [77, 77, 77]
    """

    def code(pixels: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        gray = pixels.shape[-1] == 1
        image = Image.fromarray(pixels[..., 0] if gray else pixels)
        image.save(file, "JPEG", **{"subsampling": 0, **options})
        with Image.open(file, formats=("JPEG",)) as decoded:
            return np.asarray(decoded).reshape(pixels.shape)

    return code


class Aim(NamedTuple):
    """What to encode so that what is decoded keeps the budget.

    Attributes:
      pixels: of the shape of the original; of a sample, its blocks.
      share: the share of the wanted change that is decoded: its projection on it.
      margins: how many blocks held with which margin.

    Example:
      >>> import numpy as np
      >>> from miue_jax.pictures import blocks
      >>> blocks.Aim(np.zeros((8, 8, 3), np.uint8), 0.8, np.array([0, 1])).share
      0.8
    """

    pixels: np.ndarray
    share: float
    margins: np.ndarray


def aim(
    pixels: np.ndarray,
    wanted: np.ndarray,
    radius: int,
    code: Code,
    *,
    sample: int | None = None,
    margin: int = 1,
) -> Aim | None:
    """Finds what to encode so that what is decoded keeps the budget.

    The wanted change is clipped to the radius less a margin, and the margin of a block
    grows until the block holds.

    Args:
      pixels: (H, W, C) uint8, the original.
      wanted: the same shape; what to come near to, within the budget.
      radius: the largest change, in gray levels.
      code: what the encoder makes of an image.
      sample: look at so many blocks only, spread over the picture.
      margin: the first one. Encoding goes beyond most changes that have none.

    Returns:
      What to encode, or None if a block cannot keep the budget, not even without a
      change.

    Example:
      >>> import numpy as np
      >>> from miue_jax.pictures import blocks
      >>> gray = np.full((16, 16, 1), 100, np.uint8)
      >>> found = blocks.aim(gray, gray + np.uint8(8), 8, blocks.coder())
      >>> int(found.pixels.max()), round(found.share, 3)
      (107, 0.875)
    """
    height, width, _ = pixels.shape
    kept = energy = 0.0
    margins = np.zeros(radius + 1, np.int64)
    result = None if sample else np.empty_like(pixels)
    aimed = pixels
    for places in _chunks(height, width, sample):
        original = np.concatenate([_blocks(pixels, *place) for place in places])
        change = np.concatenate([_blocks(wanted, *place) for place in places])
        change = change.astype(np.int16) - original
        edges = _Edges(height, width, places)
        found = _hold(original, change, radius, code, edges, min(margin, radius))
        if found is None:
            return None
        aimed, got, used = found
        margins += np.bincount(used, minlength=radius + 1)
        change = change.astype(np.float32)
        kept += float(np.vdot(got.astype(np.float32) - original, change))
        energy += float(np.vdot(change, change))
        if result is not None:
            _put(result, places[0][0], aimed)
    share = kept / energy if energy else 1.0
    return Aim(aimed if result is None else result, share, margins)


def _hold(
    original: np.ndarray,
    change: np.ndarray,
    radius: int,
    code: Code,
    edges: "_Edges",
    first: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns what to encode, what is decoded, and the margins of the blocks."""
    low = np.maximum(original, radius) - np.uint8(radius)
    high = np.minimum(original, 255 - radius) + np.uint8(radius)
    edges.free(low, high)
    aimed, got = np.empty_like(original), np.empty_like(original)
    used = np.full(len(original), first)
    left = np.arange(len(original))
    for margin in range(first, radius + 1):
        room = radius - margin
        pulled = original[left] + np.clip(change[left], -room, room)
        used[left] = margin
        for _ in range(1 + (_PULLS if room else _LAST_PULLS)):
            aimed[left] = np.clip(pulled, 0, 255)
            edges.repeat(aimed, left)
            coded = _code_blocks(aimed[left], code)
            held = np.clip(coded, low[left], high[left])
            bad = (coded != held).any(axis=(1, 2, 3))
            got[left] = coded
            left = left[bad]
            if not left.size:
                return aimed, got, used
            pulled = aimed[left] - (coded[bad].astype(np.int16) - held[bad])
    return None


def _code_blocks(blocks: np.ndarray, code: Code) -> np.ndarray:
    count, channels = len(blocks), blocks.shape[-1]
    across = min(_ACROSS, count)
    rows = -(-count // across)
    missing = rows * across - count
    full = np.concatenate([blocks, blocks[:1].repeat(missing, axis=0)])
    grid = full.reshape(rows, across, SIDE, SIDE, channels).swapaxes(1, 2)
    coded = code(grid.reshape(rows * SIDE, across * SIDE, channels))
    grid = coded.reshape(rows, SIDE, across, SIDE, channels).swapaxes(1, 2)
    return grid.reshape(rows * across, SIDE, SIDE, channels)[:count]


# Rows of the picture, and which of their blocks; None for all.
_Place = tuple[slice, np.ndarray | None]


def _chunks(height: int, width: int, sample: int | None) -> Iterator[list[_Place]]:
    """The places of the blocks that are worked on together."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    if sample is not None:
        # Rows of blocks spread over the picture, and blocks spread over these.
        rows = np.unique(np.linspace(0, down - 1, min(down, 32)).astype(int))
        most = max(1, sample // len(rows))
        chosen = np.unique(np.linspace(0, across - 1, min(across, most)).astype(int))
        yield [(slice(row * SIDE, (row + 1) * SIDE), chosen) for row in rows]
        return
    step = max(1, _CHUNK // across)
    for row in range(0, down, step):
        yield [(slice(row * SIDE, (row + step) * SIDE), None)]


def _blocks(pixels: np.ndarray, rows: slice, chosen: np.ndarray | None) -> np.ndarray:
    """Cuts rows into blocks; those at the edges are filled as the encoder does."""
    band = pixels[rows]
    down, across = -band.shape[0] % SIDE, -band.shape[1] % SIDE
    if down or across:
        band = np.pad(band, [(0, down), (0, across), (0, 0)], "edge")
    height, width, channels = band.shape
    grid = band.reshape(height // SIDE, SIDE, width // SIDE, SIDE, channels)
    blocks = grid.swapaxes(1, 2)
    if chosen is not None:
        blocks = blocks[:, chosen]
    return blocks.reshape(-1, SIDE, SIDE, channels)


def _put(result: np.ndarray, rows: slice, blocks: np.ndarray) -> None:
    part = result[rows]
    down, across = -(-part.shape[0] // SIDE), -(-part.shape[1] // SIDE)
    grid = blocks.reshape(down, across, SIDE, SIDE, -1).swapaxes(1, 2)
    whole = grid.reshape(down * SIDE, across * SIDE, -1)
    part[...] = whole[: part.shape[0], : part.shape[1]]


class _Edges:
    """Blocks that reach beyond the picture, and how far they lie in it."""

    def __init__(self, height: int, width: int, places: list[_Place]) -> None:
        self.width, self.height = width % SIDE, height % SIDE
        right, bottom = [], []
        for rows, chosen in places:
            across = np.arange(-(-width // SIDE)) if chosen is None else chosen
            down = np.arange(rows.start, min(rows.stop, height), SIDE)
            last = (across + 1) * SIDE > width
            right.append(np.tile(last, len(down)))
            bottom.append(np.repeat(down + SIDE > height, len(across)))
        self.right, self.bottom = np.concatenate(right), np.concatenate(bottom)

    def free(self, low: np.ndarray, high: np.ndarray) -> None:
        """Nothing is asked of pixels beyond the picture."""
        for bound, value in ((low, 0), (high, 255)):
            bound[self.right, :, self.width :] = value
            bound[self.bottom, self.height :] = value

    def repeat(self, blocks: np.ndarray, left: np.ndarray) -> None:
        """Fills what lies beyond the picture, as the encoder will."""
        right, bottom = left[self.right[left]], left[self.bottom[left]]
        if right.size:
            inside = blocks[right, :, self.width - 1 : self.width]
            blocks[right, :, self.width :] = inside
        if bottom.size:
            inside = blocks[bottom, self.height - 1 : self.height]
            blocks[bottom, self.height :] = inside
