"""Runs on data larger than the devices' memory, a window of some steps at a time.

The order of a pass is a function of the key and the pass. So the host knows which
images the next steps will take: it reads these, and what is stored of each, while the
devices still work on the steps before. The devices run the same loop on the window as
on all of the data, so that the results are equal to the last bit.
"""

import concurrent.futures
import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from miue_jax._rows import RandomRows, of_array
from miue_jax.data import aligned, memory
from miue_jax.data.dataset import Dataset
from miue_jax.train import (
    checkpoints,
    classifier,
    host_data,
    loop,
    metrics,
    parallel,
    sampling,
)
from miue_jax.train.metrics import Metrics
from miue_jax.train.parallel import DATA_SPEC, State
from miue_jax.train.row_store import DIGEST
from miue_jax.train.sampling import Shards, Streamed
from miue_jax.train.shard_stores import ShardStores

# Bytes of the images and of what is stored of them in a window, for all devices of a
# process: at most this, and at most this share of the memory that inputs may need. Two
# windows are there at once, and the rows of a third.
LARGEST, _SHARE = 1 << 26, 1 / 16
# The folder of what is stored of the images, in that of a run.
STORE = "rows"


class _Window(NamedTuple):
    """The steps from `start` up to `stop`, and what they need.

    Attributes:
      start: the first step.
      stop: the one after the last.
      rows: of each own shard, an array of ascending rows.
      writes: whether a step changes what is stored.
      data: on the devices.
      codes: (G, w, ...) on the devices, what is stored of the rows; None if nothing is.
    """

    start: int
    stop: int
    rows: list[np.ndarray]
    writes: bool
    data: Shards
    codes: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Source:
    """Data whose images are read when they are needed, dealt to shards.

    Attributes:
      images: (N, H, W, C) uint8.
      shards: the rest of the data on the host, from `sampling.deal_labels`.
    """

    images: RandomRows
    shards: Shards

    @property
    def num_shards(self) -> int:
        """G, the number of shards."""
        return len(self.shards.labels)

    @property
    def num_rows(self) -> int:
        """The rows of a shard, n."""
        return self.shards.labels.shape[1]

    def own(self, mesh: Mesh) -> Shards:
        """The rest of the data of this process's shards, on the host."""
        own = parallel.own_shards(self.num_shards, mesh)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[own], self.shards)

    def read(
        self, rows: list[np.ndarray], width: int, mesh: Mesh
    ) -> dict[str, jax.Array]:
        """Reads the images of some rows of this process's shards.

        Args:
          rows: of each of them, an array of ascending rows.
          width: w, the rows of a window.
          mesh: the devices.

        Returns:
          The fields `images` and `window` of `Shards`, on the devices.
        """
        images = aligned.empty((len(rows), width, *self.images.shape[1:]))
        window = np.full((len(rows), width), self.num_rows, np.int32)
        own = parallel.own_shards(self.num_shards, mesh)
        for at, (shard, found) in enumerate(zip(own, rows, strict=True)):
            size = len(found)
            window[at, :size] = found
            images[at, size:] = 0
            # `sampling.deal` gives each shard every G-th example.
            numbers = np.minimum(shard + self.num_shards * found, len(self.images) - 1)
            self.images.gather(numbers, images[at, :size])
        return {
            "images": host_data.place(images, self.num_shards, mesh),
            "window": host_data.place(window, self.num_shards, mesh),
        }


def source(
    dataset: Dataset, num_shards: int, *, selected: np.ndarray | None = None
) -> Source:
    """Deals data to shards without reading their images.

    Args:
      dataset: the data; images in memory are gathered from there.
      num_shards: G.
      selected: (N,) bool, the examples that may be perturbed; None for all.

    Returns:
      The data.
    """
    images: Any = dataset.images
    if not isinstance(images, RandomRows):
        images = of_array(images)
    dealt = sampling.deal_labels(
        len(images), dataset.labels, num_shards, selected=selected
    )
    return Source(images, dealt)


