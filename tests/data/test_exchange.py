"""Exports, imports in every format, and files that must be refused."""

import collections
import errno
import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from miue_jax.budget import Budget
from miue_jax.data import artifact, exchange, torch_file
from miue_jax.data.dataset import Dataset

NAMES = ("ant", "bee", "cow")
COUNT = 7


def _clean(channels=3, size=12, height=None):
    rng = np.random.default_rng(0)
    shape = (COUNT, height or size, size, channels)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    return Dataset(images, np.array([2, 0, 1, 1, 0, 2, 0], np.int32), NAMES)


def _delta(clean, seed=1):
    """Whole gray levels that no image clips, so that every format keeps them."""
    levels = np.random.default_rng(seed).integers(-8, 9, clean.images.shape)
    levels = np.clip(clean.images + levels, 0, 255) - clean.images
    return (levels / 255).astype(np.float32)


def _protected(clean):
    return artifact.build(
        clean, _delta(clean), budget=Budget("linf", 8), metadata={"method": "x"}
    )


def _levels(delta):
    return np.rint(255 * delta).astype(np.int8)


def _assert_imported(path, clean, **options):
    result = exchange.import_perturbation(path, clean, **options)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, _delta(clean), atol=1e-6)


# Torch files, made by hand: torch itself is not needed to read them.


def _fake_global(module, name):
    """A class that pickles as a reference to a module that need not exist."""
    return type(name, (), {"__module__": module, "__qualname__": name})


class _TorchPickler(pickle._Pickler):
    """The Python pickler, without its check that globals can be imported."""

    def save_global(self, obj, name=None):
        del name
        self.write(f"c{obj.__module__}\n{obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, type: save_global}  # noqa: RUF012

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Storage) else None


class _Storage:
    def __init__(self, *pid):
        self.pid = pid


class _Tensor:
    """Pickles as torch's tensors do."""

    storages: tuple[np.ndarray, ...] = ()

    def __init__(self, storage, *, offset=0, size=None, stride=None, count=None):
        kinds = {
            "f4": "Float",
            "i1": "Char",
            "f8": "Double",
            "i8": "Long",
            "f2": "Half",
        }
        kind = _fake_global("torch", f"{kinds[storage.dtype.str[1:]]}Storage")
        self.storage = storage
        self.count = storage.size if count is None else count
        self.kind = kind
        self.offset = offset
        self.size = storage.shape if size is None else size
        self.stride = (
            tuple(s // storage.itemsize for s in storage.strides)
            if stride is None
            else stride
        )
        self.key = str(id(storage))

    def __reduce__(self):
        storage = _Storage("storage", self.kind, self.key, "cpu", self.count)
        rebuild = _fake_global("torch._utils", "_rebuild_tensor_v2")
        hooks = collections.OrderedDict()
        return rebuild, (storage, self.offset, self.size, self.stride, False, hooks)


def _pickle(content):
    buffer = io.BytesIO()
    _TorchPickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def _write_pt(path, program, tensors=(), compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", members.get("byteorder", "little"))
        for tensor in tensors:
            archive.writestr(f"archive/data/{tensor.key}", tensor.storage.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def _save_pt(path, content, *tensors, **options):
    tensors = tensors or (content,)
    return _write_pt(path, _pickle(content), tensors, **options)


def _nchw(delta):
    return np.ascontiguousarray(delta.transpose(0, 3, 1, 2))


# Exports.


@pytest.mark.parametrize("channels", [1, 3])
def test_png_folder_round_trip(tmp_path, channels):
    clean = _clean(channels)
    made = _protected(clean)
    root = tmp_path / "png"
    exchange.export_png_folder(made, root)
    assert sorted(os.listdir(root)) == ["ant", "bee", "cow", "metadata.json"]
    assert sorted(os.listdir(root / "bee")) == ["00002.png", "00003.png"]
    with Image.open(root / "cow" / "00005.png") as image:
        np.testing.assert_array_equal(
            np.asarray(image).reshape(clean.images.shape[1:]), made.dataset.images[5]
        )
    metadata = json.loads((root / "metadata.json").read_text(encoding="utf-8"))
    folders = {name: name for name in NAMES}
    assert metadata == {
        **made.metadata,
        "class_names": list(NAMES),
        "class_folders": folders,
    }
    _assert_imported(root, clean)
    assert os.listdir(tmp_path) == ["png"]


def test_flat_png_folder(tmp_path):
    clean = _clean()
    for index, image in enumerate(_protected(clean).dataset.images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    _assert_imported(tmp_path, clean)


def test_an_empty_root_is_filled_and_a_full_one_refused(tmp_path):
    made = _protected(_clean())
    root = tmp_path / "png"
    root.mkdir()
    exchange.export_png_folder(made, root)
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match="png: exists and is not an empty folder"):
        exchange.export_png_folder(made, root)
    assert sorted(root.rglob("*")) == before
    with pytest.raises(ValueError, match="there is no folder"):
        exchange.export_png_folder(made, tmp_path / "missing" / "png")
    assert os.listdir(tmp_path) == ["png"]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("..", "b", "c"), ["_", "b", "c"]),
        (("a/b", "b", "c"), ["a_b", "b", "c"]),
        (("", "_", "c"), ["_", "__2", "c"]),
        (("B", "b", "c"), ["B", "b_2", "c"]),
        (("con", "Lpt1.x", "metadata.json"), ["_con", "_Lpt1.x", "_metadata.json"]),
        (("con", "_CON", "aux.a.b"), ["_con", "_CON_2", "_aux.a.b"]),
        (("\u00e9", "e\u0301", "E\u0301"), ["\u00e9", "e\u0301_2", "E\u0301_3"]),
        (("b.", "b ", "b_2"), ["b", "b_2", "b_2_2"]),
        (("\x00\n", "ä" * 300, "c"), ["__", "ä" * 100, "c"]),
    ],
)
def test_class_names_that_cannot_be_folders_get_safe_ones(tmp_path, names, folders):
    clean = _clean()._replace(class_names=names)
    made = _protected(clean)
    exchange.export_png_folder(made, tmp_path / "png")
    found = sorted(path.name for path in (tmp_path / "png").iterdir() if path.is_dir())
    assert found == sorted(folders)
    metadata = json.loads((tmp_path / "png" / "metadata.json").read_text())
    assert metadata["class_folders"] == dict(zip(folders, names, strict=True))
    # And they are read again.
    delta = exchange.import_perturbation(tmp_path / "png", clean)
    assert delta.shape == clean.images.shape


