"""A directory in which commands are misled."""

import numpy as np
import pytest

from miue_jax.budget import Budget
from miue_jax.data import artifact, load


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory with data, a protected data set and a folder of somebody else's."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    labels = np.arange(24) % 2
    data = tmp_path / "data.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    clean = load(data)
    delta = np.full(clean.images.shape, 2 / 255, np.float32)
    made = artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    artifact.save(tmp_path / "protected.npz", made, delta=delta)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    (tmp_path / "results.json").write_text('{"mine": 1}')
    (tmp_path / "text.md").write_bytes(b"\xc6\xc6")
    monkeypatch.chdir(tmp_path)
    return tmp_path