def width_of(source: Source, mesh: Mesh, *, share: int, stored: int = 0) -> int:
    """Chooses the rows of a window, for what this process has of memory.

    Args:
      source: the data.
      mesh: the devices.
      share: images of each shard in the largest batch.
      stored: bytes of what is stored of an image.

    Returns:
      w, at least a batch and at most all rows.
    """
    allowed = min(LARGEST, int(_SHARE * memory.limit()))
    for device in mesh.local_devices:
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit:
            allowed = min(allowed, int(_SHARE * limit) * len(mesh.local_devices))
    shards = len(parallel.own_shards(source.num_shards, mesh))
    row = (math.prod(source.images.shape[1:]) + stored) * shards
    return min(max(share, allowed // row // share * share), source.num_rows)


def agreed(width: int) -> int:
    """The rows of a window for which all processes have memory; all must call it."""
    (least,) = parallel.process_max(-width)
    return -least


def shapes_of(source: Source, width: int) -> Shards:
    """The shapes of the data on the devices.

    Args:
      source: the data.
      width: w, the rows of a window.

    Returns:
      `Shards` of `jax.ShapeDtypeStruct`.
    """
    size = source.num_shards, width
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), source.shards
    )._replace(
        images=jax.ShapeDtypeStruct((*size, *source.images.shape[1:]), np.uint8),
        window=jax.ShapeDtypeStruct(size, np.int32),
    )


class Whole:
    """All of the data on the devices, with the methods of `Windows`.

    Args:
      data: on the mesh.
      stored: state -> what a run stores of the images.
    """

    def __init__(
        self, data: Shards, stored: Callable[[State], jax.Array] | None = None
    ):
        self._data, self._stored = data, stored
        self._saved: checkpoints.Checkpoints | None = None

    def __enter__(self) -> "Whole":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass

    def start(self, init: loop.Start, key: jax.Array) -> State:
        """Makes the first state, see `loop.start`."""
        return init(key, self._data)

    def resume(
        self, saved: checkpoints.Checkpoints, state: State
    ) -> tuple[int, State, Metrics | None]:
        """Restores a run from its newest checkpoint, see `loop.resume`."""
        self._saved = saved
        return loop.resume(saved, state)

    def run_until(
        self,
        mark: int,
        advance: loop.Advance,
        key: jax.Array,
        state: State,
        *,
        step: int,
        totals: Metrics | None = None,
        received: list[int],
    ) -> tuple[State, dict[str, float]]:
        """Advances to a step, see `loop.run_until`."""
        assert self._saved is not None  # as the run has been resumed
        return loop.run_until(
            *(mark, advance, key, state, self._data),
            step=step,
            totals=totals,
            saved=self._saved,
            received=received,
        )

    def save(self, step: int, state: State) -> None:
        """Saves a checkpoint."""
        assert self._saved is not None  # as the run has been resumed
        self._saved.save(step, state)

    def stored(self, state: State) -> Any:
        """What is stored of all images, in the first process; None in the others."""
        assert self._stored is not None  # as something is stored
        return parallel.to_first_host(self._stored(state))


