import numpy as np
import pytest

from miue_jax.data import arrays

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(path, **content):
    np.savez(path / "data.npz", **content)
    return path / "data.npz"


def test_integers_come_back_as_they_are(tmp_path):
    names = np.array(["ant", "bee", "cow"])
    path = save(tmp_path, images=IMAGES, labels=LABELS, class_names=names)
    dataset = arrays.load(path)
    np.testing.assert_array_equal(dataset.images, IMAGES)
    np.testing.assert_array_equal(dataset.labels, LABELS)
    assert dataset.labels.dtype == np.int32
    assert dataset.class_names == ("ant", "bee", "cow")
    of_bytes = save(
        tmp_path, images=IMAGES, labels=LABELS, class_names=names.astype("S")
    )
    assert arrays.load(of_bytes).class_names == ("ant", "bee", "cow")
    wide = save(tmp_path, images=IMAGES.astype(np.int64), labels=LABELS)
    np.testing.assert_array_equal(arrays.load(wide).images, IMAGES)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_the_unit_interval_are_rounded(tmp_path, dtype):
    path = save(tmp_path, images=(IMAGES / 255).astype(dtype), labels=LABELS)
    np.testing.assert_array_equal(arrays.load(path).images, IMAGES)
    between = save(
        tmp_path, images=np.full((3, 2, 2, 3), 0.501, dtype), labels=[0, 1, 1]
    )
    assert np.unique(arrays.load(between).images).tolist() == [128]


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_both_splits_share_the_classes(tmp_path, names):
    # Class 2 is in the test images only; labels come as a column.
    content = (IMAGES, LABELS[:, None] % 2, IMAGES[:3] // 2, LABELS[:3])
    path = save(tmp_path, **dict(zip(names, content, strict=True)))
    train, test = arrays.load(path, "train"), arrays.load(path, "test")
    assert train.class_names == test.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(train.labels, LABELS % 2)
    np.testing.assert_array_equal(test.images, IMAGES[:3] // 2)


def test_gray_images_may_lack_the_channel(tmp_path):
    path = save(tmp_path, images=IMAGES[..., 0], labels=LABELS)
    np.testing.assert_array_equal(arrays.load(path).images, IMAGES[..., :1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.where(IMAGES < 3, np.nan, IMAGES / 255), "images has NaN"),
        (np.where(IMAGES < 3, np.inf, IMAGES / 255), "images has NaN or infinite"),
        (IMAGES.astype(np.float32), r"images must lie in \[0, 1\] for float32"),
        (IMAGES / 255 - 0.1, r"images must lie in \[0, 1\]"),
        (IMAGES.astype(np.int16) - 1, r"images must lie in \[0, 255\] for int16"),
        (IMAGES.astype(np.int16) + 300, r"images must lie in \[0, 255\]"),
        (IMAGES > 100, "integers or floats, got bool"),
        (IMAGES.transpose(0, 3, 1, 2), r"transpose to \(0, 2, 3, 1\)"),
        (IMAGES[0, 0], "images must have shape"),
        (IMAGES[:5], r"labels must have shape \(5,\)"),
        (IMAGES[:0], "no images"),
    ],
)
def test_bad_images_are_refused(tmp_path, images, message):
    labels = LABELS[:0] if images.shape[0] == 0 else LABELS
    names = ["a", "b", "c"]
    path = save(tmp_path, images=images, labels=labels, class_names=names)
    with pytest.raises(ValueError, match=rf"data\.npz: {message}|{message}") as caught:
        arrays.load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS - 1, "must not be negative .* got -1 at index 0"),
        (LABELS + 2**40, "nor exceed 31 bits"),
        (LABELS + 0.0, "labels must be integers, got float64"),
        (np.eye(3)[LABELS], r"labels must have shape \(N,\) or \(N, 1\)"),
        (LABELS * 100, "without a gap, but has 100 and no 1"),
        (LABELS + 1, "without a gap, but has 1 and no 0"),
        (LABELS * 0, "two classes"),
    ],
)
def test_bad_labels_are_refused(tmp_path, labels, message):
    path = save(tmp_path, images=IMAGES, labels=labels)
    with pytest.raises(ValueError, match=message) as caught:
        arrays.load(path)
    assert str(caught.value).startswith(str(path))


def test_labels_beyond_the_class_names_are_refused(tmp_path):
    path = save(tmp_path, images=IMAGES, labels=LABELS, class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\], got 2"):
        arrays.load(path)


def test_a_missing_array_or_split_is_named_with_what_there_is(tmp_path):
    path = save(tmp_path, images=IMAGES, targets=LABELS)
    with pytest.raises(ValueError, match=r"no train images .* holds images, targets"):
        arrays.load(path)
    path = save(tmp_path, images=IMAGES, labels=LABELS)
    with pytest.raises(ValueError, match="no test images and labels"):
        arrays.load(path, "test")


class Bomb:
    """Would leave a trace when unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_pickles_are_never_opened(tmp_path, capsys):
    objects = np.empty(6, dtype=object)
    objects[:] = [Bomb() for _ in range(6)]
    path = save(tmp_path, images=IMAGES, labels=objects)
    with pytest.raises(ValueError, match=r"data\.npz: .*pickle"):
        arrays.load(path)
    assert capsys.readouterr().out == ""


def test_unreadable_files_are_named(tmp_path):
    path = save(tmp_path, images=IMAGES, labels=LABELS)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(IMAGES.tobytes()) + 7] ^= 255
    for broken in (b"", b"PK\x03\x04", content[:200], content[:-30], bytes(flipped)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"data\.npz: "):
            arrays.load(path)
    np.save(tmp_path / "single.npy", IMAGES)
    with pytest.raises(ValueError, match=r"single\.npy: "):
        arrays.load(tmp_path / "single.npy")
    with pytest.raises(ValueError, match=r"nowhere\.npz: no such file"):
        arrays.load(tmp_path / "nowhere.npz")


def test_arrays_beyond_the_memory_are_not_unpacked(tmp_path, monkeypatch):
    """A file of zeros packs to a thousandth."""
    path = tmp_path / "data.npz"
    np.savez_compressed(path, images=np.zeros((64, 64, 64, 3)), labels=np.arange(64))
    assert path.stat().st_size < 10**4
    monkeypatch.setenv("MIUE_MEMORY", "1e-3")
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(ValueError, match=r"2 arrays would need 0\.00629 GB .* MIUE_M"):
        arrays.load(path)


def test_the_names_of_arrays_are_listed_in_part(tmp_path):
    names = [f"{'x' * 200}{number}" for number in range(100)]
    path = save(tmp_path, **dict.fromkeys(names, np.zeros(1)))
    with pytest.raises(ValueError, match="92 more") as raised:
        arrays.load(path)
    assert len(str(raised.value)) < 1200


def test_class_names_are_texts(tmp_path):
    path = save(tmp_path, images=IMAGES, labels=LABELS, class_names=[[1.5], [2], [3]])
    with pytest.raises(ValueError, match="class_names must be strings, got float64"):
        arrays.load(path)
