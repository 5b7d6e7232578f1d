"""A picture as it is read: the pixels, and all else that its file holds."""

import contextlib
import io
import math
import os
import pathlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from miue_jax._checks import one_line
from miue_jax.data import color_profile, memory, picture_kinds
from miue_jax.pictures import metadata

# Bytes that a pixel needs while a picture is read, changed, encoded and read back.
_BYTES_PER_PIXEL = 20

# Filters of warnings belong to the whole process.
_LOCK = threading.Lock()

# Tags of a TIFF file that say what it is rather than how its pixels are stored.
_TIFF_TAGS = (
    *(269, 270, 271, 272, 305, 306, 315, 316, 33432, 36867),
    *range(40091, 40096),
)
_EXIF_IFD, _GPS_IFD, _XMP, _IPTC = 34665, 34853, 700, 33723


class Header(NamedTuple):
    """What the beginning of a file says of its picture.

    Attributes:
      format: a name in `miue_jax.data.picture_kinds.SUFFIXES`.
      width: pixels in a row, as stored.
      height: rows, as stored.
      transparent: whether it has a transparency channel or a transparent color.

    Example:
      >>> import io
      >>> from miue_jax import pictures
      >>> pictures.Header("PNG", 64, 48, False).width
      64
    """

    format: str
    width: int
    height: int
    transparent: bool


class Picture(NamedTuple):
    """One picture.

    Attributes:
      pixels: (H, W, 3) or, gray, (H, W, 1) uint8: what a perturbation is laid on, as
        the file stores them: turn them by `orientation` to see them upright.
      alpha: (H, W) uint8, or None if it has no transparency channel.
      deep: (H, W) uint16 of a gray picture of 16 bits, of which `pixels` are the
        nearest 8 bits; otherwise None.
      format: of the file, a name in `miue_jax.data.picture_kinds.SUFFIXES`.
      lossless: whether the file stores its pixels exactly.
      orientation: 1 (upright) to 8, as EXIF has it.
      icc: the color profile of `pixels`, or None.
      exif: the EXIF block without its prefix; may be empty.
      xmp: the XMP packet, or None.
      iptc: the IPTC data, or None.
      dpi: the resolution across and down, or None.
      extra: what only files of this format hold: ``comment``, ``chunks``,
        ``progressive``, ``compression``, ``tags``.
      notes: sentences on what cannot stay as it is when it is written again.
      size: bytes of the file.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.png")
      ...     Image.new("P", (64, 48)).save(path)
      ...     picture = pictures.read(path)
      >>> picture.pixels.shape, picture.notes
      ((48, 64, 3), ('palette: written with full colors',))
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    deep: np.ndarray | None
    format: str
    lossless: bool
    orientation: int
    icc: bytes | None
    exif: bytes
    xmp: bytes | None
    iptc: bytes | None
    dpi: tuple[float, float] | None
    extra: dict[str, Any]
    notes: tuple[str, ...]
    size: int


def read(path: str | os.PathLike[str], *, kind: str | None = None) -> Picture:
    """Reads a picture; the content decides on the format, not the suffix.

    Args:
      path: the file.
      kind: its format, if it is known: for those that no first bytes tell.

    Returns:
      The picture.

    Raises:
      ValueError: naming the file, if it is no picture, damaged, animated, of several
        pages, of a format that cannot be protected, of more than 16 bits per channel,
        or larger than the memory.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.jpg")
      ...     Image.new("L", (64, 48)).save(path, dpi=(300, 300))
      ...     picture = pictures.read(path)
      >>> picture.format, picture.pixels.shape, picture.dpi
      ('JPEG', (48, 64, 1), (300, 300))
    """
    path = pathlib.Path(path)
    with _opened(path, kind) as (image, kind, file):
        _check(image, kind)
        bits = picture_kinds.bits_per_channel(image)
        # Some are read with the pixels only, others are gone once they are read.
        image.load()
        found = _Metadata(image, kind, file)
        pixels, alpha, deep, notes = _decode(image, bits)
        icc = found.icc
        if image.mode in ("CMYK", "LAB"):
            icc = None
        return Picture(
            pixels=pixels,
            alpha=alpha,
            deep=deep,
            format=kind,
            lossless=found.lossless,
            orientation=metadata.orientation(found.exif),
            icc=icc,
            exif=found.exif,
            xmp=found.xmp,
            iptc=found.iptc,
            dpi=found.dpi,
            extra=found.extra,
            notes=(*notes, *found.notes),
            size=path.stat().st_size,
        )


def check(path: str | os.PathLike[str], *, kind: str | None = None) -> None:
    """Checks that a picture can be read, to its end.

    JPEG files, where this is cheap, are decoded at an eighth of their size: all their
    bytes are read.

    Args:
      path: the file.
      kind: see `read`.

    Raises:
      ValueError: as `read`.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.jpg")
      ...     Image.effect_noise((640, 480), 50).save(path)
      ...     pictures.check(path)
      ...     _ = path.write_bytes(path.read_bytes()[:-1000])
      ...     pictures.check(path)
      Traceback (most recent call last):
      ValueError: .../a.jpg: not a readable picture (image file is truncated ...)
    """
    path = pathlib.Path(path)
    with _opened(path, kind) as (image, kind, file):
        if kind == "JPEG":
            _check(image, kind)
            image.draft(None, (1, 1))
            image.load()
            _Metadata(image, kind, file)
            return
    read(path, kind=kind)


def read_small(path: str | os.PathLike[str], side: int) -> np.ndarray:
    """Reads the pixels of a picture to make them small.

    JPEG files, where this is cheap, are decoded at a half, a quarter or an eighth of
    their size.

    Args:
      path: the file.
      side: pixels that the shorter side must have, if it has as many in the file. At
        least twice as many are left, so that making it smaller can average them.

    Returns:
      (h, w, 3) or, gray, (h, w, 1) uint8, upright.

    Raises:
      ValueError: as `read`.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.jpg")
      ...     Image.new("RGB", (640, 480)).save(path)
      ...     pictures.read_small(path, 64).shape
      (240, 320, 3)
    """
    path = pathlib.Path(path)
    with _opened(path) as (image, kind, file):
        if kind == "JPEG":
            _check(image, kind)
            factor = 2 * side / min(image.size)
            if factor < 1:
                # Rounded up, as Pillow takes a size that is not below the asked one.
                wide, tall = (math.ceil(length * factor) for length in image.size)
                image.draft(None, (wide, tall))
            image.load()
            found = _Metadata(image, kind, file)
            pixels = _decode(image, picture_kinds.bits_per_channel(image))[0]
            return np.ascontiguousarray(
                upright(pixels, metadata.orientation(found.exif))
            )
    picture = read(path)
    return np.ascontiguousarray(upright(picture.pixels, picture.orientation))


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads what tells whether a picture can be read, but not its pixels.

    Args:
      path: the file.

    Returns:
      Its format and size.

    Raises:
      ValueError: as `read`, but for damage after the beginning.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.jpg")
      ...     Image.new("L", (64, 48)).save(path)
      ...     pictures.read_header(path)
      Header(format='JPEG', width=64, height=48, transparent=False)
    """
    with _opened(pathlib.Path(path)) as (image, kind, _):
        _check(image, kind)
        return Header(kind, image.width, image.height, _transparent(image))


