"""The defence registry and JPEG through Pillow."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from miue_jax import defenses


@pytest.fixture
def key():
    return jax.random.key(0)


def _images(count=3, size=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 1, size)
    smooth = 128 + 80 * np.sin(
        4 * grid[None, :, None, None] + 3 * grid[None, None, :, None]
    )
    colour = rng.uniform(-30, 30, (count, 1, 1, channels))
    noise = rng.integers(-8, 9, (count, size, size, channels))
    return np.clip(smooth + colour + noise, 0, 255).astype(np.uint8)


def _labels(images):
    return np.zeros(len(images), np.int32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [1, 10, 95])
def test_equals_pillow_defaults(key, channels, quality):
    images = _images(channels=channels)
    before = images.copy()
    result = defenses.create(f"jpeg-{quality}").purify(key, images, _labels(images))
    assert result.dtype == np.uint8
    assert result.shape == images.shape
    np.testing.assert_array_equal(images, before, err_msg="the input was changed")
    for image, compressed in zip(images, result, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer)).reshape(image.shape)
        np.testing.assert_array_equal(compressed, expected)


def test_lower_quality_changes_more(key):
    images = _images()
    errors = [
        np.abs(
            defenses.jpeg_pillow(quality)
            .purify(key, images, _labels(images))
            .astype(int)
            - images
        ).mean()
        for quality in (95, 50, 10)
    ]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("quality", [0, 96, -1, 10.0, True, "10"])
def test_quality_out_of_range(quality):
    with pytest.raises(ValueError, match=r"integer in \[1, 95\], got"):
        defenses.jpeg_pillow(quality)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "uint8 images, got float32"),
        (np.zeros((2, 32, 32, 4), np.uint8), r"1 or 3\), got \(2, 32, 32, 4\)"),
        (np.zeros((32, 32, 3), np.uint8), r"got \(32, 32, 3\)"),
        (np.zeros((2, 15, 32, 3), np.uint8), "at least 16x16 pixels, got 32x15"),
    ],
)
def test_bad_images(key, images, message):
    purify = defenses.jpeg_pillow(10).purify
    with pytest.raises(ValueError, match=message):
        purify(key, images, np.zeros(len(images), np.int32))


def test_none_is_no_defence():
    assert defenses.create("none") == (None, None, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpg-10", r"unknown defence 'jpg-10'; did you mean 'jpeg'\? Allowed: none, "),
        ("nnoe", r"did you mean 'none'\?"),
        ("none-3", "unknown defence 'none-3'"),
        ("", "unknown defence ''; allowed: none, jpeg-<number>"),
        ("jpeg", "needs a number after it"),
        ("jpeg-", "'' is not a number"),
        ("jpeg-ten", "'ten' is not a number"),
        ("jpeg-10.5", r"integer in \[1, 95\], got 10.5"),
        ("jpeg-0", r"integer in \[1, 95\], got 0"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        defenses.create(name)
