"""JPEG within a budget: what is encoded is changed until what is decoded holds.

Without subsampling, the blocks of 8x8 pixels of a JPEG file do not depend on each
other. Those that leave the budget when the picture is encoded are therefore encoded
again alone, as a small picture of blocks, and only at the end the whole picture.
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
# Values that are compared at once.
_CACHED = 2**16
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
    margin = min(margin, radius)
    if sample is not None:
        places = _sampled(height, width, sample)
        original = np.concatenate([_blocks(pixels, *place) for place in places])
        change = np.concatenate([_blocks(wanted, *place) for place in places])
        edges = _Edges(height, width, places)
        found = _hold(original, change, radius, code, edges, margin)
        if found is None:
            return None
        aimed, got, used = found
        kept, energy = _projected(original, change, got)
        margins = np.bincount(used, minlength=radius + 1)
        return Aim(aimed, kept / energy if energy else 1.0, margins)
    kept = energy = 0.0
    margins = np.zeros(radius + 1, np.int64)
    result = np.empty_like(pixels)
    step = max(1, _CHUNK // -(-width // SIDE)) * SIDE
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        band = _hold_band(pixels[rows], wanted[rows], radius, code, margin)
        if band is None:
            return None
        result[rows], got, used = band
        part = _projected(pixels[rows], wanted[rows], got)
        kept, energy = kept + part[0], energy + part[1]
        margins += np.bincount(used, minlength=radius + 1)
    return Aim(result, kept / energy if energy else 1.0, margins)


def _projected(
    original: np.ndarray, wanted: np.ndarray, got: np.ndarray
) -> tuple[float, float]:
    """Products of the wanted change with what is decoded of it, and with itself."""
    kept = energy = 0.0
    for rows in _few(original):
        before = original[rows].astype(np.float32)
        change = wanted[rows].astype(np.float32) - before
        found = got[rows].astype(np.float32) - before
        kept += float(np.vdot(found, change))
        energy += float(np.vdot(change, change))
    return kept, energy


def _few(pixels: np.ndarray) -> Iterator[slice]:
    """Rows or blocks that fit into the cache of a processor."""
    step = max(1, _CACHED // max(1, pixels[0].size))
    for start in range(0, len(pixels), step):
        yield slice(start, start + step)


def _limited(values: np.ndarray, pixels: np.ndarray, radius: int) -> np.ndarray:
    """Values within a radius of pixels."""
    result = np.empty_like(values)
    for rows in _few(pixels):
        low, high = _bounds(pixels[rows], radius)
        np.maximum(values[rows], low, out=low)
        np.minimum(low, high, out=result[rows])
    return result


def _bounds(pixels: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest values of pixels within a radius."""
    # NumPy compares arrays ten times as fast as an array and a number.
    low, high = np.full_like(pixels, radius), np.full_like(pixels, 255 - radius)
    np.maximum(pixels, low, out=low)
    np.minimum(pixels, high, out=high)
    low -= np.uint8(radius)
    high += np.uint8(radius)
    return low, high


