"""What is stored beside the pixels: kept, but for what shows the unprotected picture.

EXIF blocks are changed in place, so that all that stays has its bytes and its place:
the notes of camera makers point to absolute positions.
"""

import contextlib
import re
import struct
import zlib
from typing import BinaryIO

_PREFIX = b"Exif\0\0"
_ORIENTATION, _SUB_IFDS, _EXIF_IFD, _GPS_IFD = 0x0112, 0x014A, 0x8769, 0x8825
_MAKER_NOTE, _XP_FIRST = 0x927C, 0x9C9B
# Where the thumbnail starts, and its length: as JPEG, or as strips.
_THUMBNAIL = ((0x0201, 0x0202), (0x0111, 0x0117))
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

# How encoded pictures begin: as bytes, in base64, and in hexadecimal digits.
_PICTURE = re.compile(
    rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n|/9j/[\w+/]|iVBORw0KGgo|ffd8ff|89504e470d0a",
    re.IGNORECASE,
)
# Names in XMP that tell a place.
_PLACE = re.compile(
    rb"gps|latitude|longitude|geotag|location|:city\b|:country|:state\b|sublocation",
    re.IGNORECASE,
)

THUMBNAIL_REMOVED = "the embedded preview showed the unprotected picture: removed"
PLACE_REMOVED = "the place was removed"
EXIF_DAMAGED = "its EXIF data are damaged: only the orientation is kept"


def without_previews(
    block: bytes, *, strip_location: bool
) -> tuple[bytes, tuple[str, ...]]:
    """Removes embedded previews from an EXIF block and, if asked for, the place.

    Args:
      block: the block, with or without its prefix ``Exif``.
      strip_location: whether to remove the GPS data and the maker's notes, in which
        several makers write the place too.

    Returns:
      The block without prefix (empty if nothing is left), and sentences on what was
      removed.

    Example:
      >>> from PIL import Image
      >>> from miue_jax.pictures import metadata
      >>> exif = Image.Exif()
      >>> exif[274] = 6
      >>> exif.get_ifd(0x8825)[1] = "N"
      >>> block, notes = metadata.without_previews(exif.tobytes(), strip_location=True)
      >>> notes
      ('the place was removed',)
      >>> read = Image.Exif()
      >>> read.load(block)
      >>> dict(read), dict(read.get_ifd(0x8825))
      ({274: 6}, {})
    """
    block = block.removeprefix(_PREFIX)
    if not block:
        return b"", ()
    try:
        return _Exif(block).cleaned(strip_location)
    except (struct.error, IndexError, ValueError):
        turned = orientation(block)
        if turned == 1:
            return b"", (EXIF_DAMAGED,)
        minimal = b"II*\0" + struct.pack(
            "<IHHHIHHI", 8, 1, _ORIENTATION, 3, 1, turned, 0, 0
        )
        return minimal, (EXIF_DAMAGED,)


def orientation(block: bytes) -> int:
    """Returns how a picture is turned.

    Args:
      block: the EXIF block, with or without its prefix.

    Returns:
      1 (upright) to 8, as EXIF has it; 1 if it does not tell.

    Example:
      >>> from PIL import Image
      >>> from miue_jax.pictures import metadata
      >>> exif = Image.Exif()
      >>> exif[274] = 6
      >>> metadata.orientation(exif.tobytes())
      6
    """
    try:
        exif = _Exif(block.removeprefix(_PREFIX))
        for tag, _, _, where in exif.entries(exif.first):
            if tag == _ORIENTATION:
                value = exif.short(where)
                return value if 1 <= value <= 8 else 1
    except (struct.error, IndexError, ValueError):
        pass
    return 1


