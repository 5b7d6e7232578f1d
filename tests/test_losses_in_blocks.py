"""Losses of batches that are compared in blocks, and around a ring of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from miue_jax.losses import (
    _pairs,
    conditional_covariance_loss,
    distance_loss,
    mi_ue_loss,
    paired_similarity_loss,
    similarity_loss,
)

SIZE, DIM, CLASSES = 23, 4, 5


def paired(features, labels, axis_name=None, **settings):
    """The paired similarity, with views that the features determine."""
    views = features * jnp.asarray([1.0, 2.0, -0.5, 1.0], features.dtype)
    settings = {"temperature": 0.3, "margin": 0.2, **settings}
    return paired_similarity_loss(
        features, views, labels, axis_name=axis_name, **settings
    )


covariance = functools.partial(conditional_covariance_loss, num_classes=CLASSES)
LOSSES = {
    "similarity": functools.partial(similarity_loss, temperature=0.3),
    "distance": distance_loss,
    "mi_ue": functools.partial(mi_ue_loss, temperature=0.3, distance_weight=0.5),
    "paired": paired,
    "trace": covariance,
    "logdet": functools.partial(covariance, statistic="logdet"),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
of_pairs = pytest.mark.parametrize(
    "name", ["similarity", "distance", "mi_ue", "paired"]
)


@pytest.fixture
def in_blocks(monkeypatch):
    """Blocks of 5 by 5 pairs; 23 samples do not fill them."""
    set_blocks(monkeypatch, pairs=36, block=5)


def set_blocks(monkeypatch, *, pairs, block):
    monkeypatch.setattr(_pairs, "_PAIRS", pairs)
    monkeypatch.setattr(_pairs, "_BLOCK", block)
    jax.clear_caches()  # what was compiled does not know of it


def batch(size=SIZE, seed=0):
    """Class 3 has one member, class 4 none; two features are equal, one is zero."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size).astype(np.int32)
    labels[size // 2] = 3
    features = rng.standard_normal((CLASSES, DIM))[labels]
    features += rng.standard_normal((size, DIM))
    same = np.flatnonzero(labels == labels[0])
    features[same[1]] = features[same[2]]
    features[same[3]] = 0
    return features, labels


def unit(features):
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def brute_force(name, features, labels):
    """The loss by its formula, pair by pair, in NumPy."""
    same = labels[:, None] == labels
    if name == "mi_ue":
        similarity, distance = (
            brute_force(part, features, labels) for part in ("similarity", "distance")
        )
        return similarity + 0.5 * distance
    if name == "similarity":
        terms = np.exp(unit(features) @ unit(features).T / 0.3) + 1e-8
        return -np.mean(np.log((terms * same).sum(1) / terms.sum(1)))
    if name == "distance":
        distances = np.linalg.norm(features[:, None] - features, axis=2)
        return np.mean(np.log1p((distances * same).sum(1) / DIM))
    if name == "paired":
        views = unit(features * np.array([1, 2, -0.5, 1]))
        terms = np.exp((unit(features) @ views.T - 0.2 * same) / 0.3)
        odds = [
            np.sum(each * ~same, axis=1) / np.sum(each * same, axis=1)
            for each in (terms, terms.T)
        ]
        return np.mean(np.log1p(odds))
    loss = 0
    for label in np.unique(labels):
        members = unit(features)[labels == label]
        if len(members) > 1:
            covariance = np.cov(members.T)
            value = np.trace(covariance)
            if name == "logdet":
                value = np.linalg.slogdet(np.eye(DIM) + covariance / 0.1)[1] / 2
            loss += len(members) / len(labels) * value
    return loss


@every_loss
def test_blocks_that_do_not_divide_the_batch_give_the_formula(name, in_blocks):
    features, labels = batch()
    with jax.enable_x64(True):
        value = jax.jit(LOSSES[name])(features, labels)
    np.testing.assert_allclose(value, brute_force(name, features, labels), rtol=1e-12)


@every_loss
def test_gradients_in_blocks_are_differences_of_the_formula(name, in_blocks):
    features, labels = batch()
    # Neither the formula nor its differences are smooth at the equal and the zero.
    features += np.random.default_rng(1).standard_normal(features.shape)
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(LOSSES[name]))(features, labels)
    step = 1e-6
    for index in np.ndindex(*features.shape):
        ahead, behind = features.copy(), features.copy()
        ahead[index] += step
        behind[index] -= step
        difference = brute_force(name, ahead, labels)
        difference -= brute_force(name, behind, labels)
        assert float(gradient[index]) == pytest.approx(
            difference / (2 * step), rel=1e-6, abs=1e-9
        )


