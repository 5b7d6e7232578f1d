"""Losses: published figures, closed forms, and one contract that all of them keep."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from miue_jax.information import bounds
from miue_jax.losses import (
    class_mean_loss,
    conditional_covariance_loss,
    distance_loss,
    mi_ue_loss,
    paired_similarity_loss,
    similarity_loss,
    update_class_means,
)

ORACLE = pathlib.Path(__file__).parents[2] / "shared" / "oracle" / "losses.npz"
CASE_KEYS = ("features", "labels", "temperature")
CASE_KEYS += ("similarity", "similarity_grad", "distance", "distance_grad")
CLASSES = 5


def paired(features, labels, axis_name=None):
    """The paired similarity, with views that the features determine."""
    # Powers of 2, which are exact in every type.
    weights = 2.0 ** (jnp.arange(jnp.shape(features)[-1]) % 3 - 1)
    views = features * weights.astype(features.dtype)
    return paired_similarity_loss(
        features, views, labels, temperature=0.3, margin=0.2, axis_name=axis_name
    )


LOSSES = {
    "similarity": functools.partial(similarity_loss, temperature=0.3),
    "distance": distance_loss,
    "mi_ue": functools.partial(mi_ue_loss, temperature=0.3, distance_weight=0.5),
    "paired": paired,
    "trace": functools.partial(conditional_covariance_loss, num_classes=CLASSES),
    "trace_raw": functools.partial(
        conditional_covariance_loss, num_classes=CLASSES, normalize=False
    ),
    "logdet": functools.partial(
        conditional_covariance_loss, num_classes=CLASSES, statistic="logdet"
    ),
}
# Compiled once for each shape and type: operation by operation the suite takes minutes.
COMPILED = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in LOSSES.items()}
every_loss = pytest.mark.parametrize("name", LOSSES)
similarity_jit = jax.jit(similarity_loss)


def batch(size=16, dim=6, seed=0, dtype=np.float64):
    """Features with positive mean; class 3 has one member, class 4 none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size).astype(np.int32)
    labels[size // 2] = 3
    centers = rng.standard_normal((CLASSES, dim))
    features = centers[labels] + rng.standard_normal((size, dim))
    return features.astype(dtype), labels


# Published figures and closed forms -------------------------------------------------


@jax.jit
def published_losses(features, labels, temperature):
    similarity = functools.partial(similarity_loss, temperature=temperature)
    return {
        "similarity": jax.value_and_grad(similarity)(features, labels),
        "distance": jax.value_and_grad(distance_loss)(features, labels),
    }


@pytest.mark.parametrize("case", range(7))
def test_equals_published_code(case):
    if not ORACLE.exists():
        pytest.skip(f"the published figures are not here: {ORACLE}")
    with np.load(ORACLE) as file:
        oracle = {key: file[f"case{case}_{key}"] for key in CASE_KEYS}
    with jax.enable_x64(True):
        results = published_losses(*(oracle[key] for key in CASE_KEYS[:3]))
    for name, (value, gradient) in results.items():
        assert gradient.dtype == np.float64
        want, want_gradient = oracle[name], oracle[f"{name}_grad"]
        np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-15, err_msg=name)
        np.testing.assert_allclose(
            gradient,
            want_gradient,
            rtol=1e-6,
            atol=1e-9 * np.abs(want_gradient).max() + 1e-15,
            err_msg=name,
        )


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_similarity_of_equal_features_is_log_classes(classes):
    features = np.ones((2 * classes, 8), np.float32)
    labels = np.arange(2 * classes) % classes
    value = similarity_jit(features, labels)
    np.testing.assert_allclose(value, np.log(classes), rtol=1e-6)


@pytest.mark.parametrize(
    ("classes", "want"), [(10, 4.085e-4), (100, 4.485e-3), (200, 8.994e-3)]
)
def test_similarity_at_orthogonal_collapse(classes, want):
    features = np.repeat(np.eye(classes, dtype=np.float32), 3, axis=0)
    labels = np.repeat(np.arange(classes), 3)
    value = similarity_jit(features, labels, temperature=0.1)
    np.testing.assert_allclose(value, want, rtol=2e-4)
    exact = np.log1p((classes - 1) * (np.exp(-10) + 1e-18) / (1 + 1e-8 * np.exp(-10)))
    np.testing.assert_allclose(value, exact, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 3.0])