@pytest.mark.parametrize("target", ["PIL.Image.Image.save", "os.replace"])
def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch, target):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = _protected(_clean())
    monkeypatch.setattr(target, full)
    with pytest.raises(OSError, match=r"cannot be written \(No space") as raised:
        exchange.export_png_folder(made, tmp_path / "png")
    assert raised.value.filename == str(tmp_path / "png")
    assert os.listdir(tmp_path) == []


def test_delta_nchw(tmp_path):
    clean = _clean(height=16)
    path = tmp_path / "delta.npy"
    exchange.export_delta_nchw(path, _delta(clean).astype(np.float64))
    written = np.load(path, allow_pickle=False)
    assert written.dtype == np.float32
    assert written.shape == (COUNT, 3, 16, 12)
    assert written.flags.c_contiguous
    np.testing.assert_array_equal(written, _nchw(_delta(clean)))
    _assert_imported(path, clean)
    assert os.listdir(tmp_path) == ["delta.npy"]


def test_delta_nchw_bad_arguments(tmp_path):
    delta = _delta(_clean())
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        exchange.export_delta_nchw(tmp_path / "delta.pt", delta)
    for bad in (_nchw(delta), delta[0], _levels(delta)):
        with pytest.raises(ValueError, match=r"float and of shape \(N, H, W, 1 or 3\)"):
            exchange.export_delta_nchw(tmp_path / "delta.npy", bad)
    assert os.listdir(tmp_path) == []


# Imports of arrays.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("axes", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "convert",
    [
        lambda d: d,
        lambda d: d.astype(np.float64),
        _levels,
        lambda d: _levels(d).astype(np.int64),
        lambda d: _levels(d).astype(np.float32),
        lambda d: _levels(d).astype(np.float16),
        lambda d: np.asfortranarray(d),
        lambda d: d.astype(">f4"),
    ],
)
def test_layouts_and_types(tmp_path, channels, axes, convert):
    clean = _clean(channels, height=16)
    array = convert(_delta(clean))
    array = _nchw(array) if axes == "NCHW" else array
    np.save(tmp_path / "delta.npy", array)
    _assert_imported(tmp_path / "delta.npy", clean)
    np.savez_compressed(
        tmp_path / "delta.npz", noise=array, labels=clean.labels, epoch=np.array(3)
    )
    _assert_imported(tmp_path / "delta.npz", clean)


