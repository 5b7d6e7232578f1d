"""Rows in files: read back, kept for checkpoints, and checked."""

import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.train import row_store
from miue_jax.train.row_store import RowStore


@pytest.fixture
def small_files(monkeypatch):
    """Files of three rows of four bytes, of which two are open at once."""
    monkeypatch.setattr(row_store, "_FILE_BYTES", 12)
    monkeypatch.setattr(row_store, "_OPEN", 2)


def _saved(store, step):
    digest = store.seal(step)
    store.kept(step)
    return digest


@pytest.mark.parametrize("dtype", ["float32", "int8", jnp.bfloat16])
def test_rows_are_zero_until_they_are_written(tmp_path, small_files, dtype):
    store = RowStore(tmp_path, 20, (2, 3), dtype)
    every = np.arange(20)
    assert not store.read(every).astype(np.float32).any()
    values = np.arange(60).reshape(10, 2, 3).astype(dtype)
    store.write(every[::-2], values)
    found = store.read(every)
    np.testing.assert_array_equal(found[::-2], values)
    assert not found[::2].astype(np.float32).any()
    store.close()
    np.testing.assert_array_equal(store.read(every[::-2]), values)


def test_any_history_of_writes_and_kills_gives_the_rows_of_a_checkpoint(
    tmp_path, small_files
):
    rng = np.random.default_rng(0)
    size, store = 12, RowStore(tmp_path, 12, (4,), np.int8)
    rows, saved = np.zeros((size, 4), np.int8), {}
    for step in range(1, 60):
        for _ in range(rng.integers(1, 4)):
            chosen = rng.permutation(size)[: rng.integers(1, size)]
            rows[chosen] = rng.integers(-99, 99, (len(chosen), 4))
            store.write(chosen, rows[chosen])
            np.testing.assert_array_equal(store.read(np.arange(size)), rows)
        if rng.random() < 0.6:
            saved[step] = _saved(store, step), rows.copy()
        if saved and rng.random() < 0.5:
            # Killed: on from one of the two newest checkpoints.
            last = sorted(saved)[-2:][rng.integers(0, min(2, len(saved)))]
            saved = {k: v for k, v in saved.items() if k <= last}
            store.close()
            there = sorted(saved)[-2:]
            store = RowStore(tmp_path, size, (4,), np.int8, steps=there)
            digest, expected = saved[last]
            store.restore(last, digest)
            rows = expected.copy()
            np.testing.assert_array_equal(store.read(np.arange(size)), rows)
    assert len(saved) > 5
    held = len([*tmp_path.glob("rows_*.npy")]) * 3
    assert held <= 3 * size + 3, f"{held} places for {size} rows"


def test_numpy_reads_the_files(tmp_path, small_files):
    store = RowStore(tmp_path, 4, (4,), np.int8)
    store.write(np.array([2]), np.array([[1, 2, 3, 4]], np.int8))
    store.close()
    assert np.load(tmp_path / "rows_00000.npy")[0].tolist() == [1, 2, 3, 4]


def test_what_a_killed_run_left_is_removed(tmp_path):
    store = RowStore(tmp_path, 4, (4,), np.int8)
    store.write(np.array([2]), np.ones((1, 4), np.int8))
    store.seal(10)  # killed before the checkpoint was saved
    store.close()
    again = RowStore(tmp_path, 4, (4,), np.int8, steps=[5])
    assert not [*tmp_path.glob("map_*")]
    assert not again.read(np.arange(4)).any()


def test_a_changed_row_is_noticed(tmp_path):
    store = RowStore(tmp_path, 4, (4,), np.int8)
    store.write(np.array([2]), np.ones((1, 4), np.int8))
    file = tmp_path / "rows_00000.npy"
    with file.open("r+b") as opened:
        opened.seek(128)
        opened.write(b"\x02")
    with pytest.raises(ValueError, match=r"rows_00000.npy is damaged: row 2 was chan"):
        store.read(np.arange(4))
    store.close()
    file.unlink()
    with pytest.raises(ValueError, match=r"rows_00000.npy is missing"):
        store.read(np.arange(4))


def test_a_changed_or_missing_map_is_noticed(tmp_path):
    store = RowStore(tmp_path, 4, (4,), np.int8)
    digest = _saved(store, 10)
    store.close()
    other = RowStore(tmp_path, 4, (4,), np.int8, steps=[10])
    with pytest.raises(ValueError, match=r"map_10.npy was changed: remove the folder"):
        other.restore(10, digest[::-1])
    with pytest.raises(ValueError, match=r"map_11.npy is missing: remove the folder"):
        other.restore(11, digest)
    with pytest.raises(ValueError, match=r"map_10.npy is damaged: it holds int64"):
        RowStore(tmp_path, 5, (4,), np.int8, steps=[10])
