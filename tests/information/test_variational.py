"""Variational bounds: score matrices by hand, best critics, trained critics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from miue_jax.information.estimators.critic import BOUNDS, critic_scores, fit_critic
from miue_jax.information.estimators.fitting import FitConfig, fit
from miue_jax.information.estimators.score_bounds import (
    donsker_varadhan,
    evaluate,
    infonce,
    jensen_shannon,
    nwj,
    smile,
)
from miue_jax.information.estimators.variational import variational

SIZE = 3000
SMALL = FitConfig(hidden=64, batch_size=128, learning_rate=3e-3, max_steps=500)
FUNCTIONS = {
    "infonce": infonce,
    "nwj": nwj,
    "dv": donsker_varadhan,
    "smile": functools.partial(smile, clip=1.5),
    "jensen_shannon": jensen_shannon,
}
COMPILED = {name: jax.jit(function) for name, function in FUNCTIONS.items()}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_bound = pytest.mark.parametrize("bound", BOUNDS)
# (6, 6) only, so that everything is compiled once.
matrices = arrays(
    np.float32, (6, 6), elements=st.floats(-30, 30, width=32, allow_nan=False)
)


def score_matrix(size=6, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (size, size))


def normal_pairs(size, correlation, dim=1, seed=0, dtype=np.float32):
    x, noise = np.random.default_rng(seed).standard_normal((2, size, dim))
    y = correlation * x + np.sqrt(1 - correlation**2) * noise
    return x.astype(dtype), y.astype(dtype)


def information(correlation, dim=1):
    return -0.5 * dim * np.log(1 - correlation**2)


# Score matrices -----------------------------------------------------------------------


def by_hand(name, scores):
    size = len(scores)
    joint = sum(scores[i, i] for i in range(size)) / size
    pairs = [scores[i, j] for i in range(size) for j in range(size) if i != j]
    if name == "infonce":
        rows = [np.log(sum(np.exp(row)) / size) for row in scores]
        return sum(scores[i, i] - rows[i] for i in range(size)) / size
    if name == "nwj":
        return 1 + joint - np.mean(np.exp(pairs))
    if name == "dv":
        return joint - np.log(np.mean(np.exp(pairs)))
    if name == "smile":
        return joint - np.log(np.mean(np.exp(np.clip(pairs, -1.5, 1.5))))
    negatives = np.mean([np.log(1 + np.exp(score)) for score in pairs])
    return -np.mean(np.log(1 + np.exp(-np.diagonal(scores)))) - negatives


@every_function
def test_score_functions_equal_loops(name):
    scores = score_matrix()
    with jax.enable_x64(True):
        value = COMPILED[name](scores)
        assert value.dtype == np.float64
    np.testing.assert_allclose(value, by_hand(name, scores), rtol=1e-12)
    value = COMPILED[name](scores.astype(np.float32))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, by_hand(name, scores), rtol=1e-4)


def test_two_by_two_by_hand():
    scores = np.log(np.array([[4.0, 1.0], [2.0, 8.0]]))
    with jax.enable_x64(True):
        # log 4/2.5 and log 8/5; joint mean log 32 / 2, off-diagonal mean 1.5.
        np.testing.assert_allclose(COMPILED["infonce"](scores), np.log(1.6), rtol=1e-12)
        joint = np.log(32) / 2
        np.testing.assert_allclose(COMPILED["nwj"](scores), joint - 0.5, rtol=1e-12)
        np.testing.assert_allclose(
            COMPILED["dv"](scores), joint - np.log(1.5), rtol=1e-12
        )


@given(matrices)
@settings(max_examples=200, deadline=None)
def test_infonce_is_at_most_log_size(scores):
    assert COMPILED["infonce"](scores) <= np.log(6) + 1e-5


@given(matrices)
@settings(max_examples=100, deadline=None)
def test_donsker_varadhan_is_at_least_nwj(scores):
    value, lower = COMPILED["dv"](scores), COMPILED["nwj"](scores)
    assert value >= lower - 1e-5 * (1 + abs(lower))


def test_infonce_reaches_log_size_and_large_diagonals_underflow_nothing():
    scores = np.where(np.eye(6, dtype=bool), 300, 0).astype(np.float32)
    np.testing.assert_allclose(COMPILED["infonce"](scores), np.log(6), rtol=1e-4)
    np.testing.assert_allclose(COMPILED["dv"](scores), 300, rtol=1e-6)
    np.testing.assert_allclose(COMPILED["nwj"](scores), 300, rtol=1e-6)
    np.testing.assert_allclose(COMPILED["smile"](scores), 300, rtol=1e-6)


def test_invariances_of_the_score_functions():
    scores = score_matrix().astype(np.float32)
    of_x = score_matrix(seed=1).astype(np.float32)[:, :1]
    for name, moved in (("infonce", scores + of_x), ("dv", scores + 3)):
        np.testing.assert_allclose(
            COMPILED[name](scores), COMPILED[name](moved), rtol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(
        jax.jit(functools.partial(smile, clip=np.inf))(scores),
        COMPILED["dv"](scores),
        rtol=1e-5,
    )


@every_function
def test_weights_are_repetitions_and_their_scale_does_not_matter(name):
    scores = score_matrix(3).astype(np.float32)
    function = FUNCTIONS[name]
    weights = np.array([2.0, 1.0, 1.0])
    value = function(scores, weights=weights)
    np.testing.assert_allclose(value, function(scores, weights=5 * weights), rtol=1e-5)
    rows = np.repeat(np.arange(3), [2, 1, 1])
    repeated = scores[rows][:, rows]
    if name != "infonce":  # pairs of a sample with its copy are left out
        equal = function(scores, weights=np.ones(3))
        np.testing.assert_allclose(function(scores), equal, rtol=1e-5)
        assert abs(value - equal) > 1e-3
    else:
        np.testing.assert_allclose(value, function(repeated), rtol=1e-5)


@every_function
def test_score_functions_have_finite_gradients(name):
    scores = np.where(np.eye(6, dtype=bool), 60, -60).astype(np.float32)
    gradient = jax.jit(jax.grad(FUNCTIONS[name]))(scores)
    assert np.all(np.isfinite(gradient))


def log_density_ratio(x, y, correlation):
    square = correlation**2
    quadratic = 2 * correlation * x @ y.T - square * (
        jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)
    )
    return quadratic / (2 * (1 - square)) - 0.5 * x.shape[1] * jnp.log(1 - square)


@functools.partial(jax.jit, static_argnames=("repetitions", "size", "dim"))
def best_critic_values(key, correlation, *, repetitions, size, dim):
    def values(key):
        x, noise = jax.random.normal(key, (2, size, dim))
        y = correlation * x + jnp.sqrt(1 - correlation**2) * noise
        scores = log_density_ratio(x, y, correlation)
        return infonce(scores), nwj(scores), donsker_varadhan(scores)

    return jax.lax.map(values, jax.random.split(key, repetitions), batch_size=50)


@pytest.mark.parametrize(
    ("nats", "want"), [(1, 0.95), (3, 2.61), (6, 3.91), (12, 4.16)]
)
def test_infonce_with_the_best_critic(nats, want):
    dim = 5
    correlation = np.sqrt(-np.expm1(-2 * nats / dim))
    value, _, _ = best_critic_values(
        jax.random.key(nats), correlation, repetitions=400, size=64, dim=dim
    )
    np.testing.assert_allclose(value.mean(), want, atol=0.06)
    assert value.max() <= np.log(64) + 1e-5


def test_nwj_with_the_best_critic_is_unbiased():
    value = best_critic_values(jax.random.key(0), 0.6, repetitions=400, size=64, dim=1)[
        1
    ]
    error = value.std() / np.sqrt(len(value))
    assert abs(value.mean() - information(0.6)) < 4 * error < 0.05


# Evaluation ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["infonce", "nwj", "dv", "smile"])
def test_standard_error_is_the_spread_over_samples(name):
    function = FUNCTIONS[name]

    @jax.jit
    def estimates(key):
        def one(key):
            x, noise = jax.random.normal(key, (2, 150, 1))
            result = evaluate(
                lambda x, y: log_density_ratio(x, y, 0.6),
                lambda scores, weights: function(scores, weights=weights),
                x,
                0.6 * x + 0.8 * noise,
                batch_size=75,
            )
            return result.value, result.standard_error

        return jax.lax.map(one, jax.random.split(key, 400), batch_size=50)

    values, errors = estimates(jax.random.key(3))
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), values.std(), rtol=0.15)


def test_blocks_share_out_the_samples():
    x = np.arange(11, dtype=np.float32)[:, None]
    result = evaluate(
        lambda x, y: x @ y.T, lambda s, w: jnp.sum(w) * len(s), x, x, batch_size=4
    )
    # 11 samples in 3 blocks of 3; two are left out.
    assert (result.block_size, result.num_samples) == (3, 9)
    assert result.value == 3


# Training -----------------------------------------------------------------------------


def quadratic_fit(config, loss=None, score=None):
    data = jnp.linspace(-1, 1, 32) + 2

    def default_loss(params, carry, indices):
        return jnp.mean(jnp.square(params - data[indices])), carry + 1

    return fit(
        jax.random.key(0),
        jnp.zeros(()),
        jnp.zeros(()),
        loss or default_loss,
        score or (lambda params: -jnp.square(params - 2)),
        num_samples=32,
        config=config,
    )


def test_fit_finds_the_minimum():
    config = FitConfig(batch_size=8, learning_rate=0.05, max_steps=400)
    result = quadratic_fit(config)
    np.testing.assert_allclose(result.params, 2, atol=0.05)
    assert 0 < result.best_step <= result.steps <= 400


def test_fit_stops_and_keeps_the_best_parameters():
    # The score is best at 1; the loss leads on to 2.
    config = FitConfig(
        batch_size=8, learning_rate=0.02, max_steps=4000, steps_per_round=4, patience=3
    )
    result = quadratic_fit(config, score=lambda params: -jnp.square(params - 1))
    np.testing.assert_allclose(result.params, 1, atol=0.08)
    assert result.steps == result.best_step + 3 * 4
    np.testing.assert_allclose(result.score, -((result.params - 1) ** 2), atol=1e-6)


def test_fit_that_diverges_returns_the_initial_parameters():
    config = FitConfig(batch_size=8, max_steps=4000, steps_per_round=4, patience=2)
    result = quadratic_fit(
        config, loss=lambda params, carry, indices: (params * jnp.nan, carry)
    )
    assert result.params == 0
    assert (result.best_step, result.steps) == (0, 8)


@functools.cache
def small_estimate(bound, correlation, seed=0):
    x, y = normal_pairs(SIZE, correlation, seed=seed)
    return variational(jax.random.key(seed), x, y, bound=bound, config=SMALL)


@every_bound
def test_learned_information_of_normal_pairs(bound):
    result = small_estimate(bound, 0.8)
    assert result.kind == ("estimate" if bound == "smile" else "lower")
    tolerance = 0.06 + 3 * result.standard_error
    assert abs(result.value - information(0.8)) < tolerance < 0.35
    assert 0 < result.diagnostics["best_step"] <= result.diagnostics["steps"]
    assert not result.diagnostics["near_ceiling"]
    assert not result.diagnostics["above_log_samples"]


@every_bound
def test_learned_information_of_independent_pairs_is_none(bound):
    result = small_estimate(bound, 0.0)
    assert abs(result.value) < 0.03 + 3 * result.standard_error < 0.15
    assert result.diagnostics["steps"] < 500, "early stopping did not stop"


def test_ceiling_is_flagged_and_never_exceeded():
    x, _ = normal_pairs(1500, 0, dim=4)
    config = FitConfig(hidden=32, batch_size=64, max_steps=300, evaluation_batch_size=9)
    result = variational(jax.random.key(0), x, x, config=config)
    # 300 evaluation samples in 34 blocks of 8.
    np.testing.assert_allclose(result.diagnostics["ceiling"], np.log(8), rtol=1e-6)
    np.testing.assert_allclose(result.diagnostics["log_samples"], np.log(272))
    assert result.diagnostics["near_ceiling"]
    assert result.value <= np.log(8) + 1e-5
    assert not result.diagnostics["above_log_samples"]
    other = small_estimate("nwj", 0.8)
    assert other.diagnostics["ceiling"] == np.inf


def test_value_above_log_samples_is_flagged():
    x, _ = normal_pairs(1500, 0, dim=4)
    config = FitConfig(
        hidden=32, batch_size=64, max_steps=600, evaluation_fraction=0.004
    )
    result = variational(jax.random.key(0), x, x, bound="smile", config=config)
    assert result.value > result.diagnostics["log_samples"] == np.log(np.float32(6))
    assert result.diagnostics["above_log_samples"]


def test_units_and_heavy_tails_do_not_matter():
    x, y = normal_pairs(SIZE, 0.8)
    want = small_estimate("infonce", 0.8).value
    moved = variational(jax.random.key(0), 1e3 * x - 7, y / 1e3, config=SMALL)
    np.testing.assert_allclose(moved.value, want, atol=0.02)
    # A monotone function with tails like Cauchy's: the same information.
    heavy = variational(jax.random.key(0), np.sinh(3 * x), y, config=SMALL)
    np.testing.assert_allclose(heavy.value, want, atol=0.1)


def test_constant_columns_carry_nothing():
    x, y = normal_pairs(SIZE, 0.8)
    constant = np.ones_like(x)
    result = variational(jax.random.key(0), constant, y, config=SMALL)
    np.testing.assert_allclose(result.value, 0, atol=1e-3)


def test_critic_is_evaluated_as_a_pure_function():
    x, y = normal_pairs(SIZE, 0.8)
    trained = fit_critic(jax.random.key(0), x, y, config=SMALL)
    fresh_x, fresh_y = normal_pairs(500, 0.8, seed=1)
    scores = critic_scores(trained.params, fresh_x, fresh_y)
    assert scores.shape == (500, 500)
    np.testing.assert_allclose(infonce(scores), information(0.8), atol=0.15)
    row = critic_scores(trained.params, fresh_x[:1, 0], fresh_y[:, 0])
    np.testing.assert_allclose(row[0], scores[0], rtol=1e-4, atol=1e-5)


def test_variational_is_reproducible_and_jitted():
    x, y = normal_pairs(SIZE, 0.8)
    result = small_estimate("infonce", 0.8)
    again = variational(jax.random.key(0), x, y, config=SMALL)
    assert result.value == again.value
    run = functools.partial(variational, config=SMALL)
    jitted = jax.jit(run)(jax.random.key(0), x, y)
    np.testing.assert_allclose(jitted.value, result.value, rtol=1e-3)
    assert jitted.kind == "lower"


@pytest.mark.slow
def test_variational_is_mapped_over_keys():
    x, y = normal_pairs(SIZE, 0.8)
    result = small_estimate("infonce", 0.8)
    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    run = functools.partial(variational, config=SMALL)
    mapped = jax.vmap(run, (0, None, None))(keys, x, y)
    # The same up to rounding, which training amplifies.
    np.testing.assert_allclose(mapped.value[0], result.value, atol=0.02)
    assert mapped.value[0] != mapped.value[1]


@pytest.mark.slow
def test_variational_in_float64():
    with jax.enable_x64(True):
        x, y = normal_pairs(SIZE, 0.8, dtype=np.float64)
        result = variational(jax.random.key(0), x, y, config=SMALL)
        assert result.value.dtype == result.standard_error.dtype == np.float64
        np.testing.assert_allclose(result.value, information(0.8), atol=0.15)


# What the defaults do: 5,000 samples --------------------------------------------------


@pytest.mark.slow
def test_defaults_on_normal_pairs_of_five_dimensions():
    x, y = normal_pairs(5000, 0.6, dim=5)
    result = variational(jax.random.key(0), x, y)
    assert 0.75 * information(0.6, 5) < result.value
    assert result.value < information(0.6, 5) + 3 * result.standard_error


@pytest.mark.slow
def test_defaults_on_clusters_of_512_dimensions():
    # All that is shared is the label: log 10.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 5000)
    centers = rng.standard_normal((10, 512)) / np.sqrt(512)
    x, y = centers[labels] + rng.standard_normal((2, 5000, 512)) * np.sqrt(0.1 / 512)
    result = variational(jax.random.key(0), x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(result.value, np.log(10), atol=0.05)


# Bad input ----------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize(
    ("scores", "weights", "message"),
    [
        (np.zeros((2, 3)), None, r"\(2, 3\); they must be \(K, K\)"),
        (np.zeros(4), None, r"\(4,\)"),
        (np.zeros((1, 1)), None, "K >= 2"),
        (np.zeros((2, 2)), np.ones(3), r"weights have shape \(3,\)"),
    ],
)
def test_bad_scores_are_refused(name, scores, weights, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](scores, weights=weights)


@pytest.mark.parametrize("clip", [0, -1.0, np.nan])
def test_bad_clip_is_refused(clip):
    with pytest.raises(ValueError, match="clip is"):
        smile(np.zeros((2, 2)), clip=clip)
    with pytest.raises(ValueError, match="clip is"):
        variational(jax.random.key(0), np.ones(9), np.ones(9), clip=clip)


def test_bad_samples_are_refused():
    key = jax.random.key(0)
    x, y = normal_pairs(100, 0.5)
    with pytest.raises(ValueError, match="at least 128 and 2 are needed"):
        variational(key, x[:70], y[:70], config=SMALL)
    with pytest.raises(ValueError, match="64 are left to train on and 16"):
        fit_critic(key, x[:80], y[:80], config=FitConfig(batch_size=65))
    with pytest.raises(ValueError, match="x holds 100 samples and y 99"):
        variational(key, x, y[:99], config=SMALL)
    y[4] = np.nan
    with pytest.raises(ValueError, match="y holds nan at row 4"):
        variational(key, x, y, config=SMALL)
    with pytest.raises(ValueError, match="at least 8 are needed"):
        variational(key, x[:7], x[:7], config=SMALL)


def test_bad_options_are_refused():
    x, y = normal_pairs(100, 0.5)
    with pytest.raises(ValueError, match="llowed: infonce, nwj, dv, smile"):
        variational(jax.random.key(0), x, y, bound="mine")
    with pytest.raises(ValueError, match="embedding is 0"):
        fit_critic(jax.random.key(0), x, y, embedding=0, config=SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", 0),
        ("depth", 0),
        ("batch_size", 1),
        ("evaluation_batch_size", 1),
        ("max_steps", 0),
        ("steps_per_round", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("validation_fraction", 1.0),
        ("evaluation_fraction", 0.0),
    ],
)
def test_bad_configs_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        FitConfig(**{name: value})
