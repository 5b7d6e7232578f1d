"""The picture shows every class asked for, and changes as the perturbation does."""

import numpy as np
import pytest
from PIL import Image

from miue_jax.data.dataset import Dataset
from miue_jax.workflows import pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_the_perturbation(tmp_path, channels):
    labels = np.arange(6, dtype=np.int32) % 3
    images = np.full((6, 8, 8, channels), 100, np.uint8)
    clean = Dataset(images, labels, ("a", "b", "c"))
    drawn = {}
    for name, change in (("none", 0), ("some", 8)):
        path = tmp_path / f"{name}.png"
        changed = clean._replace(images=images + np.uint8(change))
        pictures.comparison(path, clean, changed, classes=3)
        drawn[name] = np.asarray(Image.open(path).convert("RGB"))
    # Three columns and rows of 128 pixels, the titles above and the names below.
    assert drawn["none"].shape == (24 + 3 * 160, 8 + 3 * 136, 3)
    for row in range(3):
        top = 24 + 160 * row + 64
        clean_pixel, change, protected = (
            tuple(drawn["some"][top, 8 + 136 * column + 64].tolist())
            for column in range(3)
        )
        assert clean_pixel == (100, 100, 100)
        # All but white with eight levels sixteen-fold, mid-gray without.
        assert change == (255, 255, 255)
        assert tuple(drawn["none"][top, 8 + 136 + 64]) == (128, 128, 128)
        assert protected == (108, 108, 108)
        # The name below the image is written in black.
        assert drawn["none"][top + 64 : top + 96, :136].min() < 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none.png", "some.png"]


def test_there_are_no_more_rows_than_classes(tmp_path):
    images = np.zeros((4, 40, 30, 3), np.uint8)
    clean = Dataset(images, np.arange(4, dtype=np.int32) % 2, ("a", "b"))
    pictures.comparison(tmp_path / "two.png", clean, clean)
    with Image.open(tmp_path / "two.png") as drawn:
        assert drawn.size == (8 + 3 * 136, 24 + 2 * 160)
