"""Sums over all pairs of a batch, in blocks: no matrix of all pairs is kept.

Where a batch is split over devices, its parts travel around a ring of them, so that no
device holds the features of all. A small batch is gathered instead: one exchange is
faster than many.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

AxisName = str | tuple[str, ...]

# So many pairs, a matrix of 16 MB in float32, are compared at once.
_PAIRS = 2**22
# Rows and columns of a block of more pairs.
_BLOCK = 1024


class Samples(NamedTuple):
    """Samples on one side of the pairs.

    Attributes:
      features: (n, D).
      labels: (n,) integers.
      positions: (n,) integers, the places in the global batch; -1 does not count.
      values: arrays (n,), what else of a sample a pair needs.
    """

    features: jax.Array
    labels: jax.Array
    positions: jax.Array
    values: tuple[jax.Array, ...] = ()


def samples(
    features: jax.Array, labels: jax.Array, axis_name: AxisName | None
) -> Samples:
    """The samples of this device; many of them in the order of their classes.

    In that order most blocks have no pair within a class.
    """
    size = len(labels)
    positions = jnp.arange(size, dtype=jnp.int32)
    if size**2 > _PAIRS:
        order = jnp.argsort(labels)
        features, labels, positions = features[order], labels[order], positions[order]
    if axis_name is not None:
        positions += size * lax.axis_index(axis_name).astype(jnp.int32)
    return Samples(features, labels, positions)


def as_given(rows: jax.Array, own: Samples) -> jax.Array:
    """Rows in the order that the samples had before `samples`."""
    return rows if len(rows) ** 2 <= _PAIRS else rows[jnp.argsort(own.positions)]


def over_pairs(
    function: Callable[[Samples, Samples], Any],
    own: Samples,
    other: Samples,
    axis_name: AxisName | None,
    *,
    within_classes: bool = False,
    join: Callable[[Any, Any], Any] = operator.add,
    start: float = 0,
) -> Any:
    """What a function of samples and others sums up to over the global batch.

    Args:
      function: of some of the samples and of the others; returns arrays that have a row
        for each of the samples.
      own: the samples of this device.
      other: those they are paired with, this device's part.
      axis_name: mesh axis (or axes) over which the batch is sharded.
      within_classes: whether pairs of different classes add nothing.
      join: adds up two results, array by array.
      start: what adds nothing.

    Returns:
      The sum of the results of the function over all others.
    """

    def joined(left: Any, right: Any) -> Any:
        return jax.tree.map(join, left, right)

    def of_part(part: Samples) -> Any:
        if len(own.labels) * len(part.labels) <= _PAIRS:
            return function(own, part)
        blocks = _blocks(part)
        return _rows(lax.map(lambda rows: of_rows(rows, blocks), _blocks(own)), own)

    # Differentiated in reverse, a block is computed again: its matrices are not kept.
    @jax.checkpoint
    def of_block(rows: Samples, columns: Samples) -> Any:
        return function(rows, columns)

    def of_rows(rows: Samples, blocks: Samples) -> Any:
        first = jax.tree.map(lambda leaf: leaf[0], blocks)
        empty = jax.tree.map(
            # From the features it has the mesh axes over which the results differ.
            lambda leaf: jnp.full_like(rows.features, start, leaf.dtype, leaf.shape),
            jax.eval_shape(function, rows, first),
        )

        def step(total: Any, columns: Samples) -> tuple[Any, None]:
            def add() -> Any:
                return joined(total, of_block(rows, columns))

            if not within_classes:
                return add(), None
            meet = (rows.labels[0] <= columns.labels[-1]) & (
                columns.labels[0] <= rows.labels[-1]
            )
            return lax.cond(meet, add, lambda: total), None

        return lax.scan(step, empty, blocks)[0]

    return over_parts(of_part, other, axis_name, join=joined)


def over_parts(
    function: Callable[[Samples], Any],
    part: Samples,
    axis_name: AxisName | None,
    *,
    join: Callable[[Any, Any], Any] = operator.add,
) -> Any:
    """What a function of the parts of all devices adds up to, on each device."""
    if axis_name is None:
        return function(part)
    size, devices = len(part.labels), lax.axis_size(axis_name)
    if size**2 * devices <= _PAIRS:
        return function(lax.all_gather(part, axis_name, tiled=True))
    neighbors = [(device, (device + 1) % devices) for device in range(devices)]

    def step(carry: tuple[Any, Samples], _: None) -> tuple[tuple[Any, Samples], None]:
        total, part = carry
        part = lax.ppermute(part, axis_name, neighbors)
        return (join(total, function(part)), part), None

    (total, _), _ = lax.scan(step, (function(part), part), length=devices - 1)
    return total


def products(own: Samples, other: Samples) -> jax.Array:
    """(n, m) inner products."""
    return matmul(own.features, other.features.T)


def matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _blocks(part: Samples) -> Samples:
    """Blocks of one size, the last one filled up with samples that do not count."""
    size = len(part.labels)
    number = -(-size // _BLOCK)
    missing = -size % number

    def split(leaf: jax.Array, **padding: Any) -> jax.Array:
        width = [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
        padded = jnp.pad(leaf, width, **padding) if missing else leaf
        return padded.reshape(number, -1, *leaf.shape[1:])

    blocks = jax.tree.map(lambda leaf: split(leaf, mode="edge"), part)
    return blocks._replace(positions=split(part.positions, constant_values=-1))


def _rows(blocks: Any, own: Samples) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(own.labels)], blocks
    )
