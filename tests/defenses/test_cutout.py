"""Cutout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.cutout import cutout


def _holes(size, shape=(8, 12, 3), count=400):
    """Which pixels were blackened, (count, H, W)."""
    images = jnp.full((count, *shape), 0.5)
    labels = jnp.arange(count)
    augment = cutout(shape, 10, size=size).augment
    result, same = jax.jit(augment)(jax.random.key(0), images, labels)
    np.testing.assert_array_equal(same, labels)
    black = np.asarray(result) == 0
    assert (black == black[..., :1]).all(), "channels lost different pixels"
    assert (np.asarray(result)[~black] == 0.5).all(), "other pixels changed"
    return black[..., 0]


@pytest.mark.parametrize("size", [3, 4])
def test_one_square_an_image_clipped_at_the_border(size):
    sides = set()
    for hole in _holes(size):
        rows, columns = np.nonzero(hole.any(1))[0], np.nonzero(hole.any(0))[0]
        assert hole.sum() == len(rows) * len(columns), "not a rectangle"
        assert len(rows) == np.ptp(rows) + 1, "not one rectangle"
        assert len(columns) == np.ptp(columns) + 1, "not one rectangle"
        sides.add((len(rows), len(columns)))
    assert max(sides) == (size, size)
    assert min(sides) == ((size + 1) // 2, (size + 1) // 2), "clipped too far"


def test_middle_is_uniform():
    # A square of one pixel is its middle.
    counts = _holes(1, shape=(2, 3, 1), count=3000).sum(0)
    assert counts.sum() == 3000
    assert (np.abs(counts - 500) < 100).all()


def test_usual_size():
    shape = (32, 32, 3)
    images = jnp.ones((50, *shape))
    result, _ = cutout(shape, 10).augment(jax.random.key(0), images, jnp.zeros(50))
    assert (np.asarray(result) == 0).any(-1).sum((1, 2)).max() == 16 * 16


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_size_out_of_range(size):
    with pytest.raises(ValueError, match=r"cutout size is .*whole numbers > 0"):
        cutout((8, 8, 3), 10, size=size)


def test_size_larger_than_the_images():
    with pytest.raises(ValueError, match=r"more than a side of 12x8 .*at most 8"):
        cutout((8, 12, 3), 10, size=9)
