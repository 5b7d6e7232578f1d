"""The picture shows every class asked for, and changes as the perturbation does."""

import numpy as np
from PIL import Image

from miue_jax.data.dataset import Dataset
from miue_jax.workflows import pictures


def test_the_picture_shows_the_perturbation(tmp_path):
    labels = np.arange(6, dtype=np.int32) % 3
    images = np.full((6, 8, 8, 3), 100, np.uint8)
    clean = Dataset(images, labels, ("a", "b", "c"))
    drawn = {}
    for name, change in (("none", 0), ("some", 8)):
        path = tmp_path / f"{name}.png"
        changed = clean._replace(images=images + np.uint8(change))
        pictures.comparison(path, clean, changed, classes=3)
        drawn[name] = np.asarray(Image.open(path).convert("RGB"))
    assert drawn["none"].shape == (600, 600, 3)
    # Mid-gray without a perturbation, all but white with eight levels sixteen-fold.
    assert tuple(drawn["none"][300, 330]) == (128, 128, 128)
    assert tuple(drawn["some"][300, 330]) == (255, 255, 255)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none.png", "some.png"]