@pytest.fixture(autouse=True)
def forget_blocks():
    yield
    jax.clear_caches()


def value_and_gradient(name, features, labels):
    return jax.jit(jax.value_and_grad(lambda f, y: LOSSES[name](f, y)))(
        features, labels
    )


@of_pairs
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_blocks_give_what_all_pairs_at_once_give(name, dtype, monkeypatch):
    features, labels = batch()
    with jax.enable_x64(dtype == "float64"):
        features = jnp.asarray(features, dtype)
        want, want_gradient = value_and_gradient(name, features, labels)
        set_blocks(monkeypatch, pairs=36, block=5)
        value, gradient = value_and_gradient(name, features, labels)
    assert gradient.dtype == dtype
    rounding = 1e-14 if dtype == "float64" else 1e-6
    assert float(value) == pytest.approx(float(want), rel=rounding)
    # At equal features, a rounding more or less decides nothing.
    unit = np.abs(np.float64(want_gradient)).max()
    rounding = 2**-8 if dtype == "bfloat16" else 10 * rounding
    np.testing.assert_allclose(
        np.float64(gradient), np.float64(want_gradient), atol=rounding * unit
    )


@every_loss
def test_forward_mode_and_second_derivatives(name, in_blocks):
    features, labels = batch()
    rng = np.random.default_rng(1)
    features += rng.standard_normal(features.shape)
    with jax.enable_x64(True):
        loss = jax.jit(lambda f: LOSSES[name](f, labels))
        check_grads(loss, (jnp.asarray(features),), 1, modes="fwd", rtol=1e-6)
        gradient = jax.jit(jax.grad(lambda f: LOSSES[name](f, labels)))
        # The loops of the log-determinant have no fixed length.
        modes = ("fwd",) if name == "logdet" else ("fwd", "rev")
        for mode in modes:
            check_grads(gradient, (jnp.asarray(features),), 1, modes=mode, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("similarity", "temperature"),
        ("mi_ue", "temperature"),
        ("mi_ue", "distance_weight"),
        ("paired", "temperature"),
        ("paired", "margin"),
        ("logdet", "noise_variance"),
    ],
)
def test_derivatives_by_settings(name, setting, in_blocks):
    features, labels = batch()
    with jax.enable_x64(True):

        def loss(value):
            return LOSSES[name](features, labels, **{setting: value})

        for modes in ("rev", "fwd"):
            check_grads(jax.jit(loss), (jnp.asarray(0.4),), 1, modes=modes, rtol=1e-6)


def on_devices(features, labels, name, check_vma):
    def per_device(features, labels):
        loss = functools.partial(LOSSES[name], axis_name="data")
        return jax.value_and_grad(loss)(features, labels)

    return jax.shard_map(
        per_device,
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",)),
        in_specs=(P("data"), P("data")),
        out_specs=(P(), P("data")),
        check_vma=check_vma,
    )(features, labels)


@every_loss
@pytest.mark.parametrize("check_vma", [False, True])
def test_a_ring_of_eight_devices_gives_the_global_batch(name, check_vma, monkeypatch):
    features, labels = batch(size=48)
    with jax.enable_x64(True):
        want, want_gradient = value_and_gradient(name, features, labels)
        # Around the ring, 6 samples by 6 in blocks of 4.
        set_blocks(monkeypatch, pairs=20, block=4)
        sharded = functools.partial(on_devices, name=name, check_vma=check_vma)
        value, gradient = jax.jit(sharded)(features, labels)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    want_gradient = np.multiply(want_gradient, 1 if check_vma else 8)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-9, atol=1e-13)


