"""Data sets from user-defined functions."""

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


    def leaves():
        raise SystemExit("no arguments given")


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
        ("own_data:leaves", "'own_data:leaves': SystemExit: no arguments given"),
        ("own_data:missing", "'own_data:missing' cannot be imported"),
        ("own_data:number", "'own_data:number' is not a function but 3"),
        ("no_such_module:f", "'no_such_module:f' cannot be imported"),
    ],
)
def test_what_fails_names_the_function(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        data.load(name)
    assert "\n" not in str(raised.value)
