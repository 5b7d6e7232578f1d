"""What is stored beside the pixels: previews and places go, the rest stays."""

import io
import random

import picture_files
import pytest
from PIL import Image, TiffImagePlugin

from miue_jax import pictures
from miue_jax.data import color_profile, picture_kinds
from miue_jax.pictures import metadata


def read(block: bytes) -> Image.Exif:
    found = Image.Exif()
    found.load(block)
    return found


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("place", [False, True])
@pytest.mark.parametrize("thumbnail", [False, True])
def test_exif_keeps_all_but_previews_and_place(order, place, thumbnail):
    block = picture_files.exif(5, thumbnail=thumbnail, place=place)
    if order == ">" and not thumbnail:
        given = read(block)
        given.endian = ">"
        block = given.tobytes()
    for strip in (False, True):
        cleaned, notes = metadata.without_previews(block, strip_location=strip)
        old, new = read(block), read(cleaned)
        assert new.get_ifd(0x8769) == old.get_ifd(0x8769)
        assert {k: v for k, v in new.items() if k != 0x8825} == {
            k: v for k, v in old.items() if k != 0x8825
        }
        assert bool(new.get_ifd(0x8825)) == (place and not strip)
        assert b"\xff\xd8\xff" not in cleaned
        assert (metadata.THUMBNAIL_REMOVED in notes) == thumbnail
        assert (metadata.PLACE_REMOVED in notes) == (place and strip)
        assert metadata.orientation(cleaned) == 5
        assert len(cleaned) <= len(block)
        again, more = metadata.without_previews(cleaned, strip_location=strip)
        assert again == cleaned
        assert not more


def test_maker_notes_with_a_preview_are_removed():
    for note, stays in ((b"Maker" * 10, True), (picture_files.preview(), False)):
        data = Image.Exif()
        data.get_ifd(0x8769).update({0x927C: note, 0x829A: 0.01})
        cleaned, _ = metadata.without_previews(data.tobytes(), strip_location=False)
        inside = read(cleaned).get_ifd(0x8769)
        assert (0x927C in inside) == stays
        assert inside[0x829A] == pytest.approx(0.01)
        cleaned, notes = metadata.without_previews(data.tobytes(), strip_location=True)
        assert 0x927C not in read(cleaned).get_ifd(0x8769)
        assert notes


def test_damaged_exif_never_breaks_anything():
    source = picture_files.exif(6, thumbnail=True, place=True)
    draw = random.Random(0)
    for _ in range(3000):
        block = bytearray(source[: draw.randrange(len(source))])
        for _ in range(draw.randrange(6)):
            if block:
                block[draw.randrange(min(len(block), 400))] = draw.randrange(256)
        cleaned, notes = metadata.without_previews(bytes(block), strip_location=True)
        assert isinstance(cleaned, bytes)
        assert all(isinstance(note, str) for note in notes)
        assert 1 <= metadata.orientation(bytes(block)) <= 8


@pytest.mark.parametrize("name", picture_files.FILES)
def test_damaged_files_are_read_or_named(name, tmp_path):
    path = tmp_path / name
    picture_files.FILES[name](path)
    source, draw = path.read_bytes(), random.Random(name)
    for _ in range(15):
        data = bytearray(source)
        for _ in range(draw.randrange(1, 8)):
            # Most of what is decided is decided at the beginning.
            end = draw.choice((len(data), min(len(data), 300)))
            data[draw.randrange(end)] = draw.randrange(256)
        path.write_bytes(data)
        message = ""
        try:
            found = pictures.read(path)
            pictures.write(tmp_path / "out", found, found.pixels, format="png")
        except ValueError as error:
            message = str(error)
        assert not message or message.startswith((f"{path}: ", f"{tmp_path}/out: "))


def test_xmp_loses_pictures_and_places_only():
    packet = (
        b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        b"exif:GPSLatitude='52,31N' exif:ISO=\"100\">"
        b"<exif:GPSLongitude>13,24E</exif:GPSLongitude><photoshop:City>X"
        b"</photoshop:City><dc:title>tree</dc:title><xmp:Thumbnails><rdf:Alt>"
        b"<xmpGImg:image>/9j/4AAQSkZJRg</xmpGImg:image></rdf:Alt></xmp:Thumbnails>"
        b"</rdf:Description>"
    )
    kept, notes = metadata.clean_xmp(packet, strip_location=False)
    assert kept is not None
    assert b"GPSLongitude" in kept
    assert b"/9j/" not in kept
    assert notes == (metadata.THUMBNAIL_REMOVED,)
    kept, notes = metadata.clean_xmp(packet, strip_location=True)
    assert kept is not None
    assert b"GPS" not in kept
    assert b"City" not in kept
    assert b"<dc:title>tree</dc:title>" in kept
    assert b'exif:ISO="100"' in kept
    assert metadata.PLACE_REMOVED in notes
    strange = b"<x:Where latitude='1'/>"
    assert metadata.clean_xmp(strange, strip_location=True)[0] is None
    strange = b"<GImage:Data>/9j/4AAQSkZJRg</GImage:Data>"
    assert metadata.clean_xmp(strange, strip_location=False)[0] is None


def test_tiff_tags_stay(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[315], tags[33432] = "tree", "me", "mine"
    tags[700] = picture_files.XMP
    tags.tagtype[700] = 1
    path = tmp_path / "a.tif"
    picture_files.image().save(path, tiffinfo=tags, dpi=(200, 200))
    before = pictures.read(path)
    for format in (None, "png", "jpeg", "webp"):
        pictures.write(tmp_path / "out", before, before.pixels, format=format)
        with Image.open(tmp_path / "out") as image:
            found = image.getexif()
            assert (found[270], found[315], found[33432]) == ("tree", "me", "mine")
        assert pictures.read(tmp_path / "out").xmp == picture_files.XMP


def test_cmyk_is_converted_by_its_profile():
    image = picture_files.image().convert("CMYK")
    assert color_profile.to_srgb(image, picture_files.display_p3()) is None
    assert color_profile.to_srgb(image, None) is None
    assert not color_profile.is_srgb(b"damaged")


def test_kinds_are_told_by_their_first_bytes():
    for suffix, options in (("bmp", {}), ("ppm", {}), ("webp", {}), ("tif", {})):
        file = io.BytesIO()
        kind = Image.registered_extensions()[f".{suffix}"]
        picture_files.image().save(file, kind, **options)
        found = picture_kinds.of_content(file.getvalue()[: picture_kinds.HEAD])
        assert found == (picture_kinds.of_suffix(f".{suffix}"), None)
    boxes = {
        b"avif\0\0\0\0avifmif1miaf": ("AVIF", None),
        b"mif1\0\0\0\0mif1avifmiaf": ("AVIF", None),
        b"heic\0\0\0\0mif1heic": ("HEIF", None),
        b"mif1\0\0\0\0mif1heic": ("HEIF", None),
        b"M4A \0\0\0\0M4A mp42": (None, None),
        b"isom\0\0\0\0isommp42": (None, "a film"),
    }
    for brands, expected in boxes.items():
        head = (8 + len(brands)).to_bytes(4) + b"ftyp" + brands
        assert picture_kinds.of_content(head) == expected
    for size in range(70):
        for byte in (b"\0", b"\xff", b"P", b"II*\0", b"RIFF", b"\0\0\0\x20ftyp", b"BM"):
            picture_kinds.of_content((byte * size)[:size])