def test_similarity_is_the_published_formula(temperature):
    features, labels = batch()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    terms = np.exp(unit @ unit.T / temperature) + 1e-8
    same = labels[:, None] == labels
    want = -np.mean(np.log((terms * same).sum(1) / terms.sum(1)))
    with jax.enable_x64(True):
        value = similarity_jit(features, labels, temperature=temperature)
    np.testing.assert_allclose(value, want, rtol=1e-10)


def test_similarity_adds_the_published_constant_to_every_exponential():
    # Opposite classes at this temperature: exp(-20) is a fifth of the constant.
    features = np.array([[1, 2], [1, 2], [-1, -2], [-1, -2]], np.float64)
    with jax.enable_x64(True):
        value = similarity_jit(features, np.array([0, 0, 1, 1]), temperature=0.05)
    want = (np.exp(-20) + 1e-8) / (np.exp(20) + 1e-8)
    np.testing.assert_allclose(value, want, rtol=1e-10)


def test_similarity_does_not_overflow_at_low_temperature():
    features, labels = batch(dtype=np.float32)
    loss = functools.partial(similarity_loss, temperature=1e-3)
    value, gradient = jax.jit(jax.value_and_grad(loss))(features, labels)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_distance_counts_pairs_and_divides_by_dimension():
    features = np.array([[0, 0], [3, 4], [9, 9]], np.float32)
    value, _ = COMPILED["distance"](features, np.array([0, 0, 1]))
    np.testing.assert_allclose(value, 2 / 3 * np.log(1 + 5 / 2), rtol=1e-6)


def test_the_papers_distance_is_not_divided():
    features = np.array([[0.0, 0], [3, 4], [9, 9]], np.float32)
    labels = np.array([0, 0, 1])
    value = distance_loss(features, labels, per_dimension=False)
    assert float(value) == pytest.approx(2 / 3 * np.log1p(5), rel=1e-6)
    both = [
        mi_ue_loss(features, labels, distance_weight=weight, per_dimension=False)
        for weight in (2.0, 0.0)
    ]
    assert float(both[0] - both[1]) == pytest.approx(2 * float(value), rel=1e-5)


def test_distance_in_tight_far_clusters_is_accurate_in_float32():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    centers = 100 * rng.standard_normal((4, 32))
    features = centers[labels] + 0.01 * rng.standard_normal((40, 32))
    features = features.astype(np.float32)
    exact = features.astype(np.float64)
    distances = np.linalg.norm(exact[:, None] - exact, axis=2)
    sums = (distances * (labels[:, None] == labels)).sum(1)
    value, _ = COMPILED["distance"](features, labels)
    np.testing.assert_allclose(value, np.mean(np.log1p(sums / 32)), rtol=1e-5)


@pytest.mark.parametrize("dim", [3, 512, 2048])
def test_distance_of_copies_away_from_the_reference_has_no_gradient(dim):
    rng = np.random.default_rng(0)
    copied = rng.standard_normal(dim)
    features = np.stack([rng.standard_normal(dim), *[copied] * 14]).astype(np.float32)
    labels = np.zeros(15, np.int32)
    value, gradient = COMPILED["distance"](features, labels)
    apart = np.linalg.norm(features[0].astype(np.float64) - features[1])
    want = (np.log1p(14 * apart / dim) + 14 * np.log1p(apart / dim)) / 15
    np.testing.assert_allclose(value, want, rtol=1e-5)
    toward = features[1] - features[0]
    cosine = gradient[1] @ toward / np.linalg.norm(gradient[1]) / apart
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


@pytest.mark.parametrize("weight", [0, 0.0, 0.1, np.float32(2)])
def test_mi_ue_is_the_weighted_sum(weight):
    features, labels = batch(dtype=np.float32)
    (similarity, _), (distance, _) = (
        COMPILED[name](features, labels) for name in ("similarity", "distance")
    )
    loss = functools.partial(mi_ue_loss, temperature=0.3, distance_weight=weight)
    value = jax.jit(loss)(features, labels)
    np.testing.assert_allclose(value, similarity + weight * distance, rtol=1e-5)


def test_mi_ue_without_weight_does_not_compute_the_distance():
    features, labels = batch(dtype=np.float32)

    def operations(weight):
        loss = functools.partial(mi_ue_loss, labels=labels, distance_weight=weight)
        return str(jax.make_jaxpr(loss)(features)).count("dot_general")

    assert (operations(0.0), operations(0.1)) == (1, 2)


