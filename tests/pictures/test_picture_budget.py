"""Pictures of every format: read, changed, written, and read back within the budget."""

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import picture_files
import pytest
from picture_files import FILES, UNREADABLE
from PIL import ExifTags, Image, ImageOps

from miue_jax import pictures
from miue_jax.data import atomic
from miue_jax.image import quality
from miue_jax.pictures import similarity

LOSSLESS = ("PNG", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "GIF")
PLACE = 0x8825


def changed(picture, radius=8, seed=0):
    """A perturbation of the whole budget, half of it in patches of 4x4 pixels."""
    random = np.random.default_rng(seed)
    height, width, channels = picture.pixels.shape
    small = random.normal(size=(-(-height // 4), -(-width // 4), channels))
    patches = small.repeat(4, 0).repeat(4, 1)[:height, :width]
    change = np.clip(patches * radius, -radius, radius)
    change[: height // 2] = radius * np.sign(change[: height // 2])
    return np.clip(picture.pixels + np.rint(change), 0, 255).astype(np.uint8)


@pytest.fixture
def made(tmp_path):
    def make(name):
        path = tmp_path / name
        FILES[name](path)
        return path

    return make


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_keeps_the_budget_and_all_else(name, made, tmp_path):
    path = made(name)
    before = pictures.read(path)
    wanted = changed(before)
    # Nothing is asked of the format: a file of a still GIF becomes PNG.
    out = tmp_path / "out" / name
    out.parent.mkdir()
    audit = pictures.write(out, before, wanted)
    after = pictures.read(out, kind=audit.format)
    assert [p.name for p in out.parent.iterdir()] == [name]
    assert audit.bytes_after == out.stat().st_size
    difference = after.pixels.astype(int) - before.pixels
    if before.alpha is not None:
        np.testing.assert_array_equal(after.alpha, before.alpha)
        difference[before.alpha == 0] = 0
    else:
        assert after.alpha is None
    assert abs(difference).max() == audit.max_change <= 8
    assert audit.kept > 0.3, audit
    if before.format in LOSSLESS or audit.lossless:
        assert audit.lossless
        expected = wanted.astype(int)
        if before.alpha is not None:
            hidden = before.alpha == 0
            expected[hidden] = before.pixels[hidden]
        np.testing.assert_array_equal(difference + before.pixels, expected)
        assert audit.kept == pytest.approx(1)
    assert after.orientation == before.orientation
    if after.format not in ("BMP", "PPM", "TGA", "JPEG2000"):
        assert after.icc == before.icc
    if before.dpi and after.format not in ("WEBP", "AVIF"):
        assert after.dpi == pytest.approx(before.dpi, rel=0.01)
    assert after.size == audit.bytes_after


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_that_pillow_reads(name, made):
    path = made(name)
    picture = pictures.read(path)
    with Image.open(path) as image:
        if image.mode in ("CMYK", "LAB", "I;16", "I", "I;16B"):
            return
        expected = np.asarray(image.convert("RGBA"))
    if "key" in name and "gray" in name:
        expected = expected.copy()
        expected[..., 3] = picture.alpha  # Pillow compares other levels
    np.testing.assert_array_equal(
        np.broadcast_to(picture.pixels, (*picture.pixels.shape[:2], 3)),
        expected[..., :3],
    )
    if picture.alpha is not None:
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])


@pytest.mark.parametrize("asked", ["png", "webp", "jpeg"])
@pytest.mark.parametrize(
    "name",
    [
        *("color.jpg", "gray.jpg", "print.jpg", "xmp.jpg", "turned6.jpg", "color.png"),
        *("gray16.png", "clear.png", "palette.png", "lossy.webp", "turned.tif"),
        *("deep.tif", "still.gif", "texts.png", "turned.webp"),
    ],
)
def test_another_format_keeps_the_budget_and_the_orientation(
    name, asked, made, tmp_path
):
    before = pictures.read(made(name))
    out = tmp_path / f"out.{asked}"
    audit = pictures.write(out, before, changed(before), format=asked)
    clear = before.alpha is not None
    assert audit.format == ("PNG" if clear and asked == "jpeg" else asked.upper())
    after = pictures.read(out)
    difference = after.pixels.astype(int) - before.pixels
    assert abs(difference).max() <= 8
    assert after.orientation == before.orientation
    if clear:
        np.testing.assert_array_equal(after.alpha, before.alpha)
    if before.icc and before.pixels.shape[-1] == 3:
        assert after.icc == before.icc
    if before.xmp:
        assert after.xmp == before.xmp
    assert not clear or asked != "jpeg" or any("transparency" in n for n in audit.notes)


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_protected_says_why(name, tmp_path):
    make, message = UNREADABLE[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message) as raised:
        pictures.read(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["color.jpg", "color.png", "lossy.webp", "raw.tif"])
def test_every_cut_of_a_file_is_read_or_named(name, made):
    path = made(name)
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:size])
        message = ""
        try:
            pictures.read(path)
        except ValueError as error:
            message = str(error)
        assert message.startswith(f"{path}: ") or not message


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 7),
        (9, 1),
        (8, 8),
        (15, 17),
        (16, 24),
        (64, 64),
        (333, 1),
        (130, 257),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_size_keeps_the_budget(size, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    picture_files.image(*size).save(path)
    before = pictures.read(path)
    audit = pictures.write(path, before, changed(before))
    after = pictures.read(path)
    assert after.pixels.shape == (*size, 3)
    difference = abs(after.pixels.astype(int) - before.pixels)
    assert difference.max() == audit.max_change <= 8
    assert (audit.ssim is None) == (min(size) < 11)


@pytest.mark.parametrize("radius", [1, 2, 4, 16])
@pytest.mark.parametrize("name", ["color.jpg", "gray.jpg", "full.jpeg", "rgb.jpg"])
def test_jpeg_keeps_other_budgets(name, radius, made, tmp_path):
    before = pictures.read(made(name))
    wanted = changed(before, radius)
    for thorough in (True, False):
        audit = pictures.write(
            tmp_path / "out.jpg", before, wanted, radius=radius, thorough=thorough
        )
        assert audit.max_change <= radius


def test_jpeg_keeps_the_budget_next_to_black_white_and_sharp_colors(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.choice([0, 255], (64, 96, 3)).astype(np.uint8)
    pixels[:32] = random.integers(0, 256, (32, 96, 3))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    before = pictures.read(tmp_path / "a.png")
    for radius in (4, 8):
        wanted = changed(before, radius)
        out = tmp_path / "out.jpg"
        audit = pictures.write(out, before, wanted, radius=radius, format="jpeg")
        assert audit.max_change <= radius


def test_wrong_pixels_are_refused(made, tmp_path):
    before = pictures.read(made("color.png"))
    out = tmp_path / "out.png"
    far = np.where(before.pixels > 100, before.pixels - 9, before.pixels)
    with pytest.raises(ValueError, match="change by 9 gray levels, more than 8"):
        pictures.write(out, before, far.astype(np.uint8))
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        pictures.write(out, before, before.pixels.astype(np.int16))
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        pictures.write(out, before, before.pixels[:, :-1])
    with pytest.raises(ValueError, match=r"radius is 0; allowed"):
        pictures.write(out, before, before.pixels, radius=0)
    with pytest.raises(ValueError, match="format is 'bmp'; allowed: png, webp, jpeg"):
        pictures.write(out, before, before.pixels, format="bmp")
    assert not out.exists()


def test_sixteen_bits_of_gray_stay(made, tmp_path):
    for name in ("gray16.png", "deep.tif", "deep.pgm"):
        before = pictures.read(made(name))
        assert before.deep is not None
        assert not before.notes
        wanted = changed(before)
        out = tmp_path / "out" / name
        out.parent.mkdir(exist_ok=True)
        pictures.write(out, before, wanted)
        after = pictures.read(out)
        assert after.deep is not None
        change = after.deep.astype(int) - before.deep
        np.testing.assert_array_equal(after.pixels, wanted)
        assert abs(change).max() <= 8 * 257
        inside = (after.deep > 0) & (after.deep < 65535)
        assert (change[inside] % 257 == 0).all()


def test_invisible_pixels_stay(made, tmp_path):
    before = pictures.read(made("clear.png"))
    wanted = changed(before)
    assert (wanted != before.pixels)[before.alpha == 0].any()
    pictures.write(tmp_path / "out.png", before, wanted)
    after = pictures.read(tmp_path / "out.png")
    hidden = before.alpha == 0
    np.testing.assert_array_equal(after.pixels[hidden], before.pixels[hidden])


def test_notes_say_what_changes(made):
    expected = {
        "color16.png": "16 bits per channel: written with 8",
        "clear16.png": "16 bits per channel: written with 8",
        "deep.ppm": "16 bits per channel: written with 8",
        "palette.png": "palette: written with full colors",
        "bilevel.png": "1 bit per pixel: written with 8",
        "gray4.png": "4 bits per pixel: written with 8",
        "print.jpg": "CMYK: converted to RGB without a profile, by a formula",
        "key.png": "one transparent color: written as a transparency channel",
        "several.mpo": "further pictures in the file (previews, depth, brightness): "
        "left out",
    }
    for name, note in expected.items():
        assert pictures.read(made(name)).notes == (note,), name
    for name in ("color.jpg", "color.png", "clear.png", "gray16.png", "lossy.webp"):
        assert not pictures.read(made(name)).notes


def test_transparent_levels_of_few_bits_are_those_of_the_file(made):
    picture = pictures.read(made("gray2key.png"))
    np.testing.assert_array_equal(picture.alpha == 0, picture_files.levels(2) == 1)


# What is beside the pixels.


def tags(path):
    with Image.open(path) as image:
        found = image.getexif()
        inside = {ExifTags.TAGS.get(k, k): v for k, v in found.get_ifd(0x8769).items()}
        return dict(found), inside, dict(found.get_ifd(PLACE))


@pytest.mark.parametrize(
    "name", ["xmp.jpg", "turned6.jpg", "turned8.jpg", "turned.png"]
)
def test_no_preview_of_the_original_stays(name, made, tmp_path):
    path, out = made(name), tmp_path / "out"
    assert picture_files.preview()[:200] in path.read_bytes()
    before = pictures.read(path)
    audit = pictures.write(out, before, changed(before))
    assert any("preview" in note for note in audit.notes)
    data = out.read_bytes()
    small = picture_files.preview()
    # What follows the tables that many files have.
    small = small[small.index(b"\xff\xda") :]
    assert not any(small[i : i + 40] in data for i in range(0, len(small), 20))
    if audit.format == "JPEG":
        assert data.count(b"\xff\xd8\xff") == 1
    old, new = tags(path), tags(out)
    assert new[0][0x0112] == old[0][0x0112]
    assert new[1] == old[1]
    assert new[2] == old[2]


def test_the_second_picture_of_a_stereo_file_is_left_out(made, tmp_path):
    before = pictures.read(made("several.mpo"))
    audit = pictures.write(tmp_path / "out.mpo", before, changed(before))
    assert any("left out" in note for note in audit.notes)
    with Image.open(tmp_path / "out.mpo") as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(
    "name", ["xmp.jpg", "turned8.jpg", "turned.png", "texts.png", "turned.webp"]
)
def test_the_place_is_removed_on_request(name, made, tmp_path):
    path = made(name)
    before = pictures.read(path)
    wanted = changed(before)
    old = tags(path)
    assert old[2]
    pictures.write(tmp_path / "kept", before, wanted)
    assert tags(tmp_path / "kept")[2] == old[2]
    audit = pictures.write(tmp_path / "out", before, wanted, strip_location=True)
    assert "the place was removed" in audit.notes
    new = tags(tmp_path / "out")
    assert not new[2]
    assert new[1] == old[1]
    assert new[0].keys() == old[0].keys() - {PLACE}
    assert b"GPSLatitude" not in (tmp_path / "out").read_bytes()
    after = pictures.read(tmp_path / "out")
    assert (after.xmp is None) == (before.xmp is None)
    if after.xmp:
        assert b"tree" in after.xmp


def test_texts_colors_and_resolution_of_png_stay(made, tmp_path):
    before = pictures.read(made("texts.png"))
    pictures.write(tmp_path / "out.png", before, changed(before))
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.info["Title"] == "tree"
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.info["dpi"] == pytest.approx((300, 300), rel=1e-3)
        assert "Raw profile type exif" not in image.info
        assert b"tree" in (image.info.get("xmp") or b"")


def test_comment_and_progressive_scans_of_jpeg_stay(made, tmp_path):
    before = pictures.read(made("comment.jpg"))
    pictures.write(tmp_path / "out.jpg", before, changed(before))
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.info["comment"] == b"tree"
        assert image.info["dpi"] == (240, 240)
    before = pictures.read(made("progressive.jpg"))
    pictures.write(tmp_path / "out.jpg", before, changed(before))
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.info["progressive"]


def test_iptc_data_stay_without_their_preview(tmp_path):
    iptc = b"\x1c\x02\x74\x00\x02me"
    small = picture_files.preview()
    small += b"\0" * (len(small) % 2)
    resources = b"Photoshop 3.0\0"
    for number, data in ((0x0404, iptc + b"\0"), (0x040C, b"\0" * 28 + small)):
        resources += b"8BIM" + number.to_bytes(2) + b"\0\0" + len(data).to_bytes(4)
        resources += data
    segment = b"\xff\xed" + (len(resources) + 2).to_bytes(2) + resources
    picture_files.image().save(tmp_path / "a.jpg", extra=segment)
    before = pictures.read(tmp_path / "a.jpg")
    pictures.write(tmp_path / "b.jpg", before, before.pixels)
    data = (tmp_path / "b.jpg").read_bytes()
    assert iptc in data
    assert small[100:200] not in data
    assert pictures.read(tmp_path / "b.jpg").iptc == before.iptc
    audit = pictures.write(
        tmp_path / "b.jpg", before, before.pixels, strip_location=True
    )
    assert iptc not in (tmp_path / "b.jpg").read_bytes()
    assert any("IPTC" in note for note in audit.notes)


def test_damaged_exif_keeps_the_orientation_only(tmp_path):
    block = bytearray(picture_files.exif(6, place=True))
    # A value far beyond the end.
    place = (
        block.index(b"\x0f\x01") if block[6:8] == b"II" else block.index(b"\x01\x0f")
    )
    block[place + 8 : place + 12] = b"\x7f\xff\xff\x7f"
    picture_files.image().save(tmp_path / "a.jpg", exif=bytes(block))
    before = pictures.read(tmp_path / "a.jpg")
    audit = pictures.write(tmp_path / "b.jpg", before, before.pixels)
    assert any("damaged" in note for note in audit.notes)


def test_upright_is_what_viewers_show():
    pixels = picture_files.photo(6, 10)
    for orientation in range(1, 9):
        file = io.BytesIO()
        data = Image.Exif()
        data[0x0112] = orientation
        Image.fromarray(pixels).save(file, "PNG", exif=data)
        shown = np.asarray(ImageOps.exif_transpose(Image.open(file)))
        turned = pictures.upright(pixels, orientation)
        np.testing.assert_array_equal(turned, shown)
        back = pictures.upright(turned, orientation, back=True)
        np.testing.assert_array_equal(back, pixels)


# Files.


def test_a_file_that_leaves_the_budget_never_gets_its_name(made, tmp_path, monkeypatch):
    before = pictures.read(made("color.png"))
    out = tmp_path / "out.png"
    out.write_bytes(b"older")
    module = sys.modules["miue_jax.pictures.write"]
    real = module._encode

    def wrong(original, wanted, radius, details, **options):
        return real(original, wanted ^ np.uint8(64), radius, details, **options)

    monkeypatch.setattr(module, "_encode", wrong)
    with pytest.raises(ValueError, match="as read back, it changes by"):
        pictures.write(out, before, before.pixels)
    assert out.read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["color.png", "out.png"]


_KILLED = """
import sys
import numpy as np
from miue_jax import pictures
before = pictures.read(sys.argv[1])
print("ready", flush=True)
while True:
    pictures.write(sys.argv[2], before, before.pixels ^ np.uint8(1))
"""


def test_killed_in_between_files_are_whole(tmp_path):
    picture_files.image(400, 600).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "a.png"
    for wait in (0.0, 0.13, 0.3):
        command = [sys.executable, "-c", _KILLED, str(tmp_path / "a.png"), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
        if out.exists():
            after = pictures.read(out).pixels
            np.testing.assert_array_equal(after ^ 1, picture_files.photo(400, 600))
    atomic.remove_unfinished(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] in ([], ["a.png"])


def test_too_large_for_the_memory_is_said_before_it_is_decoded(made, monkeypatch):
    path = made("color.png")
    monkeypatch.setenv("MIUE_MEMORY", "1e-5")
    with pytest.raises(
        ValueError, match=r"a picture of 72x48 would need .* MIUE_MEMORY"
    ):
        pictures.read(path)


def test_similarity_is_that_of_the_package():
    for size in ((11, 11), (64, 64), (40, 57)):
        before = picture_files.photo(*size)
        noise = np.random.default_rng(1).integers(0, 9, before.shape)
        after = np.minimum(before + noise, 255).astype(np.uint8)
        expected = quality.ssim(before[None], after[None])
        assert similarity.ssim(before, after) == pytest.approx(expected, abs=1e-4)
    before = picture_files.photo(700, 900)
    noise = np.random.default_rng(1).integers(0, 9, before.shape)
    after = np.minimum(before + noise, 255).astype(np.uint8)
    expected = quality.ssim(before[None], after[None])
    assert similarity.ssim(before, after) == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_fifty_megapixels_need_less_than_one_and_a_half_gigabytes(tmp_path):
    script = """
import pathlib, sys
import numpy as np
from PIL import Image
from miue_jax import pictures
picture = pictures.read(sys.argv[1])
wanted = np.clip(picture.pixels, 0, 247) + np.uint8(8) * (picture.pixels <= 247)
wanted = wanted.astype(np.uint8)
audit = pictures.write(sys.argv[2], picture, wanted)
assert audit.max_change <= 8
# `ru_maxrss` begins at that of the process that started this one.
status = pathlib.Path("/proc/self/status").read_text()
print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
"""
    tile = picture_files.photo(1000, 1000)
    large = Image.fromarray(np.tile(tile, (6, 8, 1)))
    large.save(tmp_path / "a.jpg", quality=90)
    del large
    command = [sys.executable, "-c", script, tmp_path / "a.jpg", tmp_path / "b.jpg"]
    done = subprocess.run(
        [*map(str, command)], check=True, capture_output=True, text=True, timeout=600
    )
    assert int(done.stdout) < 1.5e9


@pytest.mark.parametrize("radius", [1, 2])
def test_the_smallest_budgets_hold_in_jpeg_that_tells_its_resolution(tmp_path, radius):
    path, out = tmp_path / "a.jpg", tmp_path / "b.jpg"
    picture_files.image().save(path, dpi=(240, 240), quality=90)
    picture = pictures.read(path)
    change = np.random.default_rng(0).integers(
        -radius, radius + 1, picture.pixels.shape
    )
    wanted = np.clip(picture.pixels + change, 0, 255).astype(np.uint8)
    audit = pictures.write(out, picture, wanted, radius=radius)
    assert 0 < audit.max_change <= radius
    after = pictures.read(out)
    assert np.abs(after.pixels.astype(int) - picture.pixels).max() <= radius
    # Either it is told, or it is said that it is not.
    assert (after.dpi == (240, 240)) != any("resolution" in x for x in audit.notes)
