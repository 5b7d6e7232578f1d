"""The study of protected folders: its pictures, and a run of it on a few."""

import gzip
import json

import folder_study
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from miue_jax.data import Dataset


@pytest.fixture
def idx_files(tmp_path):
    """Files of Fashion-MNIST's format: three pictures of each class."""
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype=np.uint8), 3)
    images = rng.integers(0, 256, (30, 28, 28), np.uint8)
    for name in ("train", "t10k"):
        for kind, header, array in (
            ("images-idx3", 16, images),
            ("labels-idx1", 8, labels),
        ):
            data = gzip.compress(bytes(header) + array.tobytes())
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(data)
    return folder, images, labels


def test_fashion_mnist_becomes_class_folders(tmp_path, idx_files):
    folder, images, labels = idx_files
    folder_study.make_fashion(tmp_path / "out", folder, 2)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2 * 10 * 2
    with Image.open(tmp_path / "out" / "train" / "trouser" / "0001.png") as image:
        np.testing.assert_array_equal(image, images[labels == 1][1])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        folder_study.make_fashion(tmp_path / "out", tmp_path, 2)


def test_class_folders_are_copied_up_to_a_number(tmp_path):
    for split in ("train", "test"):
        place = tmp_path / "in" / split / "cat"
        place.mkdir(parents=True)
        for number in range(3):
            (place / f"{number}.png").write_bytes(bytes([number]))
    folder_study.copy_classes(tmp_path / "out", tmp_path / "in", 2)
    found = sorted((tmp_path / "out" / "test" / "cat").iterdir())
    assert [path.read_bytes() for path in found] == [b"\0", b"\1"]


def test_seen_compressed_pictures_have_three_quarters_of_the_size():
    images = np.full((2, 28, 28, 1), 100, np.uint8)
    seen = folder_study.compressed(images)
    assert seen.shape == (2, 21, 21, 1)
    assert np.abs(seen.astype(int) - 100).max() <= 2


def test_the_nearest_neighbor_by_color():
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (3, 1, 1, 3))
    labels = rng.integers(0, 3, 40)
    images = colors[labels] + rng.normal(0, 60, (40, 1, 1, 3))
    images = np.clip(images + rng.normal(0, 20, (40, 8, 8, 3)), 0, 255).astype(np.uint8)
    train, test = (
        Dataset(images[part], labels[part], ("a", "b", "c"))
        for part in (slice(25), slice(25, None))
    )
    numbers = np.stack(
        [[f(i[..., c]) for f in (np.mean, np.std) for c in range(3)] for i in images]
    )
    nearest = KNeighborsClassifier(1).fit(numbers[:25], labels[:25])
    expected = nearest.score(numbers[25:], labels[25:])
    assert 0.4 < expected < 0.95
    assert folder_study.by_color(train, test) == pytest.approx(expected)


@pytest.mark.slow
def test_a_run_on_a_few_pictures(tmp_path, idx_files, monkeypatch, one_device):
    folder, _, _ = idx_files
    command = ["folder_study.py", str(folder), "--workdir", str(tmp_path / "run")]
    command += ["--effort", "fast", "--per-class", "2", "--epochs", "1", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", command)
    folder_study.main()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["largest_change"] <= 8
    assert [row["trained_on"] for row in results["rows"]] == ["clean", "fast"] * 2
    assert all(0 <= row["nearest_by_color"] <= 1 for row in results["rows"])
    assert results["data"] == "idx"
    assert str(tmp_path) not in json.dumps(results)
