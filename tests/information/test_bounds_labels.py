"""Bounds on label information for Gaussian classes: T8."""

import functools

import jax
import numpy as np
import pytest

from miue_jax.information import bounds


@functools.partial(jax.jit, static_argnames="noise_variance")
def both(means, covariances, prior, noise_variance=0.0):
    arguments = means, covariances, prior
    return (
        bounds.label_information_bounds(*arguments, noise_variance=noise_variance),
        bounds.rate_reduction(*arguments, noise_variance=noise_variance),
    )


def mixture(seed, separation=1.0, classes=3, dim=2):
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((classes, dim, dim + 2)) / np.sqrt(dim + 2)
    prior = rng.dirichlet(np.full(classes, 3.0))
    means = separation * rng.standard_normal((classes, dim))
    return means, roots @ roots.mT + 0.05 * np.eye(dim), prior


def monte_carlo(means, covariances, prior, seed=0, draws=20_000):
    """I(Y; Z) of a mixture and the standard error, from the known densities."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(prior), draws, p=prior)
    factors = np.linalg.cholesky(covariances)
    noise = rng.standard_normal((draws, means.shape[1], 1))
    samples = means[labels] + (factors[labels] @ noise)[..., 0]
    scores = np.empty((draws, len(prior)))
    for label, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        away = samples - mean
        scores[:, label] = -np.sum(away * np.linalg.solve(covariance, away.T).T, 1) / 2
        scores[:, label] -= np.linalg.slogdet(covariance)[1] / 2
    top = scores.max(1)
    mixed = top + np.log(np.exp(scores - top[:, None]) @ prior)
    ratios = scores[np.arange(draws), labels] - mixed
    return ratios.mean(), ratios.std() / np.sqrt(draws)


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 3.0])
def test_bounds_hold_for_random_mixtures(separation):
    with jax.enable_x64(True):
        for seed in range(6):
            moments = mixture(seed, separation)
            found, rate = both(*moments)
            truth, error = monte_carlo(*moments)
            assert found.lower <= truth + 4 * error
            assert truth <= min(found.upper, rate) + 4 * error
            assert found.upper <= found.entropy + 1e-12
            np.testing.assert_allclose(
                found.entropy, -np.sum(moments[2] * np.log(moments[2]))
            )


def test_bounds_are_their_formulas_for_two_classes_on_a_line():
    means, variances, prior = np.array([0.0, 1.5]), np.array([0.4, 1.1]), [0.3, 0.7]
    first, second = variances
    middle = (first + second) / 2
    near = 1.5**2 / middle / 8 + np.log(middle / np.sqrt(first * second)) / 2
    ahead = (first / second + 1.5**2 / second - 1 + np.log(second / first)) / 2
    back = (second / first + 1.5**2 / first - 1 + np.log(first / second)) / 2

    def bound(one, other):
        mixed = 0.3 + 0.7 * np.exp(-one), 0.7 + 0.3 * np.exp(-other)
        return -0.3 * np.log(mixed[0]) - 0.7 * np.log(mixed[1])

    with jax.enable_x64(True):
        found, rate = both(means[:, None], variances[:, None, None], np.array(prior))
    np.testing.assert_allclose(found.lower, bound(near, near), rtol=1e-12)
    np.testing.assert_allclose(found.upper, bound(ahead, back), rtol=1e-12)
    total = prior @ variances + 0.3 * 0.7 * 1.5**2
    want = (np.log(total) - prior @ np.log(variances)) / 2
    np.testing.assert_allclose(rate, want, rtol=1e-12)


def test_equal_classes_tell_nothing_and_separate_ones_everything():
    means, covariances, prior = mixture(0)
    with jax.enable_x64(True):
        same, rate = both(np.zeros_like(means), np.stack([covariances[0]] * 3), prior)
        np.testing.assert_allclose([same.lower, same.upper, rate], 0, atol=1e-12)
        apart, _ = both(1e3 * means, covariances, prior)
        np.testing.assert_allclose(apart[:2], [apart.entropy] * 2, rtol=1e-10)


def test_noise_is_added_to_the_covariances():
    means, covariances, prior = mixture(0)
    with jax.enable_x64(True):
        found = both(means, covariances, prior, noise_variance=0.7)
        want = both(means, covariances + 0.7 * np.eye(2), prior)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, want)


def test_classes_without_probability_change_nothing():
    means, covariances, prior = mixture(0)
    more = np.append(means, [[5.0, 5]], 0), np.append(covariances, [np.eye(2)], 0)
    with jax.enable_x64(True):
        found = both(*more, np.append(prior, 0))
        want = both(means, covariances, prior)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), found, want)


def test_moments_of_a_sample():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((30, 2)), np.arange(30) % 4 % 3
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, bounds.class_moments(features, labels, 4))
    for label in range(3):
        members = features[labels == label]
        np.testing.assert_allclose(found.means[label], members.mean(0), rtol=1e-12)
        np.testing.assert_allclose(
            found.covariances[label], np.cov(members.T), rtol=1e-10
        )
        np.testing.assert_allclose(found.prior[label], len(members) / 30)
    assert found.prior[3] == 0
    assert not np.any(found.covariances[3])


def test_gradients_are_finite_at_collapse_with_noise():
    means, _, prior = mixture(0)

    @jax.jit
    def slopes(means, covariances):
        def total(means, covariances):
            found, rate = both(means, covariances, prior, noise_variance=0.1)
            return found.lower + found.upper + rate

        return jax.grad(total, (0, 1))(means, covariances)

    for slope in slopes(means, np.zeros((3, 2, 2))):
        assert np.all(np.isfinite(slope))
        assert np.any(slope)


@pytest.mark.parametrize(
    "prior",
    [[0.5, 0.6, -0.1], [0.5, 0.4, 0.3], [np.nan, 0.5, 0.5], np.ones((3, 1)), []],
)
def test_what_is_no_probability_vector_is_refused(prior):
    means, covariances, _ = mixture(0)
    for bound in (bounds.label_information_bounds, bounds.rate_reduction):
        with pytest.raises(ValueError, match="prior"):
            bound(means, covariances, np.asarray(prior))
    with pytest.raises(ValueError, match="prior"):
        bounds.label_entropy(np.asarray(prior))


@pytest.mark.parametrize(
    "bound", [bounds.label_information_bounds, bounds.rate_reduction]
)
def test_bad_moments_are_refused(bound):
    means, covariances, prior = mixture(0)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 2, 2\)"):
        bound(means, covariances[:2], prior)
    with pytest.raises(ValueError, match=r"prior has shape \(2,\)"):
        bound(means, covariances, np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="class 1 is not positive definite"):
        bound(means, covariances * [[[1]], [[-1]], [[1]]], prior)
    with pytest.raises(ValueError, match="noise_variance is -1"):
        bound(means, covariances, prior, noise_variance=-1)
    with pytest.raises(ValueError, match="means hold NaN"):
        bound(means * np.nan, covariances, prior)
