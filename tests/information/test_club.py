"""CLUB: matrices by hand, the true conditional law, a trained one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information.estimators.club import (
    club,
    contrastive_log_ratio,
    fit_conditional,
    log_likelihoods,
)
from miue_jax.information.estimators.fitting import FitConfig

SMALL = FitConfig(hidden=32, batch_size=64, max_steps=400, patience=8)
ratio_jit = jax.jit(contrastive_log_ratio, static_argnames="leave_one_out")
both_forms = pytest.mark.parametrize("leave_one_out", [False, True])


def normal_pairs(size, correlation, dim=1, seed=0, dtype=np.float32):
    x, noise = np.random.default_rng(seed).standard_normal((2, size, dim))
    y = correlation * x + np.sqrt(1 - correlation**2) * noise
    return x.astype(dtype), y.astype(dtype)


def true_log_likelihoods(x, y, correlation):
    variance = 1 - correlation**2
    residuals = y.T - correlation * x
    return -0.5 * (residuals**2 / variance + np.log(2 * np.pi * variance))


@both_forms
def test_equals_loops(leave_one_out):
    matrix = np.random.default_rng(0).normal(0, 2, (5, 5))
    others = [[matrix[i, j] for i in range(5) if i != j] for j in range(5)]
    if leave_one_out:
        product = np.mean([np.log(np.mean(np.exp(column))) for column in others])
    else:
        product = np.mean(others)
    want = np.mean(np.diagonal(matrix)) - product
    with jax.enable_x64(True):
        value = ratio_jit(matrix, leave_one_out=leave_one_out)
        weighted = ratio_jit(
            matrix, leave_one_out=leave_one_out, weights=np.full(5, 3.0)
        )
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(weighted, want, rtol=1e-12)


@both_forms
def test_q_that_ignores_x_gives_exactly_zero(leave_one_out):
    # Of a dependence of any strength: CLUB with a learned q is no bound.
    row = -np.random.default_rng(0).exponential(50, 40).astype(np.float32)
    matrix = np.broadcast_to(row, (40, 40))
    assert ratio_jit(matrix, leave_one_out=leave_one_out) == 0


@pytest.mark.parametrize(
    ("nats", "want"), [(0.1, 0.2), (1.0, 6.4), (2.0, 53.6), (3.0, 402.4)]
)
def test_true_conditional_law_is_an_upper_bound(nats, want):
    correlation = np.sqrt(-np.expm1(-2 * nats))
    x, y = normal_pairs(2000, correlation, dtype=np.float64)
    matrix = true_log_likelihoods(x, y, correlation).astype(np.float32)
    value = ratio_jit(matrix)
    exact = correlation**2 / (1 - correlation**2)
    np.testing.assert_allclose(exact, want, rtol=0.11)  # the table's rounding at 0.1
    np.testing.assert_allclose(value, exact, rtol=0.12)
    tighter = ratio_jit(matrix, leave_one_out=True)
    assert nats - 0.1 < tighter < value
    np.testing.assert_allclose(tighter, nats, atol=0.15)


def test_log_likelihoods_are_densities_of_y():
    x, y = normal_pairs(1000, 0.6)
    y = 40 * y + 9
    trained = fit_conditional(jax.random.key(0), x, y, config=SMALL)
    grid = np.linspace(-400, 420, 4001, dtype=np.float32)
    densities = np.exp(log_likelihoods(trained.params, x[:5], grid))
    assert densities.shape == (5, 4001)
    mass = densities.sum(1) * (grid[1] - grid[0])
    np.testing.assert_allclose(mass, 1, rtol=1e-3)
    means = densities @ grid / densities.sum(1)
    np.testing.assert_allclose(means, 24 * x[:5, 0] + 9, atol=9)


def test_log_likelihoods_survive_small_variances_in_float32():
    # Residuals of 1e-3 against means of order 1: products of squares would cancel.
    x, y = normal_pairs(1000, 0.6)
    trained = fit_conditional(jax.random.key(0), x, y, config=SMALL)
    weights, biases = trained.params.layers[-1]
    sharp = jnp.array([0.0, np.log(1e-6)], biases.dtype) + biases
    layers = (*trained.params.layers[:-1], (weights, sharp))
    params = trained.params._replace(layers=layers)
    value = np.asarray(log_likelihoods(params, x[:50], y[:50]))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        exact = log_likelihoods(wide, x[:50].astype(float), y[:50].astype(float))
    # What is left is rounding of the network's means, felt at a thousandth of scale.
    np.testing.assert_allclose(value, exact, rtol=2e-3, atol=0.05)


@functools.cache
def small_club(correlation, leave_one_out=False):
    x, y = normal_pairs(1500, correlation)
    return club(jax.random.key(0), x, y, leave_one_out=leave_one_out, config=SMALL)


def test_learned_values_on_normal_pairs():
    loose, tight = small_club(0.6), small_club(0.6, leave_one_out=True)
    assert loose.kind == tight.kind == "estimate"
    exact = 0.36 / 0.64
    assert abs(loose.value - exact) < 0.05 + 3 * loose.standard_error < 0.35
    information = -0.5 * np.log(0.64)
    assert abs(tight.value - information) < 0.03 + 3 * tight.standard_error < 0.2
    assert 0 < loose.diagnostics["best_step"] <= loose.diagnostics["steps"]


@both_forms
def test_learned_value_of_independent_pairs_is_none(leave_one_out):
    result = small_club(0.0, leave_one_out)
    assert abs(result.value) < 0.03 + 3 * result.standard_error < 0.15


def test_units_do_not_matter_and_constants_carry_nothing():
    x, y = normal_pairs(1500, 0.6)
    moved = club(jax.random.key(0), 1e3 * x - 7, y / 1e3 + 2, config=SMALL)
    np.testing.assert_allclose(moved.value, small_club(0.6).value, atol=0.05)
    constant = club(jax.random.key(0), np.ones_like(x), y, config=SMALL)
    np.testing.assert_allclose(constant.value, 0, atol=1e-4)
    constant = club(jax.random.key(0), x, np.ones_like(y), config=SMALL)
    np.testing.assert_allclose(constant.value, 0, atol=1e-2)


def test_club_is_reproducible_jitted_and_in_float64():
    x, y = normal_pairs(1500, 0.6)
    result = small_club(0.6)
    again = club(jax.random.key(0), x, y, config=SMALL)
    assert result.value == again.value
    jitted = jax.jit(functools.partial(club, config=SMALL))(jax.random.key(0), x, y)
    np.testing.assert_allclose(jitted.value, result.value, rtol=1e-3)
    assert club(jax.random.key(1), x, y, config=SMALL).value != result.value
    with jax.enable_x64(True):
        wide = club(jax.random.key(0), x.astype(float), y.astype(float), config=SMALL)
        assert wide.value.dtype == wide.standard_error.dtype == np.float64
        np.testing.assert_allclose(wide.value, 0.36 / 0.64, atol=0.3)


def test_bad_input_is_refused():
    key = jax.random.key(0)
    x, y = normal_pairs(100, 0.5)
    with pytest.raises(ValueError, match="at least 64 and 2 are needed"):
        club(key, x[:70], y[:70], config=SMALL)
    with pytest.raises(ValueError, match="at least 65 and 2 are needed"):
        fit_conditional(key, x[:80], y[:80], config=FitConfig(batch_size=65))
    with pytest.raises(ValueError, match="x holds 100 samples and y 99"):
        club(key, x, y[:99], config=SMALL)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        contrastive_log_ratio(np.zeros((2, 3)))
    y[4] = np.inf
    with pytest.raises(ValueError, match="y holds inf at row 4"):
        club(key, x, y, config=SMALL)
