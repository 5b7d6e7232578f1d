"""Picture files of every format and mode, as cameras, editors and sites make them."""

import io
import pathlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, features

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="52,31.2N" '
    b'dc:title="tree"/></x:xmpmeta>'
)


def photo(height: int = 48, width: int = 72, seed: int = 0) -> np.ndarray:
    """Smooth shapes and the noise of a camera."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40.0
    waves = [np.sin(x + k) * np.cos(y * (k + 1)) for k in range(3)]
    noise = random.normal(0, 4, (height, width, 3))
    return np.clip(np.stack(waves, -1) * 90 + 128 + noise, 0, 255).astype(np.uint8)


def image(height: int = 48, width: int = 72) -> Image.Image:
    return Image.fromarray(photo(height, width))


def clear(height: int = 48, width: int = 72) -> Image.Image:
    """With transparency from none to all."""
    result = image(height, width).convert("RGBA")
    ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
    ramp[: height // 3] = 0
    result.putalpha(Image.fromarray(ramp))
    return result


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def display_p3() -> bytes:
    """A matrix profile with the primaries of Display P3, gamma 2.2."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(0.5151, 0.2412, -0.0011),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(0.2920, 0.6922, 0.0419),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(0.1571, 0.0666, 0.7841),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        padded = data + b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += padded
    rest = struct.pack(">I", len(tags)) + table + body
    kinds = (128 + len(rest), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head = struct.pack(">I4sI4s4s4s", *kinds)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28
    head += fixed(0.9642, 1.0, 0.8249)
    return head + b"\0" * (128 - len(head)) + rest


def exif(
    orientation: int = 1, *, thumbnail: bool = False, place: bool = False
) -> bytes:
    """EXIF data of a camera, little-endian, with all that it may hold."""
    data = Image.Exif()
    data[0x010F], data[0x0110], data[0x0112] = "Maker", "Model 1", orientation
    inside = data.get_ifd(0x8769)
    inside[0x829A], inside[0x9003] = 0.01, "2026:01:02 03:04:05"
    if place:
        data.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E"})
    block = data.tobytes().removeprefix(b"Exif\0\0")
    return b"Exif\0\0" + (_with_thumbnail(block) if thumbnail else block)


def preview() -> bytes:
    file = io.BytesIO()
    image(30, 40).save(file, "JPEG")
    return file.getvalue()


def _with_thumbnail(block: bytes) -> bytes:
    order = "<" if block[:2] == b"II" else ">"
    first = struct.unpack_from(order + "I", block, 4)[0]
    count = struct.unpack_from(order + "H", block, first)[0]
    end = first + 2 + 12 * count
    block += b"\0" * (len(block) % 2)
    data = bytearray(block)
    struct.pack_into(order + "I", data, end, len(block))
    small = preview()
    start = len(block) + 2 + 3 * 12 + 4
    table = struct.pack(order + "H", 3)
    table += struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
    table += struct.pack(order + "HHII", 0x0201, 4, 1, start)
    table += struct.pack(order + "HHII", 0x0202, 4, 1, len(small))
    return bytes(data) + table + b"\0\0\0\0" + small


def png(path: pathlib.Path, pixels: np.ndarray, bits: int, kind: int, **chunks) -> None:
    """Writes a PNG file of any depth and color type; `pixels` in levels of the file."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        unpacked = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)
        lines = unpacked[..., -bits:].reshape(height, -1)
        packed = [np.packbits(line).tobytes() for line in lines]

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checked

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in packed))
    more = b"".join(chunk(name.encode(), value) for name, value in chunks.items())
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + more
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def levels(bits: int, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(bits)
    shape = (48, 72) if channels == 1 else (48, 72, channels)
    return random.integers(0, 2**bits, shape)


def _saved(make: Callable[[], Image.Image], **options) -> Callable:
    return lambda path: make().save(path, **options)


def _ppm(head: bytes, channels: int) -> Callable[[pathlib.Path], object]:
    values = levels(16, channels).astype(">u2").tobytes()
    return lambda path: path.write_bytes(head + b"\n72 48\n65535\n" + values)


def _mpo(path: pathlib.Path) -> None:
    image().save(path, "MPO", save_all=True, append_images=[image()])


def _xmp_png(path: pathlib.Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("Title", "tree")
    info.add_text("Raw profile type exif", preview().hex())
    info.add(b"gAMA", struct.pack(">I", 45455))
    image().save(path, pnginfo=info, dpi=(300, 300), exif=exif(8, place=True))


def _tiff_with_preview(path: pathlib.Path) -> None:
    small = TiffImagePlugin.ImageFileDirectory_v2()
    small[254] = 1
    page = image(12, 18)
    page.encoderinfo = {"tiffinfo": small}
    image().save(path, save_all=True, append_images=[page])


def _oriented_tiff(path: pathlib.Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274], tags[270], tags[315] = 6, "tree", "me"
    image().save(path, tiffinfo=tags, dpi=(200, 200), icc_profile=srgb())


# Files that can be protected, by name.
FILES: dict[str, Callable[[pathlib.Path], object]] = {
    "color.jpg": _saved(image, quality=91),
    "gray.jpg": _saved(lambda: image().convert("L"), quality=90),
    "print.jpg": _saved(lambda: image().convert("CMYK"), quality=90),
    "progressive.jpg": _saved(image, quality=90, progressive=True),
    "full.jpeg": _saved(image, quality=98, subsampling=0),
    "half.JPG": _saved(image, quality=80, subsampling=1),
    "rgb.jpg": _saved(image, quality=90, keep_rgb=True),
    "poor.jpg": _saved(image, quality=20),
    "comment.jpg": _saved(image, comment=b"tree", dpi=(240, 240)),
    "profile.jpg": _saved(image, icc_profile=display_p3()),
    "xmp.jpg": _saved(image, xmp=XMP, exif=exif(3, thumbnail=True, place=True)),
    "several.mpo": _mpo,
    **{
        f"turned{k}.jpg": _saved(image, exif=exif(k, thumbnail=k % 2 == 0, place=k > 4))
        for k in range(1, 9)
    },
    "color.png": _saved(image),
    "gray.png": _saved(lambda: image().convert("L")),
    "clear.png": _saved(clear),
    "grayclear.png": _saved(lambda: clear().convert("LA")),
    "palette.png": _saved(lambda: image().convert("P")),
    "palette4.png": _saved(lambda: image().quantize(16), bits=4),
    "paletteclear.png": _saved(lambda: clear().quantize(64)),
    "palettekey.png": _saved(lambda: image().quantize(16), transparency=3),
    "bilevel.png": _saved(lambda: image().convert("1")),
    "gray2.png": lambda path: png(path, levels(2), 2, 0),
    "gray4.png": lambda path: png(path, levels(4), 4, 0),
    "gray16.png": lambda path: png(path, levels(16), 16, 0),
    "gray2key.png": lambda path: png(path, levels(2), 2, 0, tRNS=b"\0\1"),
    "graykey.png": lambda path: png(path, levels(8), 8, 0, tRNS=b"\0\x07"),
    "key.png": lambda path: png(
        path, levels(2, 3) * 80, 8, 2, tRNS=struct.pack(">3H", 80, 80, 80)
    ),
    "color16.png": lambda path: png(path, levels(16, 3), 16, 2),
    "clear16.png": lambda path: png(path, levels(16, 4), 16, 6),
    "grayclear16.png": lambda path: png(path, levels(16, 2), 16, 4),
    "turned.png": _saved(image, exif=exif(6, thumbnail=True, place=True)),
    "profile.png": _saved(image, icc_profile=display_p3()),
    "texts.png": _xmp_png,
    "lossy.webp": _saved(image, quality=90),
    "lossless.webp": _saved(image, lossless=True),
    "clear.webp": _saved(clear, quality=80),
    "clearlossless.webp": _saved(clear, lossless=True, exact=True),
    "turned.webp": _saved(
        image, lossless=True, exif=exif(5, place=True), xmp=XMP, icc_profile=srgb()
    ),
    "raw.tif": _saved(image),
    "lzw.tiff": _saved(image, compression="tiff_lzw"),
    "deflate.tif": _saved(image, compression="tiff_adobe_deflate"),
    "packbits.tif": _saved(lambda: image().convert("L"), compression="packbits"),
    "jpeg.tif": _saved(image, compression="jpeg", quality=90),
    "fax.tif": _saved(lambda: image().convert("1"), compression="group4"),
    "clear.tif": _saved(clear, compression="tiff_lzw"),
    "print.tif": _saved(lambda: image().convert("CMYK")),
    "palette.tif": _saved(lambda: image().convert("P")),
    "deep.tif": _saved(lambda: Image.fromarray(levels(16).astype(np.uint16))),
    "preview.tif": _tiff_with_preview,
    "turned.tif": _oriented_tiff,
    "color.bmp": _saved(image, dpi=(96, 96)),
    "gray.bmp": _saved(lambda: image().convert("L")),
    "palette.bmp": _saved(lambda: image().convert("P")),
    "bilevel.bmp": _saved(lambda: image().convert("1")),
    "still.gif": _saved(lambda: image().convert("P")),
    "color.ppm": _saved(image),
    "gray.pgm": _saved(lambda: image().convert("L")),
    "bilevel.pbm": _saved(lambda: image().convert("1")),
    "deep.pgm": _ppm(b"P5", 1),
    "deep.ppm": _ppm(b"P6", 3),
    "color.tga": _saved(image),
    "packed.tga": _saved(image, compression="tga_rle"),
    "clear.tga": _saved(clear),
}
if features.check("jpg_2000"):
    FILES["color.jp2"] = _saved(image)
    FILES["gray.jp2"] = _saved(lambda: image().convert("L"))
if "avif" in features.get_supported():
    FILES["color.avif"] = _saved(image, quality=80)
    FILES["clear.avif"] = _saved(clear, quality=90)
    FILES["turned.avif"] = _saved(image, exif=exif(6, place=True), icc_profile=srgb())


def _frames(path: pathlib.Path) -> None:
    other = Image.new("RGB", (72, 48), "red")
    image().save(path, save_all=True, append_images=[other])


def _cut(name: str) -> Callable[[pathlib.Path], object]:
    def make(path: pathlib.Path) -> None:
        FILES[name](path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    return make


def _with_bytes(data: bytes) -> Callable[[pathlib.Path], object]:
    return lambda path: path.write_bytes(data)


# Files that look like pictures and cannot be protected, and what is said.
UNREADABLE: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    **{
        f"moving.{suffix}": (_frames, r"is animated \(2 frames\)")
        for suffix in ("gif", "webp", "png")
    },
    "pages.tif": (_frames, r"has 2 pages"),
    "float.tif": (
        lambda p: Image.fromarray(photo()[..., 0].astype(np.float32)).save(p),
        r"more than 16 bits per channel",
    ),
    "whole.tif": (
        lambda p: Image.fromarray(photo()[..., 0].astype(np.int32)).save(p),
        r"more than 16 bits per channel",
    ),
    "key16.png": (
        lambda p: png(p, levels(16, 3), 16, 2, tRNS=struct.pack(">3H", 1, 2, 3)),
        r"16 bits and a transparent color",
    ),
    "cut.jpg": (_cut("color.jpg"), r"not a readable picture \(image file is trunc"),
    "cut.png": (_cut("color.png"), r"not a readable picture"),
    "cut.webp": (_cut("lossy.webp"), r"not a readable picture"),
    "cut.tif": (_cut("raw.tif"), r"not a readable picture"),
    "cut.bmp": (_cut("color.bmp"), r"not a readable picture"),
    "empty.jpg": (_with_bytes(b""), r"it is empty"),
    "text.png": (_with_bytes(b"no picture"), r"content is of no known format"),
    "photo.jxl": (_with_bytes(b"\xff\x0a" + b"\0" * 40), r"a JPEG XL picture"),
    "photo.dng": (_with_bytes(b"II*\0" + b"\0" * 40), r"a camera's raw file"),
    "photo.NEF": (_with_bytes(b"MM\0*" + b"\0" * 40), r"a camera's raw file"),
    "photo.cr3": (
        _with_bytes(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"),
        r"a camera's raw file",
    ),
    "film.mp4": (_with_bytes(b"\0\0\0\x18ftypisom\0\0\0\1isommp42"), r"a film"),
    "film.mov": (_with_bytes(b"\0\0\0\x14wide"), r"a film"),
    "layers.psd": (_with_bytes(b"8BPS\0\1" + b"\0" * 40), r"a picture of layers"),
    "drawing.svg": (_with_bytes(b"<svg xmlns='x'/>"), r"a drawing or document"),
    "drawing.eps": (_with_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"), r"a drawing or document"),
    "icon.ico": (_with_bytes(b"\0\0\1\0\1\0"), r"of a format that is not supported"),
}