class _Exif:
    """An EXIF block as the tree of tables that it is."""

    def __init__(self, block: bytes) -> None:
        self.data = bytearray(block)
        if block[:4] not in (b"II*\0", b"MM\0*"):
            raise ValueError("no EXIF block")
        self.order = "<" if block[:2] == b"II" else ">"
        self.first = self.long(4)

    def short(self, where: int) -> int:
        return struct.unpack_from(self.order + "H", self.data, where)[0]

    def long(self, where: int) -> int:
        return struct.unpack_from(self.order + "I", self.data, where)[0]

    def entries(self, table: int) -> list[tuple[int, int, int, int]]:
        """The tag, bytes of the value, place of the entry, and place of the value."""
        found = []
        for i in range(self.short(table)):
            entry = table + 2 + 12 * i
            tag, kind = self.short(entry), self.short(entry + 2)
            size = _SIZES.get(kind, 1) * self.long(entry + 4)
            where = entry + 8 if size <= 4 else self.long(entry + 8)
            if where + size > len(self.data):
                raise ValueError("a value lies beyond the end")
            found.append((tag, size, entry, where))
        return found

    def number(self, entry: int, where: int) -> int:
        return self.short(where) if self.short(entry + 2) == 3 else self.long(where)

    def erase(self, where: int, size: int) -> None:
        self.data[where : where + size] = bytes(len(self.data[where : where + size]))

    def erase_table(self, table: int, *, previews: bool) -> None:
        """Erases a table, its values, and the previews that it points to."""
        entries = self.entries(table)
        if previews:
            numbers = {tag: (size, e, w) for tag, size, e, w in entries}
            for start, length in _THUMBNAIL:
                self._erase_pieces(numbers.get(start), numbers.get(length))
        for _, size, _, where in entries:
            self.erase(where, size)
        self.erase(table, 2 + 12 * len(entries) + 4)

    def _erase_pieces(
        self, start: tuple[int, int, int] | None, length: tuple[int, int, int] | None
    ) -> None:
        if start is None or length is None:
            return
        for where, size in zip(self._all(*start), self._all(*length), strict=False):
            self.erase(where, size)

    def _all(self, size: int, entry: int, where: int) -> list[int]:
        step = 2 if self.short(entry + 2) == 3 else 4
        read = self.short if step == 2 else self.long
        return [read(where + i) for i in range(0, size - step + 1, step)]

    def remove(self, table: int, tag: int) -> None:
        """Takes an entry out of a table; what follows it moves up."""
        for found, size, entry, where in self.entries(table):
            if found != tag:
                continue
            self.erase(where, size)
            count = self.short(table)
            end = table + 2 + 12 * count + 4
            self.data[entry:end] = self.data[entry + 12 : end] + bytes(12)
            struct.pack_into(self.order + "H", self.data, table, count - 1)
            return

    def cleaned(self, strip_location: bool) -> tuple[bytes, tuple[str, ...]]:
        notes = []
        end = self.first + 2 + 12 * self.short(self.first)
        if self.long(end):
            thumbnail, cut = self.long(end), None
            with contextlib.suppress(KeyError):
                numbers = {t: (e, w) for t, _, e, w in self.entries(thumbnail)}
                start = self.number(*numbers[0x0201])
                if start + self.number(*numbers[0x0202]) >= len(self.data):
                    cut = start
            self.erase_table(thumbnail, previews=True)
            self.erase(end, 4)
            # It is the last thing in most files: no use in writing zeros.
            if cut is not None and cut > thumbnail:
                del self.data[cut:]
            notes.append(THUMBNAIL_REMOVED)
        tables = {tag: w for tag, _, _, w in self.entries(self.first)}
        if _SUB_IFDS in tables:
            self.remove(self.first, _SUB_IFDS)
            notes.append(THUMBNAIL_REMOVED)
        for tag, size, _, where in self.entries(self.first):
            # No tag of the first table holds a picture; editors' own ones do.
            if size > 64 and _PICTURE.search(self.data[where : where + size]):
                self.remove(self.first, tag)
                notes.append(THUMBNAIL_REMOVED)
        if _EXIF_IFD in tables:
            notes += self._clean_maker_note(strip_location)
        if strip_location and _GPS_IFD in tables:
            place = {tag: w for tag, _, _, w in self.entries(self.first)}[_GPS_IFD]
            self.erase_table(self.long(place), previews=False)
            self.remove(self.first, _GPS_IFD)
            notes.append(PLACE_REMOVED)
        return bytes(self.data), tuple(dict.fromkeys(notes))

    def _clean_maker_note(self, strip_location: bool) -> list[str]:
        tables = {tag: w for tag, _, _, w in self.entries(self.first)}
        table = self.long(tables[_EXIF_IFD])
        for tag, size, _, where in self.entries(table):
            if tag != _MAKER_NOTE:
                continue
            preview = _PICTURE.search(self.data[where : where + size])
            if preview or strip_location:
                self.remove(table, _MAKER_NOTE)
                return [
                    THUMBNAIL_REMOVED
                    if preview
                    else "the camera maker's notes may tell the place: removed"
                ]
        return []