class Windows:
    """The windows of a run, one after the other; a context manager.

    While one is worked on, a thread writes back what is stored of the last one and
    reads the next one.

    Args:
      source: the data.
      streamed: how the procedure runs on them.
      mesh: the devices.
      key: the run's key.
      num_steps: of the run.
      width: w, the rows of a window, the same in all processes.
      stored: state -> what is stored of the images, (G, w, ...), if anything is.
      folder: of the run, which all processes see, where what is stored of the images
        lies.
    """

    def __init__(
        self,
        source: Source,
        streamed: Streamed,
        mesh: Mesh,
        key: jax.Array,
        *,
        num_steps: int,
        width: int,
        stored: Callable[[State], jax.Array] | None = None,
        folder: pathlib.Path | None = None,
    ):
        self._source, self._streamed, self._mesh = source, streamed, mesh
        self._num_steps, self._width = num_steps, width
        # Perturbations of classes are not split.
        self._stored = stored if streamed.put is not None else None
        self._whole = stored
        self._folder = folder
        self._key = np.asarray(jax.random.key_data(key.addressable_data(0)))
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._stores: ShardStores | None = None
        self._saved: checkpoints.Checkpoints | None = None
        self._now: _Window | None = None
        # The step up to which what is stored has been written back.
        self._written = 0
        self._next: concurrent.futures.Future[_Window | None] | None = None
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "windows")
        self._placed = parallel.place(*(source.shards, mesh, DATA_SPEC))
        self._own = source.own(mesh)

    def __enter__(self) -> "Windows":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._stores is not None:
            self._stores.close()

    def start(self, init: loop.Start, key: jax.Array) -> State:
        """Makes the first state, see `loop.start`."""
        # Of the images only the shape matters here.
        size = len(self._own.labels), self._width
        images = np.zeros((*size, *self._source.images.shape[1:]), np.uint8)
        window = np.full(size, self._source.num_rows, np.int32)
        data = self._placed._replace(
            images=self._on_devices(images), window=self._on_devices(window)
        )
        return init(key, data)

    def resume(
        self, saved: checkpoints.Checkpoints, state: State
    ) -> tuple[int, State, Metrics | None]:
        """Restores a run from its newest checkpoint, see `loop.resume`."""
        self._saved = saved
        if self._stored is not None:
            codes, steps = self._stored(state), saved.steps()
            assert self._folder is not None  # as something is stored
            folder, source = self._folder / STORE, self._source
            own = parallel.own_shards(source.num_shards, self._mesh)
            size = source.num_shards, source.num_rows
            self._stores = parallel.in_all(
                lambda: ShardStores(
                    *(folder, own, *size, codes.shape[2:], codes.dtype), steps=steps
                )
            )
        if not saved.latest_step:
            return 0, state, None
        nothing = np.zeros((len(self._own.labels), DIGEST), np.uint8)
        step, state, totals = loop.resume(saved, self._with(state, nothing))
        if self._stores is not None and self._stored is not None:
            stores, digests = self._stores, self._stored(state)
            parallel.in_all(lambda: stores.restore(step, digests))
            if step < self._num_steps:
                # The digest gives way to what it stands for.
                state = self._enter(step, state)
        return step, state, totals

    def run_until(
        self,
        mark: int,
        advance: loop.Advance,
        key: jax.Array,
        state: State,
        *,
        step: int,
        totals: Metrics | None = None,
        received: list[int],
    ) -> tuple[State, dict[str, float]]:
        """Advances to a step, see `loop.run_until`."""
        while step < mark:
            state = self._enter(step, state)
            assert self._now is not None  # it was entered
            stop = min(mark, self._now.stop)
            state, totals = loop.advance_until(
                *(stop, advance, key, state, self._now.data),
                step=step,
                totals=totals,
                save=self.save,
                received=received,
            )
            step = stop
        return state, metrics.values(totals or {})

    def save(self, step: int, state: State, notes: Any = None) -> None:
        """Saves a checkpoint, and what is stored of the images with it."""
        assert self._saved is not None  # as the run has been resumed
        if step == self._saved.latest_step:
            return
        stores = self._stores
        if stores is None or self._stored is None:
            self._saved.save(step, state, notes=notes)
            return
        codes, now = self._stored(state), self._now

        def seal() -> np.ndarray:
            if self._next is not None:
                # It writes, too; the window that it reads remains of use.
                self._next.result()
            if now is not None and step > now.start:
                self._write(now, codes)
            return stores.seal(step)

        digests = parallel.in_all(seal)
        if now is not None and step > now.start:
            self._written = step
        self._saved.save(step, self._with(state, digests), notes=notes)
        parallel.in_all(lambda: stores.kept(step))

    def stored(self, state: State) -> Any:
        """What is stored of all images, once the last step is saved."""
        if self._stores is None:
            assert self._whole is not None  # as something is stored
            return parallel.to_first_host(self._whole(state))
        assert self._saved is not None  # as the last step is saved
        return self._stores.of_all(self._saved.latest_step or 0)

    def _with(self, state: State, digests: np.ndarray) -> State:
        """The state as it is saved: with digests of what is stored of the images."""
        if self._streamed.put is None:
            return state
        return self._streamed.put(state, self._on_devices(digests))

    def _enter(self, step: int, state: State) -> State:
        """Makes the window of a step the current one."""
        before, put = self._now, self._streamed.put
        if before is not None and before.start <= step < before.stop:
            return state

        def found() -> _Window:
            window = None if self._next is None else self._next.result()
            # It is not, where a run is resumed.
            return window if window and window.start == step else self._read(step)

        window = parallel.in_all(found)
        codes = None
        if self._stored is not None and put is not None:
            new = window.codes
            if before is not None:
                codes = self._stored(state)
                new = _carried(
                    before.data.window, codes, window.data.window, window.codes
                )
            state = put(state, new)
        # What was read is in the state, or was overwritten there.
        self._now = window._replace(codes=None)
        self._next = self._pool.submit(self._turn, before, codes, window.stop)
        return state

    def _turn(
        self, before: _Window | None, codes: jax.Array | None, step: int
    ) -> _Window | None:
        """Writes back the last window, and reads the next one."""
        if before is not None and codes is not None and before.stop > self._written:
            self._write(before, codes)
        return self._read(step) if step < self._num_steps else None

    def _write(self, window: _Window, codes: jax.Array) -> None:
        if self._stores is not None and window.writes:
            self._stores.write(window.rows, codes)

    def _read(self, start: int) -> _Window:
        """Reads the window that begins with a step."""
        stop, used, writes = start, [], False
        width, count = 0, self._own.count
        while stop < self._num_steps:
            place = self._streamed.place(stop)
            if width + place.share > self._width and stop > start:
                break
            order = self._order(place)
            places = place.position * place.share + np.arange(place.share)
            found = places[None] % np.asarray(count)[:, None]
            used.append(np.take_along_axis(order, found, axis=1))
            width, writes, stop = width + place.share, writes or place.writes, stop + 1
        rows = [np.unique(found) for found in np.concatenate(used, axis=1)]
        read = self._source.read(rows, self._width, self._mesh)
        data = self._placed._replace(**read)
        codes = None
        if self._stores is not None:
            codes = self._on_devices(self._stores.read(rows, self._width))
        return _Window(start, stop, rows, writes, data, codes)

    def _order(self, place: sampling.Place) -> np.ndarray:
        """(g, n) the own shards' order of a pass, which the devices draw, too."""
        which = place.use, place.number
        if which not in self._orders:
            self._orders = dict([*self._orders.items()][-1:])
            numbers = np.asarray(which, np.int32)
            drawn = _drawn(self._key, numbers, self._own)
            self._orders[which] = np.asarray(drawn)
        return self._orders[which]

    def _on_devices(self, rows: np.ndarray) -> jax.Array:
        return host_data.place(rows, self._source.num_shards, self._mesh)


