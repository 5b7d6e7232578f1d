"""CutMix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.cutmix import cutmix

_SHAPE = (8, 10, 2)
_COUNT = 400


def _mix(**settings):
    """Every pixel of image i is i, so that its source can be read off."""
    images = jnp.broadcast_to(
        jnp.arange(_COUNT)[:, None, None, None], (_COUNT, *_SHAPE)
    )
    augment = jax.jit(cutmix(_SHAPE, _COUNT, **settings).augment)
    mixed, labels = augment(
        jax.random.key(0), images.astype(jnp.float32), jnp.arange(_COUNT)
    )
    return np.asarray(mixed).astype(int), np.asarray(labels)


@pytest.fixture(scope="module")
def mixture():
    return _mix()


def test_labels_have_the_shares_of_the_pixels(mixture):
    mixed, labels = mixture
    for image, label in zip(mixed, labels, strict=True):
        shares = np.bincount(image.ravel(), minlength=_COUNT) / image.size
        np.testing.assert_allclose(label, shares, atol=1e-6)


def test_one_box_an_image_from_one_other(mixture):
    mixed, _ = mixture
    partners, boxes = [], set()
    for i, image in enumerate(mixed):
        assert (image == image[..., :1]).all(), "channels have different boxes"
        box = image[..., 0] != i
        if not box.any():
            continue
        rows, columns = np.nonzero(box.any(1))[0], np.nonzero(box.any(0))[0]
        assert box.sum() == len(rows) * len(columns), "not a rectangle"
        assert len(rows) == np.ptp(rows) + 1, "not one rectangle"
        assert len(columns) == np.ptp(columns) + 1, "not one rectangle"
        assert len(np.unique(image[box])) == 1, "a box from several images"
        partners.append(image[box][0, 0])
        boxes.add((rows[0], rows[-1], columns[0], columns[-1]))
    assert len(partners) > 0.8 * _COUNT
    assert len(set(partners)) == len(partners), "two images have one partner"
    assert len(boxes) > 100, "boxes are not drawn one by one"
    assert {box[0] for box in boxes} == set(range(8)), "boxes miss some rows"


def test_area_follows_the_weight(mixture):
    # A box of a share 1 - lambda of the area, in the middle of a pixel uniform over the
    # image, with what is outside cut off.
    rng = np.random.default_rng(0)
    scale = np.sqrt(1 - rng.uniform(size=200_000))
    shares = 1.0
    for side in _SHAPE[:2]:
        length = np.floor(side * scale).astype(int)
        start = rng.integers(0, side, length.shape) - length // 2
        shares = (
            shares * (np.minimum(start + length, side) - np.maximum(start, 0)) / side
        )
    own = np.diagonal(mixture[1])
    assert abs((1 - own).mean() - shares.mean()) < 0.03
    assert abs(own.std() - shares.std()) < 0.03


def test_probability_is_the_share_of_mixed_images():
    mixed, labels = _mix(probability=0.25, alpha=20.0)
    # With this alpha all boxes have about half of the area, none is empty.
    alone = np.diagonal(labels) == 1
    assert 0.68 < alone.mean() < 0.82
    assert (mixed[alone] == np.nonzero(alone)[0][:, None, None, None]).all()


def test_nothing_is_mixed_with_probability_zero():
    mixed, labels = _mix(probability=0)
    assert (mixed == np.arange(_COUNT)[:, None, None, None]).all()
    np.testing.assert_array_equal(labels, np.eye(_COUNT))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1}, "cutmix alpha is -1; allowed: finite numbers > 0"),
        ({"alpha": float("inf")}, "cutmix alpha is inf"),
        ({"probability": 2}, r"cutmix probability is 2; .*in \[0, 1\]"),
        ({"probability": None}, "cutmix probability is None"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        cutmix(_SHAPE, 10, **settings)
