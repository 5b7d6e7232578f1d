"""T8 and F8's note: bounds of I(Y; Z) for Gaussian classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import ERRORS, Slack, ordered

from miue_jax.information import bounds

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
