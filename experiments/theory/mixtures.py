"""T2, T4, T9, T12 and F7 for poisoned features on finitely many points in noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import Slack, equal, ordered

from miue_jax.information.tasks import noisy_information, quadrature, random_pmf
from miue_jax.information.tasks.finite import entropy, mutual_information

_CLASSES, _CLEAN, _POINTS = 2, 3, 4
NOISE = 0.1
_QUADRATURE = 1e-7
LINE = quadrature(1)[0][::8], quadrature(1)[1][::8] * 8
_PLANE = quadrature(2)[0], quadrature(2)[1]


def point_information(
    weights: jax.Array, points: jax.Array, grid: tuple[np.ndarray, np.ndarray]
) -> jax.Array:
    """I(point; point + noise) for each of several laws on the points, (...)."""
    nodes, node_weights = grid
    flat = weights.reshape(-1, weights.shape[-1])
    values = jax.vmap(lambda law: noisy_information(points, law, NOISE, nodes))(flat)
    total = jnp.sum(node_weights)
    return (values @ node_weights / total).reshape(weights.shape[:-1])


def _normalize(weights: jax.Array) -> jax.Array:
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _quantities(
    pmf: jax.Array, points: jax.Array, grid: tuple[np.ndarray, np.ndarray]
) -> dict[str, jax.Array]:
    """Information among labels, clean values and noisy points, and its bounds.

    Args:
      pmf: (Y, C, n) probabilities of label, clean value and point.
      points: (n, D).
      grid: quadrature in D dimensions.

    Returns:
      () nats by name; p is the noisy point.
    """
    of_y, of_c, of_both = jnp.sum(pmf, (1, 2)), jnp.sum(pmf, (0, 2)), jnp.sum(pmf, 2)
    by_y, by_c = jnp.sum(pmf, 1), jnp.sum(pmf, 0)
    laws = [jnp.sum(pmf, (0, 1))[None], by_y, by_c, pmf.reshape(-1, pmf.shape[-1])]
    values = point_information(_normalize(jnp.concatenate(laws)), points, grid)
    whole, given_y, given_c, given_both = jnp.split(
        values, np.cumsum([1, len(of_y), len(of_c)])
    )
    logdets = jax.vmap(functools.partial(_logdet, points))(_normalize(by_y))
    within = jnp.sum(of_y * given_y)
    label = whole[0] - within
    return {
        "cp": whole[0] - jnp.sum(of_c * given_c),
        "yp": label,
        "cp_y": within - jnp.sum(of_both.ravel() * given_both),
        "pp_y": within,
        "yc": mutual_information(of_both, (0,), (1,)),
        "residual": entropy(of_y) - label,
        "y": entropy(of_y),
        "W": jnp.sum(of_y * logdets),
        "total": _logdet(points, jnp.sum(pmf, (0, 1))),
    }


def _logdet(points: jax.Array, law: jax.Array) -> jax.Array:
    centered = points - law @ points
    covariance = (centered * law[:, None]).T @ centered
    eye = jnp.eye(points.shape[1])
    return jnp.linalg.slogdet(eye + covariance / NOISE)[1] / 2


def _instance(key: jax.Array, dim: int) -> tuple[jax.Array, jax.Array]:
    """A random law whose classes have points of their own."""
    keys = jax.random.split(key, 3)
    pmf = random_pmf(keys[0], (_CLASSES, _CLEAN, _POINTS), spread=2.0)
    own = jnp.eye(_CLASSES)[:, None, :, None]
    pmf = (pmf[:, :, None] * own).reshape(_CLASSES, _CLEAN, _CLASSES * _POINTS)
    scale = jnp.exp(jax.random.uniform(keys[1], minval=-2.0, maxval=0.5))
    return pmf, scale * jax.random.normal(keys[2], (_CLASSES * _POINTS, dim))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _instances(key: jax.Array, count: int, dim: int) -> dict[str, jax.Array]:
    grid = LINE if dim == 1 else _PLANE

    def one(key: jax.Array) -> dict[str, jax.Array]:
        return _quantities(*_instance(key, dim), grid)

    return jax.lax.map(one, jax.random.split(key, count))


def covariance_bound(key: jax.Array, count: int) -> dict[str, Slack]:
    """T2: covariance bounds the information within classes."""
    found = {}
    for dim, instances in ((1, count), (2, max(count // 10, 2))):
        q = jax.device_get(_instances(key, instances, dim))
        for claim, lower, upper in (
            ("I(c;p|Y) <= I(Zp;p|Y)", q["cp_y"], q["pp_y"]),
            ("I(Zp;p|Y) <= W", q["pp_y"], q["W"]),
            ("I(c;p) <= I(c;Y) + W", q["cp"], q["yc"] + q["W"]),
            ("I(c;p) <= I(Y;p) + W", q["cp"], q["yp"] + q["W"]),
            ("I(c;p) <= total covariance bound", q["cp"], q["total"]),
            ("T1 (ii) with noise", q["yc"] - q["residual"], q["cp"]),
        ):
            found[f"{claim}, {dim}-d"] = ordered(lower, upper, _QUADRATURE)
    return found


def vacuous_certificate(key: jax.Array, count: int) -> dict[str, Slack]:
    """F7: the covariance bound plus H(Y|p) is never below H(Y)."""
    q = jax.device_get(_instances(key, count, 1))
    certificate = q["yp"] + q["W"] + q["residual"]
    return {"[I(Y;p) + W] + H(Y|p) >= H(Y)": ordered(q["y"], certificate, _QUADRATURE)}


@functools.partial(jax.jit, static_argnums=1)
def _contracted(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, key_map, key_contraction = jax.random.split(key, 3)
        pmf, points = _instance(key, 2)
        wide = jax.random.normal(key_map, (2, 2))
        contraction = jax.random.normal(key_contraction, (2, 2))
        contraction /= jnp.linalg.norm(contraction, 2)
        pair = [points @ wide.T, points @ (contraction @ wide).T]
        wide, narrow = (_quantities(pmf, moved, _PLANE)["cp"] for moved in pair)
        return narrow, wide

    return jax.lax.map(one, jax.random.split(key, count))


@functools.partial(jax.jit, static_argnums=1)
def _scaled(key: jax.Array, count: int) -> dict[str, jax.Array]:
    """Quantities along t, (count, T), of classes that collapse to their means."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        pmf, points = _instance(key, 1)
        owner = jnp.repeat(jnp.arange(_CLASSES), _POINTS)
        means = (_normalize(jnp.sum(pmf, 1)) @ points)[owner]

        def at(scale: jax.Array) -> dict[str, jax.Array]:
            return _quantities(pmf, means + scale * (points - means), LINE)

        return jax.vmap(at)(jnp.linspace(0, 1, 6))

    return jax.lax.map(one, jax.random.split(key, count))


