"""Bounds on the information within classes: oracles, order, and one contract."""

import functools

import jax
import numpy as np
import pytest

from miue_jax.information import bounds
from miue_jax.information.bounds import cosine
from miue_jax.losses import conditional_covariance_loss

SIZE, CLASSES, NOISE = 24, 3, 0.05
RAW = {
    "logdet": bounds.within_class_logdet,
    "amgm": bounds.amgm_bound,
    "trace": bounds.trace_bound,
}
UNIT = {
    "cosine": bounds.cosine_bound,
    "linear": bounds.linear_bound,
    "lse": bounds.cosine_lse,
    "lse_lower": bounds.cosine_lse_lower,
}
BOUNDS = RAW | UNIT | {"reidentification": bounds.reidentification_accuracy}
every_bound = pytest.mark.parametrize("name", BOUNDS)


@functools.partial(jax.jit, static_argnames="num_classes")
def values(features, labels, noise_variance, num_classes=CLASSES):
    """Every bound in one program: compiling is what takes the time."""
    arguments = features, labels, noise_variance, num_classes
    return {name: bound(*arguments) for name, bound in BOUNDS.items()}


@jax.jit
def gradients(weights, features, labels, noise_variance):
    """Derivatives by features and by noise of a weighted sum of the bounds."""

    def total(features, noise_variance):
        results = values(features, labels, noise_variance)
        return sum(weights[name] * value for name, value in results.items())

    return jax.grad(total, (0, 1))(features, noise_variance)


def only(*names):
    return {name: float(name in names) for name in BOUNDS}


def batch(seed=0, dim=5, spread=0.5, dtype=np.float64, size=SIZE):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(size) % 5 % CLASSES).astype(np.int32)
    centers = rng.standard_normal((CLASSES, dim))
    features = centers[labels] + spread * rng.standard_normal((size, dim))
    return features.astype(dtype), labels


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def classes(features, labels):
    for label in np.unique(labels):
        members = features[labels == label]
        yield len(members) / len(labels), members


# Oracles ----------------------------------------------------------------------------


def dense(features, labels, noise):
    """All bounds by their formulas, with matrices written out."""
    dim, result = features.shape[1], dict.fromkeys(BOUNDS, 0.0)
    for prior, members in classes(features, labels):
        cov = np.cov(members.T)
        logdet = np.linalg.slogdet(np.eye(dim) + cov / noise)[1] / 2
        result["logdet"] += prior * logdet
        trace = np.trace(cov)
        result["amgm"] += prior * dim / 2 * np.log(1 + trace / dim / noise)
        result["trace"] += prior * trace / 2 / noise
        cosines = unit(members) @ unit(members).T
        n = len(members)
        gap = 1 - (cosines.sum() - n) / n / (n - 1)
        result["cosine"] += prior * dim / 2 * np.log(1 + gap / dim / noise)
        result["linear"] += prior * gap / 2 / noise
        for name, factor in (("lse", 1), ("lse_lower", 4)):
            means = np.exp((cosines - 1) / factor / noise).mean(1)
            result[name] -= prior * np.log(means).mean()
        empirical = np.linalg.slogdet(np.eye(dim) + cov * (n - 1) / n / noise)[1] / 2
        distances = np.sum((members[:, None] - members) ** 2, axis=2)
        pairwise = -np.log(np.exp(-distances / 2 / noise).mean(1)).mean()
        information = min(empirical, pairwise)
        grid = np.linspace(1 / n, 1, 200_001)[:-1]
        divergence = grid * np.log(grid * n)
        divergence += (1 - grid) * np.log((1 - grid) * n / (n - 1))
        accuracy = grid[divergence <= information].max()
        result["reidentification"] += prior * accuracy
    return result


