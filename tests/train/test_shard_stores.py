"""Stores of shards: those of this process, and a bounded number of open files."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.train import row_store
from miue_jax.train.shard_stores import ShardStores


def _stores(folder, steps=()):
    return ShardStores(folder, [0, 1, 2], 3, 4, (4,), np.int8, steps=steps)


def _codes(value):
    return jnp.full((3, 2, 4), value, jnp.int8) + jnp.arange(3, dtype=jnp.int8).reshape(
        3, 1, 1
    )


_ROWS = [np.array([1, 3]), np.array([0, 1]), np.array([2, 3])]


def test_rows_of_a_checkpoint_come_back(tmp_path):
    stores = _stores(tmp_path / "rows")
    stores.write(_ROWS, _codes(10))
    digests = stores.seal(5)
    stores.kept(5)
    stores.write(_ROWS, _codes(20))
    assert stores.read(_ROWS, 3)[:, :, 0].tolist() == [
        [20, 20, 0],
        [21, 21, 0],
        [22, 22, 0],
    ]
    again = _stores(tmp_path / "rows", steps=[5])
    again.restore(5, jnp.asarray(digests))
    assert again.read(_ROWS, 2)[:, 0, 0].tolist() == [10, 11, 12]
    rows = again.of_all(5)
    shard, row = np.array([2, 0, 1]), np.array([3, 1, 3])
    assert rows[shard, row][:, 0].tolist() == [12, 10, 0]
    with pytest.raises(ValueError, match=r"shard_00001/map_5.npy was changed"):
        again.restore(5, jnp.asarray(digests).at[1, 0].add(1))


def test_few_files_are_open_for_all_stores(tmp_path, monkeypatch):
    monkeypatch.setattr(row_store, "_OPEN", 2)
    before = len(os.listdir("/proc/self/fd"))
    stores = _stores(tmp_path / "rows")
    for value in (1, 2):
        stores.write(_ROWS, _codes(value))
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert stores.read(_ROWS, 2)[:, 1, 3].tolist() == [2, 3, 4]
    stores.seal(1)
    stores.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_of_an_older_version_are_refused(tmp_path):
    (tmp_path / "map_10.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="was written by an older version: remove"):
        _stores(tmp_path, steps=[10])
