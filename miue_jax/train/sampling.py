"""Epochs of shuffled batches from data that lie on their device.

`deal` splits a data set over G shards in turn. Each shard shuffles its own rows and
contributes an equal share of each global batch. All randomness is a function of the
key, the pass over the data and the shard, so that G shards on one device give the
batches of G devices. Of data that are larger than the devices' memory, a window holds
the images of some steps, see `train.windows`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from miue_jax.budget import to_unit


class Shards(NamedTuple):
    """A data set dealt to shards; row r of shard g is example g + G r.

    Attributes:
      images: (G, n, H, W, C) uint8; with a window, (G, w, H, W, C).
      labels: (G, n) int32.
      selected: (G, n) bool, the examples that may be perturbed.
      count: (G,) int32, the rows of each shard that hold an example; the rest is
        padding.
      shard: (G,) int32, the index of the shard.
      window: (G, w) int32, the rows of which there are images, ascending, then n for
        those without; None where all rows have theirs.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> sampling.deal(images, labels, num_shards=2).images.shape
      (2, 3, 8, 8, 3)
    """

    images: jax.Array
    labels: jax.Array
    selected: jax.Array
    count: jax.Array
    shard: jax.Array
    window: jax.Array | None = None


class Place(NamedTuple):
    """Where a step finds its batch.

    The order of its pass is drawn with the run's key, folded with `use` and `number`.

    Attributes:
      use: the number that the run's key is folded with for passes of this kind.
      number: of the pass.
      position: of the batch in the pass.
      share: b, images per shard in the batch.
      writes: whether the step changes what is stored of its images.

    Example:
      >>> from miue_jax.train.sampling import Place
      >>> Place(use=1, number=0, position=3, share=128).writes
      False
    """

    use: int
    number: int
    position: int
    share: int
    writes: bool = False


class Streamed(NamedTuple):
    """How a procedure runs on data of which the devices hold a window at a time.

    Attributes:
      place: () int step -> where it finds its batch.
      share: the largest `Place.share` of all steps.
      put: (state, codes) -> the state with other codes of the images, (G, w, ...), one
        for each row of the window; None if it keeps nothing of each image.

    Example:
      >>> from miue_jax.train.sampling import Place, Streamed
      >>> streamed = Streamed(lambda step: Place(0, *divmod(step, 10), share=4), 4)
      >>> streamed.place(23).number
      2
    """

    place: Callable[[int], Place]
    share: int
    put: Callable[[Any, Any], Any] | None = None


class Batch(NamedTuple):
    """Equal shares of a batch from the g shards of one device.

    Attributes:
      rows: (g, b) int32, where in each shard's images they were taken, distinct within
        a shard; its rows, unless there is a window.
      images: (g, b, H, W, C) float32 in [0, 1].
      labels: (g, b) int32.
      selected: (g, b) bool.
      fresh: (g, b) bool, whether the row is new in this pass; the last batch of a pass
        is filled up with rows from its start.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=1)
      >>> sampling.take_in_order(shards, 1, share=3).fresh.tolist()
      [[True, True, False]]
    """

    rows: jax.Array
    images: jax.Array
    labels: jax.Array
    selected: jax.Array
    fresh: jax.Array


def deal(
    images: np.ndarray,
    labels: np.ndarray,
    num_shards: int,
    *,
    selected: np.ndarray | None = None,
) -> Shards:
    """Deals a data set to shards, on the host.

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) integer.
      num_shards: G.
      selected: (N,) bool, the examples that may be perturbed; None for all.

    Returns:
      NumPy arrays in the layout of `Shards`. The images are a view of those given
      where all shards have as many, and a copy otherwise.

    Raises:
      ValueError: if there are fewer examples than shards, the images are not 8-bit, or
        there is not one label (and one bool in `selected`) per image.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=2)
      >>> shards.labels.tolist(), shards.count.tolist()
      ([[0, 2, 4], [1, 3, 4]], [3, 2])
    """
    size = len(images)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 (N, H, W, C), got {images.dtype} {images.shape}"
        )
    without = deal_labels(size, labels, num_shards, selected=selected)
    rows = math.ceil(size / num_shards)
    if rows * num_shards == size:
        dealt = np.swapaxes(images.reshape(rows, num_shards, *images.shape[1:]), 0, 1)
    else:
        source = np.minimum(np.arange(rows * num_shards), size - 1)
        dealt = images[source.reshape(rows, num_shards).T]
    arrays: dict[str, Any] = {"images": dealt}
    return without._replace(**arrays)


def deal_labels(
    size: int,
    labels: np.ndarray,
    num_shards: int,
    *,
    selected: np.ndarray | None = None,
) -> Shards:
    """Deals a data set to shards without its images, on the host.

    Args:
      size: N, examples in the data set.
      labels: (N,) integer.
      num_shards: G.
      selected: (N,) bool, the examples that may be perturbed; None for all.

    Returns:
      NumPy arrays in the layout of `Shards`, with images (G, 0).

    Raises:
      ValueError: as `deal` does.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import sampling
      >>> sampling.deal_labels(5, np.arange(5), num_shards=2).labels.tolist()
      [[0, 2, 4], [1, 3, 4]]
    """
    labels = np.asarray(labels)
    if labels.shape != (size,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape ({size},), one per image, got "
            f"{labels.dtype} {labels.shape}"
        )
    _check_filled(size, num_shards)
    selected = np.ones(size, bool) if selected is None else np.asarray(selected)
    if selected.shape != (size,) or selected.dtype != bool:
        raise ValueError(
            f"selected must be bool of shape ({size},), one per image, got "
            f"{selected.dtype} {selected.shape}"
        )
    rows = math.ceil(size / num_shards)
    source = np.minimum(np.arange(rows * num_shards), size - 1)
    source = source.reshape(rows, num_shards).T
    shard = np.arange(num_shards, dtype=np.int32)
    arrays: dict[str, Any] = {
        "images": np.empty((num_shards, 0), np.uint8),
        "labels": labels[source].astype(np.int32),
        "selected": selected[source],
        "count": ((size - 1 - shard) // num_shards + 1).astype(np.int32),
        "shard": shard,
    }
    return Shards(**arrays)


def collect(array: np.ndarray, size: int) -> np.ndarray:
    """Undoes `deal` for one array.

    Args:
      array: (G, n, ...), one row per row of the data.
      size: N, examples in the data set.

    Returns:
      (N, ...), in the original order.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=2)
      >>> sampling.collect(shards.labels, 5).tolist()
      [0, 1, 2, 3, 4]
    """
    return np.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])[:size]


def clip_batch_size(batch_size: int, size: int, num_shards: int) -> int:
    """Reduces a global batch to what the data can fill.

    Args:
      batch_size: images in a global batch.
      size: N, examples in the data set.
      num_shards: G.

    Returns:
      `batch_size`, or the largest multiple of G that the data fill if that is less.

    Raises:
      ValueError: if there are fewer images than shards.

    Example:
      >>> from miue_jax.train import sampling
      >>> sampling.clip_batch_size(128, 90, 4)
      88
    """
    _check_filled(size, num_shards)
    return min(batch_size, size // num_shards * num_shards)


def _check_filled(size: int, num_shards: int) -> None:
    if size < num_shards:
        raise ValueError(
            f"{size} images cannot be dealt to {num_shards} shards; set num_shards to "
            f"at most {size}"
        )


def steps_per_pass(
    size: int, num_shards: int, batch_size: int, *, name: str = "batch_size"
) -> int:
    """Returns the number of steps in which every example occurs at least once.

    Args:
      size: N, examples in the data set.
      num_shards: G.
      batch_size: images in a global batch, a multiple of G.
      name: the setting that holds the batch size, for messages.

    Returns:
      The number of steps.

    Raises:
      ValueError: if a batch holds more images than the data can fill, or does not split
        over the shards.

    Example:
      >>> from miue_jax.train import sampling
      >>> sampling.steps_per_pass(100, num_shards=2, batch_size=32)
      4
    """
    if batch_size % num_shards:
        raise ValueError(
            f"a global batch of {batch_size} images does not split over {num_shards} "
            f"shards; set {name} to a multiple of the number of devices (of "
            "num_shards, if set)"
        )
    most = clip_batch_size(batch_size, size, num_shards)
    if most < batch_size:
        raise ValueError(
            f"a batch of {batch_size} images from {num_shards} shards is larger than "
            f"the data set, which has {size} images; set {name} to at most {most}"
        )
    return math.ceil(math.ceil(size / num_shards) / (batch_size // num_shards))


def shuffled(key: jax.Array, data: Shards) -> jax.Array:
    """Draws a new order of every shard's rows.

    Args:
      key: the PRNG key of this pass over the data.
      data: the device's shards.

    Returns:
      (g, n) int32: a permutation of the rows that hold examples, then the padding.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=2)
      >>> order = sampling.shuffled(jax.random.key(0), shards)
      >>> order.shape, int(order[1, 2])
      ((2, 3), 2)
    """

    def permute(shard: jax.Array, count: jax.Array) -> jax.Array:
        draws = jax.random.uniform(
            jax.random.fold_in(key, shard), data.labels.shape[1:]
        )
        padding = jnp.arange(draws.shape[0]) >= count
        return jnp.argsort(jnp.where(padding, jnp.inf, draws)).astype(jnp.int32)

    return jax.vmap(permute)(data.shard, data.count)


def order_of_pass(
    key: jax.Array, position: jax.Array, order: jax.Array, data: Shards
) -> jax.Array:
    """Returns the order of the current pass, drawn anew in its first step.

    Args:
      key: the PRNG key of this pass over the data.
      position: () int32, the step within the pass.
      order: (g, n) int32, the order so far; ignored in the first step.
      data: the device's shards.

    Returns:
      (g, n) int32, as from `shuffled`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=1)
      >>> order = jnp.arange(5, dtype=jnp.int32)[None]
      >>> key, position = jax.random.key(0), jnp.int32(1)
      >>> sampling.order_of_pass(key, position, order, shards).tolist()
      [[0, 1, 2, 3, 4]]
    """
    return lax.cond(position == 0, lambda: shuffled(key, data), lambda: order)


def take(data: Shards, order: jax.Array, step: ArrayLike, share: int) -> Batch:
    """Takes the next rows of every shard, wrapping around at the end.

    Args:
      data: the device's shards.
      order: (g, n) int32, from `shuffled`.
      step: the step within the pass over the data, below `steps_per_pass`.
      share: b, images per shard in a batch.

    Returns:
      A batch of g times b images.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=1)
      >>> order = jnp.array([[4, 3, 2, 1, 0]])
      >>> sampling.take(shards, order, 0, share=2).labels.tolist()
      [[4, 3]]
    """
    places = (jnp.asarray(step) * share + jnp.arange(share))[None]
    rows = jnp.take_along_axis(order, places % data.count[:, None], axis=1)
    held = rows
    if data.window is not None:
        held = jax.vmap(jnp.searchsorted)(data.window, rows).astype(jnp.int32)

    def gather(array: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda values, index: values[index])(array, rows)

    return Batch(
        rows=held,
        images=to_unit(gather(data.images, held).astype(jnp.float32)),
        labels=gather(data.labels, rows),
        selected=gather(data.selected, rows),
        fresh=places < data.count[:, None],
    )


def take_in_order(data: Shards, step: ArrayLike, share: int) -> Batch:
    """Takes the next rows of every shard in the data's own order.

    Args:
      data: the device's shards.
      step: the step within the pass over the data, below `steps_per_pass`.
      share: b, images per shard in a batch.

    Returns:
      A batch of g times b images.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=2)
      >>> sampling.take_in_order(shards, 0, share=2).labels.tolist()
      [[0, 2], [1, 3]]
    """
    rows = jnp.arange(data.labels.shape[1], dtype=jnp.int32)
    return take(data, jnp.broadcast_to(rows, data.labels.shape), step, share)


def store(
    array: jax.Array, batch: Batch, chosen: jax.Array, values: jax.Array
) -> jax.Array:
    """Writes values to some of the rows of a batch.

    Args:
      array: (g, n, ...), one row per row of the data.
      batch: from `take`.
      chosen: (g, b) bool, the rows to write; the others keep their values.
      values: (g * b, ...) or (g, b, ...), in the order of the batch.

    Returns:
      The array with these rows replaced.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import sampling
      >>> images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
      >>> shards = sampling.deal(images, labels, num_shards=1)
      >>> batch = sampling.take_in_order(shards, 1, share=3)  # wraps around to row 0
      >>> sampling.store(jnp.zeros((1, 5)), batch, batch.fresh, jnp.ones(3)).tolist()
      [[0.0, 0.0, 0.0, 1.0, 1.0]]
    """
    return store_rows(array, batch.rows, chosen, values)


def store_rows(
    array: jax.Array, rows: jax.Array, chosen: jax.Array, values: jax.Array
) -> jax.Array:
    """Writes values to some of the given rows.

    Args:
      array: (g, n, ...), one row per row of the data.
      rows: (g, b) int32, as in `Batch`.
      chosen: (g, b) bool, which of them to write; the others keep their values.
      values: (g * b, ...) or (g, b, ...), in the order of the rows.

    Returns:
      The array with these rows replaced.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import sampling
      >>> rows, chosen = jnp.array([[2, 0]]), jnp.array([[True, False]])
      >>> sampling.store_rows(jnp.zeros((1, 3)), rows, chosen, jnp.ones(2)).tolist()
      [[0.0, 0.0, 1.0]]
    """
    values = values.reshape(*chosen.shape, *array.shape[2:])

    def write(
        rows: jax.Array, index: jax.Array, keep: jax.Array, new: jax.Array
    ) -> jax.Array:
        keep = keep.reshape(-1, *[1] * (new.ndim - 1))
        return rows.at[index].set(jnp.where(keep, new, rows[index]))

    return jax.vmap(write)(array, rows, chosen, values)


def shard_keys(key: jax.Array, shard: jax.Array, *numbers: ArrayLike) -> jax.Array:
    """Returns a PRNG key for each of a device's shards.

    Args:
      key: the run's key.
      shard: (g,) int32, the indices of the shards.
      *numbers: () int32 each, folded into the key: a use, a step.

    Returns:
      (g,) keys.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import sampling
      >>> sampling.shard_keys(jax.random.key(0), jnp.arange(2), 7).shape
      (2,)
    """
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, shard)


def image_keys(keys: jax.Array, share: int) -> jax.Array:
    """Returns a PRNG key for each image of a batch.

    Args:
      keys: (g,) keys, from `shard_keys`.
      share: b, images per shard in a batch.

    Returns:
      (g * b,) keys, in the order of the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import sampling
      >>> keys = sampling.shard_keys(jax.random.key(0), jnp.arange(2), 7)
      >>> sampling.image_keys(keys, share=3).shape
      (6,)
    """
    return jax.vmap(lambda key: jax.random.split(key, share))(keys).ravel()