def upright(array: np.ndarray, orientation: int, *, back: bool = False) -> np.ndarray:
    """Turns an array as a viewer turns the picture.

    Args:
      array: (H, W, ...), as stored.
      orientation: of the picture.
      back: whether to turn an upright array to how it is stored.

    Returns:
      A view of the array.

    Example:
      >>> import numpy as np
      >>> from miue_jax import pictures
      >>> stored = np.arange(6).reshape(2, 3)
      >>> turned = pictures.upright(stored, 6)
      >>> turned.tolist()
      [[3, 0], [4, 1], [5, 2]]
      >>> pictures.upright(turned, 6, back=True).tolist() == stored.tolist()
      True
    """
    flip = orientation in (2, 4, 5, 7)
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    if back:
        array = np.rot90(array, -turns)
        return array[:, ::-1] if flip else array
    return np.rot90(array[:, ::-1] if flip else array, turns)


@contextlib.contextmanager
def _opened(
    path: pathlib.Path, kind: str | None = None
) -> Iterator[tuple[Image.Image, str, BinaryIO]]:
    try:
        with path.open("rb") as file:
            kind = kind or _kind(path, file.read(picture_kinds.HEAD))
            file.seek(0)
            formats = ("JPEG", "MPO") if kind == "JPEG" else (kind,)
            formats = ("BMP", "DIB") if kind == "BMP" else formats
            with _LOCK, warnings.catch_warnings():
                # The size is compared with the memory there is.
                warnings.simplefilter("ignore")
                image = Image.open(file, formats=formats)
            with image:
                yield image, kind, file
    except _Unfit as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files provoke any
        reason = getattr(error, "strerror", None) or one_line(str(error))
        reason = reason or type(error).__name__
        if reason.startswith("cannot identify image file"):
            reason = "damaged, or not what its first bytes say"
        raise ValueError(f"{path}: not a readable picture ({reason})") from error