def covariances(features, labels):
    for label in np.unique(labels):
        members = features[labels == label]
        prior = len(members) / len(labels)
        if len(members) > 1:
            yield prior, members, np.atleast_2d(np.cov(members.T))


@pytest.mark.parametrize("dim", [4, 40])
@pytest.mark.parametrize("normalize", [True, False])
def test_covariance_equals_dense_computation(dim, normalize):
    features, labels = batch(dim=dim)
    given = features
    if normalize:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    trace = sum(
        prior * np.trace(cov) for prior, _, cov in covariances(features, labels)
    )
    logdet = sum(
        prior * np.linalg.slogdet(np.eye(dim) + cov / 0.2)[1] / 2
        for prior, _, cov in covariances(features, labels)
    )
    with jax.enable_x64(True):
        loss = functools.partial(
            conditional_covariance_loss,
            given,
            labels,
            num_classes=CLASSES,
            normalize=normalize,
            noise_variance=0.2,
        )
        np.testing.assert_allclose(loss(statistic="trace"), trace, rtol=1e-10)
        np.testing.assert_allclose(loss(statistic="logdet"), logdet, rtol=1e-10)
    # log det(I + S) <= d log(1 + tr S / d) <= tr S.
    bound = dim / 2 * np.log1p(trace / (dim * 0.2))
    assert logdet <= bound <= trace / 0.4


def test_trace_is_one_minus_the_mean_cosine_between_different_samples():
    features, labels = batch()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    want = 0
    for prior, members, _ in covariances(unit, labels):
        n = len(members)
        off_diagonal = (np.sum(members @ members.T) - n) / (n * (n - 1))
        want += prior * (1 - off_diagonal)
    with jax.enable_x64(True):
        value, _ = COMPILED["trace"](features, labels)
    np.testing.assert_allclose(value, want, rtol=1e-12)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("normalize", [True, False])
def test_covariance_keeps_its_digits_near_collapse(spread, normalize):
    rng = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int32) % 4
    centers = rng.standard_normal((4, 8))
    features = centers[labels] + spread * rng.standard_normal((24, 8))
    features = features.astype(np.float32)
    exact = features.astype(np.float64)
    if normalize:
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    want = {"trace": 0.0, "logdet": 0.0}
    for prior, _, cov in covariances(exact, labels):
        want["trace"] += prior * np.trace(cov)
        # The sum of logarithms, not the logarithm of a product of ones.
        eigenvalues = np.linalg.eigvalsh(cov / 0.2)
        want["logdet"] += prior * np.sum(np.log1p(np.maximum(eigenvalues, 0))) / 2
    # What normalization in float32 rounds is not small beside the smallest spread.
    tolerance = 1e-5 if not normalize else max(1e-4, 3e-7 / spread)
    for statistic, value in want.items():
        found = jax.jit(
            functools.partial(
                conditional_covariance_loss,
                num_classes=4,
                statistic=statistic,
                normalize=normalize,
                noise_variance=0.2,
            )
        )(features, labels)
        assert float(found) == pytest.approx(value, rel=tolerance), statistic
    if not normalize:
        shared = bounds.within_class_logdet(features, labels, 0.2, 4)
        assert float(shared) == pytest.approx(want["logdet"], rel=1e-5)


@every_loss
@pytest.mark.parametrize("label", [-1, -(2**31)])
def test_negative_labels_are_refused_or_nan(name, label):
    features, labels = batch(dtype=np.float32)
    labels[3] = label
    with pytest.raises(ValueError, match=f"labels run from {label} to"):
        LOSSES[name](features, labels)
    with pytest.raises(ValueError, match=f"labels run from {label} to"):
        jax.grad(LOSSES[name])(jnp.asarray(features), jnp.asarray(labels))
    value, _ = COMPILED[name](features, labels)
    assert np.isnan(value)


@pytest.mark.parametrize("label", [CLASSES, 1000, 2**31 - 1])
@pytest.mark.parametrize("statistic", ["trace", "logdet"])
def test_labels_above_the_number_of_classes_are_refused_or_nan(label, statistic):
    features, labels = batch(dtype=np.float32)
    labels[3] = label
    with pytest.raises(ValueError, match=f"from 0 to {label}; .* below {CLASSES}"):
        LOSSES[statistic](features, labels)
    assert np.isnan(COMPILED[statistic](features, labels)[0])


