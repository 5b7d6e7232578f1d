r"""Mutual information from distances to nearest neighbors.

Distances are Euclidean within X and within Y; the distance of a pair is the larger of
the two. Neighbors are found by brute force over chunks of query rows (memory
``chunk_size`` times N), optionally split over the devices of a mesh; in few dimensions,
on the CPU, by a tree on the host.

Ties, which data of a density do not have, are counted as what they are. Where several
samples are exactly as far as the k-th neighbor, as in rounded or zero-inflated data, k
becomes the number of all up to that distance, in the pair, and so do the numbers of
samples in X and in Y; without ties nothing changes. (The strict counts of the method
leave out the tied ones, and nearly double the estimate.) If the k-th neighbor is at
distance 0 to float resolution, as with collapsed poisons, the term of the sample is
that of a discrete variable,

.. math:: \psi(c_{xy}) + \psi(N) - \psi(c_x) - \psi(c_y)

with `c` the number of samples that coincide with it in the pair, in X and in Y, itself
included: samples collapsed to one point per class give about log K, not infinity.
``degenerate_fraction`` reports how often the rule applied.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import (
    Estimate,
    center_unrounded,
    check_class_sizes,
    check_counts,
    check_key,
    check_labels,
    is_traced,
    known_pair,
    round_together,
    where_finite,
    whole_digamma,
)
from miue_jax.information.estimators import neighbor_matrix, neighbor_tree, relations
from miue_jax.information.estimators import neighbors as nearest

# Windows of classes are rounded up to multiples, so that similar sizes share a program.
_SPAN = 64
_SMALLEST_CHUNK = 64

Backend = Literal["auto", "device", "host"]

# Samples (of a class) from which the tree is faster than brute force, by the dimension
# of the wider of X and Y. Measured, milliseconds of a processor by brute force and by
# the tree: 11 and 10 (500 samples, one dimension), 28 and 25 (1,000, two), 114 and 105
# (2,000, three), 490 and 325 (5,000, four). More dimensions were not measured.
_FEWEST = {1: 500, 2: 1000, 3: 3000, 4: 5000}


def ksg(
    x: ArrayLike,
    y: ArrayLike,
    *,
    neighbors: int = 5,
    variant: int = 1,
    standardize: bool = True,
    jitter_key: jax.Array | None = None,
    chunk_size: int = 512,
    mesh: Mesh | None = None,
    backend: Backend = "auto",
) -> Estimate:
    r"""Kraskov-Stögbauer-Grassberger estimate of I(X; Y).

    With :math:`\epsilon_i` the distance of sample `i` to its k-th neighbor in the
    larger of the two Euclidean distances and :math:`n_x(i)` the number of other samples
    strictly closer than :math:`\epsilon_i` in X, the first variant is

    .. math:: \hat I = \psi(k) + \psi(N)
              - \frac1N \sum_i \bigl[\psi(n_x(i) + 1) + \psi(n_y(i) + 1)\bigr].

    The second counts up to the largest distance in X, and in Y, of the k neighbors:

    .. math:: \hat I = \psi(k) - \frac1k + \psi(N)
              - \frac1N \sum_i \bigl[\psi(n_x(i)) + \psi(n_y(i))\bigr].

    Assumes independent samples of a density. Neither a lower nor an upper bound: nearly
    unbiased under independence, biased low if there is much information (N must grow
    exponentially with it) and in high dimension. On raw features it finds the
    information about labels (up to log K) and misses that about instances. Constant
    columns contribute nothing, so a constant x gives exactly 0.

    Args:
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      neighbors: k, less than N. Larger k lowers the variance and raises the bias.
      variant: 1 or 2.
      standardize: scale every column to unit variance. Without it the estimate is
        invariant to rotations, but the scale of x relative to y matters.
      jitter_key: if given, adds noise of 10 float epsilons of each column's standard
        deviation, to break ties of rounded data rather than to count them; what is
        still tied is counted. Off by default.
      chunk_size: query rows at a time, per device.
      mesh: devices to split the query rows over, along all of its axes.
      backend: "device" for brute force in a compiled program; "host" for a k-d tree,
        sorting in one dimension, or brute force, whichever is fastest, with nothing
        compiled, which needs known samples and no mesh; "auto" for the host on the CPU
        where it has the faster way: in few dimensions. The value is the same to
        rounding.

    Returns:
      The estimate, nats; no standard error (use subsampling, never the bootstrap, whose
      duplicates are neighbors). Diagnostics: ``tie_fraction``, samples that coincide
      with another; ``degenerate_fraction``, those with their k-th neighbor at distance
      0, see the module; ``undersized_fraction``, 0; ``constant_columns``, a count;
      ``on_host``, whether the neighbors were found there.

    Raises:
      ValueError: for bad samples, no more samples than neighbors, another variant or
        backend, a number that is not positive, or a backend that cannot be had.

    Warns:
      FunctionalRelationWarning: if x and y look like functions of each other: then the
        information is infinite, while the estimate is at most log N - psi(k).
      DiscreteSamplesWarning: if one of them is discrete, as labels are; see `ross`.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x, noise = np.random.default_rng(0).standard_normal((2, 1000))
      >>> estimate = estimators.ksg(x, 0.8 * x + 0.6 * noise, neighbors=10)
      >>> abs(float(estimate.value) - 0.511) < 0.15  # -log(1 - 0.8^2) / 2
      True

    References:
      Kraskov, Stögbauer and Grassberger, Estimating mutual information, 2004, eqs. 8
      and 9; Gao, Kannan, Oh and Viswanath, Estimating mutual information for
      discrete-continuous mixtures, 2017, for samples that coincide.
    """
    labels = np.zeros(len(known_pair(x, y)[0]), np.int32)
    return ksg_conditional(
        x,
        y,
        labels,
        num_classes=1,
        neighbors=neighbors,
        variant=variant,
        standardize=standardize,
        jitter_key=jitter_key,
        chunk_size=chunk_size,
        mesh=mesh,
        backend=backend,
    )


def ksg_conditional(
    x: ArrayLike,
    y: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    neighbors: int = 5,
    variant: int = 1,
    standardize: bool = True,
    jitter_key: jax.Array | None = None,
    chunk_size: int = 512,
    mesh: Mesh | None = None,
    backend: Backend = "auto",
) -> Estimate:
    r"""KSG estimate within classes: I(X; Y | label).

    .. math:: \hat I = \sum_y \pi_y \hat I_y, \qquad \pi_y = n_y / N,

    with :math:`\hat I_y` of `ksg` on the samples of class y. Each class is centered
    separately. The cost is N times the largest class (N^2 under `jax.jit`, where labels
    are not known). Neither a lower nor an upper bound; biased like `ksg`, with the
    samples of a class in place of N.

    Args:
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      labels: (N,) integers in [0, num_classes).
      num_classes: number of classes; absent ones have no weight.
      neighbors: k, less than the number of samples of any class present.
      variant: 1 or 2, see `ksg`.
      standardize: scale every column to unit variance within classes, pooled.
      jitter_key: see `ksg`.
      chunk_size: query rows at a time, per device, at most.
      mesh: devices to split the query rows over, along all of its axes.
      backend: see `ksg`; "host" needs known labels too.

    Returns:
      The estimate, nats, without standard error. Diagnostics as in `ksg`;
      ``undersized_fraction`` is the share of samples in classes with no more than k
      members, which contribute 0 under `jax.jit`. There, labels out of range cannot be
      refused and make the value NaN.

    Raises:
      ValueError: for bad samples or labels, a class with no more samples than
        neighbors, another variant or backend, a number that is not positive, or a
        backend that cannot be had.

    Warns:
      FunctionalRelationWarning: see `ksg`; the largest class is looked at.
      DiscreteSamplesWarning: likewise.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> labels = np.arange(400) % 2
      >>> x, y = 10 * labels + np.random.default_rng(0).standard_normal((2, 400))
      >>> pooled = estimators.ksg(x, y).value  # log 2: what both know is the label
      >>> within = estimators.ksg_conditional(x, y, labels, num_classes=2).value
      >>> abs(float(pooled) - 0.693) < 0.15, abs(float(within)) < 0.15
      (True, True)

    References:
      Kraskov, Stögbauer and Grassberger, Estimating mutual information, 2004.
    """
    if variant not in (1, 2):
        raise ValueError(f"unknown variant {variant!r} (allowed: 1, 2)")
    check_counts(neighbors=neighbors, num_classes=num_classes, chunk_size=chunk_size)
    _checks.check_flag("standardize", standardize)
    _checks.check_choice("backend", backend, get_args(Backend))
    if jitter_key is not None:
        check_key(jitter_key, "jitter_key")
    first, second, dtype = known_pair(x, y, minimum=neighbors + 1)
    checked = check_labels(labels, len(first), num_classes=num_classes)
    check_class_sizes(checked, num_classes, neighbors)
    known = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    if known and not is_traced(checked):
        _warn(first, second, np.asarray(checked), jittered=jitter_key is not None)
    within = functools.partial(
        center_unrounded, dtype=dtype, labels=checked, num_classes=num_classes
    )
    centered = [within(z, standardize=standardize) for z in (x, y)]
    spaces = round_together(centered, dtype)
    constant = jnp.sum(jnp.array([jnp.sum(jnp.all(z == 0, axis=0)) for z in spaces]))
    if jitter_key is not None:
        keys = jax.random.split(jitter_key)
        spaces = [nearest.jitter(key, z) for key, z in zip(keys, spaces, strict=True)]
    # A common scale: squares neither vanish nor overflow, and no rank changes.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(z)) for z in spaces]))
    spaces = [z / jnp.where(largest > 0, largest, 1) for z in spaces]
    if not is_traced(checked):
        # The rows of a chunk are compared with all of its classes: small ones are not
        # to share a chunk.
        largest_class = int(np.max(np.bincount(np.asarray(checked))))
        chunk_size = min(chunk_size, max(_SMALLEST_CHUNK, largest_class))
    chunk = nearest.chunk_rows(len(first), chunk_size, mesh)
    on_host = _on_host(backend, spaces, checked, mesh, num_classes)
    if on_host:
        options = num_classes, neighbors, variant
        value, diagnostics = _from_host(spaces, np.asarray(checked), *options)
    else:
        if is_traced(checked):
            order, span = jnp.argsort(checked, stable=True), len(first)
        else:
            concrete = np.asarray(checked)
            order = np.argsort(concrete, stable=True)
            span = _span(concrete[order], chunk)
        static = num_classes, neighbors, variant, span, chunk, mesh
        value, diagnostics = nearest.in_two_stages(
            lambda *stage: _ksg(*spaces, checked, order, *static, *stage),
            traced=is_traced(*spaces, checked),
        )
    value = where_finite(value, x, y)
    diagnostics |= {"constant_columns": constant, "on_host": jnp.asarray(on_host)}
    return Estimate(value, jnp.full_like(value, jnp.nan), "estimate", diagnostics)


@functools.partial(jax.jit, static_argnums=range(4, 12))
def _ksg(
    x: jax.Array,
    y: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    num_classes: int,
    neighbors: int,
    variant: int,
    span: int,
    chunk: int,
    mesh: Mesh | None,
    origins: int,
    by_differences: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    # Sorted by class, the other members of a row's class lie in one window around it.
    labels = labels[order]
    sizes = jnp.bincount(labels, length=num_classes)
    starts = jnp.cumsum(sizes) - sizes
    total = len(labels)
    psi = jnp.asarray(whole_digamma(total), x.dtype)
    points = tuple(nearest.prepare(z[order], origins) for z in (x, y))
    held = nearest.hold_ties(x) | nearest.hold_ties(y)

    def terms(operands, rows):
        xs, ys, labels, starts, sizes, psi, held = operands
        start = jnp.minimum(starts[labels[rows[0]]], total - span)
        columns = start + jnp.arange(span)
        others = labels[rows][:, None] == labels[columns]
        others &= rows[:, None] != columns

        def evaluate(by_differences: bool) -> nearest.Term:
            def distances(points):
                squared = nearest.squared_distances(
                    points, rows, start, span, by_differences=by_differences
                )
                return jnp.where(others, squared, jnp.inf)

            dx, dy = distances(xs), distances(ys)
            joint = jnp.maximum(dx, dy)
            radius = nearest.kth_smallest(joint, neighbors)
            gram = [nearest.is_gram(space, by_differences) for space in (xs, ys)]
            ties_x, ties_y = (nearest.Ties(held, each) for each in gram)
            both = nearest.Ties(held, all(gram))
            within = both.within(joint, radius, neighbors)
            if variant == 1:
                near_x, near_y = ties_x.near(dx, radius), ties_y.near(dy, radius)
                decisive = radius, radius
            else:
                inside = joint <= both.reach(radius)[:, None]
                decisive = tuple(
                    jnp.max(jnp.where(inside, d, 0), axis=1) for d in (dx, dy)
                )
                near_x = nearest.count(dx, ties_x.reach(decisive[0]))
                near_y = nearest.count(dy, ties_y.reach(decisive[1]))
            same = [
                1 + jnp.sum(d == 0, axis=1, dtype=jnp.int32) for d in (joint, dx, dy)
            ]
            joint_count = jnp.where(radius == 0, same[0], within)
            near_x = jnp.where(radius == 0, same[1], near_x)
            near_y = jnp.where(radius == 0, same[2], near_y)
            size = sizes[labels[rows]]
            term = psi[joint_count] + psi[size] - psi[near_x] - psi[near_y]
            if variant == 2:
                term -= jnp.where(radius == 0, 0, 1 / within)
            lost = [
                nearest.unresolved(space, rows, side) & each
                for space, side, each in zip((xs, ys), decisive, gram, strict=True)
            ]
            return nearest.Term(term, radius, same[0] > 1, lost[0] | lost[1])

        return nearest.settle(evaluate, by_differences)

    operands = (*points, labels, starts, sizes, psi, held)
    results = nearest.map_rows(terms, operands, total, chunk=chunk, mesh=mesh)
    return nearest.average(results, labels, num_classes)


def _on_host(
    backend: Backend,
    spaces: list[jax.Array],
    labels: jax.Array,
    mesh: Mesh | None,
    num_classes: int,
) -> bool:
    known = not is_traced(*spaces, labels) and mesh is None
    if backend == "host" and not known:
        raise ValueError(
            "backend is 'host', which needs samples and labels that are known (not "
            "traced) and no mesh; allowed here: 'auto', 'device'"
        )
    if backend != "auto" or not known:
        return backend == "host"
    on_cpu = all(d.platform == "cpu" for z in spaces for d in z.devices())
    widest = max(z.shape[1] for z in spaces)
    return on_cpu and len(labels) / num_classes >= _FEWEST.get(widest, np.inf)


def value_on_host(
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    neighbors: int,
) -> float:
    """The value of `ksg_conditional`, with nothing checked and nothing compiled.

    For many estimates on samples of many sizes, each of which would be a program.

    Args:
      x: (N, dx) finite.
      y: (N, dy) finite.
      labels: (N,) integers in [0, num_classes), each class larger than `neighbors`.
      num_classes: number of classes.
      neighbors: k.

    Returns:
      Nats.
    """
    dtype = np.dtype(np.float32)
    spaces = [
        center_unrounded(
            z, dtype, labels=labels, num_classes=num_classes, standardize=True
        )
        for z in (x, y)
    ]
    # Of unit variance: no value leaves the range of the type.
    arrays = [np.asarray(z, dtype) for z in spaces]
    largest = max(float(np.max(np.abs(z))) for z in arrays)
    arrays = [z / (largest or 1) for z in arrays]
    return _means(arrays, labels, num_classes, neighbors, 1)[0]


def _from_host(
    spaces: list[jax.Array],
    labels: np.ndarray,
    num_classes: int,
    neighbors: int,
    variant: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    dtype = spaces[0].dtype
    arrays = [np.asarray(z) for z in spaces]
    value, shares = _means(arrays, labels, num_classes, neighbors, variant)
    diagnostics = {k: jnp.asarray(v, dtype) for k, v in shares.items()}
    diagnostics["undersized_fraction"] = jnp.zeros((), dtype)
    return jnp.asarray(value, dtype), diagnostics


def _means(
    arrays: list[np.ndarray],
    labels: np.ndarray,
    num_classes: int,
    neighbors: int,
    variant: int,
) -> tuple[float, dict[str, float]]:
    """The estimate, and shares of samples, from neighbors found on the host."""
    dtype = arrays[0].dtype
    held = any(nearest.known_ties(z) for z in arrays)
    widest = max(z.shape[1] for z in arrays)
    psi = whole_digamma(len(labels))
    terms = np.empty(len(labels))
    tied, degenerate = np.empty((2, len(labels)), bool)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        if not len(members):
            continue
        inside = [z[members] for z in arrays]
        few = len(members) < _FEWEST.get(widest, np.inf)
        find = neighbor_matrix.pairs if few else neighbor_tree.pairs
        found = find(inside, neighbors, variant=variant, held=held, dtype=dtype)
        tied[members], degenerate[members] = found.tied, found.radius == 0
        term = psi[found.within] + psi[len(members)]
        term -= psi[found.near[0]] + psi[found.near[1]]
        if variant == 2:
            term -= np.where(found.radius == 0, 0, 1 / found.within)
        terms[members] = term
    shares = {"tie_fraction": tied, "degenerate_fraction": degenerate}
    return float(np.mean(terms)), {k: float(np.mean(v)) for k, v in shares.items()}


def _warn(x: np.ndarray, y: np.ndarray, labels: np.ndarray, *, jittered: bool) -> None:
    """Looks at the largest class for what the estimate cannot measure."""
    members = labels == np.argmax(np.bincount(labels))
    x, y = x[members], y[members]
    if not jittered and relations.warn_of_discrete(x, y, stacklevel=4):
        return
    relations.warn_of_function(x, y, stacklevel=4)


def _span(labels: np.ndarray, chunk: int) -> int:
    """Width of a window that holds the classes of any chunk of sorted rows."""
    size = len(labels)
    first = np.arange(0, size, chunk)
    last = np.minimum(first + chunk, size) - 1
    starts = np.searchsorted(labels, labels[first], side="left")
    ends = np.searchsorted(labels, labels[last], side="right")
    widest = int(np.max(ends - starts))
    return min(size, -(-widest // _SPAN) * _SPAN)
