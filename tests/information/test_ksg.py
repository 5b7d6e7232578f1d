"""Nearest neighbors: an oracle, closed forms, invariances, devices and bad input."""

import importlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from miue_jax.information._core import half_digamma, whole_digamma
from miue_jax.information.estimators import neighbors
from miue_jax.information.estimators.ksg import _span, ksg, ksg_conditional
from miue_jax.information.estimators.relations import DiscreteSamplesWarning
from miue_jax.information.estimators.ross import ross
from miue_jax.train.parallel import data_mesh

# The package exports functions of the same names.
ksg_module, ross_module = (
    importlib.import_module(f"miue_jax.information.estimators.{name}")
    for name in ("ksg", "ross")
)
SIZE, CLASSES = 600, 4
prepared_distances = jax.jit(
    lambda samples: neighbors.squared_distances(
        neighbors.prepare(samples), jnp.arange(len(samples))
    )
)


def correlated(size=SIZE, dim=1, rho=0.75, seed=0):
    """Pairs of coordinates with correlation rho: -dim/2 log(1 - rho^2) nats."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, size, dim))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def clusters(spread, *, size=SIZE, dim=12, seed=0, offset=1.0):
    """Features that share a within-class signal and collapse to `CLASSES` points."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % CLASSES).astype(np.int32)
    rng.shuffle(labels)
    means = rng.standard_normal((CLASSES, dim))
    means *= offset / np.linalg.norm(means, axis=1, keepdims=True)
    signal, noise_x, noise_y = rng.standard_normal((3, size, dim))
    x = means[labels] + spread * (signal + 0.5 * noise_x)
    y = means[::-1][labels] + spread * (signal + 0.5 * noise_y)
    return x, y, labels