def test_labels_that_the_devices_cannot_hold_are_refused():
    features, labels = batch(dtype=np.float32)
    with pytest.raises(ValueError, match=r"below 2\*\*31"):
        similarity_loss(features, labels.astype(np.int64) + 2**32)


# Scales -----------------------------------------------------------------------------


def exact_distance(features, labels):
    """The loss and its gradient by brute force in extended precision."""
    z = features.astype(np.longdouble)
    differences = z[:, None] - z
    distances = np.sqrt(np.sum(np.square(differences), axis=2))
    same = (labels[:, None] == labels) & (distances > 0)
    sums = np.sum(distances * same, axis=1) / z.shape[1]
    weights = 1 / (1 + sums) / len(z) / z.shape[1]
    pairs = same * (weights[:, None] + weights) / np.where(same, distances, 1)
    return np.mean(np.log1p(sums)), np.sum(pairs[:, :, None] * differences, axis=1)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1, 1e10, 1e15, 1e17, 1e18, 5e18, 1e25])
def test_distance_and_its_gradient_at_every_scale(scale):
    features, labels = batch(dtype=np.float32)
    features = features * np.float32(scale)
    want, want_gradient = exact_distance(features, labels)
    value, gradient = COMPILED["distance"](features, labels)
    np.testing.assert_allclose(value, float(want), rtol=1e-5)
    unit = np.abs(want_gradient).max()
    np.testing.assert_allclose(
        (np.asarray(gradient, np.longdouble) / unit).astype(float),
        (want_gradient / unit).astype(float),
        atol=1e-4,
    )


def test_distance_at_the_largest_features():
    features = np.array([[3e38, -3e38], [-3e38, 3e38], [0, 0]], np.float32)
    value, gradient = COMPILED["distance"](features, np.array([0, 0, 1]))
    apart = np.sqrt(2) * 6e38 / 2
    np.testing.assert_allclose(value, 2 / 3 * np.log1p(apart), rtol=1e-5)
    assert np.all(np.isfinite(gradient))
    collapsed = np.full((3, 2), 3e38, np.float32)
    assert COMPILED["distance"](collapsed, np.zeros(3, int))[0] == 0


@every_loss
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e17, 1e18, 5e18, 1e25, 1e37])
def test_values_and_gradients_follow_the_scale(name, scale):
    features, labels = batch(dtype=np.float32)
    factor = 2.0 ** round(np.log2(scale))
    value, gradient = COMPILED[name](features * np.float32(factor), labels)
    with jax.enable_x64(True):
        exact, exact_gradient = COMPILED[name](
            features.astype(np.float64) * factor, labels
        )
    if 1e-34 < float(exact) < 3e38:
        np.testing.assert_allclose(value, exact, rtol=1e-4)
    assert np.all(np.isfinite(gradient))
    exact_gradient = np.asarray(exact_gradient)
    if np.abs(exact_gradient).max() > 1e-34:
        unit = np.abs(exact_gradient).max()
        np.testing.assert_allclose(
            np.float64(gradient) / unit, exact_gradient / unit, atol=1e-3
        )


def test_float64_arrays_are_centered_before_they_are_rounded():
    near, labels = batch()
    far = near + 1.7e9
    for name in ("distance", "trace_raw"):
        value, want = (float(LOSSES[name](z, labels)) for z in (far, near))
        assert value == pytest.approx(want, rel=1e-5), name
    unit = far / np.linalg.norm(far, axis=1, keepdims=True)
    want = sum(p * np.trace(cov) for p, _, cov in covariances(unit, labels))
    assert float(LOSSES["trace"](far, labels)) == pytest.approx(want, rel=1e-4)
    tight = {"distance_weight": 1.0, "temperature": 1.0}
    found = float(mi_ue_loss(far, labels, **tight))
    want = float(similarity_loss(np.ones_like(near), labels, temperature=1.0))
    want += float(distance_loss(near, labels))
    assert found == pytest.approx(want, rel=1e-5)


