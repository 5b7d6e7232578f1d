"""Data sets of user-defined functions, and the names that stand for data."""

import dataclasses
import textwrap

import numpy as np
import pytest

from miue_jax import data

OWN = """
    import numpy as np

    from miue_jax import data

    images = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3) % 256
    labels = np.array([0, 1, 0, 1])


    def pair():
        return images, labels


    def named(split):
        rows = slice(None) if split == "train" else slice(2)
        return images[rows] / 255, labels[rows], ("cat", "dog")


    def whole(split="train"):
        return data.Dataset(images.astype("uint8"), labels.astype("int32"), ("a", "b"))


    def nothing():
        return None


    def broken():
        raise RuntimeError("no such disk")


    def beyond():
        return images + 300, labels


    def one():
        return images, labels[:1]


    number = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "class_names"),
    [("pair", ("0", "1")), ("named", ("cat", "dog")), ("whole", ("a", "b"))],
)
def test_arrays_become_a_data_set(name, class_names):
    found = data.load(f"own_data:{name}")
    expected = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3) % 256
    np.testing.assert_array_equal(found.images, expected)
    np.testing.assert_array_equal(found.labels, [0, 1, 0, 1])
    assert found.images.dtype == np.uint8
    assert found.labels.dtype == np.int32
    assert found.class_names == class_names


def test_splits_and_subsets_are_those_of_the_function():
    assert len(data.load("own_data:named", "test").labels) == 2
    assert len(data.load("own_data:named", per_class=1).labels) == 2
    with pytest.raises(ValueError, match="'own_data:pair': it has no parameter split"):
        data.load("own_data:pair", "test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:nothing", "'own_data:nothing': it must return .images, labels."),
        ("own_data:broken", "'own_data:broken': RuntimeError: no such disk"),
        ("own_data:beyond", r"'own_data:beyond': images must lie in \[0, 255\]"),
        ("own_data:one", "'own_data:one': labels must have shape"),
        ("own_data:missing", "cannot be imported"),
        ("own_data:number", "no function|not callable|is no"),
        ("no_such_module:f", "'no_such_module:f' cannot be imported"),
    ],
)
def test_what_fails_names_the_function(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        data.load(name)
    assert "\n" not in str(raised.value)


def test_a_source_loads_what_it_names():
    source = data.DataSource("own_data:named", split="test")
    assert len(source.load().labels) == 2
    assert (
        dataclasses.replace(source, split="train", per_class=1).load().labels.size == 2
    )


def test_a_data_set_passes_through_and_is_checked():
    whole = data.load("own_data:whole")
    assert data.load(whole) is whole
    with pytest.raises(ValueError, match="labels must lie in"):
        data.load(whole._replace(labels=whole.labels + 7))


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["dog", "cat"], (1, 0)), ([1, "0"], (1, 0)), (["7"], (2,)), ((), ())],
)
def test_classes_are_found_by_name_and_number(given, expected):
    assert data.class_indices(("cat", "dog", "7"), given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dgo"], "unknown class 'dgo'; did you mean 'dog'"),
        ([3], "class 3 is not in the data; allowed: 0 to 2, or a name: cat, dog, 7"),
        ([-1], "class -1 is not in the data"),
        ([True], "class True is not in the data"),
        (["9"], "class '9' is not in the data"),
    ],
)
def test_unknown_classes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        data.class_indices(("cat", "dog", "7"), given)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_is_the_test_split(tmp_path, name):
    from PIL import Image

    for split, level in (("train", 10), (name, 20)):
        for label in ("a", "b"):
            folder = tmp_path / "tree" / split / label
            folder.mkdir(parents=True)
            picture = np.full((8, 8, 3), level, np.uint8)
            Image.fromarray(picture).save(folder / "0.png")
    assert (data.load(tmp_path / "tree").images == 10).all()
    assert (data.load(tmp_path / "tree", "test").images == 20).all()
    (tmp_path / "tree" / "test" / "a").mkdir(parents=True)
    Image.fromarray(np.full((8, 8, 3), 30, np.uint8)).save(
        tmp_path / "tree" / "test" / "a" / "0.png"
    )
    assert (data.load(tmp_path / "tree", "test").images == 30).all()