def test_small_integers_are_gray_levels_and_small_floats_are_not(tmp_path):
    clean = _clean()
    ones = np.ones(clean.images.shape)
    for dtype, expected in ((np.int8, 1 / 255), (np.float32, 1.0)):
        np.save(tmp_path / "delta.npy", ones.astype(dtype))
        result = exchange.import_perturbation(tmp_path / "delta.npy", clean)
        np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("class_wise", [None, True])
def test_class_wise(tmp_path, class_wise):
    clean = _clean()
    by_class = _delta(clean)[: len(NAMES)]
    np.save(tmp_path / "delta.npy", _nchw(by_class))
    result = exchange.import_perturbation(
        tmp_path / "delta.npy", clean, class_wise=class_wise
    )
    for index, label in enumerate(clean.labels):
        np.testing.assert_array_equal(
            result[index], by_class[label], err_msg=f"{index}"
        )


def test_as_many_images_as_classes(tmp_path):
    clean = _clean()
    clean = Dataset(clean.images[:3], np.array([2, 0, 1], np.int32), NAMES)
    delta = _delta(clean)
    np.save(tmp_path / "delta.npy", delta)
    with pytest.raises(ValueError, match="set class_wise"):
        exchange.import_perturbation(tmp_path / "delta.npy", clean)
    for class_wise, expected in ((False, delta), (True, delta[[2, 0, 1]])):
        result = exchange.import_perturbation(
            tmp_path / "delta.npy", clean, class_wise=class_wise
        )
        np.testing.assert_array_equal(result, expected)


def test_an_artifact_and_its_float_perturbation(tmp_path):
    clean, path = _clean(), tmp_path / "a.npz"
    artifact.save(path, _protected(clean), delta=_delta(clean))
    _assert_imported(path, clean)
    _assert_imported(artifact.delta_path(path), clean)
    other = clean._replace(images=255 - clean.images)
    with pytest.raises(ValueError, match=r"a\.npz: .*another source"):
        exchange.import_perturbation(path, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], r"of 6, the data set has 7 images and 3 classes"),
        (lambda d: d[..., :1], r"\(N, 12, 12, 3\) or \(N, 3, 12, 12\), got \(7, 12"),
        (lambda d: d[:, :8], "got \\(7, 8, 12, 3\\)"),
        (lambda d: d[0], "got \\(12, 12, 3\\)"),
        (lambda d: np.where(d == d[4, 1, 2, 0], np.nan, d), "holds NaN or infinity"),
        (lambda d: d + np.inf, "row 0 holds NaN or infinity \\(7 of 7"),
        (lambda d: d * 1e5, "exceeds 255 gray levels"),
        (lambda d: np.full(d.shape, -256, np.int16), "256 exceeds 255 gray levels"),
        (lambda d: np.zeros(d.shape, np.uint8), "uint8 holds images"),
        (lambda d: np.zeros(d.shape, bool), "float or a signed integer: bool"),
        (lambda d: d.astype(complex), "signed integer: complex128"),
        (lambda d: d.astype("U4"), "signed integer: <U4"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, message):
    clean, path = _clean(), tmp_path / "delta.npy"
    np.save(path, change(_delta(clean)))
    with pytest.raises(ValueError, match=message) as raised:
        exchange.import_perturbation(path, clean)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("class_wise", "message"),
    [(True, "of 7, .* 3 classes"), (False, "of 3, .* 7 images")],
)
def test_class_wise_is_not_guessed_when_said(tmp_path, class_wise, message):
    clean = _clean()
    np.save(tmp_path / "delta.npy", _delta(clean)[: 7 if class_wise else 3])
    with pytest.raises(ValueError, match=message):
        exchange.import_perturbation(
            tmp_path / "delta.npy", clean, class_wise=class_wise
        )