# Views and means of classes ----------------------------------------------------------


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def log_odds(scores, same):
    """log(1 + negatives / positives) of rows of scores, in float64."""
    positives = np.where(same, np.exp(scores), 0).sum(1)
    negatives = np.where(same, 0, np.exp(scores)).sum(1)
    return np.log1p(negatives / positives).mean()


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_paired_similarity_is_its_formula(margin):
    features, labels = batch()
    views = batch(seed=7)[0]
    same = labels[:, None] == labels
    cosines = unit(features) @ unit(views).T
    # A margin lowers the scores of the own class.
    first, second = ((s - margin * same) / 0.3 for s in (cosines, cosines.T))
    want = (log_odds(first, same) + log_odds(second, same)) / 2
    with jax.enable_x64(True):
        loss = paired_similarity_loss(
            features, views, labels, temperature=0.3, margin=margin
        )
    np.testing.assert_allclose(loss, want, rtol=1e-12)
    narrow = paired_similarity_loss(
        *(features.astype(np.float32), views.astype(np.float32), labels),
        temperature=0.3,
        margin=margin,
    )
    np.testing.assert_allclose(narrow, want, rtol=1e-5)


def test_pairs_of_equal_features_are_the_published_similarity_without_its_constant():
    features, labels = batch()
    with jax.enable_x64(True):
        pairs = paired_similarity_loss(features, features, labels, temperature=0.5)
        one = similarity_loss(features, labels, temperature=0.5)
    np.testing.assert_allclose(pairs, one, rtol=1e-6)


def test_pairs_see_that_views_agree_with_each_other_but_not_with_the_images():
    features, labels = np.eye(2).repeat(4, axis=0), np.arange(2).repeat(4)
    elsewhere = features[::-1]
    np.testing.assert_allclose(
        similarity_loss(elsewhere, labels), similarity_loss(features, labels)
    )
    apart = paired_similarity_loss(features, elsewhere, labels)
    assert apart > 5 > 0.1 > paired_similarity_loss(features, features, labels)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_similarity_to_class_means_is_its_formula(margin):
    features, labels = batch()
    means = np.random.default_rng(5).standard_normal((CLASSES, 6))
    same = labels[:, None] == np.arange(CLASSES)
    scores = (unit(features) @ unit(means).T - margin * same) / 0.3

    def loss_of(features, means):
        return class_mean_loss(features, labels, means, temperature=0.3, margin=margin)

    with jax.enable_x64(True):
        np.testing.assert_allclose(
            loss_of(features, means), log_odds(scores, same), rtol=1e-12
        )
        check_grads(
            jax.jit(lambda f: loss_of(f, means)),
            (jnp.asarray(features),),
            order=1,
            modes="rev",
            rtol=1e-6,
        )
        # Without means all classes are alike, and nothing moves.
        none = np.zeros_like(means)
        value, gradient = jax.value_and_grad(loss_of)(jnp.asarray(features), none)
    np.testing.assert_allclose(
        value, np.log1p((CLASSES - 1) * np.exp(margin / 0.3)), rtol=1e-12
    )
    np.testing.assert_array_equal(gradient, 0)


def test_class_means_move_by_their_formula_and_only_where_there_are_samples():
    features, labels = batch()
    rng = np.random.default_rng(5)
    means = rng.standard_normal((CLASSES, 6))
    means[1] = 0
    with jax.enable_x64(True):
        moved = update_class_means(means, features, labels, memory=0.8)
    for k in range(CLASSES):
        members = unit(features)[labels == k]
        want = means[k]
        if len(members):
            mean = members.mean(0)
            want = mean if k == 1 else 0.8 * means[k] + 0.2 * mean
        np.testing.assert_allclose(moved[k], want, rtol=1e-12, err_msg=str(k))
    gradient = jax.grad(
        lambda f: update_class_means(means, f, labels, memory=0.8).sum()
    )(jnp.asarray(features, jnp.float32))
    np.testing.assert_array_equal(gradient, 0)