@jax.jit
def _drawn(key: jax.Array, which: jax.Array, shards: Shards) -> jax.Array:
    key = jax.random.wrap_key_data(key)
    for number in which:
        key = jax.random.fold_in(key, number)
    return sampling.shuffled(key, shards)


def _carry(
    before: jax.Array, codes: jax.Array, window: jax.Array, read: jax.Array
) -> jax.Array:
    """Takes the rows that two windows share from the first, for one shard."""
    at = jnp.searchsorted(before, window)
    shared = jnp.take(before, at, mode="clip") == window
    shared = shared.reshape(-1, *[1] * (read.ndim - 1))
    return jnp.where(shared, jnp.take(codes, at, axis=0, mode="clip"), read)


# For all shards, and compiled once for all runs of a process.
_carried = jax.jit(jax.vmap(_carry))


def evaluation(
    evaluate: loop.Evaluate, source: Source, mesh: Mesh, *, width: int
) -> Callable[[State], Metrics]:
    """Makes an evaluation on data of which the devices hold a window at a time.

    Args:
      evaluate: from `loop.evaluation`.
      source: the data.
      mesh: the devices.
      width: w, the rows of a window, whole batches of `classifier.ROWS_AT_ONCE`, the
        same in all processes.

    Returns:
      state -> metrics.
    """
    placed = parallel.place(*(source.shards, mesh, DATA_SPEC))
    share = min(source.num_rows, classifier.ROWS_AT_ONCE)
    count = source.own(mesh).count
    number, step = -(-source.num_rows // share), max(1, width // share)

    def read(first: int) -> tuple[Shards, np.ndarray]:
        last = min(first + step, number)
        places = np.arange(first * share, last * share)[None] % count[:, None]
        rows = [np.unique(found) for found in places]
        found = source.read(rows, step * share, mesh)
        return placed._replace(**found), np.asarray([first, last], np.int32)

    def run(state: State) -> Metrics:
        totals: Metrics | None = None
        with concurrent.futures.ThreadPoolExecutor(1, "windows") as pool:
            reading = pool.submit(read, 0)
            for first in range(0, number, step):
                data, batches = parallel.in_all(reading.result)
                if first + step < number:
                    reading = pool.submit(read, first + step)
                found = jax.device_get(evaluate(state, data, batches))
                totals = (
                    found if totals is None else jax.tree.map(np.add, totals, found)
                )
        return totals or {}

    return run
