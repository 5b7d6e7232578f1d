"""Rows that are made when they are read serve as well as an array that is there."""

import io

import numpy as np
import pytest

from miue_jax import _rows, budget
from miue_jax._rows import Rows
from miue_jax.budget import Budget
from miue_jax.data import aligned, artifact, npz, shapes

RADIUS = 8.0


@pytest.fixture
def small_blocks(monkeypatch):
    """Makes blocks of two images, so that a few images fill several."""
    monkeypatch.setattr(_rows, "_BLOCK", 2 * 32 * 32 * 3)


def _lazy(array: np.ndarray) -> tuple[Rows, list[tuple[int, int]]]:
    """An array as rows, and what was read of it."""
    read = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return array[start:stop]

    return Rows(array.shape, array.dtype, rows), read


def _pair() -> tuple[shapes.Dataset, np.ndarray]:
    clean = shapes.generate(7)
    end = RADIUS / 255
    rng = np.random.default_rng(0)
    delta = rng.uniform(-end, end, clean.images.shape).astype(np.float32)
    delta[4] = 0
    return clean, delta


def test_slices_are_those_of_an_array():
    array = np.arange(24).reshape(6, 2, 2)
    rows, _ = _lazy(array)
    assert (len(rows), rows.ndim, rows.dtype) == (6, 3, array.dtype)
    for part in (slice(None), slice(1, 4), slice(4, 99), slice(-2, None), slice(3, 1)):
        np.testing.assert_array_equal(rows[part], array[part])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_artifact_of_rows_has_the_bytes_of_one_of_an_array(tmp_path, norm):
    clean, delta = _pair()
    if norm == "l2":
        delta /= 50
    allowed = Budget(norm, RADIUS if norm == "linf" else 0.5)
    rows, read = _lazy(delta)
    for name, given in (("array", delta), ("rows", rows)):
        made = artifact.build(clean, given, budget=allowed, metadata={})
        artifact.check_delta(made, given)
        artifact.save(tmp_path / f"{name}.npz", made, delta=given)
    for kind in ("npz", "delta.npy"):
        one, other = (tmp_path / f"{name}.{kind}" for name in ("array", "rows"))
        assert one.read_bytes() == other.read_bytes(), kind
    assert np.array_equal(np.load(tmp_path / "rows.delta.npy"), delta)
    assert max(stop - start for start, stop in read) == 2, "more than a block is there"


@pytest.mark.usefixtures("small_blocks")
def test_faults_in_later_blocks_are_found():
    clean, delta = _pair()
    delta[5, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in images 4 to 5"):
        budget.quantize(clean.images, _lazy(delta)[0], radius=RADIUS)
    delta[5, 0, 0, 0] = 9.5 / 255
    images = budget.quantize(clean.images, delta, radius=RADIUS)
    with pytest.raises(ValueError, match=r"image 5 reaches 9\.5 gray levels.*1 of 7"):
        budget.check_within(clean.images, delta, images, Budget("linf", RADIUS))


def test_rows_of_a_file_are_read_when_they_are_needed(tmp_path):
    array = np.arange(12, dtype="<f4").reshape(4, 3)
    path = tmp_path / "a.npy"
    np.save(path, array)
    rows = npz.rows_of_npy(path)
    assert isinstance(rows, Rows)
    np.testing.assert_array_equal(rows[1:3], array[1:3])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a\.npy: truncated, damaged"):
        rows[2:4]
    with pytest.raises(ValueError, match=r"a\.npy: truncated, damaged"):
        npz.rows_of_npy(path)
    for other in (np.float32(3), np.zeros((0, 3)), np.asfortranarray(array)):
        np.save(path, other)
        np.testing.assert_array_equal(npz.rows_of_npy(path), other)


def test_a_file_by_blocks_is_that_of_numpy(monkeypatch):
    monkeypatch.setattr(_rows, "_BLOCK", 7)
    array = np.arange(30, dtype=np.float32).reshape(10, 3)
    ours, theirs = io.BytesIO(), io.BytesIO()
    npz.write_npy(ours, array.astype(np.float64), "<f4")
    np.save(theirs, array)
    assert ours.getvalue() == theirs.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">f8"])
def test_arrays_begin_where_a_device_can_share_them(dtype):
    for shape in ((3,), (5, 7, 3), (0, 2), ()):
        array = aligned.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.size == 0 or array.ctypes.data % 64 == 0
        array[...] = 1
        assert array.flags.c_contiguous
