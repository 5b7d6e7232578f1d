"""Fano's inequality, the bracket and re-identification: T1, T10, T14."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information import bounds

fano_accuracy = jax.jit(bounds.fano_accuracy)
fano_information = jax.jit(bounds.fano_information)


def joint_laws(count, seed=0, shape=(3, 4, 4)):
    """Random probability tables of (Y, Zc, Zp), some of them nearly deterministic."""
    rng = np.random.default_rng(seed)
    powers = rng.uniform(0.5, 8, (count, 1, 1, 1))
    tables = rng.exponential(size=(count, *shape)) ** powers
    return tables / tables.sum((1, 2, 3), keepdims=True)


def information(table):
    """Mutual information of tables (..., A, B)."""
    product = table.sum(-1, keepdims=True) * table.sum(-2, keepdims=True)
    return np.sum(table * np.log(table / product), axis=(-2, -1))


# T10 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nats", "percent"),
    [
        (0.05, 20.7),
        (0.2, 33.2),
        (0.5, 49.5),
        (1.0, 68.9),
        (1.5, 83.7),
        (2.0, 95.1),
        (2.2, 98.6),
    ],
)
def test_accuracy_of_ten_classes_is_the_published_table(nats, percent):
    assert round(100 * float(fano_accuracy(nats, 10)), 1) == percent


@pytest.mark.parametrize("num_classes", [2, 10, 1000, 2.5])
def test_accuracy_and_information_are_inverse(num_classes):
    chance = 1 / num_classes
    accuracies = chance + (1 - chance) * np.array([0, 1e-4, 0.1, 0.5, 0.9, 0.9999, 1])
    with jax.enable_x64(True):
        nats = fano_information(accuracies, num_classes)
        back = fano_accuracy(nats, num_classes)
    np.testing.assert_allclose(back, accuracies, rtol=1e-10)
    np.testing.assert_allclose(nats[0], 0, atol=1e-15)
    np.testing.assert_allclose(nats[-1], np.log(num_classes), rtol=1e-12)


def test_symmetric_confusions_attain_the_bound():
    with jax.enable_x64(True):
        for accuracy in (0.2, 0.5, 0.95):
            table = np.full((10, 10), (1 - accuracy) / 90)
            np.fill_diagonal(table, accuracy / 10)
            nats = information(table)
            np.testing.assert_allclose(fano_information(accuracy, 10), nats, atol=1e-10)
            np.testing.assert_allclose(fano_accuracy(nats, 10), accuracy, rtol=1e-10)


def test_no_classifier_of_a_random_law_beats_the_bound():
    tables = joint_laws(2000)
    clean = tables.sum(3)
    prior = clean.sum(2)
    best = clean.max(1).sum(1)
    poison = tables.sum(2)
    fit = -np.sum(poison * np.log(poison / poison.sum(1, keepdims=True)), (1, 2))
    through_poison = information(tables.sum(1)) + fit
    with jax.enable_x64(True):
        for nats in (information(clean), through_poison):
            limit = np.asarray(fano_accuracy(nats, 1 / prior.max(1)))
            assert np.all(best <= limit + 1e-10)
    assert np.all(information(clean) <= through_poison + 1e-10)
    assert np.mean(limit < 1) > 0.02, "the second bound says nothing"
    uniform = clean / prior[:, :, None] / 3
    with jax.enable_x64(True):
        limit = np.asarray(fano_accuracy(information(uniform), 3))
    assert np.all(uniform.max(1).sum(1) <= limit + 1e-10)


def test_ends_of_the_range():
    nats = np.array([-1, 0, np.log(10), 50], np.float32)
    np.testing.assert_allclose(fano_accuracy(nats, 10), [0.1, 0.1, 1, 1], rtol=1e-6)
    assert fano_accuracy(0.0, 1) == 1
    np.testing.assert_allclose(fano_information(0.0, 4), np.log(4 / 3), rtol=1e-6)
    assert fano_information(1.0, 1) == 0
    assert np.isposinf(fano_information(0.5, 1))
    assert np.isnan(fano_accuracy(np.nan, 10))


def test_derivatives_of_the_root_are_those_of_finite_differences():
    slopes = jax.jit(jax.vmap(jax.grad(bounds.fano_accuracy, (0, 1))))
    nats = np.array([0.01, 0.3, 1.2, 2.2])
    classes = np.full(4, 10.0)
    with jax.enable_x64(True):
        by_nats, by_classes = slopes(nats, classes)
        step = 1e-6

        def difference(*steps):
            above = fano_accuracy(nats + steps[0], classes + steps[1])
            below = fano_accuracy(nats - steps[0], classes - steps[1])
            return (above - below) / (2 * step)

        np.testing.assert_allclose(by_nats, difference(step, 0), rtol=1e-6)
        np.testing.assert_allclose(by_classes, difference(0, step), rtol=1e-6)
        ends, _ = slopes(np.array([-1.0, 0.0, 2.4, 9.0]), classes)
        np.testing.assert_array_equal(ends, 0)


def test_float32_is_near_float64():
    nats = np.array([1e-4, 0.01, 0.5, 2.0, 2.3], np.float32)
    narrow = fano_accuracy(nats, 10)
    with jax.enable_x64(True):
        wide = fano_accuracy(nats.astype(np.float64), 10)
    np.testing.assert_allclose(narrow, wide, rtol=1e-4)


@pytest.mark.parametrize("classes", [0, 0.5, -3])
def test_fewer_than_one_class_is_refused(classes):
    for solve in (bounds.fano_accuracy, bounds.fano_information):
        with pytest.raises(ValueError, match="num_classes"):
            solve(0.5, classes)


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, np.nan])
def test_accuracies_that_are_none_are_refused(accuracy):
    with pytest.raises(ValueError, match="accuracy"):
        bounds.fano_information(accuracy, 10)


def test_nan_information_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        bounds.fano_accuracy(np.array([0.5, np.nan]), 10)


# T14 --------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-4, 0.01, 0.1, 1.0, 100.0])
def test_nobody_identifies_images_better_than_the_bound(noise):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((20, 3)) * [1, 0.3, 0.01]
    index = rng.integers(0, 20, 20_000)
    observed = points[index] + np.sqrt(noise) * rng.standard_normal((len(index), 3))
    distances = np.sum((observed[:, None] - points) ** 2, axis=2)
    accuracy = np.mean(distances.argmin(1) == index)
    labels = np.zeros(20, np.int32)
    bound = bounds.reidentification_accuracy(points, labels, noise, 1)
    assert accuracy <= bound + 4 * np.sqrt(0.25 / len(index))
    if noise == 100:
        assert bound < 0.15, "nothing is certified under heavy noise"


def test_images_alone_in_their_class_count_as_identified():
    features = np.array([[1.0, 0], [5, 5], [5, 5]])
    labels = np.array([0, 1, 1])
    bound = bounds.reidentification_accuracy(features, labels, 0.1, 2)
    np.testing.assert_allclose(bound, (1 + 2 * 0.5) / 3, rtol=1e-5)


# T1 (iii) ---------------------------------------------------------------------------


def cross_entropy(table, heads):
    """Of any classifier q(y | z) (N, Y, Z) under tables (N, Y, Z)."""
    mean = -np.sum(table * np.log(heads), axis=(1, 2))
    return bounds.CrossEntropy(mean, np.zeros_like(mean), mean)


def test_bracket_holds_for_random_laws_and_any_classifiers():
    tables = joint_laws(2000)
    rng = np.random.default_rng(1)
    prior = tables.sum((2, 3))
    entropy = -np.sum(prior * np.log(prior), axis=1)
    conditional = tables / prior[:, :, None, None]
    within = np.sum(prior * information(conditional), axis=1)
    truth = information(tables.sum(1))
    widths = []
    for trust in (0.0, 0.5, 1.0):
        sides = []
        for axis in (3, 2):
            table = tables.sum(axis)
            right = table / table.sum(1, keepdims=True)
            guess = rng.dirichlet(np.ones(3), (2000, 4)).swapaxes(1, 2)
            sides.append(cross_entropy(table, trust * right + (1 - trust) * guess))
        with jax.enable_x64(True):
            found = bounds.bracket(entropy, *sides, within)
        found = jax.tree.map(np.asarray, found)
        assert np.all(found.lower <= truth + 1e-10)
        assert np.all(truth <= found.upper + 1e-10)
        np.testing.assert_allclose(found.lower_limit, found.lower)
        assert np.all(np.isposinf(found.upper_limit))
        widths.append(np.mean(found.upper - found.lower))
    assert widths[0] > widths[1] > widths[2], "better classifiers, tighter bracket"


def test_limits_carry_the_uncertainty():
    clean, poison = (
        bounds.CrossEntropy(*map(jnp.asarray, values))
        for values in ((0.5, 0.01, 0.6), (0.1, 0.02, 0.2))
    )
    found = bounds.bracket(
        np.log(10), clean, poison, 0.25, within_class_limit=jnp.asarray(0.75)
    )
    want = np.log(10) + np.array([-0.6, 0.25, -0.8, 0.75])
    np.testing.assert_allclose(found[:4], want, rtol=1e-6)
    np.testing.assert_allclose(found.standard_error, 0.03, rtol=1e-6)


def test_floored_losses_are_bounded_and_close():
    logits = np.array([[9.0, 0, 0], [0, 50, 0], [0, 0, 1]], np.float32)
    labels = np.array([0, 2, 2])
    plain = np.log(np.exp(logits).sum(1)) - logits[np.arange(3), labels]
    losses = np.asarray(bounds.floored_cross_entropy(logits, labels, floor=1e-3))
    np.testing.assert_allclose(losses[[0, 2]], plain[[0, 2]], atol=1.1e-3)
    np.testing.assert_allclose(losses[1], np.log(3 / 1e-3), rtol=1e-5)
    uniform = bounds.floored_cross_entropy(logits, labels, floor=1.0)
    np.testing.assert_allclose(uniform, np.log(3), rtol=1e-6)


def test_held_out_limits():
    losses = np.random.default_rng(0).exponential(0.3, 2000).clip(max=2)
    mean, error = losses.mean(), losses.std(ddof=1) / np.sqrt(2000)
    found = bounds.held_out_cross_entropy(losses)
    want = [mean, error, mean + 1.6448536 * error]
    np.testing.assert_allclose(found, want, rtol=1e-5)
    certified = bounds.held_out_cross_entropy(losses, largest_loss=2.0)
    log_term = np.log(2 / 0.05)
    radius = np.sqrt(2 * log_term) * error + 14 * log_term / (3 * 1999)
    np.testing.assert_allclose(certified.limit, mean + radius, rtol=1e-5)
    few = bounds.held_out_cross_entropy(losses[:3], largest_loss=2.0)
    assert few.limit == 2, "a limit above what is possible"


@pytest.mark.parametrize(
    ("losses", "options", "message"),
    [
        ([0.1], {}, "at least 2"),
        ([0.1, -0.1], {}, "-0.1"),
        ([0.1, np.nan], {}, "nan"),
        ([0.1, 3.0], {"largest_loss": 2.0}, r"\[0, 2.0\]"),
        ([0.1, 0.2], {"confidence": 1.0}, "confidence is 1.0"),
        (np.ones((3, 2)), {}, r"\(3, 2\)"),
    ],
)
def test_bad_losses_are_refused(losses, options, message):
    with pytest.raises(ValueError, match=message):
        bounds.held_out_cross_entropy(np.asarray(losses), **options)


@pytest.mark.parametrize("floor", [0, -0.1, 1.5, np.nan])
def test_bad_floors_are_refused(floor):
    with pytest.raises(ValueError, match="floor"):
        bounds.floored_cross_entropy(np.ones((2, 3)), np.zeros(2, int), floor=floor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entropy": -1.0}, "entropy"),
        ({"within_class": np.nan}, "within_class"),
        ({"within_class_limit": -0.1}, "within_class_limit"),
        ({"poison": bounds.CrossEntropy(-0.1, 0.0, 0.0)}, "poison"),
    ],
)
def test_a_bad_bracket_is_refused(change, message):
    side = bounds.CrossEntropy(jnp.asarray(0.1), jnp.asarray(0.0), jnp.asarray(0.1))
    good = {"entropy": 1.0, "clean": side, "poison": side, "within_class": 0.5}
    with pytest.raises(ValueError, match=message):
        bounds.bracket(**(good | change))


# Little information ------------------------------------------------------------------


def exact_excess(nats, classes):
    """The excess over chance level that some information allows, in 60 digits."""
    with decimal.localcontext(decimal.Context(prec=60)):
        chance, nats = 1 / decimal.Decimal(classes), decimal.Decimal(nats)
        low, high = decimal.Decimal(0), 1 - chance
        for _ in range(150):
            t = (low + high) / 2
            found = (chance + t) * (1 + t / chance).ln()
            found += (1 - chance - t) * (1 - t / (1 - chance)).ln()
            low, high = (t, high) if found <= nats else (low, t)
        return float(low)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 10**6])
@pytest.mark.parametrize("nats", [1e-20, 1e-14, 1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.5])
def test_little_information_has_its_digits(nats, classes):
    single = float(np.float32(nats))
    want = 1 / classes + exact_excess(single, classes)
    found = fano_accuracy(np.float32(nats), classes)
    np.testing.assert_allclose(found, want, rtol=4e-7)
    with jax.enable_x64(True):
        excess = float(bounds.fano_accuracy(nats, classes)) - 1 / classes
        want = exact_excess(nats, classes)
        assert excess == pytest.approx(want, rel=1e-9, abs=2e-16)
        back = float(bounds.fano_information(1 / classes + want, classes))
        assert back == pytest.approx(nats, rel=1e-6, abs=1e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_information_never_allows_less_accuracy(dtype):
    nats = np.concatenate([[0], np.geomspace(1e-30, 5, 400)]).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        for classes in (2, 10, 100, 1000):
            found = np.asarray(fano_accuracy(nats, classes))
            assert np.all(np.diff(found) >= 0)
            assert found[0] == dtype(1) / dtype(classes)
            back = np.asarray(fano_information(found, classes))
            assert np.all(back >= 0)


def test_the_derivative_at_little_information():
    nats, step = 1e-6, 1e-8
    slope = jax.grad(bounds.fano_accuracy)(nats, 10)
    want = (exact_excess(nats + step, 10) - exact_excess(nats - step, 10)) / 2 / step
    np.testing.assert_allclose(slope, want, rtol=1e-3)