def test_several_arrays(tmp_path):
    clean, path = _clean(), tmp_path / "delta.npz"
    np.savez(path, a=_delta(clean), b=_delta(clean))
    with pytest.raises(ValueError, match=r"exactly one array .* a \(7, 12, 12, 3\), b"):
        exchange.import_perturbation(path, clean)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match=r"found a \(3,\)"):
        exchange.import_perturbation(path, clean)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_truncated_and_foreign_files(tmp_path, suffix):
    clean, path = _clean(), tmp_path / f"delta{suffix}"
    delta = _nchw(_delta(clean))
    if suffix == ".npy":
        np.save(path, delta)
    elif suffix == ".npz":
        np.savez(path, delta=delta)
    else:
        _save_pt(path, _Tensor(delta))
    _assert_imported(path, clean)
    whole = path.read_bytes()
    for part in [
        *(whole[:size] for size in (0, 1, 60, 200, len(whole) // 2, len(whole) - 1)),
        b"not an array\n" * 40,
    ]:
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"truncated|damaged") as raised:
            exchange.import_perturbation(path, clean)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["delta.pkl", "delta.txt", "delta"])
def test_unknown_suffixes(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"\.npy, \.npz, \.pt, \.pth .* np\.save"):
        exchange.import_perturbation(tmp_path / name, _clean())


@pytest.mark.parametrize("name", ["delta.npy", "delta.npz", "delta.pt", "folder"])
def test_missing_files(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        exchange.import_perturbation(tmp_path / name, _clean())


# Imports of PNG folders.


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "bee/00002.png").unlink(), r"for image 2 \(1 of 7"),
        (lambda r: shutil.rmtree(r / "bee"), r"for image 2 \(2 of 7"),
        (lambda r: (r / "bee/00002.png").rename(r / "bee/x.png"), "index of the image"),
        (lambda r: (r / "bee/00002.png").rename(r / "ant/2.png"), "class 'bee'"),
        (lambda r: (r / "bee/00002.png").rename(r / "bee/7.png"), "only 7 images"),
        (
            lambda r: shutil.copy(r / "bee/00002.png", r / "bee/2.png"),
            "the same index",
        ),
        (lambda r: (r / "bee/00002.png").write_bytes(b"x"), "cannot identify"),
        (
            lambda r: Image.new("RGB", (12, 11)).save(r / "bee/00002.png"),
            "must be 12x12 RGB, is 12x11 RGB",
        ),
        (
            lambda r: Image.new("RGBA", (12, 12)).save(r / "bee/00002.png"),
            "must be 12x12 RGB, is 12x12 RGBA",
        ),
    ],
)
def test_damaged_png_folders(tmp_path, damage, message):
    clean, root = _clean(), tmp_path / "png"
    exchange.export_png_folder(_protected(clean), root)
    damage(root)
    with pytest.raises(ValueError, match=message) as raised:
        exchange.import_perturbation(root, clean)
    assert str(root) in str(raised.value)


