"""Compact forms hold the ends of the ball and 0, and the nearest of what is between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import perturbation_store
from miue_jax.generators.perturbation_store import PerturbationStore

COMPACT = [("int8", r) for r in (1, 2, 3, 6, 7, 8, 16, 24, 63)]
COMPACT += [("bfloat16", r) for r in (1, 3, 7, 8, 24, 100, 128)]
each_form = pytest.mark.parametrize(("storage", "radius"), COMPACT)


def _values(storage: str, radius: int) -> np.ndarray:
    """All numbers of a form in the ball, in gray levels, float64."""
    if storage == "int8":
        return np.arange(-127, 128) * radius / 127
    # Eight bits, the first of which is 1, at every scale that matters.
    positive = np.ldexp(np.arange(128.0, 256), np.arange(-40, 1)[:, None]).ravel()
    positive = positive[positive <= radius]
    return np.concatenate([-positive[::-1], [0], positive])


def _round_trip(store: PerturbationStore, delta: np.ndarray) -> np.ndarray:
    """With the whole in one program, where a compiler may fuse."""
    made = jax.jit(lambda delta: store.decode(store.encode(delta)))(delta)
    assert made.dtype == jnp.float32
    return np.asarray(made)


@each_form
def test_zero_and_the_radius_are_exact_and_nothing_is_outside(storage, radius):
    store = PerturbationStore(storage, radius)
    end = np.float32(radius / 255)
    given = np.float32(
        [0, end, -end, 2 * end, -2 * end, np.nextafter(end, np.float32(1))]
    )
    want = np.float32([0, end, -end, end, -end, end])
    np.testing.assert_array_equal(_round_trip(store, given), want)
    drawn = np.random.default_rng(0).uniform(-end, end, 10_000).astype(np.float32)
    assert np.abs(_round_trip(store, drawn)).max() <= end


@each_form
def test_values_become_the_nearest_that_there_are(storage, radius):
    store = PerturbationStore(storage, radius)
    known = _values(storage, radius) / 255
    rng = np.random.default_rng(1)
    given = rng.uniform(known[0], known[-1], 5000).astype(np.float32)
    found = _round_trip(store, given).astype(np.float64)
    above = np.clip(np.searchsorted(known, given), 1, len(known) - 1)
    neighbors = np.abs(known[[above - 1, above]] - given)
    distance = neighbors.min(axis=0)
    np.testing.assert_allclose(np.abs(found - given), distance, atol=2e-7 * known[-1])
    assert distance.max() <= store.resolution / 255 / 2 * (1 + 1e-6)
    # As coarse as it is said to be somewhere.
    assert distance.max() > store.resolution / 255 / 2 * 0.9


@each_form
def test_what_was_stored_is_given_back_for_ever(storage, radius):
    store = PerturbationStore(storage, radius)
    codes = store.encode(np.float32(_values(storage, radius) / 255))
    assert codes.dtype == store.dtype == jnp.dtype(storage)
    assert len(np.unique(np.asarray(codes).astype(np.float64))) == len(codes)
    again = jax.jit(lambda codes: store.encode(store.decode(codes)))(codes)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(codes))


def test_float32_is_left_alone():
    store = PerturbationStore("float32", 8)
    given = np.float32([-1, 1e-20, 8 / 255, 0.5])
    np.testing.assert_array_equal(store.encode(given), given)
    np.testing.assert_array_equal(store.decode(given), given)
    perturbation_store.check("float32", 255, step_size=1e-6)


def test_eight_bits_take_eight_bits():
    sizes = [PerturbationStore(s, 8).dtype.itemsize for s in ("int8", "bfloat16")]
    assert sizes == [1, 2]


@pytest.mark.parametrize(
    ("storage", "radius", "size", "fits"),
    [
        ("int8", 8, 8 / 127, True),
        ("int8", 8, 0.062, False),
        ("bfloat16", 8, 1 / 32, True),
        ("bfloat16", 8, 0.031, False),
        ("bfloat16", 9, 1 / 32, False),
        ("int8", 63, 0.5, True),
        ("int8", 64, 1.0, False),
        ("bfloat16", 128, 0.5, True),
        ("bfloat16", 129, 1.0, False),
    ],
)
def test_steps_must_be_told_apart(storage, radius, size, fits):
    if fits:
        perturbation_store.check(storage, radius, step_size=size)
        # Such a step is seen, wherever in the ball it is taken.
        store = PerturbationStore(storage, radius)
        start = np.float32(_values(storage, radius)[1:-1] / 255)
        start = start[start + size / 255 < radius / 255]
        moved = _round_trip(store, np.float32(start + 1.0001 * size / 255))
        assert (moved > start).all()
        return
    with pytest.raises(ValueError, match="or storage 'float32'"):
        perturbation_store.check(storage, radius, step_size=size)
