"""Terms of one sample each, computed in chunks of rows and averaged.

This is the frame of the nearest-neighbor estimators: each sample needs its distances
to all others, N of them, so rows are taken a chunk at a time and split over devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from miue_jax.information.checks import is_traced


class Term(NamedTuple):
    """What a sample contributes to an estimate.

    Attributes:
      value: its term, nats.
      radius: squared distance to its k-th neighbor; inf where it has none.
      tied: whether it coincides with another.
    """

    value: jax.Array
    radius: jax.Array
    tied: jax.Array


def chunk_rows(size: int, chunk_size: int, mesh: Mesh | None) -> int:
    """Rows at a time on a device: no more than its share."""
    return min(chunk_size, -(-size // (1 if mesh is None else mesh.size)))


def map_rows(
    function: Callable[[Any, jax.Array], Any],
    operands: Any,
    size: int,
    *,
    chunk: int,
    mesh: Mesh | None,
) -> Any:
    """Calls a function on chunks of row indices, in turn, split over devices.

    Args:
      function: of the operands and (C,) indices, to a pytree of (C, ...).
      operands: a pytree, copied to every device.
      size: number of rows; it need not divide into chunks or devices.
      chunk: indices at a time on a device, of `chunk_rows`.
      mesh: the devices, over all of its axes; None for one.

    Returns:
      The pytree of (size, ...).
    """
    devices = 1 if mesh is None else mesh.size
    chunks = -(-size // (chunk * devices)) * devices
    # Rows beyond the last repeat it, and their results are cut off.
    rows = jnp.minimum(jnp.arange(chunks * chunk), size - 1).reshape(chunks, chunk)

    def run(operands: Any, rows: jax.Array) -> Any:
        return lax.map(lambda chunk: function(operands, chunk), rows)

    if mesh is not None:
        split = P(mesh.axis_names)
        run = jax.shard_map(
            run, mesh=mesh, in_specs=(P(), split), out_specs=split, check_vma=False
        )
    results = run(operands, rows)
    return jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:])[:size], results)


def average(
    terms: Term, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Averages terms, without those of samples that have no k-th neighbor.

    Args:
      terms: of (N,) samples.
      labels: (N,) integers; one out of range makes the value NaN.
      num_classes: number of classes.

    Returns:
      The mean, and the fractions of samples that need a word.
    """
    undersized = jnp.isinf(terms.radius)
    value = jnp.mean(jnp.where(undersized, 0, terms.value))
    valid = jnp.all((labels >= 0) & (labels < num_classes))
    fractions = {
        "tie_fraction": terms.tied,
        "degenerate_fraction": terms.radius == 0,
        "undersized_fraction": undersized,
    }
    means = {
        name: jnp.mean(each.astype(value.dtype)) for name, each in fractions.items()
    }
    return jnp.where(valid, value, jnp.nan), means


def check_counts(**counts: int) -> None:
    """Refuses options that are not whole numbers from 1.

    Args:
      **counts: options by name.

    Raises:
      ValueError: naming the first that is not.
    """
    for name, number in counts.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {number!r}")


def check_class_sizes(labels: jax.Array, num_classes: int, neighbors: int) -> None:
    """Refuses classes with samples, but not more of them than neighbors.

    Args:
      labels: (N,) integers, checked.
      num_classes: number of classes.
      neighbors: k.

    Raises:
      ValueError: naming the first such class.
    """
    if is_traced(labels):
        return
    sizes = np.bincount(np.asarray(labels), minlength=num_classes)
    small = (sizes > 0) & (sizes <= neighbors)
    if small.any():
        label = int(np.argmax(small))
        raise ValueError(
            f"class {label} has {sizes[label]} sample(s); a class needs none or more "
            f"than neighbors={neighbors}"
        )