class _Unfit(ValueError):
    """A picture that is whole, and still cannot be protected."""


def _kind(path: pathlib.Path, head: bytes) -> str:
    kind, what = picture_kinds.of_content(head)
    named = picture_kinds.unsupported(path.suffix)
    # Raw files look like TIFF files.
    if named and (kind is None or kind == "TIFF"):
        what = named
    if what:
        raise _Unfit(f"is {what}, which cannot be protected")
    if kind is None and picture_kinds.of_suffix(path.suffix) == "TGA":
        kind = "TGA"
    if kind is None:
        reason = "its content is of no known format" if head else "it is empty"
        raise _Unfit(f"not a readable picture ({reason})")
    if reason := picture_kinds.why_not(kind):
        raise _Unfit(reason)
    return kind


def _check(image: Image.Image, kind: str) -> None:
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and kind in ("PNG", "WEBP", "GIF", "AVIF"):
        raise _Unfit(
            f"is animated ({frames} frames): only still pictures are protected"
        )
    if frames > 1 and kind == "TIFF" and not _only_previews(image, frames):
        raise _Unfit(f"has {frames} pages: only single pictures are protected")
    if image.mode.startswith("F") or (
        image.mode == "I" and picture_kinds.bits_per_channel(image) > 16
    ):
        raise _Unfit("has more than 16 bits per channel, which cannot be protected")
    if "transparency" in image.info and picture_kinds.bits_per_channel(image) > 8:
        # Cut to 8 bits, other colors would become transparent too.
        raise _Unfit("has 16 bits and a transparent color, which cannot be kept")
    try:
        size = f"a picture of {image.width}x{image.height}"
        memory.check(_BYTES_PER_PIXEL * image.width * image.height, size)
    except ValueError as error:
        raise _Unfit(str(error)) from error


def _only_previews(image: Any, frames: int) -> bool:
    """Whether all pages but the first are smaller copies of it."""
    try:
        for page in range(1, frames):
            image.seek(page)
            if not int(image.tag_v2.get(254, 0)) & 1:
                return False
        return True
    finally:
        image.seek(0)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in image.info
    )


def _decode(
    image: Image.Image, bits: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, list[str]]:
    """Returns the pixels, the transparency, 16-bit gray pixels, and notes."""
    mode, notes = image.mode, []
    key = image.info.get("transparency")
    if mode.startswith("I"):
        return _deep(image)
    if bits > 8:
        notes.append(f"{bits} bits per channel: written with 8")
    if mode in ("1", "L"):
        gray = np.asarray(image.convert("L"))
        if bits < 8:
            notes.append(f"{bits} bit{'s' * (bits > 1)} per pixel: written with 8")
        alpha = None
        if isinstance(key, int):
            # It counts in the levels of the file.
            level = key * 255 // (2**bits - 1) if bits < 8 else key
            alpha = np.where(gray == level, 0, 255).astype(np.uint8)
            notes.append("one transparent color: written as a transparency channel")
        return gray[..., None], alpha, None, notes
    if mode in ("LA", "La"):
        both = np.asarray(image.convert("LA"))
        return *_split(both), None, notes
    if mode in ("P", "PA"):
        notes.append("palette: written with full colors")
    elif mode == "CMYK":
        converted = color_profile.to_srgb(image, image.info.get("icc_profile"))
        how = "by its profile" if converted else "without a profile, by a formula"
        notes.append(f"CMYK: converted to RGB {how}")
        return np.asarray(converted or image.convert("RGB")), None, None, notes
    elif mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        converted = color_profile.to_srgb(image, lab)
        if converted is None:
            raise _Unfit("is of CIELAB colors that cannot be converted")
        return np.asarray(converted), None, None, ["CIELAB: converted to RGB"]
    elif key is not None:
        notes.append("one transparent color: written as a transparency channel")
    if _transparent(image):
        both = np.asarray(image if mode == "RGBA" else image.convert("RGBA"))
        return *_split(both), None, notes
    return (
        np.asarray(image if mode == "RGB" else image.convert("RGB")),
        None,
        None,
        notes,
    )


