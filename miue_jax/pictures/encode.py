"""Files of the supported formats, with what they hold beside the pixels."""

import io
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from miue_jax.data import picture_kinds
from miue_jax.pictures import metadata
from miue_jax.pictures.picture import Picture

# Formats that can be asked for.
FORMATS = ("png", "webp", "jpeg")

# What a format cannot hold.
_NO_TRANSPARENCY = ("JPEG", "BMP", "PPM")
_NO_GRAY = ("WEBP", "AVIF", "HEIF")
_SIXTEEN_BITS = ("PNG", "TIFF", "PPM", "JPEG2000")
_LOSSLESS_TIFF = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")
_JPEG_SEGMENT = 65533


def target(kind: str, transparent: bool, asked: str | None) -> tuple[str, str | None]:
    """Decides in which format a picture is written.

    Args:
      kind: its format.
      transparent: whether it has transparency.
      asked: one of `FORMATS`, or None for that of the picture.

    Returns:
      The format, and a sentence if it is not the one that was asked for.

    Raises:
      ValueError: if `asked` is not one of `FORMATS`.

    Example:
      >>> from miue_jax.pictures import encode
      >>> encode.target("GIF", False, None)
      ('PNG', 'GIF holds 256 colors, too few: written as PNG')
    """
    if asked is not None and asked not in FORMATS:
        raise ValueError(f"format is {asked!r}; allowed: {', '.join(FORMATS)}")
    wanted = asked.upper() if asked else kind
    if wanted == "GIF":
        return "PNG", "GIF holds 256 colors, too few: written as PNG"
    if transparent and wanted in _NO_TRANSPARENCY:
        return "PNG", f"{wanted} has no transparency: written as PNG"
    return wanted, None


def losses(picture: Picture, kind: str) -> list[str]:
    """Tells what a picture loses in another format.

    Args:
      picture: the picture.
      kind: the format that it is written in.

    Returns:
      Sentences.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> from miue_jax.pictures import encode
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.png")
      ...     Image.new("I;16", (64, 48)).save(path)
      ...     picture = pictures.read(path)
      >>> encode.losses(picture, "JPEG")
      ['16 bits per channel: written with 8']
    """
    found = []
    if picture.deep is not None and kind not in _SIXTEEN_BITS:
        found.append("16 bits per channel: written with 8")
    if picture.icc and picture.pixels.shape[-1] == 1 and kind in _NO_GRAY:
        found.append(f"{kind} has no gray pictures: the gray color profile is left out")
    holds_icc = kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF")
    if picture.icc and not holds_icc:
        found.append(f"{kind} holds no color profile: left out")
    if (picture.exif or picture.xmp) and not holds_icc:
        found.append(f"{kind} holds no EXIF data here: left out")
    if picture.iptc and kind not in ("JPEG", "TIFF"):
        found.append(f"{kind} holds no IPTC data here: left out")
    compression = picture.extra.get("compression")
    if kind == "TIFF" and compression and compression not in _LOSSLESS_TIFF:
        found.append(f"TIFF with {compression}: written without loss (deflate)")
    return found