@pytest.mark.parametrize("dim", [5, 40])
def test_bounds_are_their_formulas(dim):
    for seed in range(3):
        features, labels = batch(seed, dim, spread=0.2)
        wanted = dense(features, labels, NOISE)
        with jax.enable_x64(True):
            results = values(features, labels, NOISE)
        for name, want in wanted.items():
            tolerance = 1e-5 if name == "reidentification" else 1e-10
            assert results[name].dtype == np.float64
            np.testing.assert_allclose(
                results[name], want, rtol=tolerance, err_msg=f"{name}, seed {seed}"
            )


@pytest.mark.parametrize("dim", [5, 40])
def test_logdet_is_the_covariance_loss(dim):
    features, labels = batch(dim=dim)
    with jax.enable_x64(True):
        value = values(features, labels, NOISE)["logdet"]
        gradient = gradients(only("logdet"), features, labels, NOISE)[0]
        loss = functools.partial(
            conditional_covariance_loss,
            labels=labels,
            num_classes=CLASSES,
            statistic="logdet",
            noise_variance=NOISE,
            normalize=False,
        )
        want, want_gradient = jax.jit(jax.value_and_grad(loss))(features)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-9, atol=1e-13)


def test_known_class_sizes_choose_the_smaller_matrix():
    # Ten members at most in 12 dimensions, but 24 if the labels are not known.
    features, labels = batch(dim=12)
    with jax.enable_x64(True):
        want = values(features, labels, NOISE)["logdet"]
        value = bounds.within_class_logdet(features, labels, NOISE, CLASSES)
        closed = jax.make_jaxpr(
            lambda features: bounds.within_class_logdet(
                features, labels, NOISE, CLASSES
            )
        )(features)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    assert "[10,10]" in str(closed), "not of the size of the class"
    assert "[12,12]" not in str(closed)


# T3, T6, T7 -------------------------------------------------------------------------


@jax.jit
def chain(features, labels, basis, noise_variance):
    arguments = labels, noise_variance, CLASSES
    return (
        bounds.within_class_logdet(features, *arguments),
        bounds.hadamard_bound(features, labels, basis, noise_variance, CLASSES),
        bounds.amgm_bound(features, *arguments),
        bounds.trace_bound(features, *arguments),
    )


def test_bounds_are_a_chain_t3():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for seed in range(40):
            features, labels = batch(seed, spread=10 ** rng.uniform(-3, 1))
            basis = np.linalg.qr(rng.standard_normal((CLASSES, 5, 5)))[0][:, :, :2]
            links = chain(features, labels, basis, 10 ** rng.uniform(-3, 1))
            links = np.array(links)
            assert np.all(np.diff(links) >= -1e-10 * links[1:]), f"seed {seed}: {links}"


def test_hadamard_bound_of_all_eigenvectors_is_the_logdet_and_of_none_is_amgm():
    features, labels = batch()
    with jax.enable_x64(True):
        basis = bounds.principal_basis(features, labels, 5, CLASSES)
        logdet, full, _, _ = chain(features, labels, basis, NOISE)
        np.testing.assert_allclose(full, logdet, rtol=1e-10)
        # The largest variance first, so that more of them tighten the bound.
        some = chain(features, labels, basis[:, :, :2], NOISE)[1]
        others = chain(features, labels, basis[:, :, 3:], NOISE)[1]
        assert logdet < some < others
        none, amgm = chain(features, labels, np.empty((5, 0)), NOISE)[1:3]
        np.testing.assert_allclose(none, amgm, rtol=1e-12)
        shared = chain(features, labels, basis[0], NOISE)[1]
        repeated = chain(features, labels, np.stack([basis[0]] * CLASSES), NOISE)[1]
        np.testing.assert_allclose(shared, repeated, rtol=1e-12)


