"""Data that are read when they are needed are those that are loaded."""

import importlib.util
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from miue_jax import data
from miue_jax._rows import RandomRows
from miue_jax.data import artifact, folder, npz, records, tfds, webdataset

needs_grain = pytest.mark.skipif(
    importlib.util.find_spec("grain") is None, reason="needs Grain"
)


def _images(size: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(size)
    return rng.integers(0, 256, (size, 9, 8, channels), np.uint8)


def _same(streamed: data.Dataset, loaded: data.Dataset) -> None:
    images = streamed.images
    assert isinstance(images, RandomRows)
    assert (images.shape, images.dtype) == (loaded.images.shape, loaded.images.dtype)
    np.testing.assert_array_equal(images[:], loaded.images)
    np.testing.assert_array_equal(images[1:4], loaded.images[1:4])
    numbers = np.random.default_rng(0).permutation(len(images))[:5]
    out = np.empty((len(numbers), *images.shape[1:]), np.uint8)
    images.gather(numbers, out)
    np.testing.assert_array_equal(out, loaded.images[numbers])
    np.testing.assert_array_equal(streamed.labels, loaded.labels)
    assert streamed.class_names == loaded.class_names
    assert data.fingerprint(streamed) == data.fingerprint(loaded)


def _picture(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, kind)
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """A folder with two classes in each split."""
    for split, size in (("train", 12), ("test", 6)):
        for number, image in enumerate(_images(size)):
            place = tmp_path / "pictures" / split / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            kind = ("PNG", "JPEG")[number % 3 == 0]
            name = f"{number}.{kind.lower()}"
            (place / name).write_bytes(_picture(image, kind))
    return tmp_path / "pictures"


@pytest.mark.parametrize("split", data.SPLITS)
def test_arrays(tmp_path, split):
    file = tmp_path / "data.npz"
    arrays = {"x_train": _images(10), "x_test": _images(6)}
    arrays |= {"y_train": np.arange(10) % 3, "y_test": np.arange(6) % 3}
    np.savez(file, **arrays)
    _same(data.stream(file, split), data.load(file, split))


def test_gray_arrays_without_channels(tmp_path):
    file = tmp_path / "data.npz"
    np.savez(file, images=_images(6, 1)[..., 0], labels=np.arange(6) % 2)
    _same(data.stream(file), data.load(file))


def test_a_protected_data_set(tmp_path):
    clean = data.load("shapes", per_class=2)
    delta = np.full(clean.images.shape, 2 / 255, np.float32)
    made = artifact.build(clean, delta, budget=artifact.Budget(), metadata={})
    artifact.save(tmp_path / "protected.npz", made)
    _same(data.stream(tmp_path / "protected.npz"), made.dataset)
    # Where another process checks them, the images are not read.
    file = tmp_path / "protected.npz"
    content = bytearray(file.read_bytes())
    content[content.index(made.dataset.images[0].tobytes())] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not those that were protected"):
        data.stream(file)
    assert len(data.stream(file, verify=False).images) == len(clean.images)


@pytest.mark.parametrize(
    ("arrays", "save", "said"),
    [
        ({"images": _images(4)}, np.savez_compressed, "data.npz: images is compressed"),
        (
            {"images": np.asfortranarray(_images(4))},
            np.savez,
            "data.npz: images is stored by columns",
        ),
        ({"images": _images(4) / 255}, np.savez, "images are float64; allowed with s"),
        ({"images": _images(4)[:2]}, np.savez, "labels must have shape"),
    ],
)
def test_arrays_that_cannot_be_streamed(tmp_path, arrays, save, said):
    file = tmp_path / "data.npz"
    save(file, labels=np.arange(4) % 2, **arrays)
    with pytest.raises(ValueError, match=said) as caught:
        data.stream(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_cut_is_named(tmp_path):
    file = tmp_path / "data.npz"
    np.savez(file, labels=np.arange(4) % 2, images=_images(4))
    rows = npz.rows_of_member(file, "images")
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"data.npz: truncated, .* row \d is beyond"):
        rows[:]


@needs_grain
@pytest.mark.parametrize("split", data.SPLITS)
def test_a_folder_of_pictures(pictures, split):
    streamed, loaded = data.stream(pictures, split), data.load(pictures, split)
    _same(streamed, loaded)
    assert data.dataset.file_names(streamed) == data.dataset.file_names(loaded)


@needs_grain
def test_a_subset(pictures):
    options = {"per_class": 3, "seed": 1}
    streamed, loaded = data.stream(pictures, **options), data.load(pictures, **options)
    _same(streamed, loaded)
    assert data.dataset.file_names(streamed) == data.dataset.file_names(loaded)


@needs_grain
def test_pictures_that_are_all_gray(tmp_path):
    for number, image in enumerate(_images(6, 1)):
        place = tmp_path / ("cat", "dog")[number % 2]
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").write_bytes(_picture(image))
    assert data.stream(tmp_path).images.shape == (6, 9, 8, 1)
    _same(data.stream(tmp_path), data.load(tmp_path))
    Image.new("RGB", (8, 9)).save(tmp_path / "dog" / "color.png")
    _same(data.stream(tmp_path), data.load(tmp_path))


@needs_grain
def test_a_picture_of_another_size_is_found_in_its_header(pictures, monkeypatch):
    wrong = pictures / "train" / "dog" / "wrong.png"
    Image.new("RGB", (80, 80)).save(wrong)
    with pytest.raises(ValueError, match=r"wrong.png: is 80x80, but .* one size"):
        data.stream(pictures)


@needs_grain
def test_a_turned_picture_is_refused_when_it_is_read(pictures):
    Image.new("RGB", (9, 8)).save(pictures / "train" / "dog" / "turned.png")
    streamed = data.stream(pictures)
    with pytest.raises(ValueError, match=r"turned.png: is 9x8, but .* one size"):
        data.fingerprint(streamed)


@needs_grain
def test_an_unreadable_picture_is_named(pictures):
    file = pictures / "train" / "dog" / "1.png"
    whole = file.read_bytes()
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"1.png: not a readable image"):
        data.stream(pictures)
    # The header is whole, the rest is not.
    file.write_bytes(whole[:-60])
    streamed = data.stream(pictures)
    with pytest.raises(ValueError, match=r"1.png: not a readable image") as caught:
        data.fingerprint(streamed)
    assert "\n" not in str(caught.value)