def contraction(key: jax.Array, count: int) -> dict[str, Slack]:
    """T4 and T4b: contraction loses information, without any Gaussianity."""
    narrow, wide = _contracted(key, max(count // 8, 2))
    q = jax.device_get(_scaled(key, count))
    within, total, residual = q["cp_y"], q["cp"], q["residual"]
    return {
        "A'A <= B'B: I(c;AU + noise) <= I(c;BU + noise), 2-d": ordered(
            narrow, wide, _QUADRATURE
        ),
        "t up: I(c;p(t)|Y) does not fall": Slack(np.diff(within, axis=1), _QUADRATURE),
        "T4b: I(c;p(t)) <= I(c;p(t')) + H(Y|p(t')), t < t'": ordered(
            total[:, :-1], (total + residual)[:, 1:], _QUADRATURE
        ),
    }


def pairing(key: jax.Array, count: int) -> dict[str, Slack]:
    """T12: for an empirical law it does not matter which clean image goes with which.

    With distinct clean features I(c; p) is the information about the index.
    """
    values = jax.device_get(_pairings(key, count))
    return {"I(c;p) = I(index;p) for every pairing": equal(values, values[0])}


@functools.partial(jax.jit, static_argnums=1)
def _pairings(key: jax.Array, count: int) -> jax.Array:
    key_points, key_order = jax.random.split(key)
    points = jax.random.normal(key_points, (6, 1))

    def one(key: jax.Array) -> jax.Array:
        order = jax.random.permutation(key, 6)
        pmf = (jnp.eye(6)[order] / 6)[None]
        return _quantities(pmf, points, LINE)["cp"]

    paired = jax.lax.map(one, jax.random.split(key_order, count))
    index = point_information(jnp.full(6, 1 / 6), points, LINE)
    return jnp.concatenate([index[None], paired])


@jax.jit
def _channels() -> tuple[jax.Array, jax.Array]:
    nodes, weights = quadrature(1)
    x, law = nodes[::20, 0], weights[::20] / weights[::20].sum()
    shapes = [x**3 / 3, jnp.sin(3 * x), jnp.abs(x) + x / 2, jnp.tanh(5 * x), x, x**2]
    lines = quadrature(1)[0][::20], quadrature(1)[1][::20]

    def one(y: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Scaling the signal instead of the noise keeps the noise that is built in.
        y = y * jnp.sqrt(NOISE / noise)
        centered = y - law @ y
        squared = (law @ (centered * x)) ** 2 / (law @ centered**2 + NOISE)
        return -jnp.log1p(-squared) / 2, point_information(law, y[:, None], lines)

    pairs = (
        jnp.repeat(jnp.stack(shapes), 3, axis=0),
        jnp.tile(jnp.array([0.1, 0.5, 2]), 6),
    )
    return jax.lax.map(lambda pair: one(*pair), pairs)


def one_gaussian_side(key: jax.Array, count: int) -> dict[str, Slack]:
    """T9: correlation gives a lower bound if one side is Gaussian, else none."""
    del key, count  # eighteen fixed channels
    lower, exact = jax.device_get(_channels())
    two, noise = np.array([[-1.0], [1.0]]), 0.05**2
    points = two * np.sqrt(NOISE / noise)
    truth = float(point_information(jnp.array([0.5, 0.5]), points, LINE))
    gaussian = 0.5 * np.log1p(1 / noise)
    return {
        "X Gaussian, Y = f(X) + noise: correlation bound <= I": ordered(
            lower, exact, 1e-4
        ),
        "X = +-1: Gaussian value 3.00 above I = log 2": equal(
            [truth, gaussian], [np.log(2), 2.997], [1e-6, 5e-4]
        ),
    }
