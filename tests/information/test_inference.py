"""Inference: permutation tests, subsampling intervals and extrapolation."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information.inference import (
    extrapolate,
    permutation_test,
    subsample_interval,
)

TRUE_CORRELATION = 0.6
TRUE_INFORMATION = -0.5 * np.log(1 - TRUE_CORRELATION**2)


def gaussian_information(x, y):
    """Plug-in estimate for one-dimensional normal pairs."""
    x, y = x[:, 0] - jnp.mean(x), y[:, 0] - jnp.mean(y)
    squared = jnp.square(jnp.mean(x * y)) / (jnp.mean(x * x) * jnp.mean(y * y))
    return -0.5 * jnp.log1p(-squared)


def gaussian_information_in_many_dimensions(x, y):
    """Plug-in estimate, biased by about dx dy / 2N."""

    def logdet(samples):
        return jnp.linalg.slogdet(jnp.cov(samples, rowvar=False))[1]

    return 0.5 * (logdet(x) + logdet(y) - logdet(jnp.concatenate([x, y], axis=1)))


def normal_pairs(key, size, correlation=TRUE_CORRELATION):
    x, noise = jax.random.normal(key, (2, size, 1))
    return x, correlation * x + np.sqrt(1 - correlation**2) * noise


def label_pairs(key, size, spread=0.2):
    """Two classes: x and y share the label and, given it, nothing."""
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.bernoulli(label_key, shape=(size,)).astype(jnp.int32)
    x, y = jax.random.normal(noise_key, (2, size, 1)) * spread
    return x + labels[:, None], y + labels[:, None], labels


# Permutation tests --------------------------------------------------------------------


def test_dependent_pairs_get_the_smallest_p_value():
    x, y = normal_pairs(jax.random.key(0), 200)
    test = permutation_test(
        jax.random.key(1), gaussian_information, x, y, num_permutations=99
    )
    assert test.null.shape == (99,)
    np.testing.assert_allclose(test.value, gaussian_information(x, y), rtol=1e-5)
    np.testing.assert_allclose(test.p_value, 1 / 100, rtol=1e-6)


def test_p_value_counts_ties_and_nan_against_rejection():
    x, y = normal_pairs(jax.random.key(0), 50)
    key = jax.random.key(1)
    first = y[0, 0]
    mean = permutation_test(key, lambda x, y: jnp.mean(x), x, y, num_permutations=19)
    assert mean.p_value == 1  # the same for every permutation of y
    with pytest.warns(
        UserWarning, match=r"1\d of 19 estimates on permuted samples are"
    ):
        test = permutation_test(
            key,
            lambda x, y: jnp.where(y[0, 0] == first, 1.0, jnp.nan),
            x,
            y,
            num_permutations=19,
        )
    assert test.p_value == 1


@pytest.mark.parametrize(
    "function", [permutation_test, subsample_interval, extrapolate]
)
def test_nothing_follows_from_an_estimate_that_is_nan(function):
    x, y = normal_pairs(jax.random.key(0), 50)
    key = jax.random.key(1)

    def estimator(x, y):
        return jnp.mean(x) * jnp.nan

    with pytest.raises(ValueError, match="estimate on the 50 samples is nan"):
        function(key, estimator, x, y)
    found = jax.jit(lambda x, y: function(key, estimator, x, y))(x, y)
    assert np.isnan(found.value)
    if function is permutation_test:
        assert np.isnan(found.p_value)
    if function is subsample_interval:
        assert found.biased


@pytest.mark.parametrize("function", [subsample_interval, extrapolate])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_nothing_follows_from_parts_without_an_estimate(function, value):
    x, y = normal_pairs(jax.random.key(0), 50)
    with pytest.raises(ValueError, match=f"on parts of 10 samples is {value}"):
        function(
            jax.random.key(1),
            lambda x, y: jnp.mean(x) + (value if len(x) == 10 else 0),
            *(x, y),
            num_parts=(2, 5),
        )


def test_permutations_permute_rows_and_stay_within_classes():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2])
    y = np.stack([np.arange(8), labels], axis=1).astype(np.float32)

    def class_is_kept(x, y):
        rows = jnp.sort(y[:, 0])
        kept = jnp.all(y[:, 1] == x[:, 0]) & jnp.all(rows == jnp.arange(8))
        moved = jnp.sum(y[:, 0] != jnp.arange(8))
        return jnp.where(kept, moved.astype(jnp.float32), -1)

    test = permutation_test(
        jax.random.key(0), class_is_kept, labels.astype(np.float32), y, labels=labels
    )
    assert test.value == 0
    assert test.null.min() >= 0, "a row left its class or was lost"
    # Each of 3! 2! 3! orders equally often: 8 - 3 = 5 rows move on average.
    np.testing.assert_allclose(test.null.mean(), 5, atol=0.5)
    free = permutation_test(
        jax.random.key(0), class_is_kept, labels.astype(np.float32), y
    )
    assert free.null.min() == -1, "global permutation kept to the classes"


def test_shared_label_is_found_globally_but_not_within_classes():
    x, y, labels = label_pairs(jax.random.key(0), 400)
    key = jax.random.key(1)
    globally = permutation_test(key, gaussian_information, x, y)
    within = permutation_test(key, gaussian_information, x, y, labels=labels)
    assert globally.p_value == pytest.approx(1 / 200)
    assert within.p_value > 0.05
    # The null within classes is centered on the label's information, not on 0.
    np.testing.assert_allclose(within.null.mean(), within.value, rtol=0.1)


def test_dependence_beyond_the_label_is_found_within_classes():
    x, y, labels = label_pairs(jax.random.key(0), 400)
    y = y + 0.5 * (x - labels[:, None])
    test = permutation_test(
        jax.random.key(1), gaussian_information, x, y, labels=labels
    )
    assert test.p_value == pytest.approx(1 / 200)


def test_permutation_test_is_reproducible_batched_and_jitted():
    x, y = normal_pairs(jax.random.key(0), 60, correlation=0.1)

    def run(key, x, y, **options):
        return permutation_test(
            key, gaussian_information, x, y, num_permutations=19, **options
        )

    test = run(jax.random.key(1), x, y)
    for other in (
        run(jax.random.key(1), x, y),
        run(jax.random.key(1), x, y, batch_size=8),
        jax.jit(run)(jax.random.key(1), x, y),
    ):
        np.testing.assert_allclose(test.null, other.null, rtol=1e-5, atol=1e-7)
        assert test.p_value == other.p_value
    assert not np.allclose(test.null, run(jax.random.key(2), x, y).null)


def null_p_values(within, repetitions=400):
    def p_value(key):
        data_key, test_key = jax.random.split(key)
        if within:
            x, y, labels = label_pairs(data_key, 40)
        else:
            (x, y), labels = normal_pairs(data_key, 40, correlation=0.0), None
        return permutation_test(
            test_key,
            gaussian_information,
            x,
            y,
            num_permutations=99,
            labels=labels,
            batch_size=99,
        ).p_value

    keys = jax.random.split(jax.random.key(5), repetitions)
    return np.asarray(jax.jit(jax.vmap(p_value))(keys))


@pytest.mark.slow
@pytest.mark.parametrize("within", [False, True])
def test_p_values_are_uniform_under_the_null(within):
    values = np.sort(null_p_values(within))
    # Kolmogorov-Smirnov; p-values are multiples of 1 / 100, hence the second term.
    steps = np.arange(1, len(values) + 1) / len(values)
    distance = np.max(np.maximum(steps - values, values - steps + 1 / len(values)))
    assert distance < 1.63 / np.sqrt(len(values)) + 1 / 100, "1 % level"


# Subsampling --------------------------------------------------------------------------


def true_standard_error(size):
    """Of the plug-in estimate, by the delta method."""
    return TRUE_CORRELATION / np.sqrt(size)


def test_subsampling_finds_the_standard_error():
    size = 2000
    x, y = normal_pairs(jax.random.key(0), size)
    result = subsample_interval(
        jax.random.key(1),
        gaussian_information,
        x,
        y,
        num_parts=(2, 5, 10, 20, 40),
        num_splits=8,
    )
    want = true_standard_error(size)
    np.testing.assert_allclose(result.standard_error, want, rtol=0.35)
    np.testing.assert_allclose(result.standard_errors[2:], want, rtol=0.5)
    np.testing.assert_array_equal(result.sizes, [2000, 1000, 400, 200, 100, 50])
    assert result.value == pytest.approx(float(gaussian_information(x, y)), rel=1e-5)
    assert result.lower < TRUE_INFORMATION < result.upper
    margin = 1.959964 * result.standard_error
    np.testing.assert_allclose(result.upper - result.value, margin, rtol=1e-4)
    np.testing.assert_allclose(result.value - result.lower, margin, rtol=1e-4)
    assert not result.biased


def test_variance_of_the_mean_is_exact_by_hand():
    # Two parts of two samples: the parts' means, whatever the split, vary like this.
    def mean(x, y):
        return jnp.mean(x)

    x = np.array([0.0, 0.0, 4.0, 4.0], np.float32)
    result = subsample_interval(
        jax.random.key(0), mean, x, x, num_parts=(2,), num_splits=200
    )
    # One split in three puts equal ones together: means 0 and 4, variance 8, over 2.
    np.testing.assert_allclose(result.standard_error**2, 8 / 2 / 3, rtol=0.25)
    np.testing.assert_allclose(result.means, [2, 2])


@pytest.mark.slow
def test_intervals_cover_at_their_level():
    def covered(key):
        data_key, split_key = jax.random.split(key)
        x, y = normal_pairs(data_key, 1000)
        result = subsample_interval(
            split_key, gaussian_information, x, y, num_parts=(5, 10, 20), level=0.9
        )
        return jnp.abs(result.value - TRUE_INFORMATION) < result.upper - result.value

    keys = jax.random.split(jax.random.key(7), 300)
    coverage = np.mean(jax.jit(jax.vmap(covered))(keys))
    # 0.9 less what estimating the variance costs; three standard errors of 300 trials.
    assert 0.83 < coverage < 0.96


def test_bias_is_flagged_where_it_exceeds_the_standard_error():
    x = jax.random.normal(jax.random.key(0), (600, 16))
    y = jax.random.normal(jax.random.key(1), (600, 16))
    result = subsample_interval(
        jax.random.key(2),
        gaussian_information_in_many_dimensions,
        x,
        y,
        num_parts=(2, 3, 4),
    )
    assert result.biased
    np.testing.assert_allclose(result.bias, 256 / 1200, rtol=0.4)
    assert np.all(np.diff(result.means) > 0), "less data, more bias"


# Extrapolation ------------------------------------------------------------------------


def test_extrapolation_is_exact_for_a_bias_of_one_over_size():
    def biased(x, y):
        return 3 + 20 / len(x) + 0 * jnp.mean(x)

    x = np.linspace(0, 1, 120, dtype=np.float32)
    result = extrapolate(jax.random.key(0), biased, x, x, num_parts=(2, 3, 5))
    np.testing.assert_allclose(result.value, 3, rtol=1e-5)
    np.testing.assert_allclose(result.slope, 20, rtol=1e-3)
    np.testing.assert_allclose(result.standard_error, 0, atol=1e-5)
    np.testing.assert_array_equal(result.sizes, [120, 60, 40, 24])


def test_extrapolation_removes_the_plug_in_bias():
    x = jax.random.normal(jax.random.key(0), (2000, 8))
    y = jax.random.normal(jax.random.key(1), (2000, 8))
    result = extrapolate(
        jax.random.key(2), gaussian_information_in_many_dimensions, x, y
    )
    bias = 64 / 4000
    assert result.means[0] > 0.5 * bias
    assert abs(result.value) < 0.4 * bias
    np.testing.assert_allclose(result.slope, 32, rtol=0.4)


def test_parts_are_disjoint_and_cover_the_samples():
    x = np.arange(12, dtype=np.float32)

    def total(x, y):
        return jnp.sum(x) + 1000 * jnp.sum(x != y)

    result = extrapolate(jax.random.key(0), total, x, x, num_parts=(2, 3, 4))
    np.testing.assert_allclose(result.means, x.sum() / np.array([1, 2, 3, 4]))


@pytest.mark.parametrize("function", [subsample_interval, extrapolate])
def test_subsampling_is_reproducible_and_jitted(function):
    x, y = normal_pairs(jax.random.key(0), 100)

    def run(key, x, y):
        return function(key, gaussian_information, x, y, num_parts=(2, 5))

    result, again = run(jax.random.key(1), x, y), run(jax.random.key(1), x, y)
    jitted = jax.jit(run)(jax.random.key(1), x, y)
    other = run(jax.random.key(2), x, y)
    for name, value in result._asdict().items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)
        np.testing.assert_allclose(
            value, getattr(jitted, name), rtol=1e-4, atol=1e-6, err_msg=name
        )
    assert result.standard_error != other.standard_error


def _information(x, y):
    xp = np if isinstance(x, np.ndarray) else jnp
    return -0.5 * xp.log(1 - xp.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)


def test_what_is_not_compiled_sees_the_same_parts_and_permutations():
    key = jax.random.key(3)
    x, y = normal_pairs(key, 203)
    labels = np.arange(203) % 3
    calls = []

    def estimator(x, y):
        calls.append((type(x), type(y)))
        return _information(x, y)

    for options, each in (
        ({"num_parts": (2, 5)}, subsample_interval),
        ({"num_permutations": 19}, permutation_test),
        ({"num_permutations": 19, "labels": labels}, permutation_test),
    ):
        want = each(key, _information, x, y, **options)
        found = each(key, estimator, x, y, compiled=False, **options)
        for one, other in zip(found, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
    assert set(calls) == {(np.ndarray, np.ndarray)}
    assert len(calls) == 1 + 4 * (2 + 5) + 2 * (1 + 19)


@pytest.mark.parametrize("function", [subsample_interval, permutation_test])
def test_what_is_not_compiled_needs_samples_that_are_known(function):
    key = jax.random.key(0)
    x, y = normal_pairs(key, 50)
    with pytest.raises(ValueError, match="compiled is False, which needs samples"):
        jax.jit(lambda x: function(key, _information, x, y, compiled=False))(x)
    with pytest.raises(ValueError, match="compiled"):
        function(key, _information, x, y, compiled="no")
    with pytest.raises(ValueError, match="which nothing follows"):
        function(key, lambda x, y: np.nan, x, y, compiled=False)


def test_inference_in_float64():
    with jax.enable_x64(True):
        x, y = (np.asarray(a, np.float64) for a in normal_pairs(jax.random.key(0), 60))
        key = jax.random.key(1)
        results = (
            permutation_test(key, gaussian_information, x, y, num_permutations=9),
            subsample_interval(key, gaussian_information, x, y, num_parts=(2, 3)),
            extrapolate(key, gaussian_information, x, y, num_parts=(2, 3)),
        )
        for result in results:
            for name, value in result._asdict().items():
                assert value.dtype == (bool if name == "biased" else np.float64), name


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("miue_jax.information.estimators.ksg") is None,
    reason="the nearest-neighbor estimator is not there",
)
def test_with_nearest_neighbors():
    from miue_jax.information.estimators.ksg import ksg

    def neighbors(x, y):
        return ksg(x, y).value

    x, y = normal_pairs(jax.random.key(0), 400)
    test = permutation_test(jax.random.key(1), neighbors, x, y, num_permutations=19)
    assert test.p_value == pytest.approx(1 / 20)
    assert abs(test.null.mean()) < 0.03
    interval = subsample_interval(jax.random.key(1), neighbors, x, y, num_parts=(2, 5))
    assert abs(interval.value - TRUE_INFORMATION) < 4 * interval.standard_error
    # Between half and twice that of the plug-in estimate, the best one on normal pairs.
    ratio = interval.standard_error / true_standard_error(400)
    assert 0.5 < ratio < 3


# Bad input ----------------------------------------------------------------------------

GOOD = np.random.default_rng(0).standard_normal((20, 1))
BAD_LABELS = {
    "has one sample": np.array([0] * 10 + [1] * 9 + [7]),
    "at least 0": np.full(20, -1),
    r"\(20,\) integers": np.zeros(19, int),
    "float": np.zeros(20),
}


@pytest.mark.parametrize("message", BAD_LABELS)
def test_bad_labels_are_refused(message):
    with pytest.raises(ValueError, match=message):
        permutation_test(
            jax.random.key(0),
            gaussian_information,
            GOOD,
            GOOD,
            labels=BAD_LABELS[message],
        )


BAD_CALLS = {
    "num_permutations is 0": (permutation_test, {"num_permutations": 0}),
    "level is 1": (subsample_interval, {"level": 1}),
    "must hold different": (subsample_interval, {"num_parts": (2, 2)}),
    "different numbers": (extrapolate, {"num_parts": ()}),
    "from 2 to 10": (extrapolate, {"num_parts": (2, 11)}),
    "each must be from 2": (subsample_interval, {"num_parts": (1, 2)}),
    "at least 2": (extrapolate, {"num_splits": 1}),
    "num_splits is 0": (subsample_interval, {"num_splits": 0}),
    "num_splits is 2.5": (extrapolate, {"num_splits": 2.5}),
    "num_parts is 2.5": (subsample_interval, {"num_parts": (2.5, 5)}),
    "num_parts is 4": (extrapolate, {"num_parts": 4}),
    "level is 'high'": (subsample_interval, {"level": "high"}),
    "num_permutations is True": (permutation_test, {"num_permutations": True}),
    "batch_size is 0": (permutation_test, {"batch_size": 0}),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_options_are_refused(message):
    function, options = BAD_CALLS[message]
    with pytest.raises(ValueError, match=message):
        function(jax.random.key(0), gaussian_information, GOOD, GOOD, **options)


@pytest.mark.parametrize(
    "function", [permutation_test, subsample_interval, extrapolate]
)
def test_bad_samples_and_estimators_are_refused(function):
    key = jax.random.key(0)
    for wrong in (0, None, jax.random.split(key), np.zeros(3, np.uint32)):
        with pytest.raises(ValueError, match="must be one key"):
            function(wrong, gaussian_information, GOOD, GOOD)
    bad = GOOD.copy()
    bad[3] = np.nan
    with pytest.raises(ValueError, match="x holds nan at row 3"):
        function(key, gaussian_information, bad, GOOD)
    with pytest.raises(ValueError, match="x holds 20 samples and y 19"):
        function(key, gaussian_information, GOOD, GOOD[1:])
    with pytest.raises(ValueError, match="floating-point scalar"):
        function(key, lambda x, y: x, GOOD, GOOD)
    with pytest.raises(ValueError, match="tuple"):
        function(key, lambda x, y: (x, y), GOOD, GOOD)
