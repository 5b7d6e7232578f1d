"""Files of protectors: read as they were written, and never trusted."""

import json
import os
import pathlib
import pickle
import random
import resource
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

import miue_jax as mj
from miue_jax import protector
from miue_jax.protector import Settings, clusters

SETTINGS = Settings(
    strength=6.0,
    num_codes=3,
    width=8,
    size=48,
    class_names=("cats", "日本", "\udcff"),
    about="of nothing",
)


@pytest.fixture(scope="module")
def made():
    values = np.random.default_rng(0).normal(size=(20, clusters.SIZE))
    groups = clusters.find(values.astype(np.float32), 3, seed=0)
    make = jax.jit(lambda key: protector.untrained(key, SETTINGS))
    found = make(jax.random.key(0))
    return protector.Protector(found.params, groups, SETTINGS)


@pytest.fixture
def path(tmp_path, made):
    path = tmp_path / "mine.safetensors"
    protector.save(path, made)
    return path


def _equal(first, second) -> bool:
    one, other = jax.tree.leaves(first), jax.tree.leaves(second)
    pairs = zip(one, other, strict=True)
    return first.settings == second.settings and all(
        np.array_equal(x, y) for x, y in pairs
    )


def test_it_is_read_as_it_was_written(path, made):
    found = protector.load(path)
    assert _equal(found, made)
    assert _equal(mj.Protector.load(str(path)), made)
    assert protector.digest(found) == protector.digest(made)


def test_the_same_protector_gives_the_same_bytes(path, tmp_path, made):
    protector.save(tmp_path / "other", protector.load(path))
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_other_programs_can_read_it(path, made):
    tensors = from_bytes(path.read_bytes())
    assert tensors["clusters/centers"].shape == made.clusters.centers.shape
    assert all(array.dtype == np.float32 for array in tensors.values())


def test_the_shipped_one_can_be_read():
    found = protector.shipped()
    assert found.settings.class_names == ()
    assert len(found.clusters.centers) == 0


# What is no protector.


