"""What is a picture: by the suffix of a name, and by the first bytes of a file."""

import importlib
import struct
from typing import Any

from PIL import Image, features

# Formats of Pillow that decode without starting another program, and their suffixes,
# the usual one first.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}

_RAW = "a camera's raw file"
_DRAWING = "a drawing or document, not made of pixels"
_LAYERS = "a picture of layers of an editor"
_FILM = "a film"
_OTHER = "a picture of a format that is not supported"
_JXL = "a JPEG XL picture"

# Of what looks like a picture or a film and cannot be protected.
_UNSUPPORTED: dict[str, tuple[str, ...]] = {
    _RAW: (
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2"),
        *(".raf", ".rw2", ".rwl", ".orf", ".pef", ".srw", ".x3f", ".3fr", ".fff"),
        *(".iiq", ".kdc", ".dcr", ".mrw", ".erf", ".mef", ".mos", ".gpr", ".raw"),
    ),
    _JXL: (".jxl",),
    _DRAWING: (".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf", ".cdr"),
    _LAYERS: (
        ".psd",
        ".psb",
        ".xcf",
        ".kra",
        ".ora",
        ".clip",
        ".afphoto",
        ".procreate",
    ),
    _FILM: (
        *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"),
        *(".3gp", ".mts", ".m2ts", ".flv", ".ogv"),
    ),
    _OTHER: (
        *(".ico", ".icns", ".cur", ".pcx", ".dds", ".exr", ".hdr", ".jxr", ".wdp"),
        *(".hdp", ".j2c", ".jpc", ".jpf", ".jpm", ".mj2", ".sgi", ".rgb", ".pfm"),
        *(".xbm", ".xpm", ".qoi", ".bpg", ".flif", ".pict", ".pct", ".ras", ".fits"),
        *(".im", ".msp", ".spider", ".blp", ".ftex", ".fli", ".flc", ".mng", ".jng"),
    ),
}

_BY_SUFFIX = {suffix: name for name, all_ in SUFFIXES.items() for suffix in all_}
_REASONS = {suffix: what for what, all_ in _UNSUPPORTED.items() for suffix in all_}

# Bytes of a file that `of_content` looks at.
HEAD = 64

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", _JXL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (b"8BPS", _LAYERS),
    (b"gimp xcf", _LAYERS),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIU\0", _RAW),
    (b"IIRO", _RAW),
    (b"%!PS", _DRAWING),
    (b"\xc5\xd0\xd3\xc6", _DRAWING),
    (b"\x1aE\xdf\xa3", _FILM),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


def of_suffix(suffix: str) -> str | None:
    """Returns the format that a suffix names.

    Args:
      suffix: as `pathlib.Path.suffix` has it, of any case.

    Returns:
      The name of the format in `SUFFIXES`, or None if it is none of these.

    Example:
      >>> from miue_jax.data import picture_kinds
      >>> picture_kinds.of_suffix(".JPEG")
      'JPEG'
    """
    return _BY_SUFFIX.get(suffix.lower())


def unsupported(suffix: str) -> str | None:
    """Tells what a suffix names that looks like a picture and cannot be protected.

    Args:
      suffix: as `pathlib.Path.suffix` has it, of any case.

    Returns:
      What it is, in words, or None if it is neither picture nor film or supported.

    Example:
      >>> from miue_jax.data import picture_kinds
      >>> picture_kinds.unsupported(".NEF")
      "a camera's raw file"
    """
    return _REASONS.get(suffix.lower())


def looks_like_picture(suffix: str) -> bool:
    """Tells whether a person would take a file for a picture or a film by its suffix.

    Args:
      suffix: as `pathlib.Path.suffix` has it, of any case.

    Returns:
      Whether it is in one of the tables, or one of a picture for Pillow.

    Example:
      >>> from miue_jax.data import picture_kinds
      >>> picture_kinds.looks_like_picture(".heic")
      True
      >>> picture_kinds.looks_like_picture(".txt")
      False
    """
    suffix = suffix.lower()
    known = suffix in _BY_SUFFIX or suffix in _REASONS
    # Pillow counts documents as well.
    return known or (suffix in Image.registered_extensions() and suffix != ".pdf")