def test_split_basis_is_less_biased_than_the_plug_in_t13a():
    # 60 members in 64 dimensions with a fast spectrum.
    rng = np.random.default_rng(0)
    scales = 1 / np.sqrt(1 + np.arange(64.0))
    scales /= np.linalg.norm(scales)
    truth = np.sum(np.log1p(scales**2 / 0.02)) / 2
    labels = np.zeros(60, np.int32)
    split = jax.jit(
        lambda first, second: (
            bounds.within_class_logdet(first, labels, 0.02, 1),
            bounds.hadamard_bound(
                first,
                labels,
                bounds.principal_basis(second, labels, 8, 1),
                0.02,
                1,
            ),
        )
    )
    draws = [split(*(rng.standard_normal((2, 60, 64)) * scales)) for _ in range(20)]
    plug_in, hadamard = np.mean(draws, axis=0)
    assert plug_in < 0.95 * truth
    assert truth < hadamard < 1.25 * truth


def test_trace_is_one_minus_the_mean_cosine_t6():
    with jax.enable_x64(True):
        for seed in range(20):
            features, labels = batch(seed, spread=2.0)
            traces = [np.trace(np.cov(m.T)) for _, m in classes(unit(features), labels)]
            cosines = intra_class_cosine(features, labels)
            np.testing.assert_allclose(cosines, 1 - np.array(traces), atol=1e-10)
            for (_, members), cosine in zip(
                classes(unit(features), labels), cosines, strict=True
            ):
                n, mean = len(members), members.mean(0)
                pairs = (np.sum(members @ members.T) - n) / (n * (n - 1))
                np.testing.assert_allclose(cosine, pairs, atol=1e-10)
                by_mean = (n * mean @ mean - 1) / (n - 1)
                np.testing.assert_allclose(cosine, by_mean, atol=1e-10)


intra_class_cosine = jax.jit(
    functools.partial(bounds.intra_class_cosine, num_classes=CLASSES)
)


def test_trace_of_features_with_norms_t6():
    with jax.enable_x64(True):
        for seed in range(20):
            features, labels = batch(seed, spread=2.0)
            want = 0
            for prior, members in classes(features, labels):
                n, norms = len(members), np.linalg.norm(members, axis=1)
                off = ~np.eye(n, dtype=bool)
                products = np.outer(norms, norms)
                weighted = np.sum((members @ members.T)[off]) / np.sum(products[off])
                want += prior * np.var(norms, ddof=1)
                want += prior * (1 - weighted) * np.mean(products[off])
            trace = 2 * NOISE * values(features, labels, NOISE)["trace"]
            np.testing.assert_allclose(trace, want, rtol=1e-10)


def monte_carlo(points, noise, rng, draws=20_000):
    """I(index; point + noise) of a finite set of points, with its standard error."""
    index = rng.integers(0, len(points), draws)
    observed = points[index] + np.sqrt(noise) * rng.standard_normal(
        (draws, points.shape[1])
    )
    squared = np.sum((observed[:, None] - points) ** 2, axis=2) / (2 * noise)
    own = squared[np.arange(draws), index]
    shift = squared.min(1)
    ratios = shift - own - np.log(np.mean(np.exp(shift[:, None] - squared), axis=1))
    return ratios.mean(), ratios.std() / np.sqrt(draws)


