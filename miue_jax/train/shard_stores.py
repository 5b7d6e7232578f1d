"""What is stored of each image, in one store for each shard.

A process opens the stores of its own shards. So a run can be resumed by another number
of processes, and the first one reads what all of them have written.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import DTypeLike

from miue_jax.data import aligned
from miue_jax.train import parallel
from miue_jax.train.row_store import OpenFiles, RowStore


class ShardStores:
    """The stores of this process's shards.

    Args:
      folder: where that of each shard has a folder.
      own: the shards of this process, ascending.
      num_shards: G.
      num_rows: n, the rows of a shard.
      shape: of a row.
      dtype: of its values.
      steps: of the checkpoints that there are: of those, the rows are kept.

    Raises:
      ValueError: naming a file that is damaged, or of rows of another kind.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        own: Sequence[int],
        num_shards: int,
        num_rows: int,
        shape: Sequence[int],
        dtype: DTypeLike,
        *,
        steps: Sequence[int],
    ):
        if any(folder.glob("map_*.npy")):
            # They had one store for all shards.
            raise ValueError(
                f"{folder} was written by an older version: remove the folder of the "
                "run to start again"
            )
        self._folder, self._files = folder, OpenFiles()
        self._num_shards, self._num_rows = num_shards, num_rows
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._digests: dict[int, np.ndarray] = {}
        self._own = {shard: self._open(shard, steps) for shard in own}

    def close(self) -> None:
        """Closes the files, which are opened again when they are needed."""
        self._files.close()

    def read(self, rows: Sequence[np.ndarray], width: int) -> np.ndarray:
        """Reads rows.

        Args:
          rows: of each own shard, their numbers.
          width: w, at least as many.

        Returns:
          (g, w, ...), with zeros behind the rows.
        """
        found = aligned.empty((len(self._own), width, *self._shape), self._dtype)
        for store, numbers, out in zip(self._own.values(), rows, found, strict=True):
            store.read(numbers, out[: len(numbers)])
            out[len(numbers) :] = 0
        return found

    def write(self, rows: Sequence[np.ndarray], codes: jax.Array) -> None:
        """Writes rows.

        Args:
          rows: of each own shard, their numbers.
          codes: (G, w, ...) on the devices, w at least as many.
        """
        found = _by_shard(codes)
        for (shard, store), numbers in zip(self._own.items(), rows, strict=True):
            store.write(numbers, found[shard][: len(numbers)])

    def seal(self, step: int) -> np.ndarray:
        """Brings all rows to the disk.

        Args:
          step: of the checkpoint that is to be saved next.

        Returns:
          (g, DIGEST) uint8, digests that belong into the checkpoint.
        """
        for shard, store in self._own.items():
            self._digests[shard] = store.seal(step)
        return np.stack(list(self._digests.values()))

    def kept(self, step: int) -> None:
        """Gives up the rows that only older checkpoints need.

        Args:
          step: of the checkpoint that was saved.
        """
        for store in self._own.values():
            store.kept(step)

    def restore(self, step: int, digests: jax.Array) -> None:
        """Goes back to the rows of a checkpoint.

        Args:
          step: of the checkpoint.
          digests: (G, DIGEST), from all processes' `seal`.

        Raises:
          ValueError: if they are not there, or others.
        """
        found = _by_shard(digests)
        for shard, store in self._own.items():
            store.restore(step, found[shard])
            self._digests[shard] = found[shard]

    def of_all(self, step: int) -> "StoredRows":
        """Opens the rows of all shards in the first process; all must call it.

        Args:
          step: of the newest checkpoint.

        Returns:
          The rows; in the other processes those of their own shards.
        """
        own = b"".join(self._digests[shard].tobytes() for shard in self._own)
        said = parallel.gather_text(f"{[*self._own]}/{own.hex()}")

        def others() -> dict[int, RowStore]:
            found = dict(self._own)
            if jax.process_index() != 0:
                return found
            for text in said[1:]:
                shards, _, digests = text.partition("/")
                numbers = [int(x) for x in shards.strip("[]").split(",")]
                rows = np.frombuffer(bytes.fromhex(digests), np.uint8)
                for shard, digest in zip(
                    numbers, rows.reshape(len(numbers), -1), strict=True
                ):
                    found[shard] = self._open(shard, [step], read_only=True)
                    found[shard].restore(step, digest)
            return found

        return StoredRows(
            parallel.in_all(others),
            (self._num_shards, self._num_rows, *self._shape),
            self._dtype,
        )

    def _open(
        self, shard: int, steps: Sequence[int], *, read_only: bool = False
    ) -> RowStore:
        return RowStore(
            self._folder / f"shard_{shard:05d}",
            self._num_rows,
            self._shape,
            self._dtype,
            steps=steps,
            files=self._files,
            read_only=read_only,
        )


class StoredRows:
    """What is stored of all images, as the devices would hold it.

    Args:
      stores: of each shard.
      shape: (G, n, ...).
      dtype: of the values.
    """

    def __init__(
        self, stores: dict[int, RowStore], shape: tuple[int, ...], dtype: np.dtype
    ):
        self._stores, self._dtype = stores, dtype
        self.shape, self.ndim = shape, len(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        shards, rows = at
        found = np.empty((len(rows), *self.shape[2:]), self._dtype)
        for shard in np.unique(shards):
            chosen = shards == shard
            found[chosen] = self._stores[int(shard)].read(rows[chosen])
        return found


def _by_shard(array: jax.Array) -> dict[int, np.ndarray]:
    """The rows of an array's shards that lie on this process's devices."""
    found: dict[int, np.ndarray] = {}
    for part in array.addressable_shards:
        start, stop, _ = part.index[0].indices(array.shape[0])
        found.update(zip(range(start, stop), np.asarray(part.data), strict=True))
    return found
