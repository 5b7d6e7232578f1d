"""Fewer gray levels, against Pillow's posterize."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from miue_jax import defenses


def _create(bits):
    spec = {"name": "bit_depth", "bits": bits}
    return defenses.create(spec, image_shape=(16, 16, 3), num_classes=2)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_value_equals_pillow(bits):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    images[..., 1] = images[..., 0][:, ::-1]
    before = images.copy()
    result = _create(bits).purify(jax.random.key(0), images, np.zeros(1, np.int32))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(images, before, err_msg="the input was changed")
    expected = np.asarray(ImageOps.posterize(Image.fromarray(images[0]), bits))
    np.testing.assert_array_equal(result[0], expected)
    assert len(np.unique(result)) == 2**bits


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, True, "2"])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=r"bit_depth bits is .*; allowed: "):
        _create(bits)
