"""Linear separability: what is separable, what is not, and what only seems so."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from miue_jax.detection import STEPS, linear_separability

CLASSES = 3


def _noise(size, values=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, size)
    return rng.normal(size=(size, values, 1, 1)).astype(np.float32), labels


def _measure(delta, labels, seed=0, **settings):
    return linear_separability(jax.random.key(seed), delta, labels, CLASSES, **settings)


def test_a_pattern_for_each_class_is_separated():
    delta, labels = _noise(120, values=12)
    patterns = np.random.default_rng(1).choice([-6, 6], (CLASSES, 12, 1, 1))
    assert _measure(delta + patterns[labels], labels) == (1, 1)


def test_noise_is_separated_where_it_is_fitted_and_not_where_it_is_held_out():
    delta, labels = _noise(120, values=300)
    fitted, held_out = _measure(delta, labels)
    assert fitted == 1
    assert held_out < 0.65, "independent noise cannot tell a third of the classes"


def test_classes_of_one_mean_are_not_separated():
    delta, labels = _noise(600)
    delta *= (1 + 4 * labels)[:, None, None, None]  # told by their size alone
    fitted, held_out = _measure(delta, labels)
    assert fitted < 0.6
    assert held_out < 0.6


def test_the_fit_is_that_of_another_solver():
    delta, labels = _noise(200)
    delta[..., 0, 0] += labels[:, None] * [0.5, -0.3, 0.2, 0.1]
    flat = delta.reshape(200, -1)
    scaled = (flat - flat.min()) / (flat.max() - flat.min())
    solver = LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000)

    def accuracy(fitted, on):
        return solver.fit(scaled[fitted], labels[fitted]).score(scaled[on], labels[on])

    order = np.asarray(jax.random.permutation(jax.random.key(3), 200))
    everything, tested, rest = order, order[:50], order[50:]
    fitted, held_out = _measure(delta, labels, seed=3, held_out=0.25)
    assert 0.4 < held_out < 0.9
    # An image on the boundary may fall to either side.
    assert fitted == pytest.approx(accuracy(everything, everything), abs=0.006)
    assert held_out == pytest.approx(accuracy(rest, tested), abs=0.021)


def test_steps_stop_the_fit():
    delta, labels = _noise(120, values=100)
    assert _measure(delta, labels, steps=1).train_accuracy < 1
    assert _measure(delta, labels, steps=STEPS["linear_synthetic"]).train_accuracy == 1


def test_neither_unit_nor_origin_counts():
    delta, labels = _noise(120)
    levels = np.rint(8 * delta).astype(np.int16)
    settings = {"steps": 20}
    assert _measure(levels + 10_000, labels, **settings) == _measure(
        levels.astype(np.float64) / 256, labels, **settings
    )


def test_no_perturbation_at_all_tells_the_largest_class():
    labels = np.array([0, 0, 1, 2, 0, 0, 0, 0])
    assert _measure(np.zeros((8, 4)), labels).train_accuracy == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(9, int)}, r"integers of shape \(10,\).* int64 \(9,\)"),
        ({"labels": np.zeros(10)}, r"integers of shape \(10,\).* float64"),
        ({"labels": np.full(10, 3)}, r"lie in \[0, 2\], got 3 to 3"),
        ({"labels": np.full(10, -1)}, r"lie in \[0, 2\], got -1"),
        ({"delta": np.full((10, 4), np.nan)}, "not finite"),
        ({"delta": np.full((10, 4), np.inf)}, "not finite"),
        ({"held_out": 0.01}, "held_out 0.01 of 10 .* 10 to fit and 0 to test"),
        ({"held_out": 1}, "leaves 0 to fit"),
        ({"held_out": 0}, "held_out is 0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_bad_input(change, message):
    given = {"delta": np.ones((10, 4)), "labels": np.zeros(10, int)} | change
    with pytest.raises(ValueError, match=message):
        _measure(given.pop("delta"), given.pop("labels"), **given)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_an_offset_in_a_wide_type_hides_nothing(dtype):
    delta, labels = _noise(60, values=4)
    delta[..., 0, 0] += 9 * np.eye(CLASSES, 4)[labels]
    delta = (1000 * delta).astype(dtype)
    assert _measure(delta + dtype(3e12), labels) == _measure(delta, labels)
