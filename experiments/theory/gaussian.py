"""T8, T13 (a, c) and F8's note: Gaussian classes, and covariances of samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import ERRORS, Slack, equal, generator, ordered

from miue_jax.information import bounds, estimators

_CLASSES, _DIM, _DRAWS = 3, 3, 2000


@functools.partial(jax.jit, static_argnums=1)
def _instances(key: jax.Array, count: int) -> tuple[jax.Array, ...]:
    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, 6)
        prior = jax.nn.softmax(jax.random.normal(keys[0], (_CLASSES,)))
        distance = jax.random.uniform(keys[1], minval=0.1, maxval=3.0)
        means = distance * jax.random.normal(keys[2], (_CLASSES, _DIM))
        factors = jax.random.normal(keys[3], (_CLASSES, _DIM, _DIM))
        covariances = factors @ jnp.swapaxes(factors, 1, 2) + 0.2 * jnp.eye(_DIM)
        cholesky = jnp.linalg.cholesky(covariances)
        labels = jax.random.categorical(keys[4], jnp.log(prior), shape=(_DRAWS,))
        noise = jax.random.normal(keys[5], (_DRAWS, _DIM))
        points = means[labels] + jnp.einsum("nij,nj->ni", cholesky[labels], noise)

        def log_density(mean: jax.Array, factor: jax.Array) -> jax.Array:
            white = jax.scipy.linalg.solve_triangular(
                factor, (points - mean).T, lower=True
            )
            logdet = jnp.sum(jnp.log(jnp.diagonal(factor)))
            return -jnp.sum(white**2, axis=0) / 2 - logdet

        densities = jax.vmap(log_density)(means, cholesky).T
        posterior = jax.nn.log_softmax(densities + jnp.log(prior), axis=1)
        entropies = -jnp.sum(jnp.exp(posterior) * posterior, axis=1)
        found = bounds.label_information_bounds(means, covariances, prior)
        return (
            found.entropy - jnp.mean(entropies),
            jnp.std(entropies) / np.sqrt(_DRAWS),
            found.lower,
            found.upper,
            found.entropy,
            bounds.rate_reduction(means, covariances, prior),
        )

    return jax.lax.map(one, jax.random.split(key, count))


def label_information(key: jax.Array, count: int) -> dict[str, Slack]:
    """T8: pairwise bounds and the rate reduction hold the label information."""
    information, error, lower, upper, entropy, rate = jax.device_get(
        _instances(key, count)
    )
    chance = ERRORS * error
    return {
        "Bhattacharyya <= I(Y;Z)": ordered(lower, information, chance),
        "I(Y;Z) <= Kullback-Leibler": ordered(information, upper, chance),
        "Kullback-Leibler bound <= H(Y)": ordered(upper, entropy),
        "I(Y;Z) <= rate reduction": ordered(information, rate, chance),
    }


def plug_in(key: jax.Array, count: int) -> dict[str, Slack]:
    """T13 (a): the plug-in of W is low, a basis from a split is safe."""
    draw = generator(key)
    dim, number, noise, rank = 64, 60, 0.25, 10
    spectrum = 1 / np.arange(1, dim + 1) ** 2
    truth = np.log1p(spectrum / noise).sum() / 2
    samples = draw.standard_normal((count, number, dim)) * np.sqrt(spectrum)
    samples -= samples.mean(1, keepdims=True)
    covariances = np.swapaxes(samples, 1, 2) @ samples / (number - 1)
    values = np.linalg.slogdet(np.eye(dim) + covariances / noise)[1] / 2
    basis = np.linalg.eigh(covariances)[1][:, :, -rank:]
    along = np.sum(basis**2 * spectrum[:, None], axis=1)
    rest = spectrum.sum() - along.sum(1)
    split = np.log1p(along / noise).sum(1) / 2
    split += (dim - rank) / 2 * np.log1p(rest / ((dim - rank) * noise))
    chance = ERRORS * values.std() / np.sqrt(count)
    return {
        "(a) mean of plug-in W <= W": ordered(values.mean(), truth, chance),
        "(a) by more than chance": ordered(values.mean() + chance, truth, 0.0),
        "(a) Hadamard on a split's basis >= W": ordered(truth, split),
    }


def gaussian(key: jax.Array, count: int) -> dict[str, Slack]:
    """T13 (c): the bias of Gaussian information, and its cure."""
    draw = generator(key)
    p, n, truth = 20, 400, 0.943
    rho = np.sqrt(-np.expm1(-2 * truth / p))
    x, noise = draw.standard_normal((2, count, n, p))
    pairs = x, rho * x + np.sqrt(1 - rho**2) * noise

    @functools.partial(jax.jit, static_argnums=1)
    def estimate(pairs: tuple[jax.Array, jax.Array], correction: bool) -> jax.Array:
        one = functools.partial(estimators.gaussian, correction=correction)
        return jax.lax.map(lambda pair: one(*pair).value, pairs)

    raw = np.asarray(estimate(pairs, False))
    mean, chance = np.mean(raw), ERRORS * np.std(raw) / np.sqrt(count)
    corrected = np.mean(np.asarray(estimate(pairs, True)))
    return {
        "(c) plug-in is high by about pq/2n": equal(
            mean - truth, p * p / (2 * n), chance + 0.05
        ),
        "(c) digamma correction has no bias": equal(corrected, truth, chance),
    }
