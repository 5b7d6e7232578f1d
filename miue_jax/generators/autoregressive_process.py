"""The processes of AR, and the search for filters that distinguish the classes.

A process is linear: every value is a weighted sum of its neighbors above and to the
left. It fills a field of H x W pixels from its boundary, the field's first two rows and
the first two columns of its other rows: n = 2 W + 2 (H - 2) values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_Pair = tuple[jax.Array, jax.Array]


def boundary_size(height: int, width: int) -> int:
    """The number of values in the boundary of a field."""
    return 2 * width + 2 * (height - 2)


def run(filters: jax.Array, boundary: jax.Array, width: int) -> jax.Array:
    r"""Runs processes in raster order.

    .. math:: z_{i,j} = \sum_{k=0}^2 \sum_{l=0}^2 b_{k,l}\, z_{i-2+k,\, j-2+l}, \qquad
              b_{2,2} = 0

    Args:
      filters: (3, 3, ...) b; one process for each index of the trailing axes.
      boundary: (n, ...), the first two rows, then two values of every other row, of the
        same trailing shape.
      width: W of the field, including the boundary.

    Returns:
      (H - 2, W - 2, ...), the field without its first two rows and columns.
    """
    rest = boundary.shape[1:]
    top = boundary[: 2 * width].reshape(2, width, *rest)
    left = boundary[2 * width :].reshape(len(boundary) // 2 - width, 2, *rest)
    inner = width - 2

    def row(carry: _Pair, left: jax.Array) -> tuple[_Pair, jax.Array]:
        upper, above = carry
        drive = jnp.zeros((inner, *rest), boundary.dtype)
        for k in range(3):
            drive += filters[0, k] * upper[k : k + inner]
            drive += filters[1, k] * above[k : k + inner]

        def pixel(carry: _Pair, drive: jax.Array) -> tuple[_Pair, jax.Array]:
            value = drive + filters[2, 0] * carry[0] + filters[2, 1] * carry[1]
            return (carry[1], value), value

        _, values = lax.scan(pixel, (left[0], left[1]), drive)
        return (above, jnp.concatenate([left, values])), values

    _, field = lax.scan(row, (top[0], top[1]), left)
    return field


def linear_map(filters: jax.Array, height: int, width: int) -> jax.Array:
    """The matrices that map a boundary to the field, by running the unit boundaries.

    Args:
      filters: (3, 3, C), one process per channel.
      height: H of the field, including the boundary.
      width: W.

    Returns:
      (H - 2, W - 2, n, C): z = sum_m map[:, :, m] boundary[m] in every channel.
    """
    size, channels = boundary_size(height, width), filters.shape[2]
    units = jnp.eye(size, dtype=filters.dtype)[..., None]
    units = jnp.broadcast_to(units, (size, size, channels))
    return run(filters[:, :, None], units, width)


# Candidates whose first trials run in parallel: nearly all fail there.
_BATCH = 256


class Filters(NamedTuple):
    """The result of a search.

    Attributes:
      filters: (K, 3, 3, C) float32, for every class and channel; filters[:, 2, 2] is 0
        and the sum of a filter is 1.
      found: () int32, the number of classes whose filters meet the criterion.
    """

    filters: jax.Array
    found: jax.Array


class _Candidate(NamedTuple):
    key: jax.Array  # of its trials after the first
    filters: jax.Array  # (3, 3, C)
    signal: jax.Array  # (H, W, C), of its first trial, with unit norm
    passed: jax.Array  # () bool, whether that trial's norm was small enough


class _Search(NamedTuple):
    batch: jax.Array  # () int32
    filters: jax.Array  # (K, 3, 3, C)
    filled: jax.Array  # () int32, classes that have their filters
    found: jax.Array  # () int32, those of them whose filters meet the criterion
    best: jax.Array  # (3, 3, C), of the current class's candidates so far
    score: jax.Array  # (), its smallest response
    draws: jax.Array  # () int32, the current class's candidates so far


def search(
    key: jax.Array,
    num_classes: int,
    image_shape: tuple[int, ...],
    *,
    burn_in: int,
    trials: int,
    max_norm: float,
    min_response: float,
    max_draws: int,
) -> Filters:
    r"""Draws filters until those of every class meet the criterion.

    A candidate has eight normal weights per channel, divided by their sum. It is
    accepted if the norms of all its trial signals, from standard normal boundaries, are
    at most `max_norm` (NaN and infinity are not), and if the first of them, scaled to
    unit norm, has a response of at least `min_response` to the filters of every earlier
    class. The response of a signal z to filters b is

    .. math:: \sum_{i,j} \max\Bigl(0, \sum_c \sum_{k,l}
              b_{k,l,c}\, z_{i-2+k,\, j-2+l,\, c}\Bigr),
              \qquad b_{2,2,c} = -1,

    which is 0 for signals of b itself. A class whose `max_draws` candidates all fail
    gets the one whose smallest response is largest, among those with small norms, or
    the mean of the neighbors if there are none.

    Args:
      key: a PRNG key.
      num_classes: K.
      image_shape: (H, W, C).
      burn_in: rows and columns of the process cut off at the top and left, in pixels.
      trials: signals drawn for a candidate.
      max_norm: largest Euclidean norm of a signal from a standard normal boundary.
      min_response: smallest response.
      max_draws: candidates per class.

    Returns:
      The filters, and how many classes' filters meet the criterion.

    References:
      Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, Jacobs, "Autoregressive
      perturbations for data poisoning", NeurIPS 2022, arXiv 2206.03693, section 3 and
      appendix.
    """
    height, width = image_shape[0] + burn_in, image_shape[1] + burn_in
    channels = image_shape[2]
    size = boundary_size(height, width)
    average = jnp.ones((3, 3, channels), jnp.float32).at[2, 2].set(0) / 8

    def trial(key: jax.Array, filters: jax.Array) -> tuple[jax.Array, jax.Array]:
        # (3, 3, M, C) to the signals of M processes, (H, W, M, C), and their norms.
        shape = (size, *filters.shape[2:])
        boundary = jax.random.normal(key, shape, jnp.float32)
        field = run(filters, boundary, width)[burn_in - 2 :, burn_in - 2 :]
        return field, jnp.sqrt(jnp.sum(jnp.square(field), axis=(0, 1, 3)))

    def smallest_response(candidate: _Candidate, state: _Search) -> jax.Array:
        shape = (3, 3, trials - 1, channels)
        filters = jnp.broadcast_to(candidate.filters[:, :, None], shape)
        _, norms = trial(candidate.key, filters)
        responses = _responses(candidate.signal, state.filters)
        before = jnp.arange(num_classes) < state.filled
        smallest = jnp.min(jnp.where(before, responses, jnp.inf))
        return jnp.where(jnp.all(norms <= max_norm), smallest, -1)

    def consider(state: _Search, candidate: _Candidate) -> tuple[_Search, None]:
        wanted = state.filled < num_classes
        score = lax.cond(
            candidate.passed & wanted,
            smallest_response,
            lambda candidate, state: jnp.full((), -1, jnp.float32),
            candidate,
            state,
        )
        better = score > state.score
        best = jnp.where(better, candidate.filters, state.best)
        score = jnp.where(better, score, state.score)
        draws = state.draws + 1
        meets = score >= min_response
        done = wanted & (meets | (draws >= max_draws))
        return state._replace(
            filters=state.filters.at[state.filled].set(
                jnp.where(done, best, state.filters[state.filled])
            ),
            filled=state.filled + done,
            found=state.found + (done & meets),
            best=jnp.where(done, average, best),
            score=jnp.where(done, -1, score),
            draws=jnp.where(done, 0, draws),
        ), None

    def try_batch(state: _Search) -> _Search:
        keys = jax.random.split(jax.random.fold_in(key, state.batch), _BATCH + 2)
        filters = _draw(keys[0], _BATCH, channels)
        field, norms = trial(keys[1], filters)
        candidates = _Candidate(
            key=keys[2:],
            filters=jnp.moveaxis(filters, 2, 0),
            signal=jnp.moveaxis(field / norms[:, None], 2, 0),
            passed=norms <= max_norm,
        )
        state, _ = lax.scan(consider, state, candidates)
        return state._replace(batch=state.batch + 1)

    zero = jnp.zeros((), jnp.int32)
    none = jnp.zeros((num_classes, 3, 3, channels), jnp.float32)
    start = _Search(
        zero, none, zero, zero, average, jnp.full((), -1, jnp.float32), zero
    )
    end = lax.while_loop(lambda state: state.filled < num_classes, try_batch, start)
    return Filters(end.filters, end.found)


def _draw(key: jax.Array, number: int, channels: int) -> jax.Array:
    """Draws candidates, (3, 3, M, C)."""
    weights = jax.random.normal(key, (8, number, channels), jnp.float32)
    weights /= jnp.sum(weights, axis=0)
    corner = jnp.zeros((1, number, channels), jnp.float32)
    return jnp.concatenate([weights, corner]).reshape(3, 3, number, channels)


def _responses(signal: jax.Array, filters: jax.Array) -> jax.Array:
    """Responses of a signal (H, W, C) to the filters (K, 3, 3, C): (K,)."""
    matching = filters.at[:, 2, 2].set(-1)
    height, width = signal.shape[0] - 2, signal.shape[1] - 2
    total = jnp.zeros((), jnp.float32)
    for i in range(3):
        for j in range(3):
            total += jnp.einsum(
                "hwc,kc->hwk",
                signal[i : i + height, j : j + width],
                matching[:, i, j],
                precision=lax.Precision.HIGHEST,
            )
    return jnp.sum(jax.nn.relu(total), axis=(0, 1))
