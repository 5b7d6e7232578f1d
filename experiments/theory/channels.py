"""T9: correlation bounds information where one side is Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
from theory.check import Slack, equal, ordered
from theory.mixtures import LINE, NOISE, point_information

from miue_jax.information.tasks import quadrature


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
    """T9: correlation is a lower bound if one side is Gaussian; else it is none."""
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