def _rewritten(path: pathlib.Path, change) -> None:
    """Writes the file anew, its digest included, with other contents."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["miue_jax"])
    tensors = from_bytes(data)
    change(about, tensors)
    found = protector.protector._digest(about.get("settings", {}), tensors)
    about.setdefault("sha256", found)
    about["sha256"] = found
    path.write_bytes(to_bytes(tensors, metadata={"miue_jax": json.dumps(about)}))


def _set(name: str, value: object):
    return lambda about, tensors: about["settings"].update({name: value})


def _array(name: str, value: object):
    def change(about, tensors):
        tensors[name] = value

    return change


MEAN = "clusters/mean"
CHANGES = {
    "no settings": (lambda a, t: a.pop("settings"), "it holds no settings"),
    "settings of a list": (lambda a, t: a.update(settings=[]), "it holds no settings"),
    "an unknown setting": (_set("widht", 8), "widht"),
    "another width": (_set("width", 16), "of shape"),
    "no width": (_set("width", 0), "width is 0"),
    "an odd width": (_set("width", 12), "multiples of 8"),
    "a huge width": (_set("width", 2**40), "width is 1099511627776"),
    "a text for a width": (_set("width", "8"), "width"),
    "other codes": (_set("num_codes", 4), "of shape"),
    "huge codes": (_set("num_codes", 10**12), "num_codes is 1000000000000"),
    "no size": (_set("size", 1), "size is 1; allowed: 16 to 1024"),
    "a huge size": (_set("size", 10**9), "size is 1000000000; allowed"),
    "no strength": (_set("strength", 0), "strength is 0"),
    "a huge strength": (_set("strength", 1e9), "strength is 1000000000.0"),
    "names that are none": (_set("class_names", [1]), "class_names"),
    "an array more": (_array("params/more", np.zeros(1, np.float32)), "it holds array"),
    "an array fewer": (lambda a, t: t.pop(MEAN), f"there is no array {MEAN}"),
    "another shape": (_array(MEAN, np.zeros(3, np.float32)), "of shape (3,), not"),
    "another type": (_array(MEAN, np.zeros(clusters.SIZE)), "is float64 of shape"),
    "no number": (
        _array(MEAN, np.full(clusters.SIZE, np.nan, np.float32)),
        "is not finite",
    ),
    "centers that are none": (
        _array("clusters/centers", np.array(1, np.float32)),
        "of shape (), not",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_protector_cannot_be(path, name):
    change, message = CHANGES[name]
    _rewritten(path, change)
    with pytest.raises(ValueError, match="is no protector") as caught:
        protector.load(path)
    assert str(caught.value).startswith(f"{path}: is no protector (")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class _Executes:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


FOREIGN = {
    "empty": b"",
    "short": b"\1\2\3",
    "zeros": b"\0" * 1000,
    "text": b"This is a text of some length that somebody wrote.\n" * 9,
    "pickle": pickle.dumps(_Executes()),
    "zip": b"PK\3\4" + b"\0" * 100,
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": _header(b"{{{{"),
    "a list": _header(b"[]"),
    "no text": _header(b"\xff\xfe\xfd\xfc"),
    "deep": _header(b"[" * 5000 + b"]" * 5000),
    "nothing": _header(b"{}"),
    "metadata of another kind": _header(b'{"__metadata__": {"miue_jax": "3"}}'),
    "metadata that is no mapping": _header(b'{"__metadata__": 3}'),
    "huge array": _header(
        b'{"a": {"dtype": "F32", "shape": [1000000000000], '
        b'"data_offsets": [0, 4000000000000]}}'
    ),
    "huge shape": _header(
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9223372036854775807], '
        b'"data_offsets": [0, 4]}}'
    )
    + b"\0" * 4,
    "shared": _header(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
        b'"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    )
    + b"\0" * 4,
    "small floats": _header(
        b'{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    )
    + b"\0" * 4,
    "smaller floats": _header(
        b'{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}'
    )
    + b"\0" * 4,
    "unknown floats": _header(
        b'{"a": {"dtype": "F3", "shape": [4], "data_offsets": [0, 4]}}'
    )
    + b"\0" * 4,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(FOREIGN[name])
    with pytest.raises(ValueError, match="is no protector") as caught:
        protector.load(path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_damage_of_every_kind_is_refused(path):
    data, rng = path.read_bytes(), random.Random(0)
    for _ in range(150):
        changed = bytearray(data)
        kind = rng.randrange(4)
        if kind == 0:
            # Most of it is arrays: the header is hit as often.
            last = rng.choice((len(data), 2000))
            changed[rng.randrange(last)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[rng.randrange(len(data)) :]
        elif kind == 2:
            place = rng.randrange(len(data))
            del changed[place : place + rng.randrange(1, 50)]
        else:
            changed += rng.randbytes(rng.randrange(1, 50))
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is no protector"):
            protector.load(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match=r"it has 1073741824 bytes; allowed: 67108864"):
        protector.load(path)


def test_what_is_no_file_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        protector.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no file"):
        protector.load(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        protector.load(tmp_path / "none")


_BOUNDED = """
import resource, sys
from miue_jax import protector
import jax
jax.numpy.zeros(3).block_until_ready()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = held + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        protector.load(path)
    except ValueError as error:
        assert "is no protector" in str(error), error
    else:
        raise AssertionError(path)
"""


def test_no_file_asks_for_more_memory_than_its_size_suggests(tmp_path, path):
    paths = []
    for name in ("huge array", "huge shape", "huge header", "deep"):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(FOREIGN[name])
    for name in ("a huge width", "huge codes", "a huge size", "other codes"):
        data = path.read_bytes()
        _rewritten(path, CHANGES[name][0])
        paths.append(tmp_path / name)
        paths[-1].write_bytes(path.read_bytes())
        path.write_bytes(data)
    found = subprocess.run(
        [sys.executable, "-c", _BOUNDED, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert resource.getpagesize() > 0


# Settings.


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"strength": 0.0}, "strength is 0"),
        ({"strength": 256.0}, "strength is 256"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"num_codes": 2**16 + 1}, "num_codes is 65537; allowed: 1 to 65536"),
        ({"width": 4}, "multiples of 8"),
        ({"width": 2048}, "width is 2048; allowed: 8 to 1024"),
        ({"size": 15}, "size is 15; allowed: 16 to 1024"),
        ({"size": 1025}, "size is 1025; allowed: 16 to 1024"),
        ({"class_names": ("a", "a")}, "class_names are .*; allowed: distinct texts"),
        ({"size": 64.5}, "size is 64.5"),
    ],
    ids=str,
)
def test_settings_that_are_not_allowed(setting, message):
    with pytest.raises(ValueError, match=message):
        Settings(**setting)


def test_what_cannot_be_written_leaves_nothing(tmp_path, made):
    with pytest.raises(ValueError, match="there is no folder"):
        protector.save(tmp_path / "none" / "mine", made)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        protector.save(tmp_path / "folder", made)
    assert os.listdir(tmp_path) == ["folder"]