def test_what_has_no_rows_on_disk_is_loaded():
    assert isinstance(data.stream("shapes", per_class=1).images, np.ndarray)


def test_without_grain_the_message_says_what_to_install(pictures, monkeypatch):
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None)
    for place in (pictures, pictures / "train"):
        with pytest.raises(ValueError, match=r"pip install miue_jax\[stream\]"):
            folder.stream(place)


@needs_grain
@pytest.mark.skipif(not tfds.installed(), reason="needs TFDS")
@pytest.mark.parametrize("split", data.SPLITS)
def test_tfds_records(tmp_path, split):
    _prepare_records(tmp_path)
    options = {"data_dir": str(tmp_path)}
    _same(tfds.stream("mnist", split, **options), tfds.load("mnist", split, **options))
    _same(data.stream("mnist", split, **options), data.load("mnist", split, **options))


def _prepare_records(folder: pathlib.Path) -> None:
    """Writes digits in TFDS's ArrayRecord format."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(
        "mnist", data_dir=folder, file_format="array_record"
    )
    pathlib.Path(builder.data_dir).mkdir(parents=True)
    writer = tensorflow_datasets.core.SequentialWriter(
        builder.info, 5, file_format="array_record"
    )
    writer.initialize_splits(["train", "test"])
    for split, size in (("train", 12), ("test", 7)):
        images = np.random.default_rng(size).integers(0, 256, (size, 28, 28), np.uint8)
        # As files: TFDS itself would encode them with TensorFlow.
        examples = [
            {"image": io.BytesIO(_picture(image)), "label": number % 10}
            for number, image in enumerate(images)
        ]
        writer.add_examples({split: examples})
    writer.close_all()


# Shards of WebDataset


def _shard(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _samples(size: int, *, first: int = 0, label: str = "cls") -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for number, image in enumerate(_images(size)):
        key, value = f"a/{first + number:06d}", (first + number) % 3
        text = str(value) if label == "cls" else json.dumps({"label": value, "x": 1})
        files[f"{key}.{label}"] = text.encode()
        files[f"{key}.png"] = _picture(image)
    return files


@needs_grain
@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards(tmp_path, label):
    _shard(tmp_path / "train-0000.tar", _samples(5, label=label))
    _shard(tmp_path / "train-0001.tar", _samples(4, first=5, label=label))
    loaded = data.load(tmp_path)
    expected = np.concatenate([_images(5), _images(4)])
    np.testing.assert_array_equal(loaded.images, expected)
    np.testing.assert_array_equal(loaded.labels, np.arange(9) % 3)
    assert loaded.class_names == ("0", "1", "2")
    _same(data.stream(tmp_path), loaded)


@needs_grain
def test_shards_of_splits_with_names_of_classes(tmp_path):
    _shard(tmp_path / "train" / "0.tar", _samples(6))
    _shard(tmp_path / "val" / "0.tar", _samples(2))
    assert data.load(tmp_path, "test").class_names == ("0", "1", "2")
    (tmp_path / "classnames.txt").write_text("cat\ndog\nelk\n")
    for split, size in (("train", 6), ("test", 2)):
        loaded = data.load(tmp_path, split)
        assert len(loaded.labels) == size
        assert loaded.class_names == ("cat", "dog", "elk")
        _same(data.stream(tmp_path, split), loaded)


@needs_grain
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a/000001.cls": None}, r"0.tar: a/000001.png has no label: a .cls file"),
        ({"a/000001.cls": b"cat"}, r"0.tar: a/000001.cls: holds no label"),
        ({"a/000001.cls": b"-1"}, r"0.tar: a/000001.cls: holds no label"),
        ({"a/000001.cls": b"7"}, r"labels must run through 0, .* have 2 and no 1"),
        ({"a/000001.json": b"{"}, r"0.tar: a/000001.json: is not readable JSON"),
        ({"a/000001.png": b"no"}, r"0.tar: a/000001.png: not a readable image(?! )"),
        ({"a/000001.json": b'{"label": 2}'}, r"0.tar: a/000001.json: says 2, and an"),
        ({"a/000003.webp": b""}, r"0.tar: a/000003.webp: only .png, .jpg, .jpeg files"),
        ({"a/3.v2.png": b""}, r"0.tar: a/3.v2.png: only .* behind the first dot"),
        ({"a/000001.jpg": b"no"}, r"0.tar: a/000001.jpg: its name is there twice"),
        (
            {"a/000001.png": _picture(np.zeros((4, 4, 3), np.uint8))},
            r"0.tar: a/000001.png: is 4x4, but .*0.tar: a/000000.png is 8x9",
        ),
    ],
)
@pytest.mark.parametrize("read", [webdataset.load, webdataset.stream])
def test_bad_shards_are_refused_in_one_line(tmp_path, change, said, read):
    files = {**_samples(3), **change}
    _shard(tmp_path / "0.tar", {k: v for k, v in files.items() if v is not None})
    with pytest.raises(ValueError, match=said) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@needs_grain
def test_damaged_and_missing_shards(tmp_path):
    file = _shard(tmp_path / "0.tar", _samples(3))
    with pytest.raises(ValueError, match="has no 'test' split: it must hold train/"):
        data.load(tmp_path, "test")
    file.write_bytes(b"nothing" * 200)
    with pytest.raises(ValueError, match=r"0.tar: not a readable shard"):
        data.load(tmp_path)
    whole = _shard(file, _samples(3)).read_bytes()
    # A sample takes four blocks here; the file ends behind one, or one is damaged.
    starts = [at for at in range(0, len(whole), 512) if whole[at : at + 2] == b"a/"]
    cut = whole[: starts[2]], whole[: starts[2]] + b"?" + whole[starts[2] + 1 :]
    for damaged in cut:
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"0.tar: .*it was cut or damaged"):
            data.load(tmp_path)
    _shard(file, {"a.cls": b"1"})
    with pytest.raises(ValueError, match=r"the shards hold no pictures"):
        data.load(tmp_path)


@needs_grain
@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz"])
def test_a_compressed_shard_is_not_skipped(tmp_path, name):
    _shard(tmp_path / "a.tar", _samples(3))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name}: is compressed"):
        data.load(tmp_path)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ValueError, match=f"{name}: is compressed"):
        data.load(tmp_path)


@needs_grain
def test_a_link_in_a_shard_is_not_skipped(tmp_path):
    with tarfile.open(_shard(tmp_path / "a.tar", _samples(3)), "a") as archive:
        member = tarfile.TarInfo("a/4.png")
        member.type, member.linkname = tarfile.LNKTYPE, "a/000001.png"
        archive.addfile(member)
    with pytest.raises(ValueError, match=r"a.tar: a/4.png: is no regular file"):
        data.load(tmp_path)


@needs_grain
def test_too_few_names_of_classes_are_refused(tmp_path):
    _shard(tmp_path / "a.tar", _samples(3))
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(ValueError, match=r"classnames.txt: names 1 classes, but there"):
        data.load(tmp_path)


def test_an_archive_beside_pictures_is_no_shard(pictures):
    before = data.load(pictures)
    for name in ("train.tar", "train/cat.tar", "train.tar.gz"):
        (pictures / name).write_bytes(b"")
    assert data.fingerprint(data.load(pictures)) == data.fingerprint(before)
    top = pictures / "train"
    assert data.fingerprint(data.load(top)) == data.fingerprint(before)