@pytest.mark.parametrize("spread", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_bounds_hold_for_the_empirical_law_t7(spread, noise):
    rng = np.random.default_rng(0)
    points = unit(np.eye(5)[0] + spread * rng.standard_normal((SIZE, 5)))
    labels = np.zeros(SIZE, np.int32)
    with jax.enable_x64(True):
        found = {k: float(v) for k, v in values(points, labels, noise).items()}
    truth, error = monte_carlo(points, noise, rng)
    assert found["lse_lower"] <= truth + 4 * error
    assert found["lse"] <= np.log(SIZE) + 1e-12
    for name in ("logdet", "amgm", "trace", "cosine", "linear", "lse"):
        assert truth - 4 * error <= found[name], f"{name}: {found[name]} < {truth}"
    np.testing.assert_allclose(found["cosine"], found["amgm"], rtol=1e-10)
    np.testing.assert_allclose(found["linear"], found["trace"], rtol=1e-10)
    # T7: the pairwise bound is at most trace / sigma^2, the trace divided by n.
    limit = 2 * found["trace"] * (SIZE - 1) / SIZE
    assert found["lse"] <= limit * (1 + 1e-10)


def test_no_bound_is_the_best_everywhere():
    with jax.enable_x64(True):
        tight, apart = (values(*batch(spread=spread), NOISE) for spread in (0.01, 3.0))
        assert tight["cosine"] < tight["lse"] < 2.1 * tight["cosine"]
        assert apart["lse"] < apart["cosine"]


def test_gaussian_information_has_three_equal_forms_t5():
    rng = np.random.default_rng(0)
    for _ in range(50):
        root = rng.standard_normal((7, 9))
        joint = root @ root.T
        clean, poison, cross = joint[:3, :3], joint[3:, 3:], joint[3:, :3]
        noisy = poison + NOISE * np.eye(4)
        explained = cross @ np.linalg.solve(clean, cross.T)
        residual = poison - explained + NOISE * np.eye(4)
        ratio = np.linalg.slogdet(np.eye(4) + np.linalg.solve(residual, explained))[1]
        blocks = np.block([[clean, cross.T], [cross, noisy]])
        logdets = [np.linalg.slogdet(block)[1] for block in (clean, noisy, blocks)]
        correlations = np.linalg.eigvals(np.linalg.solve(noisy, explained)).real
        want = ratio / 2
        np.testing.assert_allclose(logdets[0] + logdets[1] - logdets[2], 2 * want)
        np.testing.assert_allclose(-np.sum(np.log1p(-correlations)) / 2, want)
        # T2: W of the same poison bounds it.
        assert want <= np.linalg.slogdet(np.eye(4) + poison / NOISE)[1] / 2


# The contract -----------------------------------------------------------------------


def test_derivatives_are_those_of_finite_differences():
    features, labels = batch(spread=0.2)
    direction = np.random.default_rng(1).standard_normal(features.shape)
    step = 1e-5
    with jax.enable_x64(True):
        moved = [values(features + s * direction, labels, NOISE) for s in (step, -step)]
        noisier = [values(features, labels, NOISE + s) for s in (step, -step)]
        for name in BOUNDS:
            by_features, by_noise = gradients(only(name), features, labels, NOISE)
            for slope, (above, below) in (
                (np.sum(by_features * direction), moved),
                (by_noise, noisier),
            ):
                want = (above[name] - below[name]) / (2 * step)
                np.testing.assert_allclose(slope, want, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("dim", [5, 40])
def test_collapsed_classes_have_no_information_and_no_gradient(dim):
    _, labels = batch()
    centers = np.random.default_rng(1).standard_normal((CLASSES, dim))
    features = centers[labels].astype(np.float32)
    chance = CLASSES / SIZE
    for name, value in values(features, labels, NOISE).items():
        want = chance if name == "reidentification" else 0
        np.testing.assert_allclose(value, want, atol=1e-5, err_msg=name)
    by_features, by_noise = gradients(only(*RAW, *UNIT), features, labels, NOISE)
    np.testing.assert_allclose(by_features, 0, atol=1e-3)
    np.testing.assert_allclose(by_noise, 0, atol=1e-3)
    # The slope of the accuracy at collapse is that of a square root at 0.
    slopes = gradients(only("reidentification"), features, labels, NOISE)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


@pytest.mark.parametrize(
    "degenerate",
    [
        lambda f: np.ones_like(f),
        lambda f: np.repeat(f[::4], 4, axis=0),
        lambda f: f[:1] * np.where(np.arange(len(f)) % 2, 1, -1)[:, None],
        lambda f: f * np.float32(1e-30),
    ],
)
def test_degenerate_features_have_finite_gradients(degenerate):
    features, labels = batch(dtype=np.float32)
    features = degenerate(features).astype(np.float32)
    for name, value in values(features, labels, NOISE).items():
        assert np.isfinite(value), name
    slopes = gradients(only(*BOUNDS), features, labels, NOISE)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


@pytest.mark.parametrize("dim", [5, 40])
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5])
def test_float32_keeps_its_digits_near_collapse(spread, dim):
    features, labels = batch(dim=dim, spread=spread, dtype=np.float32)
    # Unit features in both, rounded alike.
    features = unit(features).astype(np.float32)
    narrow = values(features, labels, 0.1)
    with jax.enable_x64(True):
        wide = values(features.astype(np.float64), labels, 0.1)
    for name in RAW:
        np.testing.assert_allclose(narrow[name], wide[name], rtol=1e-4, err_msg=name)
    # Normalizing in float32 rounds features by 6e-8, which is not small beside 1e-5.
    for name in UNIT:
        tolerance = 0.05 if spread < 1e-4 else 2e-4
        np.testing.assert_allclose(
            narrow[name], wide[name], rtol=tolerance, err_msg=name
        )


