"""Gaussian information: exact unbiasedness, invariances, classes and bad input."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information.estimators import (
    ClusteredFeaturesWarning,
    class_conditional_gaussian,
    gaussian,
)

CLASSES = 10


def mixed(size, dims, seed=0):
    """Dense Gaussian samples and their exact information."""
    rng = np.random.default_rng(seed)
    total = sum(dims)
    matrix = 0.5 * rng.standard_normal((total, total)) / total**0.5 + np.eye(total)
    covariance = matrix @ matrix.T
    samples = rng.standard_normal((size, total)) @ matrix.T
    logdet = [
        np.linalg.slogdet(block)[1]
        for block in (
            covariance[: dims[0], : dims[0]],
            covariance[dims[0] :, dims[0] :],
            covariance,
        )
    ]
    exact = (logdet[0] + logdet[1] - logdet[2]) / 2
    return samples[:, : dims[0]], samples[:, dims[0] :], exact


def features(scale, *, size=4000, dim=24, rank=6, seed=0):
    """Class clusters with a shared within-class signal; and H(Y) + I(X; Y | label)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % CLASSES
    means = rng.standard_normal((CLASSES, dim))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    basis = np.linalg.qr(rng.standard_normal((dim, rank)))[0]
    signal = rng.standard_normal((size, rank)) @ basis.T / rank**0.5
    noise = rng.standard_normal((2, size, dim)) * (0.1 / dim) ** 0.5
    x, y = means[labels] + signal + noise[0], means[labels] + scale * signal + noise[1]
    s, n = 1 / rank, 0.1 / dim
    squared = (scale * s) ** 2 / ((s + n) * (scale**2 * s + n))
    return x, y, labels, np.log(CLASSES) - rank / 2 * np.log(1 - squared)


# Closed forms ------------------------------------------------------------------------


def test_correction_is_unbiased_and_the_plug_in_is_not():
    # Twenty canonical pairs of one correlation with 0.943 nats in all.
    rho = np.sqrt(1 - np.exp(-2 * 0.943 / 20))
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 200, 400, 20)).astype(np.float32)
    y = rho * x + np.sqrt(1 - rho**2) * noise
    for correction, expected in ((True, 0.943), (False, 1.469)):
        values = jax.jit(
            jax.vmap(lambda x, y, c=correction: gaussian(x, y, correction=c).value)
        )(x, y)
        error = float(jnp.std(values)) / 200**0.5
        assert error < 0.01
        assert float(jnp.mean(values)) == pytest.approx(expected, abs=4 * error)


def test_standard_error_is_that_of_repetitions():
    rho = 0.6
    rng = np.random.default_rng(1)
    x, noise = rng.standard_normal((2, 300, 400, 2)).astype(np.float32)
    y = rho * x + np.sqrt(1 - rho**2) * noise
    found = jax.jit(jax.vmap(gaussian))(x, y)
    spread = float(jnp.std(found.value))
    assert float(jnp.mean(found.standard_error)) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("copula", [False, True])
def test_dense_gaussian_within_tolerance(copula):
    x, y, exact = mixed(2000, (5, 3))
    found = gaussian(x, y, copula=copula)
    # The normal scores cost the copula a little.
    tolerance = 4 * float(found.standard_error) + 0.05 * copula
    assert float(found.value) == pytest.approx(exact, abs=tolerance)
    assert exact > 0.1
    assert found.kind == "estimate"


def test_float64_agrees_with_numpy_to_rounding():
    x, y, _ = mixed(300, (4, 3))
    determinants = [
        np.linalg.slogdet(np.cov(z.T))[1] for z in (x, y, np.concatenate([x, y], 1))
    ]
    expected = (determinants[0] + determinants[1] - determinants[2]) / 2
    with jax.enable_x64(True):
        found = gaussian(x, y, correction=False).value
        assert found.dtype == jnp.float64
        assert float(found) == pytest.approx(expected, abs=1e-10)
    single = gaussian(x, y, correction=False).value
    assert float(single) == pytest.approx(expected, abs=1e-4)


def test_without_a_gaussian_marginal_it_is_no_lower_bound():
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], 5000)
    y = x + 0.05 * rng.standard_normal(5000)
    assert float(gaussian(x, y).value) == pytest.approx(2.997, abs=0.06)


# Invariances -------------------------------------------------------------------------


def test_invariances():
    x, y, _ = mixed(300, (4, 3))
    value = float(gaussian(x, y).value)
    rng = np.random.default_rng(0)
    order = rng.permutation(300)
    linear = rng.standard_normal((4, 4))
    for other in (
        gaussian(x[order], y[order]),
        gaussian(y, x),
        gaussian(x @ linear + 5, 1e-6 * y),
    ):
        assert float(other.value) == pytest.approx(value, abs=1e-3)


