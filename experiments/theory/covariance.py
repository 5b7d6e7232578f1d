"""T3, T5, T6 and F10: algebra of covariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import Slack, equal, generator, ordered

from miue_jax.information import bounds

_DIM, _RANK, _NOISE = 6, 2, 0.3


def _covariances(draw: np.random.Generator, count: int, dim: int) -> np.ndarray:
    factors = draw.standard_normal((count, dim, dim))
    scales = np.exp(draw.uniform(-3, 1, (count, 1, dim)))
    return factors * scales @ np.swapaxes(factors, 1, 2) / dim


def _logdet(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.slogdet(matrices)[1]


def _half_logdet(covariances: np.ndarray) -> np.ndarray:
    return _logdet(np.eye(covariances.shape[-1]) + covariances / _NOISE) / 2


def _amgm(trace: np.ndarray, dim: int) -> np.ndarray:
    return dim / 2 * np.log1p(trace / (dim * _NOISE))


def logdet_algebra(key: jax.Array, count: int) -> dict[str, Slack]:
    """T3: the log-determinant bound is monotone, concave and heads a chain."""
    draw = generator(key)
    first, second = (_covariances(draw, count, _DIM) for _ in range(2))
    share = draw.uniform(size=count)
    mixed = share[:, None, None] * first + (1 - share)[:, None, None] * second
    one, two = _half_logdet(first), _half_logdet(second)
    trace = np.trace(first, axis1=1, axis2=2)
    basis = np.linalg.qr(draw.standard_normal((count, _DIM, _DIM)))[0][:, :, :_RANK]
    along = np.einsum("nir,nij,njr->nr", basis, first, basis)
    hadamard = np.log1p(along / _NOISE).sum(1) / 2
    hadamard += _amgm(trace - along.sum(1), _DIM - _RANK)
    return {
        "monotone in the Loewner order": ordered(one, _half_logdet(first + second)),
        "concave": ordered(share * one + (1 - share) * two, _half_logdet(mixed)),
        "logdet <= Hadamard with r = 2": ordered(one, hadamard),
        "Hadamard <= AM-GM": ordered(hadamard, _amgm(trace, _DIM)),
        "AM-GM <= linear": ordered(_amgm(trace, _DIM), trace / (2 * _NOISE)),
        **_library_chain(draw),
    }


def _library_chain(draw: np.random.Generator) -> dict[str, Slack]:
    """The same chain as the library computes it from labeled features."""
    labels = np.arange(60) % 3
    rows = []
    for _ in range(5):
        features = draw.standard_normal((60, _DIM)) * np.exp(draw.normal(size=_DIM))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        rows.append(_chain(features, labels))
    values = np.asarray(rows)
    return {
        "library: W <= Hadamard <= AM-GM <= linear": Slack(np.diff(values[:, :4])),
        "library: unit features, AM-GM = cosine bound": equal(
            values[:, 2:4], values[:, 4:]
        ),
    }


def _chain(features: np.ndarray, labels: np.ndarray) -> list[float]:
    half = bounds.principal_basis(features[:30], labels[:30], _RANK, 3)
    arguments = features, labels, _NOISE, 3
    chain = (
        bounds.within_class_logdet(*arguments),
        bounds.hadamard_bound(features, labels, half, _NOISE, 3),
        bounds.amgm_bound(*arguments),
        bounds.trace_bound(*arguments),
        bounds.cosine_bound(*arguments),
        bounds.linear_bound(*arguments),
    )
    return [float(value) for value in chain]


def gaussian_forms(key: jax.Array, count: int) -> dict[str, Slack]:
    """T5: three forms of Gaussian information, and what moves it which way."""
    draw = generator(key)
    dim = 4
    clean = _covariances(draw, count, dim) + 0.1 * np.eye(dim)
    cross = draw.standard_normal((count, dim, dim)) @ clean
    explained = cross @ np.linalg.solve(clean, np.swapaxes(cross, 1, 2))
    residual = _covariances(draw, count, dim)
    noise = _NOISE * np.eye(dim)
    poison = explained + residual + noise

    def information(explained: np.ndarray, residual: np.ndarray) -> np.ndarray:
        return (_logdet(residual + noise + explained) - _logdet(residual + noise)) / 2

    joint = np.block([[clean, np.swapaxes(cross, 1, 2)], [cross, poison]])
    by_blocks = (_logdet(clean) + _logdet(poison) - _logdet(joint)) / 2
    whiten = np.linalg.inv(np.linalg.cholesky(poison))
    coefficients = np.linalg.eigvalsh(whiten @ explained @ np.swapaxes(whiten, 1, 2))
    canonical = -np.log1p(-coefficients).sum(1) / 2
    base = information(explained, residual)
    more = _covariances(draw, count, dim)
    invertible = draw.standard_normal((count, dim, dim)) + 2 * np.eye(dim)
    moved = np.block([[np.eye(dim) + 0 * clean, 0 * clean], [0 * clean, invertible]])
    joint_moved = moved @ joint @ np.swapaxes(moved, 1, 2)
    poison_moved = joint_moved[:, dim:, dim:]
    by_moved = (_logdet(clean) + _logdet(poison_moved) - _logdet(joint_moved)) / 2
    return {
        "blocks = explained over residual": equal(by_blocks, base, 1e-8),
        "canonical correlations": equal(canonical, base, 1e-8),
        "invariant under invertible maps": equal(by_moved, base, 1e-6),
        "rises with what is explained": ordered(
            base, information(explained + more, residual)
        ),
        "falls with the residual": ordered(
            information(explained, residual + more), base
        ),
    }


def cosine_trace(key: jax.Array, count: int) -> dict[str, Slack]:
    """T6: cosines and traces are the same thing, exactly, for every sample."""
    draw = generator(key)
    number, dim = 12, 5
    shift = draw.uniform(0, 5, (count, 1, 1))
    vectors = draw.standard_normal((count, number, dim)) + shift
    radii = np.linalg.norm(vectors, axis=2)
    units = vectors / radii[:, :, None]
    cosines = units @ np.swapaxes(units, 1, 2)
    pairs = ~np.eye(number, dtype=bool)
    mean_cosine = cosines[:, pairs].mean(1)
    squared = np.sum(units.mean(1) ** 2, axis=1)

    def trace(points: np.ndarray) -> np.ndarray:
        return points.var(axis=1, ddof=1).sum(1)

    products = (radii[:, :, None] * radii[:, None])[:, pairs]
    weighted = (products * cosines[:, pairs]).mean(1)
    general = radii.var(axis=1, ddof=1) + products.mean(1) - weighted
    flat = units[: min(count, 20)]
    labels = np.repeat(np.arange(len(flat)), number)
    library = bounds.intra_class_cosine(flat.reshape(-1, dim), labels, len(flat))
    return {
        "trace of covariance = 1 - mean cosine": equal(trace(units), 1 - mean_cosine),
        "1 - |m|^2 = (n-1)/n (1 - mean cosine)": equal(
            1 - squared, (number - 1) / number * (1 - mean_cosine)
        ),
        "mean cosine = (n |m|^2 - 1)/(n - 1)": equal(
            (number * squared - 1) / (number - 1), mean_cosine
        ),
        "any norm: trace = Var(r) + (1 - c_w) E[r r']": equal(trace(vectors), general),
        "library: intra_class_cosine": equal(library, mean_cosine[: len(flat)]),
    }


def scale(key: jax.Array, count: int) -> dict[str, Slack]:
    """F10: the cosine does not see the scale that decides the information."""
    draw = generator(key)
    labels = np.arange(30) % 3
    features = draw.standard_normal((30, _DIM))
    factors = np.exp(draw.uniform(-2, 2, min(count, 8)))

    @jax.jit
    @jax.vmap
    def scaled(factor: jax.Array) -> tuple[jax.Array, ...]:
        logdet = functools.partial(
            bounds.within_class_logdet, labels=labels, num_classes=3
        )
        return (
            logdet(factor * features, noise_variance=_NOISE),
            logdet(jnp.asarray(features), noise_variance=_NOISE / factor**2),
            bounds.intra_class_cosine(factor * features, labels, 3),
        )

    larger, finer, cosine = jax.device_get(scaled(factors))
    return {
        "z -> a z is sigma -> sigma / a": equal(larger, finer),
        "cosines stay": equal(cosine, cosine[0]),
        "W moves with the scale": ordered(0.5, np.ptp(larger)),
    }
