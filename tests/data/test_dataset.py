import numpy as np
import pytest

from miue_jax.data import dataset


def make(num_images=60, num_classes=3, channels=3):
    rng = np.random.default_rng(0)
    return dataset.Dataset(
        rng.integers(0, 256, (num_images, 4, 5, channels), dtype=np.uint8),
        rng.permutation(num_images).astype(np.int32) % num_classes,
        tuple(f"class {i}" for i in range(num_classes)),
    )


def test_validate_returns_a_good_data_set():
    for channels in (1, 3):
        given = make(channels=channels)
        assert dataset.validate(given) is given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d._replace(images=d.images.tolist()), "NumPy arrays"),
        (lambda d: d._replace(images=d.images[..., 0]), r"shape \(N, H, W, 1 or 3\)"),
        (lambda d: d._replace(images=d.images[..., :2]), "shape"),
        (lambda d: d._replace(images=d.images / 255), "uint8, got float64"),
        (lambda d: d._replace(images=d.images[:0], labels=d.labels[:0]), "no images"),
        (lambda d: d._replace(labels=d.labels[1:]), r"shape \(60,\)"),
        (lambda d: d._replace(labels=d.labels.astype(np.int64)), "int32"),
        (lambda d: d._replace(class_names=("a", 1, "b")), "must be strings"),
        (lambda d: d._replace(class_names=("a",)), "two classes"),
        (lambda d: d._replace(class_names=("a", "b", "a")), "must differ"),
        (lambda d: d._replace(class_names=("a", "b")), r"\[0, 1\], got 2 at index"),
        (lambda d: d._replace(labels=d.labels - 1), "got -1 at index"),
    ],
)
def test_validate_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        dataset.validate(change(make()))


def test_subset_is_balanced_and_a_part_of_the_source_in_its_order():
    source = make()
    # Number the images, to find each one again.
    source.images[:, 0, 0, 0] = np.arange(60)
    chosen = dataset.subset(source, per_class=7, seed=3)
    assert np.bincount(chosen.labels).tolist() == [7, 7, 7]
    index = chosen.images[:, 0, 0, 0].astype(int)
    assert (np.diff(index) > 0).all()
    np.testing.assert_array_equal(chosen.images, source.images[index])
    np.testing.assert_array_equal(chosen.labels, source.labels[index])


def test_subset_depends_on_its_seed_alone_and_grows():
    source = make()

    def draw(per_class, seed):
        part = dataset.subset(source, per_class=per_class, seed=seed)
        return {image.tobytes() for image in part.images}

    assert draw(5, 0) == draw(5, 0)
    assert draw(5, 0) != draw(5, 1)
    assert draw(5, 0) < draw(9, 0)


def test_subset_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="'class 0' has 20 images, per_class asks"):
        dataset.subset(make(), per_class=21)
    for per_class in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"per_class is {per_class!r}; allowed"):
            dataset.subset(make(), per_class=per_class)
    with pytest.raises(ValueError, match="seed is -1; allowed"):
        dataset.subset(make(), per_class=1, seed=-1)


def test_fingerprint_changes_with_content_and_order_only():
    source = make()
    same = source._replace(class_names=("x", "y", "z"))
    assert dataset.fingerprint(source) == dataset.fingerprint(same)
    pixel = source.images.copy()
    pixel[3, 1, 2, 0] ^= 1
    others = [
        source._replace(images=pixel),
        source._replace(images=source.images.reshape(60, 5, 4, 3)),
        source._replace(labels=np.roll(source.labels, 1)),
        source._replace(images=source.images[::-1]),
    ]
    digests = {dataset.fingerprint(each) for each in [source, *others]}
    assert len(digests) == 5
    strided = np.repeat(source.images, 2, axis=0)[::2]
    assert dataset.fingerprint(source._replace(images=strided)) in digests


def test_fingerprint_is_what_artifacts_already_written_hold():
    tiny = dataset.Dataset(
        np.arange(12, dtype=np.uint8).reshape(2, 2, 1, 3),
        np.array([0, 1], np.int32),
        ("a", "b"),
    )
    assert dataset.fingerprint(tiny) == (
        "9b06a974a85b009c72cabf1a635ee07950dde9bd712711c4b3b4fb4ddb878ea0"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["dog", "cat"], (1, 0)), ([1, "0"], (1, 0)), (["7"], (2,)), ((), ())],
)
def test_classes_are_found_by_name_and_number(given, expected):
    assert dataset.class_indices(("cat", "dog", "7"), given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dgo"], "unknown class 'dgo'; did you mean 'dog'"),
        ([3], "class 3 is not in the data; allowed: 0 to 2, or a name: cat, dog, 7"),
        ([-1], "class -1 is not in the data"),
        ([True], "class True is not in the data"),
        (["9"], "class '9' is not in the data"),
        ([1.5], "class 1.5 is not in the data"),
        ([None], "class None is not in the data"),
    ],
)
def test_unknown_classes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        dataset.class_indices(("cat", "dog", "7"), given)