def _split(both: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(both[..., :-1]), np.ascontiguousarray(both[..., -1])


def _deep(image: Image.Image) -> tuple[np.ndarray, None, np.ndarray, list[str]]:
    stored = np.asarray(image)
    if stored.min(initial=0) < 0 or stored.max(initial=0) > 65535:
        raise _Unfit("has more than 16 bits per channel, which cannot be protected")
    deep = stored.astype(np.uint16)
    return nearest_8_bits(deep)[..., None], None, deep, []


def nearest_8_bits(deep: np.ndarray) -> np.ndarray:
    """Rounds 16-bit levels to 8 bits.

    Args:
      deep: uint16; a level of 8 bits is 257 of these.

    Returns:
      uint8 of the same shape.

    Example:
      >>> import numpy as np
      >>> from miue_jax.pictures import picture
      >>> picture.nearest_8_bits(np.array([0, 128, 129, 65535], np.uint16)).tolist()
      [0, 0, 1, 255]
    """
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


class _Metadata:
    """What a file holds beside the pixels."""

    def __init__(self, image: Image.Image, kind: str, file: BinaryIO) -> None:
        info = image.info
        self.notes: list[str] = []
        self.extra: dict[str, Any] = {}
        self.icc: bytes | None = info.get("icc_profile") or None
        self.exif = _bytes(info.get("exif")).removeprefix(b"Exif\0\0")
        xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
        self.xmp = _bytes(xmp).rstrip(b"\0") or None
        self.iptc: bytes | None = None
        self.dpi = _resolution(info.get("dpi"))
        self.lossless = True
        getattr(self, f"_of_{kind.lower()}", lambda *_: None)(image, file)
        if int(getattr(image, "n_frames", 1)) > 1:
            self.notes.append(
                "further pictures in the file (previews, depth, brightness): left out"
            )

    def _of_jpeg(self, image: Any, file: BinaryIO) -> None:
        del file
        self.lossless = False
        self.extra["comment"] = image.info.get("comment")
        self.extra["progressive"] = bool(image.info.get("progressive"))
        resources = image.info.get("photoshop")
        if isinstance(resources, dict):
            self.iptc = _bytes(resources.get(0x0404)) or None

    def _of_png(self, image: Any, file: BinaryIO) -> None:
        if not self.exif and "Raw profile type exif" in image.info:
            # Made by ImageMagick.
            with contextlib.suppress(Exception):
                self.exif = image.getexif().tobytes().removeprefix(b"Exif\0\0")
        self.extra["chunks"] = metadata.png_chunks(file)

    def _of_webp(self, image: Any, file: BinaryIO) -> None:
        del image
        self.lossless = _is_lossless_webp(file)

    def _of_avif(self, image: Any, file: BinaryIO) -> None:
        del image, file
        self.lossless = False

    _of_heif = _of_avif

    def _of_jpeg2000(self, image: Any, file: BinaryIO) -> None:
        del image, file
        self.notes.append("JPEG 2000: written without loss, which makes it larger")

    def _of_gif(self, image: Any, file: BinaryIO) -> None:
        del file
        self.extra["comment"] = image.info.get("comment")

    def _of_tga(self, image: Any, file: BinaryIO) -> None:
        del file
        self.extra["compression"] = image.info.get("compression")

    def _of_tiff(self, image: Any, file: BinaryIO) -> None:
        del file
        # Pillow has turned it upright already.
        tags = dict(image.tag_v2)
        self.extra["compression"] = image.info.get("compression")
        self.xmp = _bytes(tags.get(_XMP)).rstrip(b"\0") or None
        self.iptc = _bytes(tags.get(_IPTC)) or None
        found, given = Image.Exif(), image.getexif()
        for tag in _TIFF_TAGS:
            if tag in tags:
                found[tag] = tags[tag]
        for table in (_EXIF_IFD, _GPS_IFD):
            if inside := dict(given.get_ifd(table)):
                found.get_ifd(table).update(inside)
        try:
            block = found.tobytes() if len(found) or found._ifds else b""
        except Exception:  # values that do not fit their types
            block = b""
            self.notes.append("its TIFF tags are damaged: left out")
        self.exif = block.removeprefix(b"Exif\0\0")


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, tuple):
        with contextlib.suppress(TypeError, ValueError):
            return bytes(value)
        return b""
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


def _resolution(dpi: object) -> tuple[float, float] | None:
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # What a file may say has no bounds.
    if not (0 < across < 1e5 and 0 < down < 1e5):
        return None
    return dpi[0], dpi[1]


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Looks for the chunk with the pixels: VP8 is lossy, VP8L lossless."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        if head[:4] in (b"VP8 ", b"VP8L"):
            return head[:4] == b"VP8L"
        size = int.from_bytes(head[4:], "little")
        file.seek(size + size % 2, io.SEEK_CUR)
    return False