def test_copula_forgets_monotone_transforms():
    x, y, _ = mixed(300, (4, 3))
    value = float(gaussian(x, y, copula=True).value)
    bent = float(gaussian(np.exp(x), y**3, copula=True).value)
    assert bent == pytest.approx(value, abs=1e-6)
    order = np.random.default_rng(0).permutation(300)
    ties, other = np.round(x), np.round(y)
    found = float(gaussian(ties, other, copula=True).value)
    permuted = float(gaussian(ties[order], other[order], copula=True).value)
    assert permuted == pytest.approx(found, abs=1e-4)


# Classes -----------------------------------------------------------------------------


def test_pooled_gaussian_warns_on_clusters_and_only_there():
    x, y, labels, exact = features(0.3)
    with pytest.warns(ClusteredFeaturesWarning, match="lies between classes"):
        found = gaussian(x, y, labels=labels)
    assert bool(found.diagnostics["clustered"])
    assert float(found.value) > exact + 3
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calm = gaussian(x, y, labels=rng.permutation(labels))
    assert not bool(calm.diagnostics["clustered"])
    assert float(calm.diagnostics["between_x"]) < 0.1


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.0])
def test_class_conditional_gaussian_within_tolerance(scale):
    x, y, labels, exact = features(scale)
    found = class_conditional_gaussian(x, y, labels, num_classes=CLASSES, components=12)
    assert float(found.value) == pytest.approx(exact, abs=0.05 * exact)
    parts = found.diagnostics
    assert float(parts["label_information"]) == pytest.approx(np.log(CLASSES), abs=1e-5)
    total = parts["label_information"] + parts["conditional_information"]
    assert float(total) == pytest.approx(float(found.value), abs=1e-5)
    assert 0.3 < float(parts["explained_y"]) < 1


def test_collapsed_classes_keep_their_information():
    # A within-class spread of 1e-4 is all that is left, beside means of norm 1.
    x, y, labels, _ = features(1.0)
    means = np.random.default_rng(5).standard_normal((CLASSES, 24))
    rng = np.random.default_rng(6)
    signal = 1e-4 * rng.standard_normal((4000, 24))
    noise = 1e-4 * rng.standard_normal((2, 4000, 24))
    x, y = (means[labels] + signal + n for n in noise)
    found = class_conditional_gaussian(
        x, y, labels, num_classes=CLASSES, components=None
    )
    exact = -24 / 2 * np.log(1 - 0.25)
    conditional = float(found.diagnostics["conditional_information"])
    assert conditional == pytest.approx(exact, abs=4 * float(found.standard_error))


def test_absent_classes_have_no_weight_and_jit_agrees():
    x, y, labels, _ = features(0.3)
    options = {"components": 12}
    found = class_conditional_gaussian(x, y, labels, num_classes=CLASSES, **options)
    function = jax.jit(
        lambda *z: class_conditional_gaussian(*z, num_classes=CLASSES + 2, **options)
    )
    compiled = function(x, y, labels)
    assert float(compiled.value) == pytest.approx(float(found.value), abs=2e-3)
    assert np.isnan(function(x, y, np.where(labels == 3, 99, labels)).value)


# Bad input ---------------------------------------------------------------------------

GOOD = np.random.default_rng(0).standard_normal((60, 4))
OTHER = np.random.default_rng(1).standard_normal((60, 4))
LABELS = np.arange(60) % 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": GOOD[:8], "y": OTHER[:8]}, "8 samples of 4 . 4 dimensions"),
        ({"y": OTHER[:-1]}, "x holds 60 samples and y 59"),
        ({"y": np.where(OTHER > 2, np.inf, OTHER)}, "y holds inf at row"),
        ({"x": GOOD * [1, 1, 0, 1]}, "column 2 of x is constant"),
        ({"x": GOOD[:, [0, 1, 2, 0]]}, "singular"),
        ({"y": GOOD @ np.diag([1, 2, 3, 4])}, "singular"),
        ({"labels": LABELS[1:]}, "labels are"),
        ({"labels": LABELS - 1}, "labels run from -1"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"x": GOOD, "y": OTHER} | change
    with pytest.raises(ValueError, match=message):
        gaussian(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.eye(60, dtype=int)[4]}, "class 1 has 1 sample"),
        ({"labels": LABELS + 1}, "labels run from 1 to 2"),
        ({"components": 0}, "components is 0; it must be"),
        ({"x": np.eye(2)[LABELS][:, [0, 1, 0, 1]]}, "singular"),
        ({"x": GOOD[:, [0, 1, 2, 0]]}, "singular"),
    ],
)
def test_bad_classes_are_refused(change, message):
    given = {"x": GOOD, "y": OTHER, "labels": LABELS, "num_classes": 2} | change
    with pytest.raises(ValueError, match=message):
        class_conditional_gaussian(**given)
