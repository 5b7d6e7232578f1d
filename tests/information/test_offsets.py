"""A large offset costs no digits of what is given in float64; labels in range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information import bounds, estimators, inference
from miue_jax.information._core import check_pair, check_samples, known_samples

SIZE, CLASSES, FAR = 120, 3, 1.7e9
SMALL = estimators.FitConfig(
    hidden=8, depth=1, batch_size=16, max_steps=8, steps_per_round=4, patience=2
)
RNG = np.random.default_rng(0)
LABELS = np.arange(SIZE) % CLASSES
X = RNG.standard_normal((SIZE, 2)) + LABELS[:, None]
# Numbers that float64 holds beside the offset, so that only ours could lose digits.
X = np.round(X * 2**20) / 2**20
Y = X + RNG.standard_normal((SIZE, 2))


def call(name, x, y=Y, labels=LABELS):
    options = {}
    if name in ("infonce", "nwj", "dv", "smile", "club"):
        options = {"config": SMALL}
    if name == "sliced":
        options = {"num_slices": 4}
    if name == "class_conditional_gaussian":
        options = {"components": None}
    return estimators.estimate(
        name,
        x,
        y,
        key=jax.random.key(0),
        labels=labels,
        num_classes=CLASSES,
        **options,
    )


@pytest.mark.parametrize("name", estimators.NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_estimator_sees_through_an_offset(name):
    want = float(call(name, X - X.mean(axis=0)).value)
    assert float(call(name, X + FAR).value) == pytest.approx(want, abs=1e-4)
    assert np.isfinite(want)


@pytest.mark.parametrize("name", ["ksg", "gaussian", "copula", "ross"])
def test_integers_beyond_those_of_the_device(name):
    steps = np.round(1000 * X).astype(np.int64)
    want = float(call(name, steps).value)
    nanoseconds = steps + 1_700_000_000_000_000_000
    assert float(call(name, nanoseconds).value) == pytest.approx(want, abs=1e-4)


def test_a_column_that_is_constant_is_still_named():
    x = X + FAR
    x[:, 1] = FAR
    for copula in (False, True):
        with pytest.raises(ValueError, match="column 1 of x is constant"):
            estimators.gaussian(x, Y, copula=copula)


def test_ranks_are_those_of_the_samples_as_given():
    heavy = np.exp(12 * X)  # the small ones vanish beside the large ones in float32
    want = float(estimators.gaussian(X, Y, copula=True).value)
    found = float(estimators.gaussian(heavy, Y, copula=True).value)
    assert found == pytest.approx(want, abs=1e-5)
    shifted = float(estimators.gaussian(X + FAR, Y, copula=True).value)
    assert shifted == pytest.approx(want, abs=1e-5)


BASIS = np.array([[1.0], [0.0]])
SHIFTED = {
    "within_class_logdet": bounds.within_class_logdet,
    "amgm_bound": bounds.amgm_bound,
    "trace_bound": bounds.trace_bound,
    "hadamard_bound": lambda f, c, v, k: bounds.hadamard_bound(f, c, BASIS, v, k),
    "reidentification_accuracy": bounds.reidentification_accuracy,
    "rate_reduction": lambda f, c, v, k: bounds.rate_reduction(
        *bounds.class_moments(f, c, k), noise_variance=v
    ),
}


@pytest.mark.parametrize("name", [n for n in SHIFTED if n != "rate_reduction"])
def test_bounds_on_the_information_within_classes(name):
    want = float(SHIFTED[name](X, LABELS, 0.5, CLASSES))
    found = float(SHIFTED[name](X + FAR, LABELS, 0.5, CLASSES))
    assert found == pytest.approx(want, rel=1e-5)
    traced = jax.jit(lambda c: SHIFTED[name](X + FAR, c, 0.5, CLASSES))(LABELS)
    assert float(traced) == pytest.approx(want, rel=1e-4)


def test_bounds_on_cosines():
    far = X + 1e4  # nearly one direction: 1 - cos is 1e-8
    units = far / np.linalg.norm(far, axis=1, keepdims=True)
    traces = [np.trace(np.cov(units[c == LABELS].T)) for c in range(CLASSES)]
    mean = np.mean(traces)
    noise = 1e-8
    found = float(bounds.linear_bound(far, LABELS, noise, CLASSES))
    assert found == pytest.approx(mean / (2 * noise), rel=1e-5)
    found = float(bounds.cosine_bound(far, LABELS, noise, CLASSES))
    want = np.mean(np.log1p(np.array(traces) / (2 * noise)))
    assert found == pytest.approx(want, rel=1e-5)
    lse = []
    for c in range(CLASSES):
        members = units[c == LABELS]
        squared = np.sum((members[:, None] - members) ** 2, axis=2)
        lse.append(-np.mean(np.log(np.mean(np.exp(-squared / (2 * noise)), axis=1))))
    found = float(bounds.cosine_lse(far, LABELS, noise, CLASSES))
    assert found == pytest.approx(np.mean(lse), rel=1e-4)


def test_moments_far_from_the_origin():
    moments = bounds.class_moments(X + FAR, LABELS, CLASSES)
    for label in range(CLASSES):
        covariance = np.cov(X[label == LABELS].T)
        np.testing.assert_allclose(moments.covariances[label], covariance, rtol=1e-4)
    means = np.stack([X[c == LABELS].mean(axis=0) for c in range(CLASSES)])
    np.testing.assert_allclose(moments.means, means + FAR, rtol=1e-7)
    for function in (
        bounds.rate_reduction,
        lambda *m: bounds.label_information_bounds(*m).upper,
    ):
        near = function(means, moments.covariances, moments.prior)
        far = function(means + FAR, moments.covariances, moments.prior)
        assert float(far) == pytest.approx(float(near), rel=1e-4)


def test_logits_with_a_common_offset():
    logits = np.round(X * 2**10) / 2**10
    want = bounds.floored_cross_entropy(logits, LABELS % 2)
    found = bounds.floored_cross_entropy(logits + FAR, LABELS % 2)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def correlation(x, y):
    return estimators.gaussian(x, y).value


def test_inference_passes_centered_samples_on():
    key = jax.random.key(0)
    test = functools.partial(
        inference.permutation_test, key, correlation, num_permutations=19
    )
    near, far = test(X, Y), test(X + FAR, Y)
    assert float(far.value) == pytest.approx(float(near.value), abs=1e-4)
    assert float(far.p_value) == pytest.approx(0.05)
    split = functools.partial(inference.subsample_interval, key, correlation)
    near, far = (split(z, Y, num_parts=(2, 4)) for z in (X, X + FAR))
    assert float(far.lower) == pytest.approx(float(near.lower), abs=1e-3)


def test_ordinary_samples_are_not_moved():
    x, _ = check_pair(X + 100, Y)
    np.testing.assert_array_equal(x, (X + 100).astype(np.float32))
    with pytest.raises(ValueError, match=r"column 0 of x varies by .* around 1\.7e"):
        estimators.fit_critic(jax.random.key(0), X + FAR, Y, config=SMALL)


def test_numbers_that_the_type_lacks_are_called_that():
    x = X.copy()
    x[3, 1] = 1e39
    with pytest.raises(ValueError, match=r"x holds 1e\+39 at row 3, column 1, beyond"):
        check_samples("x", x)
    values, dtype = known_samples("x", x)
    assert values[3, 1] == 1e39
    assert dtype == jnp.float32
    with pytest.raises(ValueError, match="x holds inf at row 3"):
        check_samples("x", np.where(x > 1e38, np.inf, x))


# Labels ------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_out_of_range_are_refused_or_nan_everywhere(label):
    labels = LABELS.copy()
    labels[4] = label
    x = jnp.asarray(X, jnp.float32)
    functions = {
        **{
            name: functools.partial(call, name, x, Y)
            for name in ("ksg_conditional", "ross", "class_conditional_gaussian")
        },
        **{
            name: lambda c, f=function: f(x, c, 0.5, CLASSES)
            for name, function in SHIFTED.items()
        },
        "cosine_bound": lambda c: bounds.cosine_bound(x, c, 0.5, CLASSES),
        "cosine_lse": lambda c: bounds.cosine_lse(x, c, 0.5, CLASSES),
        "cross_entropy": lambda c: jnp.mean(
            bounds.floored_cross_entropy(jnp.concatenate([x, x[:, :1]], 1), c)
        ),
    }
    for name, function in functions.items():
        with pytest.raises(ValueError, match="labels run from"):
            function(labels)
        found = jax.jit(lambda c, f=function: getattr(f(c), "value", f(c)))(labels)
        assert np.isnan(found), name


def test_permutations_within_negative_labels_prove_nothing():
    def test(labels):
        return inference.permutation_test(
            jax.random.key(0), correlation, X, Y, labels=labels, num_permutations=9
        )

    labels = np.where(LABELS == 1, -1, LABELS)
    with pytest.raises(ValueError, match="labels run from -1"):
        test(labels)
    found = jax.jit(test)(labels)
    assert np.isnan(found.value)
    assert np.isnan(found.p_value)
