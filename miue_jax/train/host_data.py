"""What each process of a run reads of its data: the images of its own shards.

The first process also reads all images, once, for the fingerprint that a run is known
by. It takes a checksum of every shard on the way, which those of the other processes
must equal: they may read another disk.
"""

import hashlib
import json
import math
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from miue_jax import data
from miue_jax._rows import RandomRows, at, blocks
from miue_jax.data import Dataset, DataSource, aligned, memory
from miue_jax.data.dataset import file_names, with_names
from miue_jax.train import parallel, sampling
from miue_jax.train.sampling import Shards


class Read(NamedTuple):
    """What a process has read.

    Attributes:
      fingerprint: of all of the data, see `data.fingerprint`.
      images: of its own shards, where they were kept; None where all are in memory.
    """

    fingerprint: str
    images: "OwnShards | None"


class OwnShards:
    """The rows of some shards, with the shape of those of all of them.

    Args:
      num_shards: G.
      shards: whose rows these are, ascending.
      array: (g, n, ...), their rows.
    """

    def __init__(self, num_shards: int, shards: list[int], array: np.ndarray):
        self.shape = (num_shards, *array.shape[1:])
        self.dtype = array.dtype
        self._array = array
        self._where = {shard: place for place, shard in enumerate(shards)}

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Takes the rows of one device, as `parallel.place` asks for them."""
        start, stop, _ = index[0].indices(self.shape[0])
        first = self._where[start]
        return self._array[first : first + stop - start]


def load(source: DataSource | Dataset, *, stream: bool) -> Dataset:
    """Loads data, or opens them to be read when they are needed.

    Of several processes, each opens them where that is possible.

    Args:
      source: the data.
      stream: whether they must be opened.

    Returns:
      The data set.

    Raises:
      ValueError: if they cannot be read, or with `stream` not be opened.
    """
    if isinstance(source, Dataset):
        return data.load(source)
    if jax.process_count() == 1:
        return source.stream() if stream else source.load()
    try:
        # The first process checks what the others only read their part of.
        return source.stream(verify=jax.process_index() == 0)
    except ValueError:
        if stream:
            raise
        # In a bucket, compressed, or read by what is not installed.
        return source.load()


def place(rows: np.ndarray, num_shards: int, mesh: Mesh) -> jax.Array:
    """Puts the rows of the own shards on the devices.

    Args:
      rows: (g, n, ...), of the shards of this process.
      num_shards: G.
      mesh: the devices.

    Returns:
      (G, n, ...) on the mesh.
    """
    found: Any = rows
    if jax.process_count() > 1:
        found = OwnShards(num_shards, parallel.own_shards(num_shards, mesh), rows)
    return parallel.place(found, mesh, parallel.DATA_SPEC)


def whole(dataset: Dataset) -> Dataset:
    """Reads all images into memory.

    Args:
      dataset: the data set.

    Returns:
      The same data, with an array of images.

    Raises:
      ValueError: if they cannot be read, or there is not enough memory.
    """
    if isinstance(dataset.images, RandomRows):
        memory.check(dataset.images.size, f"{len(dataset.images)} images")
    return with_names(
        dataset._replace(images=np.asarray(dataset.images[:])), file_names(dataset)
    )


def read(dataset: Dataset, num_shards: int, mesh: Mesh, *, keep: bool) -> Read:
    """Reads what this process needs, and checks that all have the same data.

    All processes must call it.

    Args:
      dataset: the data, the same in all processes.
      num_shards: G.
      mesh: the devices.
      keep: whether to keep the images of the own shards in memory.

    Returns:
      The fingerprint, and the images.

    Raises:
      ValueError: if they cannot be read, or the data of two processes differ.
    """
    if jax.process_count() == 1:
        return Read(data.fingerprint(dataset), None)
    keep = keep and isinstance(dataset.images, RandomRows)
    shards = parallel.own_shards(num_shards, mesh)
    with parallel.together():
        reader = _Reader(dataset, num_shards, shards, keep=keep)
    first = jax.process_index() == 0
    fingerprint = parallel.in_all(reader.read_all if first else reader.read_own)
    mine = {"about": _about(dataset), "sums": reader.sums, "fingerprint": fingerprint}
    said = [json.loads(text) for text in parallel.gather_text(json.dumps(mine))]
    for index, other in enumerate(said):
        if other["about"] != said[0]["about"]:
            raise _differ("the number, shape, labels or classes", index)
        for shard in shards if index == 0 else other["sums"]:
            if other["sums"][str(shard)] != said[0]["sums"][str(shard)]:
                raise _differ(f"the images of shard {shard}", index)
    images = None
    if reader.kept is not None:
        images = OwnShards(num_shards, shards, reader.kept)
    return Read(said[0]["fingerprint"], images)


def deal(
    dataset: Dataset,
    num_shards: int,
    images: OwnShards | None = None,
    *,
    selected: np.ndarray | None = None,
) -> Shards:
    """Deals data to shards, see `sampling.deal`, with the images that were read.

    Args:
      dataset: the data.
      num_shards: G.
      images: from `read`; without those of data that are not in memory, only their
        shape is known.
      selected: (N,) bool, the examples that may be perturbed; None for all.

    Returns:
      The shards, on the host.
    """
    if not isinstance(dataset.images, RandomRows):
        return sampling.deal(
            dataset.images, dataset.labels, num_shards, selected=selected
        )
    size = len(dataset.labels)
    dealt = sampling.deal_labels(size, dataset.labels, num_shards, selected=selected)
    shape = (*dealt.labels.shape, *dataset.images.shape[1:])
    found: Any = images or jax.ShapeDtypeStruct(shape, np.uint8)
    return dealt._replace(images=found)


def _differ(what: str, index: int) -> ValueError:
    return ValueError(
        f"the processes of this run differ: {what} of the data are not the same in "
        f"process 0 and in process {index}; start all of them with the same data"
    )


def _about(dataset: Dataset) -> str:
    """A digest of all but the images."""
    shape, names = dataset.images.shape, list(dataset.class_names)
    digest = hashlib.sha256(json.dumps([*map(int, shape), names]).encode())
    digest.update(np.ascontiguousarray(dataset.labels, "<i4").data)
    return digest.hexdigest()


class _Reader:
    """Reads images by shard, with a checksum of each shard's."""

    def __init__(
        self, dataset: Dataset, num_shards: int, shards: list[int], *, keep: bool
    ):
        self._dataset, self._shards, self._num_shards = dataset, shards, num_shards
        self._size = len(dataset.labels)
        self._rows = -(-self._size // num_shards)
        self.sums: dict[int, int] = {}
        self.kept: np.ndarray | None = None
        if keep:
            shape = len(shards), self._rows, *dataset.images.shape[1:]
            memory.check(math.prod(shape), f"{len(shards) * self._rows} images")
            self.kept = aligned.empty(shape)

    def read_all(self) -> str:
        """Reads all images once; returns the fingerprint of the data."""
        self.sums = dict.fromkeys(range(self._num_shards), 0)
        return data.fingerprint(self._dataset, each=self._add)

    def read_own(self) -> None:
        """Reads the images of the own shards."""
        shape = self._rows, *self._dataset.images.shape[1:]
        for place, shard in enumerate(self._shards):
            total = 0
            for block in blocks(shape):
                numbers = shard + self._num_shards * np.arange(block.start, block.stop)
                # `sampling.deal` repeats the last image.
                found = at(self._dataset.images, np.minimum(numbers, self._size - 1))
                if self.kept is not None:
                    self.kept[place, block] = found
                for row in found[numbers < self._size]:
                    total = zlib.crc32(np.ascontiguousarray(row).data, total)
            self.sums[shard] = total

    def _add(self, start: int, rows: np.ndarray) -> None:
        """Takes the next images of all."""
        places = {shard: place for place, shard in enumerate(self._shards)}
        for number, row in enumerate(rows, start):
            at_row, shard = divmod(number, self._num_shards)
            values = np.ascontiguousarray(row).data
            self.sums[shard] = zlib.crc32(values, self.sums[shard])
            if self.kept is not None and shard in places:
                self.kept[places[shard], at_row] = row
        if self.kept is not None and start + len(rows) == self._size:
            for shard, place in places.items():
                if shard + self._num_shards * (self._rows - 1) >= self._size:
                    self.kept[place, -1] = rows[-1]
