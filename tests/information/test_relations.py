"""What estimators say about functions and about discrete arguments."""

import warnings

import jax
import numpy as np
import pytest

from miue_jax.information import estimators
from miue_jax.information.estimators import (
    DiscreteSamplesWarning,
    FunctionalRelationWarning,
)

RNG = np.random.default_rng(0)
SIZE = 400
X, NOISE = RNG.standard_normal((2, SIZE))
X3, NOISE3 = RNG.standard_normal((2, SIZE, 3))
LABELS = np.arange(SIZE) % 4


def classes(spread):
    return np.eye(4)[LABELS] + spread * np.random.default_rng().normal(size=(SIZE, 4))


FUNCTIONS = {
    "itself": (X, X),
    "line": (X, 3 - 2 * X),
    "line_in_float32": (X, np.float32(3 - 2 * X)),
    "far_away": (X, X + 1.7e9),
    "cube": (X, X**3),
    "falling": (X, np.exp(-X)),
    "modulus": (X, np.abs(X)),
    "square": (X, X**2),
    "circle": (X, np.stack([np.cos(X), np.sin(X)], 1)),
    "half_constant": (np.maximum(X, 0), np.maximum(X, 0)),
    "column": (X3, X3[:, 1]),
    "mixture": (X3, X3 @ RNG.standard_normal((3, 2))),
    "shared_combination": (
        np.stack([X, NOISE], 1),
        np.stack([X - NOISE + NOISE3[:, 0], NOISE3[:, 0]], 1),
    ),
    "by_column": (X3, np.tanh(X3)),
    "wide": (RNG.standard_normal((60, 200)),) * 2,
}
NO_FUNCTIONS = {
    "independent": (X, NOISE),
    "noisy": (X, 0.99 * X + 0.14 * NOISE),
    "very_noisy_parts": (X3, 0.9 * X3 + 0.4 * NOISE3),
    "classes": (classes(1e-3), classes(1e-3)),
    "tight_classes": (classes(1e-6), classes(1e-6)),
    "points": (np.eye(4)[LABELS], np.eye(4)[LABELS] @ np.diag([1.0, 2, 3, 4])),
    "rounded": (X.round(1), (0.75 * X + 0.66 * NOISE).round(1)),
    "duplicates": (np.repeat(X[:200], 2), np.repeat(NOISE[:200], 2)),
    "constant": (np.ones(SIZE), X),
    "wide": tuple(RNG.standard_normal((2, 100, 200))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_named(name):
    with pytest.warns(FunctionalRelationWarning, match="information is infinite"):
        estimators.ksg(*FUNCTIONS[name])


@pytest.mark.parametrize("name", NO_FUNCTIONS)
def test_other_samples_are_not(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimators.ksg(*NO_FUNCTIONS[name])


def test_functions_within_classes_and_in_slices_are_named():
    x = X + 10 * LABELS
    with pytest.warns(FunctionalRelationWarning):
        estimators.ksg_conditional(x, X - LABELS, LABELS, num_classes=4)
    for options in ({"shared": True}, {"directions": "pca"}):
        with pytest.warns(FunctionalRelationWarning):
            estimators.sliced(jax.random.key(0), X3, X3, num_slices=2, **options)
    # The slices of different directions are not functions of each other.
    estimators.sliced(jax.random.key(0), X3, X3, num_slices=2)


BITS = RNG.integers(0, 2, (SIZE, 100))


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (X, X > 0, "y"),
        (X, LABELS, "y"),
        (X, np.eye(4)[LABELS], "y"),
        (X, BITS, "y"),
        (BITS.astype(np.float32), X, "x"),
        (RNG.standard_normal((SIZE, 100)), LABELS, "y"),
        (BITS, LABELS, "y"),
    ],
)
def test_discrete_arguments_are_named(x, y, name):
    message = f"^{name} is discrete .* labels of `ross`.*`jitter_key`"
    with pytest.warns(DiscreteSamplesWarning, match=message):
        estimators.ksg(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimators.ksg(x, y, jitter_key=jax.random.key(0))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (LABELS, LABELS % 2),  # both are counted as what they are
        (X, np.ones(SIZE)),
        (X, np.where(X > 0, NOISE, 0)),
        (X, NOISE.round(1)),
        (X, RNG.integers(0, 256, (SIZE, 12))),
    ],
)
def test_other_arguments_are_not(x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimators.ksg(x, y)