def test_class_means_are_those_of_the_global_batch():
    features, labels = batch(dtype=np.float32)
    means = np.zeros((CLASSES, 6), np.float32)
    want = update_class_means(means, features, labels, memory=0.5)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    per_device = jax.shard_map(
        functools.partial(update_class_means, memory=0.5, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
    )
    np.testing.assert_allclose(
        jax.jit(per_device)(means, features, labels), want, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f, y: paired_similarity_loss(f, f[:, :2], y),
            r"one shape, got \(16, 6\) and \(16, 2\)",
        ),
        (
            lambda f, y: paired_similarity_loss(f, f, y, margin=-1.0),
            "margin must be finite and >= 0",
        ),
        (
            lambda f, y: class_mean_loss(f, y, np.zeros((5, 4), np.float32)),
            r"class_means must be \(K, D\)",
        ),
        (
            lambda f, y: class_mean_loss(f, y, np.zeros((2, 6), np.float32)),
            "labels run from 0 to 3",
        ),
        (
            lambda f, y: update_class_means(
                np.zeros((5, 6), np.float32), f, y, memory=1.0
            ),
            "memory is 1.0",
        ),
    ],
)
def test_pairs_and_means_that_do_not_fit_are_refused(call, message):
    features, labels = batch(dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        call(features, labels)


# The contract -----------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_is_a_finite_scalar_in_float32(name, dtype):
    features, labels = batch(dtype=np.float32)
    features = jnp.asarray(features, dtype)
    value, gradient = COMPILED[name](features, labels)
    assert (value.shape, value.dtype, gradient.dtype) == ((), np.float32, dtype)
    assert np.all(np.isfinite(np.asarray(gradient, np.float32)))
    wide, _ = COMPILED[name](np.asarray(features, np.float32), labels)
    np.testing.assert_allclose(value, wide, rtol=1e-5)


@every_loss
def test_derivatives_are_those_of_finite_differences(name):
    features, labels = batch()
    with jax.enable_x64(True):
        loss = jax.jit(functools.partial(LOSSES[name], labels=labels))
        check_grads(loss, (jnp.asarray(features),), order=1, modes="rev", rtol=1e-6)


@every_loss
def test_vmap_is_a_loop(name):
    batches = [batch(seed=seed, dtype=np.float32) for seed in range(3)]
    features, labels = map(np.stack, zip(*batches, strict=True))
    values = jax.jit(jax.vmap(LOSSES[name]))(features, labels)
    want = [COMPILED[name](*each)[0] for each in batches]
    np.testing.assert_allclose(values, want, rtol=1e-5)


@every_loss
def test_order_of_samples_and_names_of_classes_do_not_matter(name):
    features, labels = batch()
    order = np.random.default_rng(1).permutation(len(labels))
    renamed = np.array([2, 4, 0, 1, 3], np.int32)[labels]
    with jax.enable_x64(True):
        value, gradient = COMPILED[name](features, labels)
        other, other_gradient = COMPILED[name](features[order], renamed[order])
        assert value.dtype == gradient.dtype == np.float64
    np.testing.assert_allclose(other, value, rtol=1e-12)
    np.testing.assert_allclose(other_gradient, gradient[order], rtol=1e-9, atol=1e-12)


DEGENERATE = {
    "all_equal": lambda f: np.ones_like(f),
    "all_zero": lambda f: np.zeros_like(f),
    "one_zero": lambda f: f * (np.arange(len(f)) > 0)[:, None],
    "copies": lambda f: np.repeat(f[::4], 4, axis=0),
    "opposite": lambda f: f[:1] * np.where(np.arange(len(f)) % 2, 1, -1)[:, None],
    "tiny": lambda f: f * np.float32(1e-30),
    "huge": lambda f: f * np.float32(1e15),
    "at_the_documented_end": lambda f: f / np.abs(f).max() * np.float32(1e18),
}


@every_loss
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_features_have_finite_gradients(name, kind):
    features, labels = batch(dtype=np.float32)
    features = DEGENERATE[kind](features)
    for labeling in (labels, np.zeros_like(labels), labels % 2):
        value, gradient = COMPILED[name](features, labeling)
        assert np.isfinite(value), f"{kind}: {value}"
        assert np.all(np.isfinite(gradient)), f"{kind}: {gradient}"


@every_loss
def test_classes_of_one_member_have_finite_gradients(name):
    features, _ = batch(size=CLASSES, dtype=np.float32)
    value, gradient = COMPILED[name](features, np.arange(CLASSES, dtype=np.int32))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    if name not in ("similarity", "mi_ue", "paired"):
        assert value == 0
        np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("name", ["distance", "trace", "trace_raw", "logdet"])
def test_collapsed_classes_cost_nothing(name):
    features = np.repeat(np.eye(4, 6, dtype=np.float32), 4, axis=0)
    labels = np.repeat(np.arange(4, dtype=np.int32), 4)
    value, gradient = COMPILED[name](features, labels)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@every_loss
def test_nan_is_not_hidden(name):
    features, labels = batch(dtype=np.float32)
    features[2, 1] = np.nan
    assert np.isnan(COMPILED[name](features, labels)[0])


def sizes(jaxpr):
    """Yields the size of every intermediate of a jaxpr and those nested in it."""
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for parameter in jax.tree.leaves(list(equation.params.values())):
            nested = getattr(parameter, "jaxpr", parameter)
            if hasattr(nested, "eqns"):
                yield from sizes(nested)


@every_loss
def test_memory_is_that_of_features_and_one_matrix(name):
    features, labels = batch(size=32, dim=48, dtype=np.float32)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(LOSSES[name]))(features, labels)
    assert max(sizes(jaxpr.jaxpr)) <= max(features.size, len(labels) ** 2)
    naive = jax.make_jaxpr(lambda f: jnp.sum(abs(f[:, None] - f)))(features)
    assert max(sizes(naive.jaxpr)) == 32 * 32 * 48, "this test sees no intermediates"


