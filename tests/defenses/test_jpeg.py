"""JPEG compression of a training set, and the registry of defenses."""

import importlib
import io

import jax
import numpy as np
import pytest
from PIL import Image

from miue_jax import defenses

# The package shows the function under the name of its module.
_jpeg = importlib.import_module("miue_jax.defenses.jpeg")


@pytest.fixture
def key():
    return jax.random.key(0)


def _images(count=5, size=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 1, size)
    smooth = 128 + 80 * np.sin(
        4 * grid[None, :, None, None] + 3 * grid[None, None, :, None]
    )
    color = rng.uniform(-30, 30, (count, 1, 1, channels))
    noise = rng.integers(-8, 9, (count, size, size, channels))
    return np.clip(smooth + color + noise, 0, 255).astype(np.uint8)


def _create(spec, shape=(32, 32, 3)):
    return defenses.create(spec, image_shape=shape, num_classes=10)


def _labels(images):
    return np.zeros(len(images), np.int32)


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_pillow_defaults_whatever_the_blocks(key, channels, monkeypatch):
    images = _images(channels=channels)
    before = images.copy()
    # Blocks of two images, the last of which is not full.
    monkeypatch.setattr(_jpeg, "_AT_ONCE", 2 * images[0].size + 1)
    purify = _create("jpeg-10", images.shape[1:]).purify
    result = purify(key, images, _labels(images))
    assert result.dtype == np.uint8
    assert result.shape == images.shape
    np.testing.assert_array_equal(images, before, err_msg="the input was changed")
    for image, compressed in zip(images, result, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=10)
        expected = np.asarray(Image.open(buffer)).reshape(image.shape)
        np.testing.assert_array_equal(compressed, expected)


def test_lower_quality_changes_more(key):
    images = _images(size=16, channels=1)
    errors = []
    for quality in (95, 50, 10):
        defense = _create(f"jpeg-{quality}", (16, 16, 1))
        result = defense.purify(key, images, _labels(images))
        errors.append(np.abs(result.astype(int) - images).mean())
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("quality", [0, 101, -1, 10.0, True, "10"])
def test_quality_out_of_range(quality):
    with pytest.raises(ValueError, match=r"integer in \[1, 100\], got"):
        _create({"name": "jpeg", "quality": quality})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32, 4), r"1 or 3\), got \(32, 32, 4\)"),
        ((32, 3), r"got \(32, 3\)"),
        ((32, 15, 3), "at least 16x16 pixels, got 15x32"),
        ((15, 32, 3), "at least 16x16 pixels, got 32x15"),
    ],
)
def test_images_that_it_does_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        _create("jpeg-10", shape)


@pytest.mark.parametrize("name", ["jpeg-10", "bit_depth-2", "grayscale"])
@pytest.mark.parametrize(
    ("images", "given"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), r"float32 \(2, 32, 32, 3\)"),
        (np.zeros((2, 32, 31, 3), np.uint8), r"uint8 \(2, 32, 31, 3\)"),
        (np.zeros((32, 32, 3), np.uint8), r"uint8 \(32, 32, 3\)"),
    ],
)
def test_other_images_than_it_was_made_for(key, name, images, given):
    with pytest.raises(
        ValueError, match=rf"uint8 images \(N, 32, 32, 3\), got {given}"
    ):
        _create(name).purify(key, images, np.zeros(len(images), np.int32))


def test_none_is_no_defense():
    assert _create("none") == defenses.Defense()
    assert defenses.Defense() == (None,) * 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "jpg-10",
            r"unknown defense 'jpg-10'; did you mean 'jpeg'.*\? Allowed: none, ",
        ),
        ("nnoe", r"did you mean 'none'"),
        ("none-3", "'none' takes no number, got 'none-3'"),
        ("", r"unknown defense ''; allowed: none, .*jpeg-<quality>"),
        ("jpeg", "'jpeg' needs its quality, as in 'jpeg-<quality>'"),
        ("jpeg-", "'' is not a number"),
        ("jpeg-ten", "'ten' is not a number"),
        ("jpeg-10.5", r"integer in \[1, 100\], got 10.5"),
        ("jpeg-0", r"integer in \[1, 100\], got 0"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        _create(name)
