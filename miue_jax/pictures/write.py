"""Protected pictures within their budget, as the file is decoded again."""

import io
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from miue_jax._checks import check_flag, check_number
from miue_jax.data import atomic, memory
from miue_jax.pictures import blocks, encode, picture, similarity
from miue_jax.pictures.picture import Picture

# Quantization steps of brightness and color, equal for all frequencies, coarsest
# first. The usual tables of qualities 92 and 95 cut high frequencies so coarsely that
# even an unchanged photograph leaves a budget of 8 levels. For one size, equal steps
# keep about 1.3 times as much of a perturbation of single pixels as the table of
# quality 98, and about 0.95 times as much of one that is smooth over 16 pixels.
_STEPS = ((4, 3), (2, 2), (1, 1))
# The coarsest steps with this share of the change are taken. More is kept with finer
# ones, at half as many bytes again for a fifth more.
_ENOUGH = 0.6
# Blocks on which that is decided.
_SAMPLE = 256
# Other encoders work on the whole picture, which takes long: at their best quality, the
# only one that holds with photographs, and with a margin that nearly all tiles need.
# Tiles are as large as what their filters reach.
_WHOLE: dict[str, dict[str, Any]] = {
    "WEBP": {"quality": 100, "method": 2},
    "AVIF": {"quality": 100, "speed": 8, "subsampling": "4:4:4"},
    "HEIF": {"quality": 100, "chroma": 444},
}
_MARGIN = 3
_TILE = 16
_PROBE = 256
# They need much more memory than others: bytes per pixel. WebP without loss does not.
_HUNGRY = 60
_LARGE = 8_000_000
# Pixels that are compared at once: they fit into the cache of a processor.
_PIXELS = 2**14


class Audit(NamedTuple):
    """A written file, as it was read back.

    Attributes:
      format: of the file, a name in `miue_jax.data.picture_kinds.SUFFIXES`.
      lossless: whether it stores its pixels exactly.
      max_change: largest change of a channel of a pixel, in gray levels.
      psnr: peak signal-to-noise ratio in decibels; None if nothing changed.
      ssim: structural similarity, see `miue_jax.pictures.similarity`; None for
        pictures smaller than its window.
      kept: the share of the wanted change that is in the file: its projection on it.
      bytes_before: size of the original file.
      bytes_after: size of the written file.
      notes: sentences on what did not stay as it was.

    Example:
      >>> from miue_jax import pictures
      >>> pictures.Audit("PNG", True, 8, 30.1, 0.93, 1.0, 900, 1200, ()).max_change
      8
    """

    format: str
    lossless: bool
    max_change: int
    psnr: float | None
    ssim: float | None
    kept: float
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...]