def equations(jaxpr):
    """Yields every equation of a jaxpr and of those nested in it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(list(equation.params.values())):
            nested = getattr(parameter, "jaxpr", parameter)
            if hasattr(nested, "eqns"):
                yield from equations(nested)


@of_pairs
def test_around_the_ring_no_device_holds_all_features(name, in_blocks):
    sharded = functools.partial(on_devices, name=name, check_vma=True)
    features, labels = batch(size=48)
    found = list(equations(jax.make_jaxpr(sharded)(features, labels).jaxpr))
    assert any(equation.primitive.name == "ppermute" for equation in found)
    gathered = [each for each in found if each.primitive.name.startswith("all_gather")]
    assert all(each.outvars[0].aval.ndim == 1 for each in gathered)


@every_loss
@pytest.mark.parametrize("size", [4096, 16384])
def test_no_matrix_of_all_pairs_of_a_large_batch(name, size):
    features = jax.ShapeDtypeStruct((size, DIM), np.float32)
    labels = jax.ShapeDtypeStruct((size,), np.int32)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(LOSSES[name]))(features, labels)
    largest = max(
        variable.aval.size
        for equation in equations(jaxpr.jaxpr)
        for variable in equation.outvars
    )
    assert largest <= 1024 * size < size**2  # a row of blocks


@pytest.mark.parametrize("statistic", ["trace", "logdet"])
def test_covariance_of_classes_smaller_and_larger_than_the_features(statistic):
    rng = np.random.default_rng(0)
    dim = 20
    labels = np.repeat(np.arange(6), [1, 3, 17, 18, 70, 200]).astype(np.int32)
    labels = rng.permutation(labels)
    features = rng.standard_normal((len(labels), dim))
    want, want_gradient = 0.0, np.zeros_like(features)
    for label in range(1, 6):
        members = features[labels == label]
        share, size = len(members) / len(labels), len(members)
        centered = members - members.mean(0)
        matrix = np.eye(dim) + np.cov(members.T) / 0.3
        scale = share / (size - 1)
        if statistic == "trace":
            want += share * np.trace(np.cov(members.T))
            want_gradient[labels == label] = 2 * scale * centered
        else:
            want += share * np.linalg.slogdet(matrix)[1] / 2
            pull = np.linalg.solve(matrix, centered.T).T
            want_gradient[labels == label] = scale / 0.3 * pull
    with jax.enable_x64(True):
        loss = functools.partial(
            conditional_covariance_loss,
            num_classes=1000,
            statistic=statistic,
            noise_variance=0.3,
            normalize=False,
        )
        value, gradient = jax.jit(jax.value_and_grad(loss))(features, labels)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-10, atol=1e-14)


@every_loss
def test_a_label_that_is_no_class_is_not_overlooked(name, in_blocks):
    features, labels = batch()
    loss = jax.jit(LOSSES[name])
    labels[7] = -1
    assert np.isnan(loss(features.astype(np.float32), labels))
    one = features[:1].astype(np.float32)
    assert np.isnan(jax.jit(LOSSES[name])(one, np.array([-1], np.int32)))


def test_all_values_and_gradients_at_a_large_batch():
    """The sizes that are really used: 2,100 samples in three blocks."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 2100).astype(np.int32)
    features = rng.standard_normal((2100, DIM))
    with jax.enable_x64(True):
        for name in ("mi_ue", "paired"):
            value, gradient = value_and_gradient(name, features, labels)
            want = brute_force(name, features, labels)
            np.testing.assert_allclose(value, want, rtol=1e-12)
            direction = rng.standard_normal(features.shape)
            step = 1e-6 * direction
            difference = brute_force(name, features + step, labels)
            difference -= brute_force(name, features - step, labels)
            np.testing.assert_allclose(
                np.sum(np.asarray(gradient) * direction), difference / 2e-6, rtol=1e-5
            )