def of_content(head: bytes) -> tuple[str | None, str | None]:
    """Recognizes a file by its first bytes.

    Args:
      head: the first `HEAD` bytes.

    Returns:
      The format in `SUFFIXES`, or None; and what it is, if it is a picture or a film
      that cannot be protected, or None.

    Example:
      >>> from miue_jax.data import picture_kinds
      >>> picture_kinds.of_content(b"GIF89a")
      ('GIF', None)
      >>> picture_kinds.of_content(b"8BPS")
      (None, 'a picture of layers of an editor')
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name, None
    for signature, what in _FOREIGN:
        if head.startswith(signature):
            return None, what
    if head[:4] == b"RIFF":
        if head[8:12] == b"WEBP":
            return "WEBP", None
        return None, _FILM if head[8:12] == b"AVI " else None
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:2] == b"BM" and len(head) > 26:
        header = struct.unpack("<I", head[14:18])[0]
        return ("BMP" if header in (12, 40, 52, 56, 64, 108, 124) else None), None
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM", None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<svg") or (start[:5] == b"<?xml" and b"<svg" in start):
        return None, _DRAWING
    return None, None


def _of_brands(head: bytes) -> tuple[str | None, str | None]:
    size = struct.unpack(">I", head[:4])[0]
    brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(size, HEAD), 4))]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF", None
    if any(brand in _HEIF_BRANDS for brand in brands):
        return "HEIF", None
    if brands[0] in (b"mif1", b"msf1"):
        return "HEIF", None
    if brands[0] in (b"M4A ", b"M4B ", b"M4P "):
        return None, None  # sound
    return None, _RAW if brands[0] == b"crx " else _FILM


def why_not(name: str) -> str | None:
    """Tells why a format of `SUFFIXES` cannot be read here.

    Args:
      name: the format.

    Returns:
      The reason, with the remedy, or None if it can be read.

    Example:
      >>> from miue_jax.data import picture_kinds
      >>> picture_kinds.why_not("PNG") is None
      True
    """
    if name == "HEIF":
        try:
            pillow_heif: Any = importlib.import_module("pillow_heif")
        except ImportError:
            return "HEIC pictures need pillow-heif: pip install 'miue_jax[heic]'"
        pillow_heif.register_heif_opener(thumbnails=False)
        return None
    checks = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}
    # Pillow warns about modules that its version does not know.
    if name in checks and checks[name] not in features.get_supported():
        return f"this build of Pillow cannot read {name}"
    return None


def bits_per_channel(image: Image.Image) -> int:
    """Returns the bits per channel of a file, which Pillow cuts to 8 for many modes.

    Args:
      image: the picture, opened and not yet decoded: its pixels are not looked at.

    Returns:
      1 to 32; 8 where the header does not tell.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> from miue_jax.data import picture_kinds
      >>> file = io.BytesIO()
      >>> Image.new("RGB", (8, 8)).save(file, "PNG")
      >>> picture_kinds.bits_per_channel(Image.open(file))
      8
    """
    kind = image.format
    if kind == "PNG":
        return _header(image, 26)[24]
    if kind == "TIFF":
        found = getattr(image, "tag_v2", {}).get(258, (1,))
        return max(found) if isinstance(found, tuple) else int(found)
    if kind == "PPM":
        return _ppm_bits(_header(image, 2048))
    if kind in ("AVIF", "HEIF"):
        given = image.info.get("bit_depth")
        return int(given) if given else _box_bits(_header(image, 8192))
    if kind == "JPEG2000":
        head = _header(image, 256)
        start = head.find(b"ihdr")
        # Kept as bits - 1, with a sign.
        return (head[start + 14] & 127) + 1 if 0 <= start < len(head) - 14 else 8
    return {"1": 1, "I;16": 16, "I;16B": 16, "I": 32, "F": 32}.get(image.mode, 8)


def _header(image: Image.Image, size: int) -> bytes:
    file = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    head = file.read(size)
    file.seek(place)
    return head


def _box_bits(head: bytes) -> int:
    start = head.find(b"av1C")
    # The third byte of its configuration says whether there are more than 8.
    if 0 <= start < len(head) - 6:
        flags = head[start + 6]
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return 8


def _ppm_bits(head: bytes) -> int:
    if head[1:2] in b"14":
        return 1
    lines = (line.partition(b"#")[0] for line in head.split(b"\n"))
    numbers = b" ".join(lines).split()[1:4]
    if len(numbers) == 3 and numbers[2].isdigit():
        return 16 if int(numbers[2]) > 255 else 8
    return 8
