"""S and F9: the poisoning path, with exact information, its bounds and accuracies."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import ERRORS, Slack, equal, ordered

from miue_jax.information import bounds
from miue_jax.information.tasks import (
    LABEL_SCALES,
    PathInformation,
    path_information,
    poisoning_path,
)

SCALES = (1.0, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.0)
CLASSES = 10


class Path(NamedTuple):
    """What is known at every scale, (T,) each.

    Attributes:
      value: the exact information.
      error: its standard errors.
      amgm: AM-GM bound of W, from the trace of the poisoned covariance.
    """

    value: PathInformation
    error: PathInformation
    amgm: jax.Array


@functools.partial(jax.jit, static_argnums=2)
def _along(key: jax.Array, label_scale: jax.Array, size: int) -> Path:
    key_means, key_samples = jax.random.split(key)

    def at(scale: jax.Array) -> Path:
        model = poisoning_path(key_means, scale=scale, label_scale=label_scale)
        noise, dim = model.noise_variance, model.poison_means.shape[1]
        trace = jnp.trace(model.covariance[dim:, dim:]) - dim * noise
        return Path(
            *path_information(key_samples, model, size=size),
            amgm=dim / 2 * jnp.log1p(trace / (dim * noise)),
        )

    # The same samples at every scale: differences along the path are not noise.
    return jax.lax.map(at, np.asarray(SCALES))


def both(key: jax.Array, size: int) -> dict[str, Path]:
    """The path of informative and of weak clean features.

    Args:
      key: for class means and samples.
      size: number of samples.

    Returns:
      The path by the kind of clean features.
    """
    return {
        kind: jax.device_get(_along(key, scale, size))
        for kind, scale in LABEL_SCALES.items()
    }


def sandwich(key: jax.Array, count: int) -> dict[str, Slack]:
    """S: every bound holds along the path, and the floor is reached at its end."""
    found = {}
    for kind, (value, error, amgm) in both(key, count).items():
        chance = ERRORS * error.total + 1e-9
        through = value.total + value.residual
        claims = {
            "I(c;Y) - H(Y|p) <= I(c;p)": ordered(
                value.label_clean - value.residual, value.total, chance
            ),
            "I(c;p) <= I(c;Y) + I(c;p|Y)": ordered(
                value.total, value.label_clean + value.within_class, chance
            ),
            "I(c;p|Y) <= W": ordered(value.within_class, value.logdet),
            "W <= AM-GM": ordered(value.logdet, amgm),
            "Bayes accuracy <= inverse Fano of I(c;Y)": ordered(
                value.bayes_accuracy,
                bounds.fano_accuracy(value.label_clean, CLASSES),
                ERRORS * error.bayes_accuracy,
            ),
            "Bayes accuracy <= inverse Fano of I(c;p) + H(Y|p)": ordered(
                value.bayes_accuracy,
                bounds.fano_accuracy(through, CLASSES),
                ERRORS * error.bayes_accuracy,
            ),
            "t = 0: I(c;p) = I(c;Y), the floor": equal(
                value.total[-1], value.label_clean[-1], chance[-1] + 5e-3
            ),
        }
        found |= {f"{kind}: {claim}": slack for claim, slack in claims.items()}
    return found


def same_accuracy(key: jax.Array, count: int) -> dict[str, Slack]:
    """F9: information falls along the path, accuracy stays."""
    value = both(key, count)["weak"].value
    return {
        "I(c;p) falls by 1.5 nats and more": ordered(
            1.5, value.total[0] - value.total[-1]
        ),
        "Bayes accuracy of c stays": equal(
            value.bayes_accuracy, value.bayes_accuracy[0]
        ),
    }
