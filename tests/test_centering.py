"""Known samples in the precision they came in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax._centering import center_classes, unrounded


@pytest.mark.parametrize(
    ("array", "kept"),
    [
        (np.ones(3, np.float32), False),
        (np.ones(3), True),
        ([1.0, 2.0], True),
        (np.ones(3, np.longdouble), True),
        (np.ones(3, jnp.bfloat16), False),
        (np.array([1, 2**24]), False),
        (np.array([1, 2**24 + 1]), True),
        (np.array([-(2**62)]), True),
        (np.array([True, False]), False),
        (jnp.ones(3), False),
    ],
)
def test_what_conversion_would_round(array, kept):
    found = unrounded(array)
    assert (found is not None) == kept
    if kept:
        np.testing.assert_array_equal(found, array)


def test_nothing_is_rounded_where_jax_has_float64():
    with jax.enable_x64(True):
        assert unrounded(np.ones(3)) is None
        assert unrounded(np.ones(3, np.longdouble)) is not None


def test_classes_are_centered_and_equal_samples_stay_equal():
    rng = np.random.default_rng(0)
    labels = np.array([7, 0, 7, 3, 0, 7, 7])
    values = 1e9 * labels[:, None] + rng.standard_normal((7, 2))
    values[5] = values[0]
    found = center_classes(values, labels)
    for label in np.unique(labels):
        members = values[labels == label]
        np.testing.assert_allclose(
            found[labels == label], members - members.mean(axis=0), atol=1e-5
        )
    np.testing.assert_array_equal(found[5], found[0])
