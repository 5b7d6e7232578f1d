"""`check` and `read_small`: JPEG decoded at a part of its size, and to its end."""

import numpy as np
import picture_files
import pytest
from PIL import Image

from miue_jax import pictures


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_where_a_picture_is_cut_both_say_the_same(tmp_path, mode, options):
    path = tmp_path / "a.jpg"
    picture_files.image(200, 300).convert(mode).save(path, **options)
    whole = path.read_bytes()
    pictures.check(path)
    for kept in (0.02, 0.3, 0.9, 0.99):
        path.write_bytes(whole[: int(kept * len(whole))])
        said = []
        for function in (pictures.read, pictures.check):
            with pytest.raises(ValueError, match="not a readable picture") as caught:
                function(path)
            said.append(str(caught.value).partition("(")[2][:20])
        assert said[0] == said[1]


def test_other_formats_are_read_to_their_end(tmp_path):
    path = tmp_path / "a.png"
    picture_files.image(200, 300).save(path)
    pictures.check(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="not a readable picture"):
        pictures.check(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_small_ones_are_means_of_large_ones(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    y, x = np.mgrid[:480, :640] / 40
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
    exif = Image.Exif()
    exif[274] = orientation
    pixels = (127 + 90 * waves).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    picture = pictures.read(path)
    whole = pictures.upright(picture.pixels, picture.orientation)
    for side, factor in ((240, 1), (120, 2), (119, 2), (60, 4), (32, 4), (30, 8)):
        small = pictures.read_small(path, side)
        height, width = small.shape[:2]
        assert (height * factor, width * factor) == whole.shape[:2]
        means = whole.reshape(height, factor, width, factor, 3).mean((1, 3))
        np.testing.assert_allclose(small, means, atol=6)


def test_small_pictures_and_other_formats_keep_their_size(tmp_path):
    for name in ("a.jpg", "a.png"):
        picture_files.image(40, 60).convert("L").save(tmp_path / name)
        assert pictures.read_small(tmp_path / name, 96).shape == (40, 60, 1)
    Image.new("RGB", (640, 480)).save(tmp_path / "b.png")
    assert pictures.read_small(tmp_path / "b.png", 30).shape == (480, 640, 3)
