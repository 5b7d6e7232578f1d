"""Means of parts add up, and several seeds are summarized."""

import jax
import jax.numpy as jnp
import pytest

from miue_jax.train import metrics


def test_means_of_parts_add_up_to_the_mean_of_all():
    parts = [metrics.mean_of(jnp.float32(v), w) for v, w in ((1, 1), (3, 2), (8, 1))]
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert metrics.values({"loss": total}) == {"loss": 15 / 4}


def test_what_was_not_measured_is_left_out():
    nothing, half = metrics.mean_of(jnp.float32(3), 0.0), jnp.float32(0.5)
    found = metrics.values({"loss": nothing, "accuracy": metrics.mean_of(half)})
    assert found == {"accuracy": 0.5}


def test_seeds_have_a_mean_and_a_sample_deviation():
    found = metrics.mean_and_std([0.25, 0.75, 0.5])
    assert found == {"mean": 0.5, "std": 0.25, "values": [0.25, 0.75, 0.5]}
    assert metrics.mean_and_std([0.25]) == {"mean": 0.25, "std": None, "values": [0.25]}
    with pytest.raises(ValueError, match="at least one"):
        metrics.mean_and_std([])