def test_order_of_samples_and_names_of_classes_do_not_matter():
    features, labels = batch()
    order = np.random.default_rng(1).permutation(SIZE)
    renamed = np.array([2, 0, 1], np.int32)[labels]
    with jax.enable_x64(True):
        wanted = values(features, labels, NOISE)
        results = values(features[order], renamed[order], NOISE)
    for name, want in wanted.items():
        np.testing.assert_allclose(results[name], want, rtol=1e-10, err_msg=name)


def test_absent_classes_have_no_weight():
    features, labels = batch()
    with jax.enable_x64(True):
        wanted = values(features, labels, NOISE)
        results = values(features, labels + 1, NOISE, num_classes=CLASSES + 2)
    for name, want in wanted.items():
        np.testing.assert_allclose(results[name], want, rtol=1e-10, err_msg=name)


def test_vmap_over_noise_and_features_is_a_loop():
    features, labels = map(np.stack, zip(batch(0), batch(1), strict=True))
    noises = np.array([0.01, 0.5])
    with jax.enable_x64(True):
        mapped = jax.jit(jax.vmap(values))(features, labels, noises)
        wanted = [values(*each) for each in zip(features, labels, noises, strict=True)]
    for name, found in mapped.items():
        want = [one[name] for one in wanted]
        np.testing.assert_allclose(found, want, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("label", [-1, CLASSES, 1000])
def test_traced_labels_out_of_range_are_not_hidden(label):
    features, labels = batch(dtype=np.float32)
    labels[3] = label
    for name, value in values(features, labels, NOISE).items():
        assert np.isnan(value), name


def test_traced_nan_is_not_hidden():
    features, labels = batch(dtype=np.float32)
    features[3, 1] = np.nan
    for name, value in values(features, labels, NOISE).items():
        assert np.isnan(value), name


# Bad input --------------------------------------------------------------------------


@every_bound
@pytest.mark.parametrize("noise", [0, -1.0, np.nan, np.inf, np.ones(2)])
def test_noise_that_is_not_positive_is_refused(name, noise):
    with pytest.raises(ValueError, match="noise_variance"):
        BOUNDS[name](*batch(), noise, CLASSES)


@every_bound
def test_bad_samples_are_refused(name):
    features, labels = batch()
    with pytest.raises(ValueError, match=r"labels run from 0 to 2.*below 2"):
        BOUNDS[name](features, labels, NOISE, 2)
    with pytest.raises(ValueError, match="labels"):
        BOUNDS[name](features, labels[:-1], NOISE, CLASSES)
    with pytest.raises(ValueError, match="num_classes is 0"):
        BOUNDS[name](features, labels, NOISE, 0)
    broken = features.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="nan at row 2, column 1"):
        BOUNDS[name](broken, labels, NOISE, CLASSES)


@pytest.mark.parametrize("name", ["logdet", "amgm", "trace", "cosine", "linear"])
def test_a_class_of_one_is_refused(name):
    features, labels = batch()
    labels[5] = CLASSES
    with pytest.raises(ValueError, match=f"class {CLASSES} has 1 member"):
        BOUNDS[name](features, labels, NOISE, CLASSES + 1)


