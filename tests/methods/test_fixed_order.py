"""A pass in fixed order: every example once, whatever the shards hold."""

import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import sampling
from miue_jax.methods import fixed_order

SHARE = 2


def _dealt(size: int, shards: int) -> sampling.Shards:
    images = np.arange(size * 12, dtype=np.uint8).reshape(size, 2, 2, 3)
    return sampling.deal(images, np.arange(size), shards)


@pytest.mark.parametrize(("size", "shards"), [(21, 4), (24, 4), (7, 1)])
def test_a_pass_meets_every_example_exactly_once(size, shards):
    data = _dealt(size, shards)
    met = np.zeros(size, int)
    for position in range(sampling.steps_per_pass(size, shards, SHARE * shards)):
        batch, first = fixed_order.take(data, position, SHARE)
        assert batch.images.shape == (shards, SHARE, 2, 2, 3)
        np.add.at(met, np.asarray(batch.labels)[np.asarray(first)], 1)
    np.testing.assert_array_equal(met, 1)


def test_rows_are_stored_where_chosen():
    data = _dealt(21, 4)
    array = jnp.full((4, 6, 3), -1.0)
    batch, first = fixed_order.take(data, 2, SHARE)
    # The last batch wraps around in the shards that hold five examples.
    np.testing.assert_array_equal(first, [[1, 1], [1, 0], [1, 0], [1, 0]])
    values = jnp.arange(24.0).reshape(8, 3)
    after = fixed_order.store(array, batch, first, values)
    np.testing.assert_array_equal(after[:, 4], values.reshape(4, SHARE, 3)[:, 0])
    np.testing.assert_array_equal(after[0, 5], values[1])
    changed = np.asarray(after != -1).any(-1)
    want = np.zeros((4, 6), bool)
    want[:, 4] = True
    want[0, 5] = True
    np.testing.assert_array_equal(changed, want)