def write(
    path: str | os.PathLike[str],
    original: Picture,
    wanted: np.ndarray,
    *,
    radius: int = 8,
    format: str | None = None,
    strip_location: bool = False,
    thorough: bool = True,
) -> Audit:
    """Writes a changed picture; decoded again, no pixel leaves the budget.

    Fully transparent pixels stay as they are. Encoders with loss add an error of their
    own: what they are given is changed until the sum of both keeps the budget, and
    where that is not possible, or keeps too little of the change, WebP is written
    without loss.

    Args:
      path: the file to create or replace; its parent folder must exist.
      original: as `read` returned it.
      wanted: uint8, of the shape of its pixels.
      radius: the largest change of a channel of a pixel, in gray levels.
      format: "png", "webp" or "jpeg"; None for the format of the original. See
        `miue_jax.pictures.encode.target` for what it becomes.
      strip_location: whether to remove the place from EXIF, XMP, IPTC and texts.
      thorough: whether to look longer for JPEG files that keep more of the change.

    Returns:
      What the file holds, as read back from the disk before it got its name.

    Raises:
      ValueError: if `wanted` has another shape, or leaves the budget; or, naming the
        file, if its format cannot keep the budget, or hold a picture of this size.
      OSError: naming the file, if it cannot be written; nothing is left behind.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path, out = pathlib.Path(folder, "a.png"), pathlib.Path(folder, "b.png")
      ...     Image.new("RGB", (64, 48), (90, 120, 200)).save(path)
      ...     picture = pictures.read(path)
      ...     audit = pictures.write(out, picture, picture.pixels + np.uint8(3))
      >>> audit.max_change, audit.kept
      (3, 1.0)
    """
    check_number("radius", radius, "> 0", whole=True)
    check_flag("strip_location", strip_location)
    path, radius = pathlib.Path(path), min(int(radius), 255)
    wanted = _checked(original, wanted, radius)
    kind, note = encode.target(original.format, original.alpha is not None, format)
    notes = [*original.notes, *([note] if note else [])]
    if original.format != kind and original.format in ("JPEG2000",):
        notes = [n for n in notes if not n.startswith("JPEG 2000")]
    details = encode.Details(original, kind, strip_location=strip_location)
    notes += details.notes
    try:
        data, lossless, more = _encode(
            original, wanted, radius, details, thorough=thorough
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    notes += more
    with atomic.write_file(path) as file:
        file.write(data)
        file.flush()
        # Under its temporary name: a file that leaves the budget never gets its own.
        found = picture.read(file.name, kind=kind)
        measured = _measure(original, wanted, found, lossless=lossless)
        if measured["max_change"] > radius:
            raise ValueError(
                f"{path}: as read back, it changes by {measured['max_change']} gray "
                f"levels, more than {radius}"
            )
    return Audit(
        format=kind,
        lossless=lossless,
        bytes_before=original.size,
        bytes_after=len(data),
        notes=tuple(dict.fromkeys(notes)),
        **measured,
    )


def _checked(original: Picture, wanted: np.ndarray, radius: int) -> np.ndarray:
    pixels = original.pixels
    wanted = np.asarray(wanted)
    if wanted.shape != pixels.shape or wanted.dtype != np.uint8:
        raise ValueError(
            f"the pixels must be uint8 of shape {pixels.shape}, got {wanted.dtype} and "
            f"{wanted.shape}"
        )
    largest = max(
        (int(_distance(wanted[rows], pixels[rows]).max()) for rows in _bands(pixels)),
        default=0,
    )
    if largest > radius:
        raise ValueError(
            f"the pixels change by {largest} gray levels, more than {radius}"
        )
    if original.alpha is not None and not original.alpha.all():
        # Nobody sees them; and many programs compare them.
        hidden = original.alpha[..., None] == 0
        wanted = np.where(hidden, pixels, wanted)
    return wanted


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.maximum(first, second) - np.minimum(first, second)


def _bands(pixels: np.ndarray) -> Iterator[slice]:
    step = max(1, _PIXELS // pixels.shape[1])
    for row in range(0, len(pixels), step):
        yield slice(row, row + step)


def _encode(
    original: Picture,
    wanted: np.ndarray,
    radius: int,
    details: encode.Details,
    *,
    thorough: bool,
) -> tuple[bytes, bool, list[str]]:
    """Returns the file, whether it is lossless, and notes."""
    kind = details.kind
    if kind == "JPEG":
        return _jpeg(original, wanted, radius, details, thorough=thorough)
    if kind == "WEBP" and (original.lossless or original.alpha is not None):
        return details.encode(wanted, **_LOSSLESS_WEBP), True, []
    if kind in _WHOLE:
        height, width = original.pixels.shape[:2]
        if kind != "WEBP":
            memory.check(_HUNGRY * height * width, f"{kind} of {width}x{height}")
        elif height * width > _LARGE:
            note = "WebP this large: written without loss, for the sake of memory"
            return details.encode(wanted, **_LOSSLESS_WEBP), True, [note]
        found = _within(original, wanted, radius, details, _WHOLE[kind])
        # The colors of WebP are half as fine: what is left may protect no more.
        if found and (kind != "WEBP" or found[1] >= _ENOUGH):
            return found[0], False, []
        if kind == "WEBP":
            note = f"WebP with loss leaves {radius} gray levels: written without loss"
            if found:
                note = f"WebP with loss keeps {found[1]:.0%} of the change: written "
                note += "without loss"
            return details.encode(wanted, **_LOSSLESS_WEBP), True, [note]
        raise ValueError(
            f"{kind} cannot keep {radius} gray levels in this picture: write it as PNG"
        )
    return details.encode(wanted), True, []


# Others make it some 10 % smaller, in many times the time and memory: 4.7 GB for 50
# megapixels rather than 0.9.
_LOSSLESS_WEBP = {"lossless": True, "exact": True, "quality": 0, "method": 0}


def _jpeg(
    original: Picture,
    wanted: np.ndarray,
    radius: int,
    details: encode.Details,
    *,
    thorough: bool,
) -> tuple[bytes, bool, list[str]]:
    pixels = original.pixels
    settings: list[dict[str, Any]] = [
        {"qtables": [[a] * 64, [b] * 64], "subsampling": 0} for a, b in _STEPS
    ]
    if pixels.shape[-1] == 3:
        # Without the conversion of colors, which rounds: for the smallest budgets.
        settings.append({"qtables": [[1] * 64], "subsampling": 0, "keep_rgb": True})
    for number, setting in enumerate(settings):
        code = blocks.coder(**setting)
        sample = blocks.aim(pixels, wanted, radius, code, sample=_SAMPLE)
        last = number >= len(_STEPS) - 1
        if sample is None or (sample.share < _ENOUGH and not last):
            continue
        # Margins at which few blocks hold only cost time.
        held = np.cumsum(sample.margins) / sample.margins.sum()
        first = int(np.searchsorted(held, 0.1 if thorough else 0.7))
        found = blocks.aim(pixels, wanted, radius, code, margin=max(1, first))
        if found is not None:
            lost = original.dpi is not None and "keep_rgb" in setting
            note = ["the resolution, unless EXIF has it: left out"] if lost else []
            return details.encode(found.pixels, **setting), False, note
    raise ValueError(
        f"JPEG cannot keep {radius} gray levels in this picture: write it as PNG"
    )


def _within(
    original: Picture,
    wanted: np.ndarray,
    radius: int,
    details: encode.Details,
    given: dict[str, Any],
) -> tuple[bytes, float] | None:
    """Encodes a whole picture until it keeps the budget; None if it cannot.

    Returns the file and the share of the change that is in it.
    """
    pixels = original.pixels
    change = wanted.astype(np.int16) - pixels

    def attempt(aimed: np.ndarray) -> tuple[bytes, float, np.ndarray | None]:
        data = details.encode(aimed, **given)
        got, over = _tiles_over(original, data, radius)
        signed = (got.astype(np.int16) - pixels).astype(np.float32)
        wide = np.broadcast_to(change, signed.shape).astype(np.float32)
        energy = float(np.vdot(wide, wide))
        share = float(np.vdot(signed, wide)) / energy if energy else 1.0
        return data, share, over

    # Of the middle first: most photographs in WebP fail there, in little time.
    if min(pixels.shape[:2]) > 2 * _PROBE:
        row, column = (size // 2 for size in pixels.shape[:2])
        middle = pixels[row : row + _PROBE, column : column + _PROBE]
        if not _codes_within(middle, radius, details.kind, given):
            return None
    data, share, over = attempt(pixels)
    if over is None or over.any():
        return None
    if not change.any():
        return data, share
    margins = np.full(over.shape, min(_MARGIN, radius))
    for _ in range(radius + 2):
        room = (radius - margins).repeat(_TILE, 0).repeat(_TILE, 1)
        room = room[: pixels.shape[0], : pixels.shape[1], None]
        aimed = np.clip(pixels + np.clip(change, -room, room), 0, 255)
        data, share, over = attempt(aimed.astype(np.uint8))
        if over is None:
            return None
        if not over.any():
            return data, share
        # Neighbors share filters: they give way by less.
        margins = np.minimum(margins + 2 * over, radius)
        margins = np.minimum(np.maximum(margins, _around(margins) - 3), radius)
    return None


def _codes_within(
    pixels: np.ndarray, radius: int, kind: str, given: dict[str, Any]
) -> bool:
    """Whether an encoder keeps the budget with pixels that have no change."""
    file = io.BytesIO()
    gray = pixels.shape[-1] == 1
    Image.fromarray(pixels[..., 0] if gray else pixels).save(file, kind, **given)
    with Image.open(file) as image:
        got = np.asarray(image.convert("RGB"))
    return int(_distance(got, pixels).max()) <= radius


def _around(margins: np.ndarray) -> np.ndarray:
    """The largest margin next to each tile."""
    padded = np.pad(margins, 1)
    shifted = [
        padded[i : i + margins.shape[0], j : j + margins.shape[1]]
        for i in range(3)
        for j in range(3)
    ]
    return np.max(shifted, axis=0)


def _tiles_over(
    original: Picture, data: bytes, radius: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """What is decoded, and which tiles leave the budget.

    There are none if the transparency is not kept.
    """
    with Image.open(io.BytesIO(data)) as image:
        got = np.asarray(image.convert("RGBA" if original.alpha is not None else "RGB"))
    if original.alpha is not None:
        if not np.array_equal(got[..., 3], original.alpha):
            return got[..., :3], None
        got = got[..., :3]
    over = (_distance(got, original.pixels) > radius).any(axis=-1)
    if original.alpha is not None:
        over &= original.alpha > 0
    down, across = -over.shape[0] % _TILE, -over.shape[1] % _TILE
    over = np.pad(over, [(0, down), (0, across)])
    grid = over.reshape(over.shape[0] // _TILE, _TILE, over.shape[1] // _TILE, _TILE)
    return got, np.asarray(grid.any(axis=(1, 3)))


def _measure(
    original: Picture, wanted: np.ndarray, found: Picture, *, lossless: bool
) -> dict[str, Any]:
    before, after = original.pixels, found.pixels
    _check_same(original, found)
    if before.shape[-1] > after.shape[-1]:
        after = np.broadcast_to(after, before.shape)
    largest, squares, kept, energy = 0, 0.0, 0.0, 0.0
    for rows in _bands(before):
        got = after[rows].astype(np.int16)
        got -= before[rows]
        if original.alpha is not None and not lossless:
            # Encoders with loss write what they like where nobody sees it.
            got *= original.alpha[rows][..., None] > 0
        change = (wanted[rows].astype(np.int16) - before[rows]).astype(np.float32)
        change = np.broadcast_to(change, got.shape)
        largest = max(largest, int(got.max(initial=0)), -int(got.min(initial=0)))
        values = got.astype(np.float32)
        squares += float(np.vdot(values, values))
        kept += float(np.vdot(values, change))
        energy += float(np.vdot(change, change))
    mean = squares / after.size
    shown = np.broadcast_to(before, after.shape)
    return {
        "max_change": largest,
        "psnr": 10 * math.log10(255**2 / mean) if mean else None,
        "ssim": similarity.ssim(shown, after),
        "kept": kept / energy if energy else 1.0,
    }


def _check_same(original: Picture, found: Picture) -> None:
    """What must not change at all."""
    if original.pixels.shape[:2] != found.pixels.shape[:2]:
        raise ValueError("as read back, the picture has another size")
    alpha, other = original.alpha, found.alpha
    if alpha is not None and other is None and alpha.min() == 255:
        return
    if alpha is None and other is None:
        return
    if alpha is None or other is None or not np.array_equal(alpha, other):
        raise ValueError("as read back, the picture has another transparency")
