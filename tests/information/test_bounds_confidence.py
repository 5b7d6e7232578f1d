"""Certified limits for the mean intra-class cosine: T13b."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information import bounds

SIZE, DIM = 1000, 32


def sphere_cluster(key, spread, size=SIZE):
    noise = spread * jax.random.normal(key, (size, DIM))
    return noise.at[:, 0].add(1)


def mean_cosine(spread):
    """Of two independent members: the squared norm of the mean direction."""
    rng = np.random.default_rng(0)
    along = 1 + spread * rng.standard_normal(1_000_000)
    across = spread**2 * rng.chisquare(DIM - 1, 1_000_000)
    return np.mean(along / np.sqrt(along**2 + across)) ** 2


@functools.partial(jax.jit, static_argnames="draws")
def draws_of(key, spread, draws=100):
    def draw(key):
        sample, pairing = jax.random.split(key)
        features = sphere_cluster(sample, spread)
        labels = jnp.zeros(SIZE, jnp.int32)
        limits = bounds.cosine_confidence(pairing, features, labels, 1)
        estimate = bounds.intra_class_cosine(features, labels, 1)
        return limits, bounds.certified_bounds(limits, 0.05, DIM), estimate[0]

    return jax.lax.map(draw, jax.random.split(key, draws))


@pytest.mark.parametrize(
    ("spread", "truth", "width"), [(0.3, 0.2571, 0.054), (0.0197, 0.9877, 0.035)]
)
def test_limits_cover_and_are_as_wide_as_stated(spread, truth, width):
    exact = mean_cosine(spread)
    np.testing.assert_allclose(exact, truth, atol=0.01)
    limits, certified, estimates = draws_of(jax.random.key(0), spread)
    covered = np.mean(limits.lower[:, 0] <= exact), np.mean(limits.upper >= exact)
    assert min(covered) >= 0.95, f"covered {covered}"
    np.testing.assert_allclose(np.mean(exact - limits.lower), width, atol=0.004)
    np.testing.assert_allclose(np.mean(estimates), exact, atol=0.003)
    linear = (1 - exact) / 0.1
    cosine = DIM / 2 * np.log1p((1 - exact) / (DIM * 0.05))
    assert np.mean(certified.linear >= linear) >= 0.95
    assert np.mean(certified.cosine >= cosine) >= 0.95
    assert np.mean(certified.cosine) < cosine + width / 0.1 + 0.05


limits_of = jax.jit(
    bounds.cosine_confidence, static_argnames=("num_classes", "confidence")
)


def test_pairs_are_disjoint_and_within_classes():
    # Members of a class coincide, so that only the number of pairs is left to see.
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [301, 40, 3]))
    features = np.eye(5, dtype=np.float32)[labels]
    limits = limits_of(jax.random.key(1), features, labels, 4)
    pairs = np.array([150, 20])
    want = 1 - 7 * 2 * np.log(2 * 4 / 0.05) / (3 * (pairs - 1))
    np.testing.assert_allclose(limits.lower[:2], want, rtol=1e-5)
    np.testing.assert_array_equal(limits.lower[2:], -1)
    np.testing.assert_array_equal(limits.upper, 1)
    np.testing.assert_allclose(limits.prior, np.array([301, 40, 0, 3]) / 344)


def test_key_draws_the_pairs_and_confidence_the_width():
    features = sphere_cluster(jax.random.key(0), 0.3, 300)
    labels = np.zeros(300, np.int32)
    first, again, other = (
        limits_of(jax.random.key(seed), features, labels, 1) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.lower, again.lower)
    assert first.lower != other.lower
    surer = limits_of(jax.random.key(0), features, labels, 1, confidence=0.999)
    assert surer.lower < first.lower < first.upper < surer.upper


def test_cosines_that_are_not_negative_have_tighter_limits():
    features = jnp.abs(sphere_cluster(jax.random.key(0), 0.01, 200))
    labels = np.zeros(200, np.int32)
    full, half = (
        limits_of(jax.random.key(0), features, labels, 1, smallest_cosine=smallest)
        for smallest in (-1.0, 0.0)
    )
    shorter = 7 * np.log(40) / (3 * 99)
    np.testing.assert_allclose(half.lower - full.lower, shorter, rtol=1e-4)
    with pytest.raises(ValueError, match=r"below smallest_cosine 0\.0"):
        bounds.cosine_confidence(
            jax.random.key(0),
            sphere_cluster(jax.random.key(0), 5.0, 200),
            labels,
            1,
            smallest_cosine=0.0,
        )


def test_certified_bounds_are_weighted_over_classes():
    limits = bounds.CosineConfidence(
        lower=jnp.array([0.9, 0.2, -1.0]),
        upper=jnp.ones(3),
        prior=jnp.array([0.25, 0.75, 0.0]),
    )
    found = bounds.certified_bounds(limits, 0.1, 8)
    terms = np.log1p(np.array([0.1, 0.8]) / 0.8)
    np.testing.assert_allclose(found.cosine, 4 * terms @ [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(found.linear, (0.025 + 0.6) / 0.2, rtol=1e-6)
    curve = jax.vmap(lambda noise: bounds.certified_bounds(limits, noise, 8))(
        jnp.array([0.1, 1.0])
    )
    np.testing.assert_allclose(curve.linear, [6.25 * 0.5, 0.3125], rtol=1e-6)


def test_radius_is_the_formula_and_infinite_without_variance_to_measure():
    found = bounds.empirical_bernstein_radius(
        0.25, np.array([1, 2, 500]), span=2.0, confidence=0.95
    )
    log_term = np.log(40)
    want = [
        np.inf,
        np.sqrt(0.25 * log_term) + 14 * log_term / 3,
        np.sqrt(0.5 * log_term / 500) + 14 * log_term / (3 * 499),
    ]
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize(
    "change", [{"variance": -1.0}, {"span": 0.0}, {"confidence": 1.0}]
)
def test_bad_settings_of_the_radius_are_refused(change):
    good = {"variance": 0.1, "count": 10, "span": 1.0, "confidence": 0.9}
    with pytest.raises(ValueError, match=next(iter(change))):
        bounds.empirical_bernstein_radius(**(good | change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.0}, "confidence is 0.0"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"smallest_cosine": 1.0}, "smallest_cosine is 1.0"),
        ({"smallest_cosine": -2.0}, "smallest_cosine is -2.0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    features, labels = np.ones((4, 3)), np.zeros(4, int)
    with pytest.raises(ValueError, match=message):
        bounds.cosine_confidence(jax.random.key(0), features, labels, 1, **options)


def test_bad_samples_are_refused():
    key, features, labels = jax.random.key(0), np.ones((4, 3)), np.array([0, 0, 0, 1])
    with pytest.raises(ValueError, match="class 1 has 1 member"):
        bounds.cosine_confidence(key, features, labels, 2)
    with pytest.raises(ValueError, match="feature 0 is zero"):
        bounds.cosine_confidence(key, 0 * features, 0 * labels, 1)


@pytest.mark.parametrize(("noise", "dimension"), [(0.0, 8), (-1.0, 8), (0.1, 0)])
def test_bad_settings_of_certified_bounds_are_refused(noise, dimension):
    limits = bounds.CosineConfidence(jnp.zeros(1), jnp.ones(1), jnp.ones(1))
    with pytest.raises(ValueError, match=r"noise_variance|dimension"):
        bounds.certified_bounds(limits, noise, dimension)
