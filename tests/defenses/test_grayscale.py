"""Gray images against Pillow's."""

import jax
import numpy as np
import pytest
from PIL import Image

from miue_jax import defenses


def test_every_value_equals_pillow_in_three_channels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 33, 20, 3), np.uint8)
    images[0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    before = images.copy()
    defense = defenses.create("grayscale", image_shape=(33, 20, 3), num_classes=2)
    result = defense.purify(jax.random.key(0), images, np.zeros(4, np.int32))
    assert result.dtype == np.uint8
    assert result.shape == images.shape
    np.testing.assert_array_equal(images, before, err_msg="the input was changed")
    for image, gray in zip(images, result, strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"))
        for channel in range(3):
            np.testing.assert_array_equal(gray[..., channel], expected)


@pytest.mark.parametrize("shape", [(32, 32, 1), (32, 32, 4), (32, 3)])
def test_only_for_three_channels(shape):
    with pytest.raises(ValueError, match=r"shape \(H, W, 3\), got \("):
        defenses.create("grayscale", image_shape=shape, num_classes=2)