def values_and_gradients(parameters, features, labels, axis_name=None):
    """Every loss of a linear map, its gradients to the parameters and the features."""

    def of(parameters, features, name):
        return LOSSES[name](features @ parameters, labels, axis_name=axis_name)

    return {
        name: jax.value_and_grad(of, (0, 1))(parameters, features, name)
        for name in LOSSES
    }


@pytest.mark.parametrize("check_vma", [False, True])
def test_eight_devices_give_the_loss_of_the_global_batch(check_vma):
    features, labels = batch(size=16)
    parameters = np.random.default_rng(3).standard_normal((6, 4))

    def per_device(parameters, features, labels):
        results = values_and_gradients(parameters, features, labels, axis_name="data")
        return {
            # With check_vma the reduction over devices is part of differentiation.
            name: (
                value,
                (grads[0] if check_vma else lax.pmean(grads[0], "data"), grads[1]),
            )
            for name, (value, grads) in results.items()
        }

    sharded = jax.shard_map(
        per_device,
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",)),
        in_specs=(P(), P("data"), P("data")),
        out_specs=dict.fromkeys(LOSSES, (P(), (P(), P("data")))),
        check_vma=check_vma,
    )
    with jax.enable_x64(True):
        wanted = jax.jit(values_and_gradients)(parameters, features, labels)
        results = jax.jit(sharded)(parameters, features, labels)
    for name, (value, (gradient, local)) in results.items():
        want, (want_gradient, want_local) = wanted[name]
        shards = [shard.data for shard in value.addressable_shards]
        assert len(shards) == 8
        np.testing.assert_array_equal(shards, [shards[0]] * 8, err_msg=name)
        np.testing.assert_allclose(value, want, rtol=1e-12, err_msg=name)
        close = functools.partial(
            np.testing.assert_allclose, rtol=1e-9, atol=1e-13, err_msg=name
        )
        close(gradient, want_gradient)
        close(local, np.multiply(want_local, 1 if check_vma else 8))


def test_pmap_gives_the_gradient_of_the_global_batch():
    features, labels = batch(size=16, dtype=np.float32)
    parameters = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)

    def gradient(parameters, features, labels, axis_name=None):
        def loss(parameters):
            return mi_ue_loss(features @ parameters, labels, axis_name=axis_name)

        result = jax.grad(loss)(parameters)
        return result if axis_name is None else lax.pmean(result, axis_name)

    mapped = jax.pmap(
        functools.partial(gradient, axis_name="data"),
        axis_name="data",
        in_axes=(None, 0, 0),
        out_axes=None,
    )
    result = mapped(parameters, features.reshape(8, 2, 6), labels.reshape(8, 2))
    want = jax.jit(gradient)(parameters, features, labels)
    np.testing.assert_allclose(result, want, rtol=1e-4, atol=1e-6)