def clean_xmp(
    packet: bytes, *, strip_location: bool
) -> tuple[bytes | None, tuple[str, ...]]:
    """Removes pictures from an XMP packet and, if asked for, the place.

    Args:
      packet: the packet.
      strip_location: whether to remove what tells the place.

    Returns:
      The packet, or None if it could not be cleaned without losing it, and sentences
      on what was removed.

    Example:
      >>> from miue_jax.pictures import metadata
      >>> packet = b'<x exif:GPSLatitude="52,31N" dc:title="tree"/>'
      >>> metadata.clean_xmp(packet, strip_location=True)
      (b'<x dc:title="tree"/>', ('the place was removed',))
    """
    notes = []
    if _PICTURE.search(packet):
        packet = _without(packet, rb"xmp:Thumbnails|xap:Thumbnails")
        notes.append(THUMBNAIL_REMOVED)
        if _PICTURE.search(packet):
            return None, ("its XMP data hold a picture: removed",)
    if strip_location and _PLACE.search(packet):
        # The declaration of a name space names no place.
        packet = _without(packet, rb"exif:GPS\w+")
        packet = _without(packet, rb"photoshop:(?:City|State|Country)")
        packet = _without(packet, rb"Iptc4xmp(?:Core|Ext):(?:Location\w*|CountryCode)")
        if _PLACE.search(packet):
            return None, ("its XMP data tell the place: removed",)
        notes.append(PLACE_REMOVED)
    return packet, tuple(notes)


def _without(packet: bytes, names: bytes) -> bytes:
    packet = re.sub(rb"\s(?:" + names + rb")\s*=\s*(\"[^\"]*\"|'[^']*')", b"", packet)
    packet = re.sub(rb"<(" + names + rb")\b[^<>]*/>", b"", packet)
    return re.sub(rb"<(" + names + rb")\b.*?</\1\s*>", b"", packet, flags=re.DOTALL)


# What says how the numbers of a PNG file are meant as colors, and its texts. Pillow
# would lose the former.
_COLOR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
# Longer texts are not looked at, and not kept.
_LONGEST_TEXT = 2**24


def png_chunks(file: BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    r"""Reads the chunks of a PNG file that are written as they are.

    Args:
      file: the file, open; its position changes.

    Returns:
      The type and content of the chunks on colors, of the time, and of those texts
      that hold no picture, no EXIF data, no XMP and no profile: these are kept
      otherwise.

    Example:
      >>> import io
      >>> from PIL import Image, PngImagePlugin
      >>> from miue_jax.pictures import metadata
      >>> info, file = PngImagePlugin.PngInfo(), io.BytesIO()
      >>> info.add_text("Title", "tree")
      >>> Image.new("L", (1, 1)).save(file, "PNG", pnginfo=info)
      >>> metadata.png_chunks(file)
      ((b'tEXt', b'Title\x00tree'),)
    """
    found = []
    file.seek(8)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        wanted = kind in (*_COLOR_CHUNKS, *_TEXT_CHUNKS, b"tIME")
        if not wanted or size > _LONGEST_TEXT:
            file.seek(size + 4, 1)
            continue
        data = file.read(size)
        file.seek(4, 1)
        if kind not in _TEXT_CHUNKS or _is_plain_text(kind, data):
            found.append((kind, data))
    return tuple(found)


def _is_plain_text(kind: bytes, data: bytes) -> bool:
    keyword, _, rest = data.partition(b"\0")
    if keyword.startswith(b"Raw profile type") or keyword == b"XML:com.adobe.xmp":
        return False
    text = rest
    try:
        if kind == b"zTXt":
            text = _unpacked(rest[1:])
        elif kind == b"iTXt":
            packed, (_, _, text) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
            text = _unpacked(text) if packed else text
    except (ValueError, zlib.error):
        return False
    return not _PICTURE.search(text)


def _unpacked(data: bytes) -> bytes:
    unpack = zlib.decompressobj()
    text = unpack.decompress(data, _LONGEST_TEXT)
    if unpack.unconsumed_tail:
        raise ValueError("longer than a text")
    return text


def has_place(chunk: bytes) -> bool:
    """Tells whether a text chunk may tell a place.

    Args:
      chunk: the content of the chunk.

    Returns:
      Whether it names one of the words for a place.

    Example:
      >>> from miue_jax.pictures import metadata
      >>> metadata.has_place(b"exif:GPSLatitude 52/1")
      True
    """
    return bool(_PLACE.search(chunk))


_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC = 0x0404


def jpeg_segments(xmp: bytes | None, iptc: bytes | None) -> bytes:
    """Encodes XMP and IPTC data as segments of a JPEG file.

    Args:
      xmp: the XMP packet, or None.
      iptc: the IPTC data, or None.

    Returns:
      The segments; what is too long for one is left out.

    Example:
      >>> from miue_jax.pictures import metadata
      >>> metadata.jpeg_segments(None, None)
      b''
    """
    found = b""
    if xmp:
        found += _segment(0xE1, _JPEG_XMP + xmp)
    if iptc:
        resource = b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc
        found += _segment(0xED, _PHOTOSHOP + resource + b"\0" * (len(iptc) % 2))
    return found


def _segment(marker: int, data: bytes) -> bytes:
    fits = len(data) <= 65533
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data if fits else b""
