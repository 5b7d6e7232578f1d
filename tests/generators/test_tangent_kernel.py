"""Tangent kernels against numerical integration, a wide network, and the flow's ODE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import tangent_kernel

WEIGHT, BIAS = 1.5, 0.4
VARIANCES = {"weight_variance": WEIGHT, "bias_variance": BIAS}
SHAPE = (7, 6, 2)


def _images(count, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.3, 1, (count, 1, 1, 1))
    return (rng.uniform(0, 1, (count, *SHAPE)) * scale).astype(np.float32)


def _erf(values):
    # Abramowitz and Stegun's rational approximation is off by less than 1.5e-7.
    t = 1 / (1 + 0.3275911 * np.abs(values))
    powers = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    tail = sum(c * t ** (i + 1) for i, c in enumerate(powers)) * np.exp(-(values**2))
    return np.sign(values) * (1 - tail)


def _relu_moments(x, y, xy):
    """E[f(u) f(v)] and E[f'(u) f'(v)] of f = relu, by integrating over the angle."""
    turn = (np.arange(20_000) + 0.5) / 20_000 * 2 * np.pi
    between = np.arccos(np.clip(xy / np.sqrt(x * y), -1, 1))
    u, v = np.cos(turn), np.cos(turn - between)
    both = (u > 0) & (v > 0)
    return 2 * np.sqrt(x * y) * np.mean(both * u * v), np.mean(both)


def _erf_moments(x, y, xy):
    """The same of f = erf, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    u = np.sqrt(x) * nodes[:, None]
    v = xy / np.sqrt(x) * nodes[:, None]
    v = v + np.sqrt(max(y - xy**2 / x, 0)) * nodes[None]
    weights = weights[:, None] * weights
    slope = 4 / np.pi * np.exp(-(u**2) - v**2)
    return np.sum(weights * _erf(u) * _erf(v)), np.sum(weights * slope)


def _activate(covariance, tangent, moments):
    new, slope = np.empty_like(covariance), np.empty_like(covariance)
    for position, c in enumerate(covariance):
        for i, j in np.ndindex(c.shape):
            pair = moments(c[i, i], c[j, j], c[i, j])
            new[position, i, j], slope[position, i, j] = pair
    return new, slope * tangent


def _affine(covariance, tangent):
    covariance = WEIGHT * covariance + BIAS
    return covariance, covariance + WEIGHT * tangent