def exact_neighbor(samples):
    distances = np.sum((samples[:, None] - samples) ** 2, axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.argmin(distances, axis=1)


# Oracle and closed forms -------------------------------------------------------------


def test_digamma_tables_agree_with_scipy():
    m = np.arange(1, 501)
    np.testing.assert_allclose(half_digamma(500)[1:], digamma(m / 2), atol=1e-13)
    np.testing.assert_allclose(whole_digamma(500)[1:], digamma(m), atol=1e-13)


def test_one_dimension_agrees_with_scikit_learn():
    reason = "scikit-learn is the oracle of one-dimensional KSG"
    selection = pytest.importorskip("sklearn.feature_selection", reason=reason)
    x, y = correlated()
    expected = selection.mutual_info_regression(x, y[:, 0], n_neighbors=3)[0]
    found = ksg(x, y, neighbors=3)
    # scikit-learn adds noise of 1e-10, which may move a count or two of 1200.
    assert float(found.value) == pytest.approx(expected, abs=2e-4)
    assert np.isnan(found.standard_error)
    assert found.kind == "estimate"


def test_ross_agrees_with_scikit_learn():
    reason = "scikit-learn is the oracle of Ross's estimator"
    selection = pytest.importorskip("sklearn.feature_selection", reason=reason)
    labels = np.arange(SIZE) % CLASSES
    x = labels[:, None] + np.random.default_rng(0).standard_normal((SIZE, 1))
    expected = selection.mutual_info_classif(x, labels, n_neighbors=3)[0]
    assert 0.1 < expected < 1.3
    found = ross(x, labels, num_classes=CLASSES, neighbors=3)
    assert float(found.value) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize(("rho", "truth"), [(0.75, 0.4133), (0.0, 0.0)])
def test_closed_form_within_four_deviations(variant, rho, truth):
    # The standard deviation at N = 1000 and 0.4133 nats is 0.030, so 0.039 at 600.
    x, y = correlated(rho=rho)
    assert float(ksg(x, y, variant=variant).value) == pytest.approx(truth, abs=0.16)


def test_collapsed_classes_give_the_entropy_of_the_label():
    x, _, labels = clusters(1e-3)
    rng = np.random.default_rng(1)
    y = np.eye(CLASSES)[labels] + 1e-3 * rng.standard_normal((SIZE, CLASSES))
    assert float(ksg(x, y).value) == pytest.approx(np.log(CLASSES), abs=0.05)
    assert float(ross(x, labels, num_classes=CLASSES).value) == pytest.approx(
        np.log(CLASSES), abs=0.02
    )
    within = ksg_conditional(x, y, labels, num_classes=CLASSES)
    assert float(within.value) == pytest.approx(0, abs=0.1)


def test_conditional_is_the_weighted_mean_of_the_classes():
    x, y, labels = clusters(0.5)
    labels = np.where(labels == 3, 0, labels)  # sizes 2 : 1 : 1, one class absent
    found = ksg_conditional(x, y, labels, num_classes=CLASSES, standardize=False)
    expected = sum(
        np.mean(labels == c)
        * float(ksg(x[labels == c], y[labels == c], standardize=False).value)
        for c in range(3)
    )
    assert float(found.value) == pytest.approx(expected, abs=1e-5)
    assert expected > 0.3


# Precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-4])
def test_collapsed_clusters_keep_their_neighbors_in_float32(spread):
    x = clusters(spread)[0].astype(np.float32)
    distances = np.array(prepared_distances(jnp.asarray(x - x.mean(axis=0))))
    np.fill_diagonal(distances, np.inf)
    exact = exact_neighbor(x.astype(np.float64))
    assert np.mean(np.argmin(distances, axis=1) == exact) > 0.995


@pytest.mark.parametrize("spread", [1e-3, 1e-4])
def test_float32_agrees_with_float64_on_collapsed_clusters(spread):
    x, y, labels = clusters(spread)
    x, y = x.astype(np.float32), y.astype(np.float32)
    options = {"num_classes": CLASSES}
    single = ksg(x, y), ksg_conditional(x, y, labels, **options)
    with jax.enable_x64(True):
        wide = [jnp.asarray(z, jnp.float64) for z in (x, y)]
        double = ksg(*wide), ksg_conditional(*wide, labels, **options)
        assert double[0].value.dtype == jnp.float64
    for narrow, exact in zip(single, double, strict=True):
        assert narrow.value.dtype == jnp.float32
        assert float(narrow.value) == pytest.approx(float(exact.value), abs=3e-3)
        assert float(narrow.diagnostics["tie_fraction"]) == 0
    # Information beyond the label is there to be lost: it would be 0 for noise.
    assert float(double[1].value) > 0.5


def test_host_precision_survives_a_far_offset():
    # The float64 input keeps 1e-6 beside 1e3; rounded to float32 first, nothing would.
    far, near = clusters(1e-6, offset=1e3), clusters(1e-6, offset=0)
    labels = far[2]
    found, expected = [
        float(ksg_conditional(*pair[:2], labels, num_classes=CLASSES).value)
        for pair in (far, near)
    ]
    assert found == pytest.approx(expected, abs=2e-3)


# Invariances -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [1, 2])
def test_invariances(variant):
    x, y, _ = clusters(0.5)
    options = {"variant": variant, "standardize": False}
    value = float(ksg(x, y, **options).value)
    rng = np.random.default_rng(3)
    order = rng.permutation(SIZE)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    permuted = ksg(x[order], y[order], **options).value
    assert float(permuted) == pytest.approx(value, abs=1e-5)
    assert float(ksg(y, x, **options).value) == pytest.approx(value, abs=1e-5)
    turned = ksg(x @ turn, y + 3, **options).value
    assert float(turned) == pytest.approx(value, abs=2e-3)
    both = ksg(1e25 * x, 1e25 * y, **options).value
    assert float(both) == pytest.approx(value, abs=2e-3)


def test_standardized_columns_forget_their_scale():
    x, y, _ = clusters(0.5)
    scale = 10.0 ** np.linspace(-3, 3, 12)
    scaled = ksg(x * scale, y).value
    assert float(scaled) == pytest.approx(float(ksg(x, y).value), abs=1e-5)


# Chunks, devices, jit and vmap -------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [7, 250, 10_000])
def test_chunks_do_not_change_the_value(chunk_size):
    x, y, labels = clusters(0.3)
    options = {"num_classes": CLASSES}
    pairs = [
        ksg_conditional(x, y, labels, **options, chunk_size=size)
        for size in (512, chunk_size)
    ]
    assert float(pairs[0].value) == pytest.approx(float(pairs[1].value), abs=1e-5)


def test_one_device_and_eight_agree():
    x, y, labels = clusters(0.3, size=SIZE - 3)  # not divisible by 8
    mesh = data_mesh()
    assert mesh.size == 8
    options = {"num_classes": CLASSES}
    for one, eight in (
        (ksg(x, y), ksg(x, y, mesh=mesh)),
        (
            ksg_conditional(x, y, labels, **options),
            ksg_conditional(x, y, labels, **options, mesh=mesh),
        ),
        (ross(x, labels, **options), ross(x, labels, **options, mesh=mesh)),
    ):
        assert float(eight.value) == pytest.approx(float(one.value), abs=1e-5)


def test_windows_cover_classes_of_any_size():
    sizes = [1, 700, 3, 40, 256]
    labels = np.repeat(np.arange(5), sizes)
    for chunk in (16, 512):
        span = _span(labels, chunk)
        assert span % 64 == 0 or span == len(labels)
        assert span >= 700


def test_labels_that_are_known_under_jit_limit_the_work_to_classes():
    size, classes = 1000, 10
    labels = np.arange(size) % classes
    x, y = np.random.default_rng(0).standard_normal((2, size, 3), np.float32)

    def estimate(x, y, labels=labels):
        return ksg_conditional(x, y, labels, num_classes=classes).value

    def largest(function, *arguments):
        text = str(jax.make_jaxpr(function)(*arguments))
        pairs = re.findall(r"\[(\d+),(\d+)\]", text)
        return max(int(rows) * int(columns) for rows, columns in pairs)

    assert largest(estimate, x, y) < 100 * size
    assert largest(estimate, x, y, labels) > 500 * size  # the labels are traced
    assert float(jax.jit(estimate)(x, y)) == pytest.approx(
        float(estimate(x, y)), abs=1e-5
    )


def test_jit_and_vmap_agree_with_eager():
    x, y, labels = (z[:200] for z in clusters(0.3))
    labels[:3] = 3
    options = {"num_classes": CLASSES}
    eager = ksg_conditional(x, y, labels, **options)
    compiled = jax.jit(lambda *z: ksg_conditional(*z, **options))(x, y, labels)
    assert float(compiled.value) == pytest.approx(float(eager.value), abs=1e-4)
    orders = np.stack([np.arange(200), np.random.default_rng(0).permutation(200)])
    targets = y[orders].astype(np.float32)
    batched = jax.jit(jax.vmap(lambda y: ksg(x, y).value))(targets)
    each = [float(ksg(x, y[order]).value) for order in orders]
    np.testing.assert_allclose(batched, each, atol=1e-4)
    label = jax.jit(lambda *z: ross(*z, **options).value)(x, labels)
    eager_label = ross(x, labels, **options).value
    assert float(label) == pytest.approx(float(eager_label), abs=1e-4)


def test_under_jit_small_classes_and_wrong_labels_are_flagged():
    x, y, labels = (z[:200] for z in clusters(0.3))
    labels = labels % 2
    labels[:4] = 2
    function = jax.jit(lambda z: ksg_conditional(x, y, z, num_classes=3))
    small = function(labels)
    assert np.isfinite(small.value)
    assert float(small.diagnostics["undersized_fraction"]) == pytest.approx(0.02)
    labels[0] = 3
    assert np.isnan(function(labels).value)


# Ties --------------------------------------------------------------------------------


def test_duplicates_are_reported_and_finite():
    x, y = correlated(dim=3)
    x[1], y[1] = x[0], y[0]
    found = ksg(x, y)
    assert float(found.diagnostics["tie_fraction"]) == pytest.approx(2 / SIZE)
    assert float(found.diagnostics["degenerate_fraction"]) == 0
    assert np.isfinite(found.value)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("dim", [3, 12])
def test_points_give_the_information_of_their_label(variant, dim):
    means = np.random.default_rng(0).standard_normal((CLASSES, dim))
    labels = np.arange(SIZE) % CLASSES
    found = ksg(means[labels], means[labels], variant=variant)
    assert float(found.diagnostics["degenerate_fraction"]) == 1
    expected = digamma(SIZE) - digamma(SIZE // CLASSES)
    assert float(found.value) == pytest.approx(expected, abs=1e-4)
    label = ross(means[labels], labels, num_classes=CLASSES)
    assert float(label.value) == pytest.approx(expected, abs=1e-4)
    within = ksg_conditional(means[labels], means[labels], labels, num_classes=CLASSES)
    assert float(within.value) == pytest.approx(0, abs=1e-5)


def test_jitter_breaks_ties_only_when_asked():
    x, y = (np.round(z, 1) for z in correlated())
    tied = float(ksg(x, y).diagnostics["tie_fraction"])
    assert tied > 0.1
    found = ksg(x, y, jitter_key=jax.random.key(0))
    assert float(found.diagnostics["tie_fraction"]) < 0.05 * tied
    assert float(found.value) == pytest.approx(0.4133, abs=0.2)


def test_constant_columns_contribute_nothing():
    x, y = correlated(dim=2)
    wider = np.concatenate([x, np.full((SIZE, 1), 0.1)], axis=1)
    found = ksg(wider, y)
    assert int(found.diagnostics["constant_columns"]) == 1
    assert float(found.value) == pytest.approx(float(ksg(x, y).value), abs=1e-5)
    assert float(ksg(np.full(SIZE, 0.1), y).value) == pytest.approx(0, abs=1e-5)


def test_one_class_holds_no_information_about_the_label():
    x, y = correlated()
    labels = np.zeros(SIZE, int)
    assert float(ross(x, labels, num_classes=1).value) == pytest.approx(0, abs=1e-5)
    alone = ksg_conditional(x, y, labels, num_classes=1).value
    assert float(alone) == float(ksg(x, y).value)


def brute_force(x, y, k, *, variant=1):
    """KSG in float64, sample by sample, counting ties with the k-th neighbor."""
    size, terms = len(x), []
    for i in range(size):
        dx, dy = (np.sqrt(np.sum((z - z[i]) ** 2, axis=1)) for z in (x, y))
        dx[i] = dy[i] = np.inf
        joint = np.maximum(dx, dy)
        radius = np.sort(joint)[k - 1]
        within = np.sum(joint <= radius)
        if radius == 0:
            counts = [1 + np.sum(d == 0) for d in (joint, dx, dy)]
            terms.append(digamma(counts[0]) - digamma(counts[1:]).sum())
        elif variant == 1:
            near = [max(np.sum(d <= radius), 1 + np.sum(d < radius)) for d in (dx, dy)]
            terms.append(digamma(within) - digamma(near).sum())
        else:
            sides = [np.max(d[joint <= radius]) for d in (dx, dy)]
            near = [np.sum(d <= s) for d, s in zip((dx, dy), sides, strict=True)]
            terms.append(digamma(within) - 1 / within - digamma(near).sum())
    return digamma(size) + np.mean(terms)


def ross_brute_force(x, labels, k):
    size, terms = len(x), []
    for i in range(size):
        distances = np.sqrt(np.sum((x - x[i]) ** 2, axis=1))
        distances[i] = np.inf
        inside = distances[labels == labels[i]]
        radius = np.sort(inside)[k - 1]
        within = np.sum(inside <= radius)
        near = max(np.sum(distances <= radius), 1 + np.sum(distances < radius))
        if radius == 0:
            within, near = 1 + np.sum(inside == 0), 1 + np.sum(distances == 0)
        terms.append(digamma(within) - digamma(near) - digamma(len(inside)))
    return digamma(size) + np.mean(terms)


def standardized(x):
    return (x - x.mean(axis=0)) / x.std(axis=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the coarsest are called discrete
@pytest.mark.parametrize("step", [0.02, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("neighbors", [3, 5, 10])
def test_rounded_data_keep_their_information(step, neighbors):
    # 0.4133 nats; rounding to half a standard deviation costs 0.01 of them.
    x, y = (step * np.round(z / step) for z in correlated(size=1000))
    found = float(ksg(x, y, neighbors=neighbors).value)
    assert found == pytest.approx(0.4133, abs=0.1)
    inside = jax.jit(lambda *z: ksg(*z, neighbors=neighbors).value)(
        x.astype(np.float32), y.astype(np.float32)
    )
    assert float(inside) == pytest.approx(found, abs=0.02)
    one_side = float(ksg(x, correlated(size=1000)[1], neighbors=neighbors).value)
    assert one_side == pytest.approx(0.4133, abs=0.1)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_zero_inflated_data_keep_their_information(share):
    x, y = correlated(size=2000)
    zero = np.random.default_rng(5).random(2000) < share
    found = ksg(np.where(zero, 0, x[:, 0]), y)
    assert float(found.value) == pytest.approx(0.4133 * (1 - share), abs=0.06)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_ties_are_counted_as_by_brute_force(dim, variant, step):
    x, y = (np.round(z / step) for z in correlated(size=300, dim=dim))
    options = {"variant": variant, "standardize": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiscreteSamplesWarning)
        found = float(ksg(x, y, **options).value)
    want = brute_force(x, y, 5, variant=variant)
    assert found == pytest.approx(want, abs=1e-4)


def test_ross_and_classes_count_ties():
    labels = np.arange(600) % 3
    x, y = correlated()
    x = np.round(4 * (x + labels[:, None]))
    found = float(ross(x, labels, num_classes=3, standardize=False).value)
    assert found == pytest.approx(ross_brute_force(x, labels, 3), abs=1e-4)
    jittered = ross(x, labels, num_classes=3, jitter_key=jax.random.key(0))
    assert float(jittered.diagnostics["tie_fraction"]) < 0.5
    # Some 25 values of x: the counts are (25 - 1)(3 - 1) / 2N = 0.04 nats too high.
    assert found == pytest.approx(float(jittered.value), abs=0.1)
    y = np.round(4 * y)
    within = ksg_conditional(x, y, labels, num_classes=3, standardize=False)
    want = np.mean([brute_force(x[labels == c], y[labels == c], 5) for c in range(3)])
    assert float(within.value) == pytest.approx(want, abs=1e-4)


# The host: a tree, or brute force -----------------------------------------------------


def drawn(kind, size, dims):
    rng = np.random.default_rng(size + sum(dims))
    signal = rng.standard_normal((size, 1))
    spaces = [0.7 * signal + rng.standard_normal((size, dim)) for dim in dims]
    if kind == "rounded":
        spaces = [np.round(2 * z) for z in spaces]
    if kind == "inflated":
        spaces = [np.where(rng.random((size, 1)) < 0.6, 0, z) for z in spaces]
    if kind == "doubled":
        spaces = [z[np.arange(size) // 2] for z in spaces]
    if kind == "points":
        spaces = [np.sign(z) for z in spaces]
    if kind == "constant":
        spaces[0][:] = 3
    return spaces


KINDS = ["density", "rounded", "inflated", "doubled", "points", "constant"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [(1, 1), (2, 2), (1, 3), (4, 3), (9, 2)])
@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("way", ["tree", "matrix"])
def test_the_host_counts_as_the_device_does(kind, dims, variant, way, monkeypatch):
    chosen = dict.fromkeys(range(10), 0) if way == "tree" else {}
    monkeypatch.setattr(ksg_module, "_FEWEST", chosen)
    x, y = drawn(kind, 400, dims)
    options = {"variant": variant, "standardize": False, "neighbors": 4}
    found = ksg(x, y, backend="host", **options)
    want = ksg(x, y, backend="device", **options)
    assert found.diagnostics["on_host"]
    assert not want.diagnostics["on_host"]
    assert found.value.dtype == want.value.dtype
    # Above 8 dimensions the device resolves ties to the rounding of products only.
    close = 1e-5 if max(dims) <= 8 else 3e-3
    assert float(found.value) == pytest.approx(float(want.value), abs=close)
    for name in ("tie_fraction", "degenerate_fraction", "undersized_fraction"):
        one, other = (float(z.diagnostics[name]) for z in (found, want))
        assert one == pytest.approx(other, abs=1e-6), name
    exact = brute_force(x, y, 4, variant=variant)
    assert float(found.value) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("dims", [(1, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["density", "rounded"])
@pytest.mark.parametrize("way", ["tree", "matrix"])
def test_the_host_in_float64(dims, kind, way, monkeypatch):
    chosen = dict.fromkeys(range(10), 0) if way == "tree" else {}
    monkeypatch.setattr(ksg_module, "_FEWEST", chosen)
    x, y = drawn(kind, 300, dims)
    with jax.enable_x64(True):
        found = ksg(x, y, backend="host", standardize=False)
        want = ksg(x, y, backend="device", standardize=False)
        assert found.value.dtype == jnp.float64
        assert float(found.value) == pytest.approx(float(want.value), abs=1e-12)
    exact = brute_force(x, y, 5)
    assert float(found.value) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("backend", ["host", "device"])
def test_few_samples_on_both_backends(backend):
    x, y = correlated(size=4)
    for k in (1, 3):
        options = {"neighbors": k, "standardize": False}
        found = float(ksg(x, y, backend=backend, **options).value)
        assert found == pytest.approx(brute_force(x, y, k), abs=1e-5), k
    with pytest.raises(ValueError, match="holds 4 samples; at least 5"):
        ksg(x, y, neighbors=4, backend=backend)


@pytest.mark.parametrize("variant", [1, 2])
def test_classes_on_the_host(variant):
    x, y, labels = clusters(0.5, dim=2)
    labels = np.where(labels == 3, 0, labels)
    options = {"num_classes": CLASSES, "variant": variant}
    found, want = (
        ksg_conditional(x, y, labels, backend=backend, **options)
        for backend in ("host", "device")
    )
    assert float(found.value) == pytest.approx(float(want.value), abs=1e-5)


@pytest.mark.parametrize("width", [1e-1, 1e-3, 1e-4, 0])
def test_tight_classes_on_the_host(width):
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 6
    x, y = 5 * rng.standard_normal((2, 6, 20))[:, labels]
    x, y = (z + width * rng.standard_normal(z.shape) for z in (x, y))
    found, want = (
        ksg(x, y, backend=backend, standardize=False) for backend in ("host", "device")
    )
    assert float(found.value) == pytest.approx(float(want.value), abs=3e-3)
    if width:
        exact = brute_force(*(np.float32(z - z.mean(axis=0)) for z in (x, y)), 5)
        assert float(found.value) == pytest.approx(exact, abs=3e-3)


def test_the_value_alone_is_that_of_the_estimate():
    x, y, labels = clusters(0.5, dim=3)
    labels = np.asarray(labels, np.int32)
    options = {"num_classes": CLASSES, "neighbors": 4}
    found = ksg_module.value_on_host(x, y, labels, **options)
    want = ksg_conditional(x, y, labels, backend="device", **options)
    assert found == pytest.approx(float(want.value), abs=1e-5)


def test_the_backend_is_chosen_by_size_and_dimension():
    on_host = lambda *z, **options: bool(ksg(*z, **options).diagnostics["on_host"])  # noqa: E731
    assert on_host(*correlated(size=1000))
    assert not on_host(*correlated(size=100))
    assert not on_host(*correlated(size=1000, dim=9))
    x, y = correlated(size=1000)
    assert not on_host(x, y, mesh=data_mesh())
    assert not jax.jit(ksg)(x, y).diagnostics["on_host"]


def test_a_backend_that_cannot_be_had_is_refused():
    x, y = correlated(size=50)
    with pytest.raises(ValueError, match=r"backend is 'gpu'.*auto, device, host"):
        ksg(x, y, backend="gpu")
    with pytest.raises(ValueError, match=r"no mesh; allowed here: 'auto', 'device'"):
        ksg(x, y, backend="host", mesh=data_mesh())
    with pytest.raises(ValueError, match="not traced"):
        jax.jit(lambda x: ksg(x, y, backend="host").value)(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 3, 12])
def test_ross_on_the_host(kind, dim, monkeypatch):
    x, _ = drawn(kind, 300, (dim, 1))
    labels = (np.arange(300) % 4 == 0) + (np.arange(300) < 120).astype(int)
    options = {"num_classes": 4, "standardize": False}
    found = ross(x, labels, **options)
    monkeypatch.setattr(ross_module, "_FEW", 0)
    want = ross(x, labels, **options)
    close = 1e-5 if dim <= 8 else 3e-3
    assert float(found.value) == pytest.approx(float(want.value), abs=close)
    assert found.value.dtype == want.value.dtype
    assert found.diagnostics.keys() == want.diagnostics.keys()
    for name, each in want.diagnostics.items():
        assert float(found.diagnostics[name]) == pytest.approx(float(each), abs=1e-6)


# Many tight classes ------------------------------------------------------------------


def tight_classes(count, members, width, dim, dtype=np.float64):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(count), members)
    centers = rng.standard_normal((2, count, dim))[:, labels]
    signal, *noise = rng.standard_normal((3, len(labels), dim))
    x, y = (c + width * (signal + 0.5 * n) for c, n in zip(centers, noise, strict=True))
    return x.astype(dtype), y.astype(dtype), labels


@pytest.mark.parametrize(
    ("count", "members", "width", "dim"),
    [(100, 20, 1e-3, 16), (100, 20, 1e-4, 16), (300, 8, 1e-3, 9), (100, 10, 1e-3, 64)],
)
def test_more_tight_classes_than_origins(count, members, width, dim):
    x, y, labels = tight_classes(count, members, width, dim)
    found = ksg(x, y)
    want = brute_force(standardized(x), standardized(y), 5)
    assert float(found.value) == pytest.approx(want, abs=3e-3)
    for name in ("degenerate_fraction", "tie_fraction"):
        assert float(found.diagnostics[name]) == 0, name
    second = brute_force(standardized(x), standardized(y), 5, variant=2)
    assert float(ksg(x, y, variant=2).value) == pytest.approx(second, abs=3e-3)
    label = ross(x, labels, num_classes=count)
    want = ross_brute_force(standardized(x), labels, 3)
    assert float(label.value) == pytest.approx(want, abs=1e-3)
    assert float(label.diagnostics["degenerate_fraction"]) == 0


def test_more_tight_classes_than_origins_under_jit():
    x, y, labels = tight_classes(60, 10, 1e-3, 12, np.float32)
    want = brute_force(standardized(x), standardized(y), 5)
    found = jax.jit(lambda x, y: ksg(x, y).value)(x, y)
    assert float(found) == pytest.approx(want, abs=3e-3)
    label = jax.jit(lambda x: ross(x, labels, num_classes=60).value)(x)
    want = ross_brute_force(standardized(x), labels, 3)
    assert float(label) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("dim", [12, 40])
def test_distances_by_differences_are_exact(dim):
    x, _, _ = tight_classes(50, 4, 1e-4, dim, np.float32)
    points = neighbors.prepare(jnp.asarray(x))
    rows = jnp.array([0, 7, 199])
    found = neighbors.squared_distances(points, rows, 3, 150, by_differences=True)
    exact = x.astype(np.float64)
    want = np.sum((exact[np.asarray(rows)][:, None] - exact[3:153]) ** 2, axis=2)
    np.testing.assert_allclose(found, want, rtol=1e-5)


# Scales ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-60, 1e39, 1e200])
@pytest.mark.parametrize("standardize", [True, False])
def test_float64_of_any_scale(scale, standardize):
    x, y, labels = clusters(0.5)
    options = {"standardize": standardize}
    want = float(ksg(x, y, **options).value)
    found = float(ksg(scale * x, scale * y, **options).value)
    assert found == pytest.approx(want, abs=2e-3)
    options["num_classes"] = CLASSES
    want = float(ross(x, labels, **options).value)
    assert float(ross(scale * x, labels, **options).value) == pytest.approx(want, 1e-4)


# Bad input ---------------------------------------------------------------------------

GOOD = np.random.default_rng(0).standard_normal((20, 2))
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": GOOD[:5], "y": GOOD[:5]}, "holds 5 samples; at least 6"),
        ({"y": GOOD[:-1]}, "x holds 20 samples and y 19"),
        ({"x": np.where(GOOD[3, 1] == GOOD, np.nan, GOOD)}, "nan at row 3, column 1"),
        ({"x": GOOD[None]}, "shape"),
        ({"variant": 3}, "variant 3"),
        ({"neighbors": 0}, "neighbors is .* must be"),
        ({"chunk_size": 0}, "chunk_size is .* must be"),
        ({"labels": LABELS[:-1]}, "labels are"),
        ({"labels": LABELS + 1}, "labels run from 1 to 2"),
        ({"labels": LABELS - 1}, "labels run from -1"),
        ({"labels": np.eye(20, dtype=int)[4]}, "class 1 has 1 sample"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"x": GOOD, "y": GOOD, "labels": LABELS, "num_classes": 2} | change
    with pytest.raises(ValueError, match=message):
        ksg_conditional(given.pop("x"), given.pop("y"), given.pop("labels"), **given)
    given = {"x": GOOD, "y": GOOD} | change
    if "labels" not in given:
        with pytest.raises(ValueError, match=message):
            ksg(given.pop("x"), given.pop("y"), **given)
    elif "y" not in change:
        with pytest.raises(ValueError, match=r"label|class 1"):
            ross(given["x"], given["labels"], num_classes=2)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "rho"), [(1, 0.3), (1, 0.9), (2, 0.6), (3, 0.5)])
def test_gaussian_tasks_within_tolerance(dim, rho):
    x, y = correlated(size=2000, dim=dim, rho=rho)
    truth = -dim / 2 * np.log(1 - rho**2)
    assert float(ksg(x, y).value) == pytest.approx(truth, abs=0.05 + 0.1 * truth)