class Details:
    r"""What a file holds beside its pixels, cleaned once for all attempts.

    Args:
      picture: the picture.
      kind: the format of the file to write.
      strip_location: whether to remove the place.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> from miue_jax.pictures import encode
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "a.png")
      ...     Image.new("L", (64, 48)).save(path)
      ...     picture = pictures.read(path)
      >>> details = encode.Details(picture, "PNG", strip_location=False)
      >>> details.encode(picture.pixels)[:4]
      b'\x89PNG'
    """

    def __init__(self, picture: Picture, kind: str, *, strip_location: bool) -> None:
        self.picture, self.kind = picture, kind
        self.exif, notes = metadata.without_previews(
            picture.exif, strip_location=strip_location
        )
        self.xmp, self.iptc = picture.xmp, picture.iptc
        if self.xmp:
            self.xmp, more = metadata.clean_xmp(self.xmp, strip_location=strip_location)
            notes += more
        if self.iptc and strip_location:
            self.iptc = None
            notes += ("IPTC data may tell the place: removed",)
        gray = picture.pixels.shape[-1] == 1
        self.icc = None if gray and kind in _NO_GRAY else picture.icc
        self.chunks = picture.extra.get("chunks", ())
        if strip_location:
            kept = tuple(c for c in self.chunks if not metadata.has_place(c[1]))
            if len(kept) < len(self.chunks):
                notes += ("texts that may tell the place: removed",)
            self.chunks = kept
        if kind == "JPEG":
            notes += self._fit_segments()
        self.notes = tuple(dict.fromkeys((*losses(picture, kind), *notes)))

    def _fit_segments(self) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        if len(self.exif) > _JPEG_SEGMENT - 6:
            self.exif = b""
            notes += ("its EXIF data are too long for JPEG: left out",)
        if self.xmp and len(self.xmp) > _JPEG_SEGMENT - 29:
            self.xmp = None
            notes += ("its XMP data are too long for JPEG: left out",)
        if self.iptc and len(self.iptc) > _JPEG_SEGMENT - 30:
            self.iptc = None
            notes += ("its IPTC data are too long for JPEG: left out",)
        return notes

    def encode(self, pixels: np.ndarray, **options: Any) -> bytes:
        """Encodes pixels in place of those of the picture.

        Args:
          pixels: (H, W, C) uint8.
          **options: for Pillow's encoder.

        Returns:
          The bytes of the file.

        Raises:
          ValueError: if the format cannot hold a picture of this size.
        """
        file = io.BytesIO()
        image = self._image(pixels)
        given = {**getattr(self, f"_for_{self.kind.lower()}")(), **options}
        if given.get("keep_rgb"):
            # Where JPEG tells the resolution, decoders take its colors for YCbCr.
            given.pop("dpi", None)
        try:
            try:
                image.save(file, self.kind, **given)
            except OSError:
                # Pillow's buffer for progressive files is too small for some.
                if not given.pop("progressive", False):
                    raise
                file = io.BytesIO()
                image.save(file, self.kind, **given)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"cannot be written as {self.kind} ({error or type(error).__name__})"
            ) from error
        return file.getvalue()

    def _image(self, pixels: np.ndarray) -> Image.Image:
        picture = self.picture
        if picture.deep is not None and self.kind in _SIXTEEN_BITS:
            change = pixels[..., 0].astype(np.int32) - picture.pixels[..., 0]
            deep = np.clip(picture.deep + 257 * change, 0, 65535)
            return Image.fromarray(deep.astype(np.uint16))
        if picture.alpha is not None and self.kind not in _NO_TRANSPARENCY:
            return Image.fromarray(np.dstack([pixels, picture.alpha]))
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def _common(self) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if self.icc:
            given["icc_profile"] = self.icc
        if self.exif:
            given["exif"] = b"Exif\0\0" + self.exif
        return given

    def _with_dpi(self, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "dpi": self.picture.dpi} if self.picture.dpi else given

    def _for_jpeg(self) -> dict[str, Any]:
        extra, given = self.picture.extra, self._with_dpi(self._common())
        given["extra"] = metadata.jpeg_segments(self.xmp, self.iptc)
        if comment := extra.get("comment"):
            given["comment"] = comment
        if extra.get("progressive"):
            given["progressive"] = True
        return given

    def _for_png(self) -> dict[str, Any]:
        chunks = PngImagePlugin.PngInfo()
        for kind, data in self.chunks:
            chunks.add(kind, data)
        if self.xmp:
            # Uncompressed, without a language.
            chunks.add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + self.xmp)
        return {**self._with_dpi(self._common()), "pnginfo": chunks}

    def _for_webp(self) -> dict[str, Any]:
        return {**self._common(), **({"xmp": self.xmp} if self.xmp else {})}

    def _for_avif(self) -> dict[str, Any]:
        return self._for_webp()

    def _for_heif(self) -> dict[str, Any]:
        return self._for_webp()

    def _for_tiff(self) -> dict[str, Any]:
        exif = Image.Exif()
        if self.exif:
            exif.load(self.exif)
            for table in (0x8769, 0x8825):
                exif.get_ifd(table)
        if self.xmp:
            exif[700] = self.xmp
        if self.iptc:
            exif[33723] = self.iptc
        compression = self.picture.extra.get("compression") or "tiff_adobe_deflate"
        if compression not in _LOSSLESS_TIFF:
            compression = "tiff_adobe_deflate"
        given: dict[str, Any] = {"exif": exif, "compression": compression}
        if self.icc:
            given["icc_profile"] = self.icc
        return self._with_dpi(given)

    def _for_bmp(self) -> dict[str, Any]:
        return self._with_dpi({})

    def _for_ppm(self) -> dict[str, Any]:
        return {}

    def _for_tga(self) -> dict[str, Any]:
        compression = self.picture.extra.get("compression")
        return {"compression": compression} if compression else {}

    def _for_jpeg2000(self) -> dict[str, Any]:
        return {"irreversible": False}


def suffix(kind: str) -> str:
    """Returns the usual suffix of a format.

    Args:
      kind: the format.

    Returns:
      The suffix, with its dot.

    Example:
      >>> from miue_jax.pictures import encode
      >>> encode.suffix("JPEG")
      '.jpg'
    """
    return picture_kinds.SUFFIXES[kind][0]