def test_truncated_png(tmp_path):
    clean = _clean()
    exchange.export_png_folder(_protected(clean), tmp_path / "png")
    path = tmp_path / "png" / "bee" / "00002.png"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 60, 17):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"00002\.png: "):
            exchange.import_perturbation(tmp_path / "png", clean)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no PNG file for image 0 \(7 of 7"):
        exchange.import_perturbation(tmp_path, _clean())


# Imports of torch files.


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("convert", [lambda d: d, _levels, np.float64, np.float16])
def test_torch_tensor(tmp_path, suffix, convert):
    clean = _clean()
    array = convert(_levels(_delta(clean)) if convert is np.float16 else _delta(clean))
    path = _save_pt(tmp_path / f"delta{suffix}", _Tensor(_nchw(array)))
    _assert_imported(path, clean)


def test_torch_strides_and_offset(tmp_path):
    clean = _clean(height=16)
    numbers = np.concatenate([np.zeros(5, np.float32), _delta(clean).ravel()])
    # An NHWC storage seen as NCHW, as permuted tensors are saved.
    strides = np.array(_delta(clean).strides)[[0, 3, 1, 2]] // 4
    tensor = _Tensor(
        numbers,
        offset=5,
        size=(COUNT, 3, 16, 12),
        stride=tuple(map(int, strides)),
    )
    _assert_imported(_save_pt(tmp_path / "delta.pt", tensor), clean)


def test_torch_expanded_class_wise(tmp_path):
    clean = _clean()
    one = _nchw(_delta(clean))[0]
    tensor = _Tensor(one, size=(3, 3, 12, 12), stride=(0, 144, 12, 1))
    result = exchange.import_perturbation(_save_pt(tmp_path / "d.pt", tensor), clean)
    np.testing.assert_array_equal(result, np.stack([one.transpose(1, 2, 0)] * COUNT))


def test_torch_containers(tmp_path):
    clean, path = _clean(), tmp_path / "delta.pt"
    delta, loss = _Tensor(_nchw(_delta(clean))), _Tensor(np.zeros(3, np.float32))
    for content in (
        {"noise": delta, "loss": loss, "epoch": 3, "name": "x"},
        collections.OrderedDict(noise=delta, loss=loss),
        [loss, (delta, None)],
    ):
        _save_pt(path, content, delta, loss)
        _assert_imported(path, clean)
    _save_pt(path, {"a": delta, "b": [delta]}, delta)
    message = r"one array of four axes, found \['a'\] \(7, 3, 12, 12\), \['b'\]\[0\] "
    with pytest.raises(ValueError, match=message):
        exchange.import_perturbation(path, clean)
    _save_pt(path, {"loss": loss}, loss)
    with pytest.raises(ValueError, match=r"found \['loss'\] \(3,\)"):
        exchange.import_perturbation(path, clean)
    _write_pt(path, pickle.dumps({"epoch": 3}, protocol=2))
    with pytest.raises(ValueError, match="found none"):
        exchange.import_perturbation(path, clean)


def test_a_list_that_holds_itself(tmp_path):
    loop = []
    loop.append(loop)
    assert torch_file.read_tensors(_write_pt(tmp_path / "x.pt", _pickle(loop))) == {}


class _MakesFolder:
    """What a malicious file does: run something while it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickles_are_not_executed(tmp_path, protocol):
    executed = tmp_path / "executed"
    program = pickle.dumps({"delta": _MakesFolder(executed)}, protocol)
    pickle.loads(program)
    assert executed.is_dir(), "the attack must be a real one"
    executed.rmdir()
    path = _write_pt(tmp_path / "delta.pt", program)
    message = r"refers to (posix|nt)\.mkdir, .* nothing was executed; .*np\.save"
    with pytest.raises(ValueError, match=message):
        exchange.import_perturbation(path, _clean())
    assert not executed.exists()
    # The old format of torch is such a pickle without the archive around it.
    path.write_bytes(program)
    with pytest.raises(ValueError, match=r"a bare pickle .*np\.save"):
        exchange.import_perturbation(path, _clean())
    assert not executed.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", r"builtins\.eval"),
        (b"cbuiltins\ngetattr\n.", r"builtins\.getattr"),
        (b"ctorch\nload\n.", r"torch\.load"),
        (b"ctorch._utils\n_rebuild_parameter\n.", "_rebuild_parameter"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.", "fromkeys"),
        # Calling what stands in for a storage type.
        (b"ctorch\nFloatStorage\n(tR.", "not callable"),
        # Setting attributes of what stands in for a function, with BUILD.
        (b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'x'\nI1\nstb.", "attribute"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}S'x'\nI1\nsb.", "__dict__|attribute"),
        (b"(S'storage'\nS'os.system'\nS'0'\nS'cpu'\nI1\ntQ.", r"to .*os\.system"),
        (b"S'what'\nQ.", "unpack"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n))tR.", "without numbers"),
        (b".", "has not built"),
        (b"", "exhausted before seeing STOP"),
    ],
)
def test_hostile_programs(tmp_path, program, message):
    path = _write_pt(tmp_path / "delta.pt", program)
    with pytest.raises(ValueError, match=message) as raised:
        exchange.import_perturbation(path, _clean())
    assert str(raised.value).startswith(f"{path}: cannot be read: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (7, 3, 12, 13)}, "a tensor of shape"),
        ({"offset": 1}, "a tensor of shape"),
        ({"stride": (1000, 144, 12, 1)}, "a tensor of shape"),
        ({"stride": (-432, 144, 12, 1)}, "impossible shape"),
        ({"offset": -1}, "impossible shape"),
        ({"offset": 1.0}, "impossible shape"),
        ({"size": (2**62, 3, 12, 12)}, "impossible shape"),
        ({"size": (7, 3, 12)}, "impossible shape"),
        ({"size": (2**40, 3, 12, 12), "stride": (0, 144, 12, 1)}, "of 1099511627776"),
        ({"count": 10**6}, "holds 3024 of 1000000 numbers"),
    ],
)
def test_tensors_beyond_their_numbers(tmp_path, options, message):
    clean = _clean()
    tensor = _Tensor(_nchw(_delta(clean)), **options)
    path = _save_pt(tmp_path / "delta.pt", tensor)
    with pytest.raises(ValueError, match=message):
        exchange.import_perturbation(path, clean)


def test_archives_that_torch_does_not_write(tmp_path):
    clean, path = _clean(), tmp_path / "delta.pt"
    tensor = _Tensor(_nchw(_delta(clean)))
    _save_pt(path, tensor, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        exchange.import_perturbation(path, clean)
    _save_pt(path, tensor, byteorder="big")
    with pytest.raises(ValueError, match="only little-endian"):
        exchange.import_perturbation(path, clean)
    _write_pt(path, _pickle(tensor))
    with pytest.raises(ValueError, match="no item named 'archive/data/"):
        exchange.import_perturbation(path, clean)
    np.savez(tmp_path / "arrays.npz", delta=tensor.storage)
    (tmp_path / "arrays.npz").rename(path)
    with pytest.raises(ValueError, match=r"holds no data\.pkl"):
        exchange.import_perturbation(path, clean)


def test_files_of_torch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    clean, path = _clean(), tmp_path / "delta.pt"
    # Copies: torch warns about arrays that cannot be written to.
    delta = torch.from_numpy(_nchw(_delta(clean)))
    for content in (
        delta,
        delta.to(torch.float64),
        (delta * 255).round().to(torch.int8),
        (delta * 255).round().to(torch.bfloat16),
        (delta * 255).round().to(torch.float16),
        torch.from_numpy(_delta(clean)).permute(0, 3, 1, 2),
        {"noise": delta, "loss": torch.zeros(3), "epoch": 4},
    ):
        torch.save(content, path)
        _assert_imported(path, clean)
    torch.save(delta, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="a bare pickle"):
        exchange.import_perturbation(path, clean)
    torch.save(torch.nn.Conv2d(3, 3, 3), path)
    with pytest.raises(ValueError, match=r"refers to torch\.nn\.modules\.conv\.Conv2d"):
        exchange.import_perturbation(path, clean)


@pytest.mark.parametrize("place", ["identifier", "type", "key", "shape", "call"])
def test_a_refusal_is_as_short_as_it_is_where_parts_are_shared(tmp_path, place):
    """Twelve pairs of one part have 4096 paths."""
    shared = b"N" + b"q\x01h\x01\x86" * 12
    program = {
        "identifier": shared + b"Q.",
        "type": b"(S'storage'\n" + shared + b"S'0'\nS'cpu'\nI1\ntQ.",
        "key": b"}" + shared + b"Ns.",
        "shape": b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n" + shared * 2 + b"tR.",
        "call": shared + b")R.",
    }[place]
    path = _write_pt(tmp_path / "delta.pt", program)
    with pytest.raises(ValueError, match="cannot be read") as raised:
        exchange.import_perturbation(path, _clean())
    assert len(str(raised.value)) < 700


def test_nested_containers_are_walked_to_a_bounded_depth(tmp_path):
    deep = []
    for _ in range(40):
        deep = [deep]
    path = _write_pt(tmp_path / "delta.pt", _pickle(deep))
    with pytest.raises(ValueError, match="nested more than 32 levels deep"):
        torch_file.read_tensors(path)


def test_parts_that_share_bytes_are_refused(tmp_path, monkeypatch):
    clean, path = _clean(), tmp_path / "delta.pt"
    _save_pt(path, _Tensor(_nchw(_delta(clean))))
    real = zipfile.ZipFile.infolist
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda archive: 2 * real(archive))
    with pytest.raises(ValueError, match=r"its parts have \d+ bytes, the file has"):
        torch_file.read_tensors(path)


def test_a_torch_file_beyond_the_memory_is_not_read(tmp_path, monkeypatch):
    clean, path = _clean(), tmp_path / "delta.pt"
    _save_pt(path, _Tensor(_nchw(_delta(clean))))
    monkeypatch.setenv("MIUE_MEMORY", "1e-6")
    with pytest.raises(ValueError, match=r"would need 1\.\d+e-05 GB .* MIUE_MEMORY"):
        torch_file.read_tensors(path)


def test_a_pipe_among_the_pictures_is_not_waited_for(tmp_path):
    clean = _clean()
    exchange.export_png_folder(_protected(clean), tmp_path / "png")
    path = tmp_path / "png" / "bee" / "00002.png"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"00002\.png: is no file"):
        exchange.import_perturbation(tmp_path / "png", clean)