@pytest.mark.parametrize("name", UNIT)
def test_features_without_direction_are_refused(name):
    features, labels = batch()
    features[7] = 0
    with pytest.raises(ValueError, match="feature 7 is zero"):
        BOUNDS[name](features, labels, NOISE, CLASSES)


def test_features_too_large_for_float32_are_refused():
    features, labels = batch(dtype=np.float32)
    with pytest.raises(ValueError, match="too large for float32"):
        bounds.within_class_logdet(np.repeat(features, 8, 1), labels, 1e-12, CLASSES)


def test_cosine_of_an_absent_class_is_refused():
    with pytest.raises(ValueError, match=f"class {CLASSES} has no members"):
        bounds.intra_class_cosine(*batch(), CLASSES + 1)


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (np.ones((5, 2)), "not orthonormal"),
        (np.eye(4), r"\(4, 4\)"),
        (np.stack([np.eye(5)] * 2), r"\(2, 5, 5\)"),
        (np.ones(5), r"\(5,\)"),
    ],
)
def test_a_bad_basis_is_refused(basis, message):
    with pytest.raises(ValueError, match=message):
        bounds.hadamard_bound(*batch(), basis, NOISE, CLASSES)


@pytest.mark.parametrize("rank", [-1, 6])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}"):
        bounds.principal_basis(*batch(), rank, CLASSES)


# Pairwise bounds where the noise is small beside the distances, in float32.


def pairwise_by_differences(features, labels, width):
    """The log-sum-exp of every class in float64, from differences."""
    units = unit(np.asarray(features, np.float64))
    total = 0.0
    for label in np.unique(labels):
        members = units[labels == label]
        squared = np.sum((members[:, None] - members) ** 2, axis=2)
        total -= np.sum(np.log(np.mean(np.exp(-squared / width), axis=1)))
    return total / len(features)


@pytest.mark.parametrize("noise", [1e-20, 1e-12, 1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("gap", [0.5, 1e-3, 3e-5])
def test_pairwise_bounds_keep_their_digits_however_small_the_noise(noise, gap):
    # Near pairs among distant samples: what is left of the product of a sample with
    # itself, and with its twin, would be rounding.
    rng = np.random.default_rng(0)
    twins = np.repeat(rng.standard_normal((12, 64)), 2, axis=0)
    features = (twins + gap * rng.standard_normal(twins.shape)).astype(np.float32)
    labels = np.arange(24) // 12
    for factor, bound in ((2, bounds.cosine_lse), (8, bounds.cosine_lse_lower)):
        want = pairwise_by_differences(features, labels, factor * noise)
        for function in (bound, jax.jit(bound, static_argnums=3)):
            found = function(features, labels, np.float32(noise), 2)
            np.testing.assert_allclose(found, want, rtol=2e-5)
        gradient = jax.grad(bound)(features, labels, noise, 2)
        assert np.all(np.isfinite(gradient))


def test_nobody_is_identified_beyond_certainty_at_small_noise():
    features, labels = batch(dtype=np.float32)
    assert bounds.reidentification_accuracy(features, labels, 1e-12, CLASSES) == 1
    counts = np.bincount(labels)[labels]
    found = bounds.cosine_lse(features, labels, 1e-12, CLASSES)
    np.testing.assert_allclose(found, np.log(counts).mean(), rtol=2e-6)


def test_pairwise_bounds_do_not_depend_on_how_rows_are_grouped(monkeypatch):
    features, labels = batch()
    whole = [float(UNIT[n](features, labels, NOISE, CLASSES)) for n in UNIT]
    monkeypatch.setattr(cosine, "_CHUNK", 3)
    jax.clear_caches()
    apart = [float(UNIT[n](features, labels, NOISE, CLASSES)) for n in UNIT]
    jax.clear_caches()
    np.testing.assert_allclose(apart, whole, rtol=1e-5)
