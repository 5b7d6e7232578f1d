"""Matrix-based Renyi dependence: values that are known, invariances, bad input."""

import jax
import numpy as np
import pytest

from miue_jax.information.estimators.renyi import renyi

SIZE = 100
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, SIZE, 12))


def reference(x, y, alpha):
    """The definition, in NumPy."""

    def kernel(z):
        distances = np.linalg.norm(z[:, None] - z, axis=2)
        width = np.median(distances[~np.eye(len(z), dtype=bool)])
        return np.exp(-(distances**2) / (2 * width**2)) / len(z)

    def entropy(a):
        eigenvalues = np.maximum(np.linalg.eigvalsh(a), 0)
        return np.log(np.sum(eigenvalues**alpha)) / (1 - alpha)

    a, b = kernel(x), kernel(y)
    return entropy(a) + entropy(b) - entropy(a * b / np.trace(a * b))


def test_agrees_with_the_definition():
    with jax.enable_x64(True):
        found = renyi(X, X + Y)
        # The median of an even count: between two distances that hardly differ.
        assert float(found.value) == pytest.approx(reference(X, X + Y, 1.01), rel=1e-3)
    single = renyi(X, X + Y)
    assert float(single.value) == pytest.approx(float(found.value), abs=0.02)
    assert found.kind == "estimate"
    assert np.isnan(found.standard_error)


def test_points_of_classes_give_the_entropy_of_the_label():
    points = 1e3 * np.eye(12)[np.arange(SIZE) % 4]
    found = renyi(points, points, alpha=2.0, width_x=1.0, width_y=1.0)
    assert float(found.value) == pytest.approx(np.log(4), abs=1e-4)


def test_dependence_scores_higher_than_independence():
    assert float(renyi(X, X).value) > float(renyi(X, Y).value) + 0.05


def test_invariances():
    value = float(renyi(X, X + Y, alpha=2.0).value)
    order = RNG.permutation(SIZE)
    turn = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    for x, y in ((X[order], (X + Y)[order]), (X + Y, X), (X @ turn, 7 * (X + Y) + 1)):
        assert float(renyi(x, y, alpha=2.0).value) == pytest.approx(value, abs=1e-4)


def test_jit_agrees_and_a_constant_scores_zero_there():
    function = jax.jit(lambda x, y: renyi(x, y, alpha=2.0).value)
    eager = float(renyi(X, X + Y, alpha=2.0).value)
    assert float(function(X, X + Y)) == pytest.approx(eager, abs=1e-4)
    assert float(function(np.ones((SIZE, 12)), Y)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1}, "alpha is .* must be"),
        ({"alpha": -1.0}, "alpha is .* must be"),
        ({"width_x": 0.0}, "width_x is .* must be"),
        ({"width_y": np.ones(2)}, "width_y must be a scalar"),
        ({"x": np.ones((SIZE, 12))}, "median distance within x is 0"),
        ({"y": Y[:-1]}, "x holds 100 samples and y 99"),
        ({"x": np.where(X > 2, np.nan, X)}, "x holds nan"),
        ({"x": X[:1], "y": Y[:1]}, "holds 1 samples"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        renyi(**({"x": X, "y": Y} | change))


@pytest.mark.parametrize("scale", [1e-300, 1e-46, 1e-38, 1e-20, 1e20, 1e38, 1e300])
@pytest.mark.parametrize("given", [False, True])
def test_the_scale_of_the_samples_does_not_matter(scale, given):
    # Beyond what float32 can hold, too: the samples are known in float64.
    widths = (3.0, 4.0) if given else (None, None)
    for x64, tolerance in ((False, 2e-4), (True, 1e-10)):
        with jax.enable_x64(x64):
            want = renyi(X, X + Y, alpha=2.0, width_x=widths[0], width_y=widths[1])
            x, y = scale * X, scale * (X + Y)
            wide = [scale * w if given else None for w in widths]
            found = renyi(x, y, alpha=2.0, width_x=wide[0], width_y=wide[1])
            assert float(found.value) == pytest.approx(float(want.value), abs=tolerance)
            width = float(want.diagnostics["width_x"]) * scale
            limits = np.finfo(found.value.dtype)
            if float(limits.tiny) < width < float(limits.max):
                got = float(found.diagnostics["width_x"])
                assert got == pytest.approx(width, rel=1e-5)


def test_a_width_far_below_all_distances_sees_single_points():
    for width in (1e-18, 1e-25):  # their squares are below float32
        found = renyi(X, X + Y, alpha=2.0, width_x=width, width_y=width)
        assert float(found.value) == pytest.approx(np.log(SIZE), abs=1e-4)
