"""E1 to E4: what CLUB, InfoNCE, density ratios and slices do in closed form."""

import jax
import numpy as np
from jax.scipy.special import digamma
from theory.check import ERRORS, Slack, equal, generator, ordered


def club(key: jax.Array, count: int) -> dict[str, Slack]:
    """E1: CLUB with the true conditional is an upper bound, and a very loose one."""
    draw = generator(key)
    information = np.linspace(0.1, 1, 4)
    squared = -np.expm1(-2 * information)
    rho, size = np.sqrt(squared)[:, None], 100 * count
    x, noise, other = draw.standard_normal((3, 4, size))
    y = rho * x + np.sqrt(1 - rho**2) * noise

    def contrast(slope: np.ndarray) -> np.ndarray:
        """Log q of pairs less that of strangers, q(y|x) = N(slope x, 1 - rho^2)."""
        pairs, strangers = (y - slope * x) ** 2, (y - slope * other) ** 2
        return (strangers - pairs) / (2 * (1 - rho**2))

    right, blind = contrast(rho), contrast(0 * rho)
    printed = np.expm1(2 * np.array([0.1, 1.0, 2.0, 3.0]))
    return {
        "the true conditional gives rho^2 / (1 - rho^2)": equal(
            right.mean(1),
            squared / (1 - squared),
            ERRORS * right.std(1) / np.sqrt(size),
        ),
        "which is at least I": ordered(information, squared / (1 - squared)),
        "I = 0.1, 1, 2, 3 give 0.2, 6.4, 53.6, 402": equal(
            printed, [0.2, 6.4, 53.6, 402.4], 0.05
        ),
        "q(y|x) = q(y) gives less than I: no bound": ordered(
            blind.mean(1), information, 0.0
        ),
    }


def info_nce(key: jax.Array, count: int) -> dict[str, Slack]:
    """E2: the best critic stays below the information and below log K."""
    draw = generator(key)
    batch, dim = 64, 5
    truths, means, errors = np.array([1.0, 3.0, 6.0, 12.0]), [], []
    for truth in truths:
        rho = np.sqrt(-np.expm1(-2 * truth / dim))
        values = []
        for _ in range(count):
            x = draw.standard_normal((batch, dim))
            y = rho * x + np.sqrt(1 - rho**2) * draw.standard_normal((batch, dim))
            squared = np.sum((y - rho * x[:, None]) ** 2, axis=-1)
            scores = -squared / (2 * (1 - rho**2)) + np.sum(y**2, axis=-1) / 2
            shift = scores.max(1, keepdims=True)
            total = np.log(np.exp(scores - shift).mean(1)) + shift[:, 0]
            values.append(np.mean(np.diag(scores) - total))
        means.append(np.mean(values))
        errors.append(np.std(values, ddof=1) / np.sqrt(count))
    chance = ERRORS * np.asarray(errors)
    return {
        "InfoNCE <= I": ordered(means, truths, chance),
        "InfoNCE <= log K": ordered(means, np.log(batch)),
        "I = 1, 3, 6, 12 give 0.95, 2.61, 3.91, 4.16": equal(
            means, [0.95, 2.61, 3.91, 4.16], chance + 0.03
        ),
    }


def density_ratio(key: jax.Array, count: int) -> dict[str, Slack]:
    """E3: the variance of the density ratio of Gaussians is exp(2 I) - 1."""
    del key
    line = np.linspace(-9, 9, 721)
    x, y = np.meshgrid(line, line)
    rhos = np.linspace(0.1, 0.6, min(count, 10))
    found = []
    for rho in rhos:
        spread = 1 - rho**2
        ratio = -np.log(spread) / 2 + (2 * rho * x * y - rho**2 * (x**2 + y**2)) / (
            2 * spread
        )
        density = np.exp(2 * ratio - (x**2 + y**2) / 2) / (2 * np.pi)
        found.append(density.sum() * (line[1] - line[0]) ** 2 - 1)
    information = -np.log1p(-(rhos**2)) / 2
    needed = np.expm1(2 * np.array([2.0, 5.0])) / 0.1**2
    return {
        "Var of dp/dq = exp(2 I) - 1": equal(found, np.expm1(2 * information), 1e-7),
        "samples for sd 0.1: 5,360 at I = 2, 2.2e6 at 5": equal(
            needed / [5360, 2.2e6], 1, 0.01
        ),
    }


def slices(key: jax.Array, count: int) -> dict[str, Slack]:
    """E4: slices see almost nothing, even of infinite information."""
    draw = generator(key)
    dims = np.array([2, 16, 128, 512])
    closed = np.asarray(digamma(dims / 2) - digamma((dims - 1) / 2)) / 2
    means, errors = [], []
    for dim in dims:
        # Of two random directions one may be fixed.
        direction = draw.standard_normal((200 * count, dim))
        cosine = direction[:, 0] / np.linalg.norm(direction, axis=1)
        value = -np.log1p(-(cosine**2)) / 2
        means.append(value.mean())
        errors.append(value.std() / np.sqrt(len(value)))

    p, k = 8, 2
    below, above = [], []
    for _ in range(count):
        factor = draw.standard_normal((2 * p, 2 * p))
        covariance = factor @ factor.T + 0.1 * np.eye(2 * p)
        frames = [np.linalg.qr(draw.standard_normal((p, k)))[0] for _ in range(2)]
        frame = np.block([[frames[0], np.zeros((p, k))], [np.zeros((p, k)), frames[1]]])
        below.append(_information(frame.T @ covariance @ frame, k))
        above.append(_information(covariance, p))
    return {
        "Y = X in R^d: closed form by draws": equal(
            means, closed, ERRORS * np.asarray(errors)
        ),
        "Y = X in R^d: 0.693, 0.0344, 0.0040, 0.0010": equal(
            closed, [0.69315, 0.03444, 0.00395, 0.00098], 5e-6
        ),
        "k-sliced <= I, Gaussian": ordered(below, above),
    }


def _information(covariance: np.ndarray, dim: int) -> float:
    blocks = covariance[:dim, :dim], covariance[dim:, dim:], covariance
    first, second, both = (np.linalg.slogdet(block)[1] for block in blocks)
    return (first + second - both) / 2
