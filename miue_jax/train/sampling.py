"""Epochs of shuffled batches from data that never leave their device.

The data set is dealt to G shards in turn. Each shard shuffles its own rows and gives an
equal share of each global batch. All randomness is a function of the key, the pass over
the data and the shard, so G shards on one device give the batches of G devices.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike


class Shards(NamedTuple):
    """A data set dealt to shards; row r of shard g is example g + G r.

    Attributes:
      images: (G, n, H, W, C) uint8.
      labels: (G, n) int32.
      selected: (G, n) bool, the examples that may be perturbed.
      count: (G,) int32, the rows of each shard that hold an example; the rest pad.
      shard: (G,) int32, the index of the shard.
    """

    images: jax.Array
    labels: jax.Array
    selected: jax.Array
    count: jax.Array
    shard: jax.Array


class Batch(NamedTuple):
    """Equal shares of a batch from the g shards of one device.

    Attributes:
      rows: (g, b) int32, the rows taken from each shard, distinct within a shard.
      images: (g, b, H, W, C) float32 in [0, 1].
      labels: (g, b) int32.
      selected: (g, b) bool.
      fresh: (g, b) bool, whether the pass has not met the row before; the last batch of
        a pass is filled up from its front.
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
      selected: (N,) bool, the examples that may be perturbed, by default all.

    Returns:
      NumPy arrays in the layout of `Shards`.

    Raises:
      ValueError: if there are fewer examples than shards, if the images are not 8-bit,
        or if there is not one label (and one bool of `selected`) for each.

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
    labels = np.asarray(labels)
    if labels.shape != (size,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape ({size},), one per image, got "
            f"{labels.dtype} {labels.shape}"
        )
    if size < num_shards:
        raise ValueError(f"{size} images cannot be dealt to {num_shards} shards")
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
        "images": images[source],
        "labels": labels[source].astype(np.int32),
        "selected": selected[source],
        "count": ((size - 1 - shard) // num_shards + 1).astype(np.int32),
        "shard": shard,
    }
    return Shards(**arrays)


def collect(array: np.ndarray, size: int) -> np.ndarray:
    """Undoes `deal` for one array: (G, n, ...) to (size, ...) in the original order.

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
      size: examples in the data set.
      num_shards: G.

    Returns:
      The batch size, at most the largest multiple of G that the data fill.

    Raises:
      ValueError: if there are fewer images than shards.

    Example:
      >>> from miue_jax.train import sampling
      >>> sampling.clip_batch_size(128, 90, 4)
      88
    """
    if size < num_shards:
        raise ValueError(
            f"{size} images cannot be dealt to {num_shards} shards; set num_shards to "
            f"at most {size}"
        )
    return min(batch_size, size // num_shards * num_shards)


def steps_per_pass(size: int, num_shards: int, batch_size: int) -> int:
    """Steps in which every example is met at least once.

    Args:
      size: examples in the data set.
      num_shards: G.
      batch_size: images in a global batch, a multiple of G.

    Returns:
      The number of steps.

    Raises:
      ValueError: if a batch holds more images than the data set can fill, or does not
        split over the shards.

    Example:
      >>> from miue_jax.train import sampling
      >>> sampling.steps_per_pass(100, num_shards=2, batch_size=32)
      4
    """
    if batch_size % num_shards:
        raise ValueError(
            f"a global batch of {batch_size} images does not split over {num_shards} "
            "shards; set batch_size to a multiple of the number of devices (of "
            "num_shards, if set)"
        )
    share = batch_size // num_shards
    if share > size // num_shards:
        raise ValueError(
            f"a batch of {batch_size} images from {num_shards} shards is larger than "
            f"the data set, which has {size} images; set batch_size to at most "
            f"{size // num_shards * num_shards}"
        )
    return math.ceil(math.ceil(size / num_shards) / share)


def shuffled(key: jax.Array, data: Shards) -> jax.Array:
    """Draws a new order of every shard's rows.

    Args:
      key: a PRNG key of this pass over the data.
      data: the device's shards.

    Returns:
      (g, n) int32: a permutation of the rows that hold examples, then the padding.
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
    """The order of the pass under way, drawn anew where one begins.

    Args:
      key: a PRNG key of this pass over the data.
      position: () int32, the step within the pass.
      order: (g, n) int32, of the pass so far; of any value in its first step.
      data: the device's shards.

    Returns:
      (g, n) int32, as from `shuffled`.
    """
    return lax.cond(position == 0, lambda: shuffled(key, data), lambda: order)


def take(data: Shards, order: jax.Array, step: ArrayLike, share: int) -> Batch:
    """Takes the next rows of every shard, starting again at the front at the end.

    Args:
      data: the device's shards.
      order: (g, n) int32, from `shuffled`.
      step: the step within the pass over the data, below `steps_per_pass`.
      share: b, images of each shard in a batch.

    Returns:
      A batch of g times b images.
    """
    places = (jnp.asarray(step) * share + jnp.arange(share))[None]
    rows = jnp.take_along_axis(order, places % data.count[:, None], axis=1)

    def gather(array: jax.Array) -> jax.Array:
        return jax.vmap(lambda values, index: values[index])(array, rows)

    return Batch(
        rows=rows,
        images=gather(data.images).astype(jnp.float32) / 255,
        labels=gather(data.labels),
        selected=gather(data.selected),
        fresh=places < data.count[:, None],
    )


def take_in_order(data: Shards, step: ArrayLike, share: int) -> Batch:
    """Takes the next rows of every shard in the data's own order.

    Args:
      data: the device's shards.
      step: the step within the pass over the data, below `steps_per_pass`.
      share: b, images of each shard in a batch.

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
    """Writes some rows of a batch.

    Args:
      array: (g, n, ...), one row for every row of the data.
      batch: from `take`.
      chosen: (g, b) bool, the rows to write; the others keep what they hold.
      values: (g * b, ...) or (g, b, ...), in the order of the batch.

    Returns:
      The array with these rows replaced.
    """
    values = values.reshape(*chosen.shape, *array.shape[2:])

    def write(
        rows: jax.Array, index: jax.Array, keep: jax.Array, new: jax.Array
    ) -> jax.Array:
        keep = keep.reshape(-1, *[1] * (new.ndim - 1))
        return rows.at[index].set(jnp.where(keep, new, rows[index]))

    return jax.vmap(write)(array, batch.rows, chosen, values)


def shard_keys(key: jax.Array, shard: jax.Array, *numbers: ArrayLike) -> jax.Array:
    """A key for each of a device's shards.

    Args:
      key: the run's key.
      shard: (g,) int32, the indices of the shards.
      *numbers: () int32 each, what the keys are for: a use, a step.

    Returns:
      (g,) keys.
    """
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, shard)


def image_keys(keys: jax.Array, share: int) -> jax.Array:
    """A key for each image of a batch.

    Args:
      keys: (g,) keys.
      share: b, images of each shard in a batch.

    Returns:
      (g * b,) keys, in the order of the batch.
    """
    return jax.vmap(lambda key: jax.random.split(key, share))(keys).ravel()
