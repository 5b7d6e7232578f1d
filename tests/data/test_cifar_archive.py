import io
import pickle
import tarfile

import numpy as np
import pytest

from miue_jax.data import cifar_archive

RECORDS = 3
PLANES = 3 * 32 * 32


@pytest.fixture(autouse=True)
def short_files(monkeypatch):
    """Files of three images instead of ten thousand."""
    short = {"train": RECORDS, "test": RECORDS}
    layouts = tuple(each._replace(records=short) for each in cifar_archive._LAYOUTS)
    monkeypatch.setattr(cifar_archive, "_LAYOUTS", layouts)


def record(labels, planes):
    return bytes(labels) + planes.tobytes()


def cifar10():
    """The archive's files, and the images and labels they were written from."""
    rng = np.random.default_rng(0)
    files, planes, labels = {}, {}, {}
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for name in names:
        planes[name] = rng.integers(0, 256, (RECORDS, 3, 32, 32), dtype=np.uint8)
        labels[name] = rng.integers(0, 10, RECORDS)
        pairs = zip(labels[name], planes[name], strict=True)
        files[name] = b"".join(record([label], image) for label, image in pairs)
    text = "\n".join(f"class {i}" for i in range(10)) + "\n\n"
    files["batches.meta.txt"] = text.encode()
    return files, planes, labels


def cifar100():
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 256, (RECORDS, 3, 32, 32), dtype=np.uint8)
    content = b"".join(
        record([19, fine], image)
        for fine, image in zip([99, 0, 42], planes, strict=True)
    )
    names = "\n".join(f"fine {i}" for i in range(100)) + "\n"
    files = {
        "train.bin": content,
        "test.bin": content[::-1],
        "fine_label_names.txt": names.encode(),
        "coarse_label_names.txt": b"coarse\n",
    }
    return files, planes


def write_folder(path, files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def write_tar(path, files, folder="cifar-10-batches-bin"):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_pixels_labels_and_names(tmp_path, packed):
    files, planes, labels = cifar10()
    if packed:
        path = write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
    else:
        path = write_folder(tmp_path / "cifar-10-batches-bin", files)
    assert cifar_archive.is_archive(path)
    train = cifar_archive.load(path, "train")
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    expected = np.concatenate([planes[name] for name in names])
    np.testing.assert_array_equal(train.images, expected.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(
        train.labels, np.concatenate([labels[name] for name in names])
    )
    assert train.class_names == tuple(f"class {i}" for i in range(10))
    test = cifar_archive.load(path, "test")
    np.testing.assert_array_equal(test.labels, labels["test_batch.bin"])
    # Written as planes: red first, rows before columns.
    assert test.images[1, 2, 3, 0] == planes["test_batch.bin"][1, 0, 2, 3]


def test_cifar100_has_its_fine_labels(tmp_path):
    files, planes = cifar100()
    path = write_folder(tmp_path / "cifar-100-binary", files)
    dataset = cifar_archive.load(path)
    assert dataset.labels.tolist() == [99, 0, 42]
    np.testing.assert_array_equal(dataset.images, planes.transpose(0, 2, 3, 1))
    assert dataset.class_names[42] == "fine 42"


@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_file_is_named_with_its_sizes(tmp_path, packed):
    files, _, _ = cifar10()
    # A whole image is missing: the length is still a multiple of a record's.
    files["data_batch_4.bin"] = files["data_batch_4.bin"][: 2 * (1 + PLANES)]
    if packed:
        path = write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
    else:
        path = write_folder(tmp_path / "folder", files)
    message = "data_batch_4.bin must have 9219 bytes, it has 6146"
    with pytest.raises(ValueError, match=message) as caught:
        cifar_archive.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_truncated_archive_is_named(tmp_path):
    path = write_tar(tmp_path / "cifar-10-binary.tar.gz", cifar10()[0])
    content = path.read_bytes()
    for broken in (b"", b"no archive", content[:20], content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"tar\.gz: not a readable tar archive"):
            cifar_archive.load(path)


def test_a_label_out_of_range_is_named(tmp_path):
    files, _, _ = cifar10()
    content = bytearray(files["test_batch.bin"])
    content[1 + PLANES] = 10
    path = write_folder(tmp_path / "f", {**files, "test_batch.bin": bytes(content)})
    with pytest.raises(ValueError, match=r"test_batch\.bin has label 10 at image 1"):
        cifar_archive.load(path, "test")


@pytest.mark.parametrize("name", ["data_batch_2.bin", "batches.meta.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    files, _, _ = cifar10()
    del files[name]
    with pytest.raises(ValueError, match=f"{name} is missing"):
        cifar_archive.load(write_folder(tmp_path / "folder", files))


def test_wrong_class_names_are_refused(tmp_path):
    files, _, _ = cifar10()
    files["batches.meta.txt"] = b"airplane\n"
    with pytest.raises(ValueError, match="must name 10 classes, it names 1"):
        cifar_archive.load(write_folder(tmp_path / "folder", files))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("names", "version"),
    [
        (("data_batch_1", "test_batch", "batches.meta"), "cifar-10"),
        (("train", "test", "meta"), "cifar-100"),
    ],
)
def test_the_archive_for_python_is_refused_unopened(tmp_path, names, version, packed):
    content = pickle.dumps({"labels": [0]})
    files = dict.fromkeys(names, content)
    if packed:
        path = write_tar(tmp_path / f"{version}-python.tar.gz", files)
    else:
        path = write_folder(tmp_path / "folder", files)
    assert cifar_archive.is_archive(path)
    with pytest.raises(ValueError, match=f"download {version}-binary.tar.gz from"):
        cifar_archive.load(path)


@pytest.mark.parametrize("name", ["meta", "train", "data_batch_1"])
def test_one_common_name_makes_no_archive_for_python(tmp_path, name):
    write_folder(tmp_path, {name: b"about", "README.txt": b"about"})
    assert not cifar_archive.is_archive(tmp_path)


def test_other_archives_are_refused(tmp_path):
    path = write_tar(tmp_path / "images.tar.gz", {"a.png": b"x"})
    with pytest.raises(ValueError, match="unpack it and give the folder"):
        cifar_archive.load(path)
    assert not cifar_archive.is_archive(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert not cifar_archive.is_archive(tmp_path / "notes.txt")


@pytest.mark.parametrize("packed", [False, True])
def test_files_larger_than_any_of_the_archive_are_not_read(
    tmp_path, monkeypatch, packed
):
    monkeypatch.setattr(cifar_archive, "_LARGEST_FILE", 3 * (PLANES + 1))
    files = {**cifar10()[0], "data_batch_3.bin": bytes(3 * (PLANES + 1) + 1)}
    write = write_tar if packed else write_folder
    path = write(tmp_path / ("c.tar.gz" if packed else "c"), files)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has 9220 bytes; allowed"):
        cifar_archive.load(path)


@pytest.mark.parametrize("name", ["padding", "data_batch_1.bin"])
def test_what_unpacks_to_much_more_is_not_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr(cifar_archive, "_LARGEST", 10**5)
    path = write_tar(tmp_path / "c.tar.gz", {**cifar10()[0], name: bytes(10**6)})
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match="unpacks to more than 100000 bytes"):
        cifar_archive.load(path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_any_packing_is_recognized(tmp_path, mode):
    path = tmp_path / "archive"
    with tarfile.open(path, mode) as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    assert cifar_archive.is_archive(path)
    path.write_bytes(path.read_bytes()[:1])
    assert not cifar_archive.is_archive(path)