def _pool(grid):
    """Sums over 5x5 windows at stride 2 around each output, over 25."""
    height, width = grid.shape[:2]
    before = [1 if size % 2 == 0 else 2 for size in (height, width)]
    pooled = np.zeros((-(-height // 2), -(-width // 2), *grid.shape[2:]))
    for i, j in np.ndindex(pooled.shape[:2]):
        top, left = 2 * i - before[0], 2 * j - before[1]
        window = grid[max(top, 0) : top + 5, max(left, 0) : left + 5]
        pooled[i, j] = window.sum((0, 1)) / 25
    return pooled


def _reference(images, network, layers=5):
    """The tangent kernel of all pairs, in float64 and without closed forms."""
    images = np.float64(images)
    if network == "fnn":
        flat = images.reshape(len(images), -1)
        covariance = (flat @ flat.T / flat.shape[1])[None]
        tangent = np.zeros_like(covariance)
        for _ in range(layers):
            covariance, tangent = _affine(covariance, tangent)
            covariance, tangent = _activate(covariance, tangent, _erf_moments)
        return tangent[0]
    grid = np.einsum("ahwc,bhwc->hwab", images, images) / images.shape[-1]
    tangent = np.zeros_like(grid)
    for _ in range(2):
        grid, tangent = _affine(_pool(grid), _pool(tangent))
        flat = (-1, *grid.shape[2:])
        shape = grid.shape
        grid, tangent = _activate(
            grid.reshape(flat), tangent.reshape(flat), _relu_moments
        )
        grid, tangent = grid.reshape(shape), tangent.reshape(shape)
    grid, tangent = grid.mean((0, 1)), tangent.mean((0, 1))
    for _ in range(3):
        grid, tangent = _affine(grid, tangent)
    return tangent


def _kernel(network, **options):
    if network == "fnn":
        return tangent_kernel.fully_connected(**VARIANCES, **options)
    return tangent_kernel.convolutional(SHAPE, **VARIANCES)


@pytest.mark.parametrize(
    ("network", "options"),
    [("fnn", {"layers": 1}), ("fnn", {"layers": 2}), ("fnn", {}), ("cnn", {})],
)
def test_kernels_are_those_of_numerical_integration(network, options):
    images = _images(4)
    kernel = _kernel(network, **options)
    patches = kernel.patches(jnp.asarray(images))
    found = kernel.compare(patches[:3], patches)
    want = _reference(images, network, **options)[:3]
    np.testing.assert_allclose(found, want, rtol=5e-4)
    # The images are far enough from each other for this to tell.
    assert np.ptp(want) > 0.05 * want.max()


def test_a_wide_network_has_the_kernel_of_its_limit():
    width, rng = 2000, np.random.default_rng(1)
    images = _images(2).reshape(2, -1).T.astype(np.float64)
    inputs = len(images)
    first = np.sqrt(WEIGHT / inputs) * rng.normal(size=(width, inputs))
    second = np.sqrt(WEIGHT / width) * rng.normal(size=(width, width))
    offsets = np.sqrt(BIAS) * rng.normal(size=(2, width, 1))
    hidden = first @ images + offsets[0]
    outputs = second @ _erf(hidden) + offsets[1]

    def slope(values):
        return 2 / np.sqrt(np.pi) * np.exp(-(values**2))

    # Of the parameters of each layer, the products of an output's two gradients.
    a, b = hidden.T
    later = WEIGHT / width * _erf(a) @ _erf(b) + BIAS
    earlier = WEIGHT / inputs * images[:, 0] @ images[:, 1] + BIAS
    through = np.square(second) @ (slope(a) * slope(b))
    want = np.mean(slope(outputs).prod(1) * (later + through * earlier))
    kernel = _kernel("fnn", layers=2)
    patches = kernel.patches(jnp.asarray(images.T.reshape(2, *SHAPE), jnp.float32))
    found = kernel.compare(patches[:1], patches[1:])
    assert float(found[0, 0]) == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize("network", ["fnn", "cnn"])
def test_images_that_coincide_have_equal_rows_and_finite_gradients(network):
    images = _images(6)
    images[1] = images[0]
    images[:, :, :3] = 1.0  # equal patches in all of them
    images[2] = 0.0
    kernel = _kernel(network)

    def matrix(images):
        patches = kernel.patches(images)
        return kernel.compare(patches, patches)

    found, gradient = jax.jit(
        lambda x: (matrix(x), jax.grad(lambda x: jnp.sum(jnp.sin(matrix(x))))(x))
    )(jnp.asarray(images))
    np.testing.assert_allclose(found, found.T, rtol=1e-6)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert found[0, 1] == pytest.approx(float(found[0, 0]), rel=1e-6)
    values = np.linalg.eigvalsh(np.float64(found))
    assert values[0] > -1e-5 * values[-1], f"not positive: {values}"
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def _flow_problem(size=40, classes=4):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(size + 6, 10)) + 1.0
    whole = points @ points.T + np.exp(-((points[:, None] - points) ** 2).sum(-1) / 20)
    targets = np.eye(classes)[np.arange(size) % classes]
    return whole[:size, :size], whole[size:, :size], targets


def _spectral(kernel, targets, time, regularization):
    ridge = regularization * np.trace(kernel) / len(kernel)
    values, vectors = np.linalg.eigh(kernel + ridge * np.eye(len(kernel)))
    learned = -np.expm1(-values * time / targets.size) / values
    return vectors @ (learned[:, None] * (vectors.T @ targets))


def test_descent_follows_its_differential_equation():
    kernel, across, targets = _flow_problem()
    steps, time = 4000, 30.0
    train, test = np.zeros_like(targets), np.zeros((len(across), targets.shape[1]))

    # Gradient descent on the mean over all values of half the squared error.
    for _ in range(steps):
        half = train - time / steps / 2 * kernel @ (train - targets) / targets.size
        error = (half - targets) / targets.size
        train = train - time / steps * kernel @ error
        test = test - time / steps * across @ error
    found = tangent_kernel.descent_coefficients(
        jnp.asarray(kernel, jnp.float32),
        jnp.asarray(targets, jnp.float32),
        time=time,
        regularization=0.0,
    )
    np.testing.assert_allclose(across @ found, test, rtol=1e-3, atol=1e-4)
    assert np.abs(train - targets).max() > 0.05  # not at its end
    assert np.abs(test).max() > 0.2


@pytest.mark.parametrize("time", [1.0, 64.0, 1e4, 1e6])
@pytest.mark.parametrize("regularization", [1e-4, 0.1])
def test_coefficients_keep_float32_precision_at_any_time(time, regularization):
    kernel, _, targets = _flow_problem()
    found = tangent_kernel.descent_coefficients(
        jnp.asarray(kernel, jnp.float32),
        jnp.asarray(targets, jnp.float32),
        time=time,
        regularization=regularization,
    )
    want = _spectral(kernel, targets, time, regularization)
    np.testing.assert_allclose(found, want, atol=1e-3 * np.abs(want).max())


def test_coefficients_have_a_gradient_where_eigenvalues_coincide():
    rng = np.random.default_rng(5)
    kernel = np.eye(12) + 1.0  # one eigenvalue of 13, eleven of 1
    targets = np.eye(3)[np.arange(12) % 3]
    weights, direction = rng.normal(size=(12, 3)), rng.normal(size=(12, 12))
    direction = direction + direction.T

    def loss(kernel):
        found = tangent_kernel.descent_coefficients(
            kernel, jnp.asarray(targets, jnp.float32), time=50.0, regularization=1e-2
        )
        return jnp.sum(found * weights.astype(np.float32))

    gradient = jax.grad(loss)(jnp.asarray(kernel, jnp.float32))
    ends = [
        np.sum(weights * _spectral(kernel + h * direction, targets, 50.0, 1e-2))
        for h in (-1e-5, 1e-5)
    ]
    want = (ends[1] - ends[0]) / 2e-5
    assert np.sum(np.float64(gradient) * direction) == pytest.approx(want, rel=1e-3)
