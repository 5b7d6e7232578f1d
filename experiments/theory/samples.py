"""T7, T13 (b) and T14: bounds from cosines, for clusters on the sphere."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import ERRORS, Slack, ordered

from miue_jax.information import bounds
from miue_jax.information.tasks import noisy_information, sphere_clusters

DIMS = (8, 64)
SPREADS = (0.02, 0.1, 0.4, 3.0)
NOISES = (0.01, 0.05, 0.3)
# The plots use as many, so that nothing is compiled twice.
SETTINGS = len(SPREADS) * len(NOISES)
_DRAWS = 300


class Cluster(NamedTuple):
    """One cluster of n unit vectors, seen in noise of variance sigma^2.

    Attributes:
      cosine: mean between different points.
      information: I(point; noisy point) in nats.
      error: its standard error.
      accuracy: of guessing the point from its noisy version.
      accuracy_error: its standard error.
      lower: the lower companion of the log-sum-exp bound.
      lse: the log-sum-exp bound.
      logdet: W.
      amgm: the cosine bound.
      linear: its linear relaxation.
      reidentification: the largest accuracy that the bounds allow.
    """

    cosine: jax.Array
    information: jax.Array
    error: jax.Array
    accuracy: jax.Array
    accuracy_error: jax.Array
    lower: jax.Array
    lse: jax.Array
    logdet: jax.Array
    amgm: jax.Array
    linear: jax.Array
    reidentification: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2))
def clusters(
    key: jax.Array, number: int, dim: int, spreads: jax.Array, noises: jax.Array
) -> Cluster:
    """Clusters of several spreads and noise variances.

    Args:
      key: for the points and the noise.
      number: n.
      dim: D.
      spreads: (S,) kappa.
      noises: (S,) sigma^2.

    Returns:
      Their information and bounds, (S,) each.
    """
    labels = jnp.zeros(number, jnp.int32)
    law = jnp.full(number, 1 / number)

    def one(values: tuple[jax.Array, jax.Array]) -> Cluster:
        spread, noise = values
        key_points, key_noise = jax.random.split(key)
        points = sphere_clusters(
            key_points, num_classes=1, per_class=number, dim=dim, spread=spread
        )[0]
        draws = jax.random.normal(key_noise, (_DRAWS, dim))
        information = noisy_information(points, law, noise, draws)
        arguments = points, labels, noise, 1
        guessed = _guessed(points, noise, draws)
        return Cluster(
            cosine=bounds.intra_class_cosine(points, labels, 1)[0],
            information=jnp.mean(information),
            error=jnp.std(information) / np.sqrt(_DRAWS),
            accuracy=jnp.mean(guessed),
            accuracy_error=jnp.std(guessed) / np.sqrt(_DRAWS),
            lower=bounds.cosine_lse_lower(*arguments),
            lse=bounds.cosine_lse(*arguments),
            logdet=bounds.within_class_logdet(*arguments),
            amgm=bounds.cosine_bound(*arguments),
            linear=bounds.linear_bound(*arguments),
            reidentification=bounds.reidentification_accuracy(*arguments),
        )

    return jax.lax.map(one, (spreads, noises))


def _guessed(points: jax.Array, noise: jax.Array, draws: jax.Array) -> jax.Array:
    """Share of points that are the nearest to their noisy version, by draw."""
    squares = jnp.sum(points**2, axis=1) / 2
    indices = jnp.arange(len(points))

    def at(u: jax.Array) -> jax.Array:
        noisy = points + jnp.sqrt(noise) * u
        return jnp.mean(jnp.argmax(noisy @ points.T - squares, axis=1) == indices)

    return jax.lax.map(at, draws, batch_size=64)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Every spread with every noise variance."""
    spreads, noises = np.meshgrid(SPREADS, NOISES, indexing="ij")
    return spreads.ravel(), noises.ravel()


def cosine_bounds(key: jax.Array, count: int) -> dict[str, Slack]:
    """T7: bounds from cosines, and their place among the others."""
    parts = [jax.device_get(clusters(key, count, dim, *grid())) for dim in DIMS]
    c = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    chance = ERRORS * c.error + 1e-9
    return {
        "lower companion <= I": ordered(c.lower, c.information, chance),
        "I <= cosine log-sum-exp": ordered(c.information, c.lse, chance),
        "I <= W": ordered(c.information, c.logdet, chance),
        "W <= cosine bound": ordered(c.logdet, c.amgm),
        "cosine bound <= linear": ordered(c.amgm, c.linear),
        "log-sum-exp <= log n": ordered(c.lse, np.log(count)),
    }


def reidentification(key: jax.Array, count: int) -> dict[str, Slack]:
    """T14: the best guess of the training image stays below the certified accuracy."""
    parts = [jax.device_get(clusters(key, count, dim, *grid())) for dim in DIMS]
    c = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    chance = ERRORS * c.accuracy_error + 1e-9
    return {
        "nearest-point accuracy <= certified": ordered(
            c.accuracy, c.reidentification, chance
        )
    }


@functools.partial(jax.jit, static_argnums=(1, 2))
def _limits(
    key: jax.Array, count: int, number: int, spread: jax.Array
) -> tuple[jax.Array, ...]:
    dim = 16
    labels = jnp.zeros(number, jnp.int32)

    def cluster(key: jax.Array, number: int) -> jax.Array:
        points = spread * jax.random.normal(key, (number, dim))
        points = points.at[:, 0].add(1.0)
        return points / jnp.linalg.norm(points, axis=1, keepdims=True)

    key_truth, key = jax.random.split(key)
    truth = jnp.mean(cluster(key_truth, 200_000)[:, 0]) ** 2

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        points = cluster(key, number)
        limits = bounds.cosine_confidence(key, points, labels, 1)
        certified = bounds.certified_bounds(limits, 0.05, dim)
        return limits.lower[0], limits.upper[0], certified.cosine

    lower, upper, certified = jax.lax.map(one, jax.random.split(key, count))
    exact = dim / 2 * jnp.log1p((1 - truth) / (dim * 0.05))
    return lower, upper, certified, truth, exact


def confidence(key: jax.Array, count: int) -> dict[str, Slack]:
    """T13 (b): certified limits of the mean cosine cover it as often as they say."""
    found = {}
    hoeffding = np.sqrt(2 * np.log(1 / 0.05) / 500)
    for spread in (0.43, 0.027):
        lower, upper, certified, truth, exact = jax.device_get(
            _limits(key, count, 1000, spread)
        )
        allowed = ERRORS * np.sqrt(0.05 * 0.95 / count)
        name = f"mean cosine {truth:.2f}"
        found |= {
            f"(b) {name}: lower limit covers": Slack(
                np.mean(lower <= truth) - 0.95, allowed
            ),
            f"(b) {name}: upper limit covers": Slack(
                np.mean(upper >= truth) - 0.95, allowed
            ),
            f"(b) {name}: certified cosine bound covers": Slack(
                np.mean(certified >= exact) - 0.95, allowed
            ),
            f"(b) {name}: closer than Hoeffding's 0.11": ordered(
                truth - np.mean(lower), hoeffding
            ),
        }
    return found
