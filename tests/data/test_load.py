import dataclasses
import os
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from miue_jax import data
from miue_jax.data import artifact, shapes, tfds


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    monkeypatch.setattr(data, "_NUM_SHAPES", {"train": 250, "test": 100})


def save_arrays(path):
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    np.savez(path, images=images, labels=[0, 1, 0, 1])
    return images


def test_shapes_by_name():
    train, test = data.load("shapes"), data.load("shapes", "test")
    assert len(train.images) == 250
    assert len(test.images) == 100
    np.testing.assert_array_equal(train.images, shapes.generate(250).images)
    assert not np.array_equal(train.images[:100], test.images)
    other = data.load("shapes", seed=1)
    assert data.fingerprint(other) != data.fingerprint(train)


def test_subsets_are_balanced_seeded_and_grow_the_shapes_where_needed():
    for per_class in (3, 30):
        subset = data.load("shapes", per_class=per_class)
        assert np.bincount(subset.labels).tolist() == [per_class] * 10


def test_a_folder_and_its_subset(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            image = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")
    whole = data.load(tmp_path)
    assert whole.images.shape == (8, 5, 5, 3)
    draws = [data.load(str(tmp_path), per_class=2, seed=seed) for seed in (0, 0, 1, 2)]
    assert all(draw.labels.tolist() == [0, 0, 1, 1] for draw in draws)
    digests = [data.fingerprint(draw) for draw in draws]
    assert digests[0] == digests[1]
    assert len(set(digests)) > 1
    with pytest.raises(ValueError, match="'a' has 4 images, per_class asks for 5"):
        data.load(tmp_path, per_class=5)


def test_arrays_and_archives_by_path(tmp_path, monkeypatch):
    images = save_arrays(tmp_path / "data.npz")
    np.testing.assert_array_equal(data.load(tmp_path / "data.npz").images, images)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(data.load("~/data.npz").images, images)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(data.load("data.npz").images, images)
    (tmp_path / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"data_batch_1\.bin must have 30730000 bytes"):
        data.load(tmp_path)


def test_a_protected_data_set_is_recognized(tmp_path, monkeypatch):
    path = tmp_path / "protected.npz"
    save_arrays(path)
    dataset = data.load("shapes")
    monkeypatch.setattr(artifact, "is_artifact", lambda given: given == path)
    monkeypatch.setattr(
        artifact, "load", lambda given, **_: types.SimpleNamespace(dataset=dataset)
    )
    assert data.fingerprint(data.load(path)) == data.fingerprint(dataset)
    with pytest.raises(ValueError, match="a protected data set has only a 'train'"):
        data.load(path, "test")


@pytest.mark.parametrize(
    "name", ["./cifar10", "/no/where", "~/no-such-folder", "missing.npz", "x.tar.gz"]
)
def test_a_path_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"^{name}: no such file or folder$"):
        data.load(name)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("about")
    with pytest.raises(ValueError, match=r"notes\.txt: not a data set"):
        data.load(tmp_path / "notes.txt")


def test_unknown_names_list_the_nearest():
    with pytest.raises(
        ValueError, match="unknown data set 'shape'; did you mean 'shapes'"
    ):
        data.load("shape")
    with pytest.raises(ValueError, match="unknown data set ''; allowed: 'shapes'"):
        data.load("")


@pytest.mark.skipif(not tfds.installed(), reason="needs TFDS")
def test_unknown_names_list_the_nearest_of_tfds():
    with pytest.raises(ValueError, match="did you mean 'cifar10' or 'cifar100'"):
        data.load("cifarr10")
    with pytest.raises(ValueError, match=r"^data/cifar10: no such file or folder"):
        data.load("data/cifar10")


def test_a_number_of_images_that_is_none_is_refused():
    for per_class in (2.5, 600.5, 0, -1):
        with pytest.raises(ValueError, match=f"per_class is {per_class}; allowed"):
            data.load("shapes", per_class=per_class)


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/images"])
def test_a_name_that_cannot_be_a_path_is_named(name):
    with pytest.raises(ValueError, match=f"^{name}: cannot be looked up"):
        data.load(name)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'valid'; did you mean 'train'"):
        data.load("shapes", "valid")


def test_a_data_set_passes_through_and_is_checked():
    whole = shapes.generate(50)
    assert data.load(whole) is whole
    assert data.load(whole, per_class=2).labels.shape == (20,)
    with pytest.raises(ValueError, match="labels must lie in"):
        data.load(whole._replace(labels=whole.labels + 7))


def test_a_source_loads_what_it_names(tmp_path):
    save_arrays(tmp_path / "data.npz")
    source = data.DataSource(tmp_path / "data.npz")
    assert source.name == str(tmp_path / "data.npz"), "JSON has no paths"
    assert source.load().labels.tolist() == [0, 1, 0, 1]
    assert dataclasses.replace(source, per_class=1).load().labels.tolist() == [0, 1]
    test = data.DataSource("shapes", split="test", per_class=2, seed=3)
    expected = data.load("shapes", "test", per_class=2, seed=3)
    assert data.fingerprint(test.load()) == data.fingerprint(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "data name is None; it must be a string"),
        ({"data_dir": 3}, "data data_dir is 3; it must be a string"),
        ({"split": "valid"}, "split is 'valid'; did you mean 'train'"),
        ({"per_class": 0}, "per_class is 0; allowed"),
        ({"seed": -1}, "seed is -1; allowed"),
        ({"seed": 0.5}, "seed is 0.5; allowed"),
    ],
)
def test_a_source_checks_its_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        data.DataSource(**{"name": "shapes", **changes})
    assert data.DataSource("x", data_dir=pathlib.Path("y")).data_dir == "y"


@pytest.mark.parametrize("name", ["pipe", "pipe.npz", "pipe.tar"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        data.load(tmp_path / name)