# Bad input --------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((4, 2, 2), np.float32), np.zeros(4, int), r"\(4, 2, 2\)"),
        (np.ones(4, np.float32), np.zeros(4, int), r"\(4,\)"),
        (np.ones((0, 2), np.float32), np.zeros(0, int), "empty"),
        (np.ones((4, 2), np.float32), np.zeros(3, int), r"\(4,\).*\(4, 2\).*\(3,\)"),
        (np.ones((4, 2), np.float32), np.zeros((4, 1), int), r"\(4, 1\)"),
        (np.ones((4, 2), np.float32), np.zeros(4, np.float32), "integers"),
        (np.ones((4, 2), np.int32), np.zeros(4, int), "floating"),
    ],
)
def test_bad_batches_are_refused_while_tracing(name, features, labels, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(LOSSES[name], features, labels)


@pytest.mark.parametrize("loss", [similarity_loss, mi_ue_loss])
def test_temperatures_whose_reciprocal_overflows_are_refused(loss):
    features, labels = batch(dtype=np.float32)
    for value in (1e-40, 1e-38, 1e-31, np.float64(1e-300)):
        with pytest.raises(ValueError, match="temperature must be at least 1"):
            loss(features, labels, temperature=value)
    for scale in (1, 1e-6, 1e6):
        lowest = functools.partial(loss, labels=labels, temperature=1.5e-30)
        value, gradient = jax.value_and_grad(lowest)(features * np.float32(scale))
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
    with jax.enable_x64(True):
        assert np.isfinite(loss(features.astype(np.float64), labels, temperature=1e-40))


def test_a_noise_variance_whose_reciprocal_overflows_is_refused():
    features, labels = batch(dtype=np.float32)
    with pytest.raises(ValueError, match="noise_variance must be at least"):
        conditional_covariance_loss(
            features, labels, num_classes=CLASSES, noise_variance=1e-40
        )


@pytest.mark.parametrize(
    "value", [0, -0.1, float("nan"), float("inf"), np.float32(0), np.ones(2)]
)
def test_settings_that_are_not_positive_scalars_are_refused(value):
    features, labels = batch(dtype=np.float32)
    for loss in (similarity_loss, mi_ue_loss):
        with pytest.raises(ValueError, match="temperature"):
            loss(features, labels, temperature=value)
    with pytest.raises(ValueError, match="noise_variance"):
        conditional_covariance_loss(
            features, labels, num_classes=CLASSES, noise_variance=value
        )
    with pytest.raises(ValueError, match="num_classes"):
        conditional_covariance_loss(features, labels, num_classes=value)


@pytest.mark.parametrize(
    "value", [np.ones(2), float("nan"), float("inf"), -1, -0.1, np.float32(-1)]
)
def test_a_distance_weight_that_is_no_weight_is_refused(value):
    features, labels = batch(dtype=np.float32)
    with pytest.raises(ValueError, match="distance_weight must be"):
        mi_ue_loss(features, labels, distance_weight=value)


def test_the_number_of_classes_is_an_integer():
    features, labels = batch(dtype=np.float32)
    for value in (1.5, 5.0, np.float32(5)):
        with pytest.raises(ValueError, match="num_classes must be an integer"):
            conditional_covariance_loss(features, labels, num_classes=value)
    conditional_covariance_loss(features, labels, num_classes=np.int64(CLASSES))


def test_unknown_statistic_names_the_nearest():
    features, labels = batch(dtype=np.float32)
    with pytest.raises(ValueError, match=r"'log_det'; did you mean 'logdet'\?.*trace,"):
        conditional_covariance_loss(
            features, labels, num_classes=CLASSES, statistic="log_det"
        )


def test_settings_may_be_traced():
    features, labels = batch(dtype=np.float32)
    mapped = jax.vmap(
        lambda temperature, weight: mi_ue_loss(
            features, labels, temperature=temperature, distance_weight=weight
        )
    )
    values = jax.jit(mapped)(jnp.array([0.1, 0.3]), jnp.array([0.1, 0.5]))
    np.testing.assert_allclose(values[1], COMPILED["mi_ue"](features, labels)[0], 1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("split", "split_labels"),
    [
        (P("data"), P("data")),
        (P("data"), P()),
        (P(), P("data")),
        (P(None, "data"), P()),
    ],
)
def test_batches_that_are_split_explicitly(name, split, split_labels):
    kind = jax.sharding.AxisType.Explicit
    mesh = jax.make_mesh((4,), ("data",), (kind,), devices=jax.devices()[:4])
    features = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    labels = np.arange(16, dtype=np.int32) % 4
    want, gradient = COMPILED[name](features, labels)
    with jax.sharding.set_mesh(mesh):
        place = [jax.sharding.NamedSharding(mesh, s) for s in (split, split_labels)]
        batch = jax.device_put(features, place[0]), jax.device_put(labels, place[1])
        function = jax.jit(jax.value_and_grad(LOSSES[name]))
        found, derivative = function(*batch)
        eager = LOSSES[name](*batch)
    np.testing.assert_allclose([found, eager], [want, want], rtol=1e-5)
    np.testing.assert_allclose(derivative, gradient, atol=1e-6)
