"""T13 (a, c): what log-determinants of sample covariances get wrong."""

import functools

import jax
import numpy as np
from theory.check import ERRORS, Slack, equal, generator, ordered

from miue_jax.information import estimators


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
