"""Sliced information: closed forms of slices, the wrong direction, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from miue_jax.information.estimators.sliced import _frame, sliced

SIZE = 400
KEY = jax.random.key(0)
by_gaussian = functools.partial(sliced, estimator="gaussian")


def path(spread, *, dim=16, size=2000, seed=0):
    """Two classes; y collapses onto their means as the spread goes to 0."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    mean = 3 * np.eye(dim)[0]
    means = np.stack([mean, -mean])[labels]
    signal = rng.standard_normal((size, dim))
    return means + signal, means + spread * signal


def test_frames_are_orthonormal_and_uniform():
    frames = jax.vmap(lambda key: _frame(key, 5, 2, jnp.float32))(
        jax.random.split(KEY, 2000)
    )
    gram = np.einsum("sik,sil->skl", frames, frames)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-5)
    # Uniform: mean 0, and each entry of variance 1/5.
    np.testing.assert_allclose(np.mean(frames, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.mean(np.square(frames), axis=0), 0.2, atol=0.025)


def test_equal_gaussians_give_the_closed_form():
    x = np.random.default_rng(0).standard_normal((2000, 16))
    found = by_gaussian(KEY, x, x, num_slices=512)
    exact = (digamma(8) - digamma(7.5)) / 2  # 0.0344, though I(X; X) is infinite
    error = float(found.standard_error)
    assert error < 0.004
    assert float(found.value) == pytest.approx(exact, abs=4 * error + 0.003)
    assert found.kind == "lower"
    assert found.diagnostics["slices"].shape == (512,)


def test_shared_slices_do_not_decay_with_dimension():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 2000, 16))
    y = 0.75 * x + np.sqrt(1 - 0.75**2) * noise
    found = by_gaussian(KEY, x, y, shared=True)
    assert float(found.value) == pytest.approx(0.4133, abs=0.03)


def test_on_the_collapse_path_it_moves_the_wrong_way():
    # I(X; Y) is infinite before the collapse, as y is a function of x and of the same
    # dimension, and at most log 2 after it.
    wide, collapsed = [by_gaussian(KEY, *path(spread)) for spread in (1.0, 0.0)]
    error = float(np.hypot(wide.standard_error, collapsed.standard_error))
    assert float(collapsed.value) > float(wide.value) + 3 * error


@pytest.mark.parametrize("components", [1, 2])
def test_ksg_slices_of_gaussians(components):
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, SIZE, 2))
    y = 0.75 * x + np.sqrt(1 - 0.75**2) * noise
    found = sliced(KEY, x, y, num_slices=4, components=components, shared=True)
    truth = 0.4133 * components
    assert float(found.value) == pytest.approx(truth, abs=0.2)


@pytest.mark.parametrize(
    ("directions", "low", "high"), [("cca", 0.33, 0.5), ("pca", -0.02, 0.1)]
)
def test_fitted_directions(directions, low, high):
    # The shared coordinate is the weakest: canonical directions find it, principal
    # ones do not.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 2000, 4)) * [1, 2, 3, 4]
    y[:, 0] = 0.75 * x[:, 0] + np.sqrt(1 - 0.75**2) * y[:, 0]
    found = by_gaussian(KEY, x, y, directions=directions)
    assert low < float(found.value) < high
    assert np.isnan(found.standard_error)


def test_key_decides_and_order_does_not():
    x, y = path(0.3)
    value = float(by_gaussian(KEY, x, y).value)
    assert float(by_gaussian(KEY, x, y).value) == value
    assert float(by_gaussian(jax.random.key(1), x, y).value) != value
    order = np.random.default_rng(0).permutation(len(x))
    permuted = float(by_gaussian(KEY, x[order], y[order]).value)
    assert permuted == pytest.approx(value, abs=1e-4)
    compiled = jax.jit(lambda *z: by_gaussian(*z).value)(KEY, x, y)
    assert float(compiled) == pytest.approx(value, abs=1e-4)


GOOD = np.random.default_rng(0).standard_normal((40, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_slices": 0}, "num_slices is .* must be"),
        ({"components": 4}, "4 components of x with 3"),
        ({"directions": "ica"}, "directions is 'ica'; allowed: random, pca, cca"),
        ({"estimator": "knn"}, "estimator is 'knn'; allowed: ksg, gaussian"),
        ({"shared": True, "y": GOOD[:, :2]}, "shared frame"),
        ({"shared": True, "directions": "pca"}, "shared frame"),
        ({"x": GOOD[:5], "y": GOOD[:5]}, "holds 5 samples"),
        ({"x": GOOD[:12], "y": GOOD[:12], "directions": "cca"}, "half of 12 samples"),
        ({"y": GOOD[:-1]}, "x holds 40 samples and y 39"),
        ({"x": np.where(GOOD > 2, np.nan, GOOD)}, "x holds nan"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sliced(KEY, **({"x": GOOD, "y": GOOD} | change))


# Degenerate data --------------------------------------------------------------------


def degenerate():
    """Two directions of spread in three columns: a constant one, a repeated one."""
    rng = np.random.default_rng(0)
    full = rng.standard_normal((400, 2))
    y = full @ rng.standard_normal((2, 2)) + 0.5 * rng.standard_normal((400, 2))
    constant = np.insert(full, 1, 2.0, axis=1)
    repeated = full[:, [0, 1, 0]]
    tiny = np.insert(full, 1, 1e-5 * rng.standard_normal(400), axis=1)
    return full, y, {"constant": constant, "repeated": repeated, "tiny": tiny}


@pytest.mark.parametrize("kind", ["constant", "repeated", "tiny"])
@pytest.mark.parametrize("estimator", ["ksg", "gaussian"])
def test_canonical_directions_of_columns_that_depend_on_each_other(kind, estimator):
    full, y, others = degenerate()
    for components in (1, 2):
        take = functools.partial(
            sliced,
            jax.random.key(0),
            directions="cca",
            estimator=estimator,
            components=components,
        )
        want, found = take(full, y), take(others[kind], y)
        assert float(want.value) > 0.3
        tolerance = 0.02 if kind == "tiny" else 1e-3
        np.testing.assert_allclose(found.value, want.value, atol=tolerance)


def test_a_constant_has_no_information_in_any_direction():
    _, y, _ = degenerate()
    for directions in ("random", "pca", "cca"):
        found = sliced(
            jax.random.key(0), np.ones((400, 3)), y, num_slices=2, directions=directions
        )
        assert abs(float(found.value)) < 1e-5


@pytest.mark.parametrize("directions", ["random", "pca", "cca"])
@pytest.mark.parametrize("kind", ["constant", "repeated"])
def test_singular_slices_are_refused_and_nan_under_jit(directions, kind):
    _, _, others = degenerate()
    x = np.random.default_rng(1).standard_normal((400, 3))
    y = x + np.random.default_rng(2).standard_normal((400, 3))

    def take(x):
        return sliced(
            jax.random.key(0),
            *(x, y),
            num_slices=3,
            components=3,
            directions=directions,
            estimator="gaussian",
        ).value

    with pytest.raises(ValueError, match=r"slice of 3 \+ 3 components .* is singular"):
        take(others[kind])
    assert np.isnan(jax.jit(take)(others[kind].astype(np.float32)))
    assert np.isfinite(take(x))