def _hold_band(
    pixels: np.ndarray, wanted: np.ndarray, radius: int, code: Code, margin: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """As `_hold`, of rows of a picture: only what does not hold is cut into blocks."""
    aimed = _limited(wanted, pixels, radius - margin)
    got = code(aimed).copy()
    over = _limited(got, pixels, radius) != got
    height, width, channels = over.shape
    down, across = -(-height // SIDE), -(-width // SIDE)
    if height % SIDE or width % SIDE:
        beyond = [(0, down * SIDE - height), (0, across * SIDE - width), (0, 0)]
        over = np.pad(over, beyond)
    over = np.logical_or.reduce(over.reshape(down, SIDE, -1), axis=1)
    bad = np.flatnonzero(over.reshape(down * across, SIDE * channels).any(axis=1))
    used = np.full(down * across, margin)
    if not bad.size:
        return aimed, got, used
    whole: list[_Place] = [(slice(0, height), None)]
    edges = _Edges(height, width, whole).only(bad)
    original, change, tried, coded = (
        _blocks(x, slice(0, height), None, bad) for x in (pixels, wanted, aimed, got)
    )
    found = _hold(original, change, radius, code, edges, margin, (tried, coded))
    if found is None:
        return None
    _put(aimed, bad, found[0])
    _put(got, bad, found[1])
    used[bad] = found[2]
    return aimed, got, used


def _hold(
    original: np.ndarray,
    wanted: np.ndarray,
    radius: int,
    code: Code,
    edges: "_Edges",
    first: int,
    tried: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns what to encode, what is decoded, and the margins of the blocks.

    What was tried first, at the first margin, and what became of it, may be known.
    """
    low, high = _bounds(original, radius)
    edges.free(low, high)
    change = wanted.astype(np.int16) - original
    aimed, got = tried or (np.empty_like(original), np.empty_like(original))
    used = np.full(len(original), first)
    left = np.arange(len(original))
    for margin in range(first, radius + 1):
        room = radius - margin
        pulled = original[left] + np.clip(change[left], -room, room)
        used[left] = margin
        for _ in range(1 + (_PULLS if room else _LAST_PULLS)):
            if tried is None:
                aimed[left] = np.clip(pulled, 0, 255)
                edges.repeat(aimed, left)
                coded = _code_blocks(aimed[left], code)
            else:
                coded, tried = tried[1], None
            held = np.maximum(coded, low[left])
            np.minimum(held, high[left], out=held)
            bad = (coded != held).reshape(len(left), -1).any(axis=1)
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


def _sampled(height: int, width: int, sample: int) -> list[_Place]:
    """Rows of blocks spread over the picture, and blocks spread over these."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    rows = np.unique(np.linspace(0, down - 1, min(down, 32)).astype(int))
    most = max(1, sample // len(rows))
    chosen = np.unique(np.linspace(0, across - 1, min(across, most)).astype(int))
    return [(slice(row * SIDE, (row + 1) * SIDE), chosen) for row in rows]


def _blocks(
    pixels: np.ndarray,
    rows: slice,
    chosen: np.ndarray | None,
    only: np.ndarray | None = None,
) -> np.ndarray:
    """Cuts rows into blocks; those at the edges are filled as the encoder does.

    Of all blocks, or of those that are chosen in each row of blocks, some may be taken.
    """
    band = pixels[rows]
    down, across = -band.shape[0] % SIDE, -band.shape[1] % SIDE
    if down or across:
        band = np.pad(band, [(0, down), (0, across), (0, 0)], "edge")
    height, width, channels = band.shape
    grid = band.reshape(height // SIDE, SIDE, width // SIDE, SIDE, channels)
    blocks = grid.swapaxes(1, 2)
    if only is not None:
        return blocks[np.divmod(only, blocks.shape[1])]
    if chosen is not None:
        blocks = blocks[:, chosen]
    return blocks.reshape(-1, SIDE, SIDE, channels)


def _put(pixels: np.ndarray, places: np.ndarray, blocks: np.ndarray) -> None:
    """Replaces blocks of a picture; of those at its edges, what lies in it."""
    height, width, channels = pixels.shape
    down, across = height // SIDE, width // SIDE
    rows, columns = np.divmod(places, -(-width // SIDE))
    whole = (rows < down) & (columns < across)
    inside = pixels[: down * SIDE, : across * SIDE]
    # A view: axes are split, nothing moves.
    grid = inside.reshape(down, SIDE, across, SIDE, channels).swapaxes(1, 2)
    grid[rows[whole], columns[whole]] = blocks[whole]
    for row, column, block in zip(
        rows[~whole], columns[~whole], blocks[~whole], strict=True
    ):
        part = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE :][:, :SIDE]
        part[...] = block[: part.shape[0], : part.shape[1]]


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

    def only(self, chosen: np.ndarray) -> "_Edges":
        """Those of some of the blocks."""
        self.right, self.bottom = self.right[chosen], self.bottom[chosen]
        return self

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
