"""The interface of every generator of unlearnable examples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from miue_jax._checks import check_number
from miue_jax.budget import Budget
from miue_jax.train.metrics import Metrics
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Shards, collect


class Generator(NamedTuple):
    """A generator as pure functions of one device's share of the data.

    Attributes:
      init: (key, data) -> state.
      step: (key, state, data) -> (state, metrics). The state is a `parallel.State` and
        knows its step; metrics are `metrics.Mean` by name, from `metrics.mean_of`; the
        key is the run's own and the same in every step.
      num_steps: steps after which the generator is done, at the latest.
      perturbation: state -> delta in [0, 1] units, (g, n, H, W, C) float32 with a row
        for every example, or (K, H, W, C) with one for every class.
      finished: state -> () bool, whether it met its stopping rule before num_steps;
        further steps then change nothing.
      per_class: whether the perturbation has a row for every class.
      budget: what the perturbation keeps to in every image.
    """

    init: Callable[[jax.Array, Shards], State]
    step: Callable[[jax.Array, State, Shards], tuple[State, Metrics]]
    num_steps: int
    perturbation: Callable[[State], jax.Array]
    finished: Callable[[State], jax.Array]
    per_class: bool
    budget: Budget


def per_example(
    method: Generator, delta: np.ndarray, labels: np.ndarray, selected: np.ndarray
) -> np.ndarray:
    """Brings a generator's perturbation into the order of the data set, on the host.

    Args:
      method: the generator.
      delta: what `Generator.perturbation` gave for the whole mesh.
      labels: (N,) integer.
      selected: (N,) bool, the examples that may be perturbed.

    Returns:
      (N, H, W, C) float32 in [0, 1] units, 0 where nothing may change.

    Raises:
      ValueError: if the perturbation has another shape than `Generator` says.
    """
    labels = np.asarray(labels)
    rows = len(delta) if method.per_class else delta.shape[0] * delta.shape[1]
    needed = labels.max() + 1 if method.per_class else len(labels)
    if delta.ndim != (4 if method.per_class else 5) or rows < needed:
        shape = "(K, H, W, C)" if method.per_class else "(G, n, H, W, C)"
        raise ValueError(
            f"a perturbation of {len(labels)} images has shape {shape} with "
            f"{'K' if method.per_class else 'G n'} >= {needed}, got {delta.shape}"
        )
    whole = delta[labels] if method.per_class else collect(delta, len(labels))
    return whole * selected[:, None, None, None].astype(np.float32)


def select(
    labels: np.ndarray,
    *,
    fraction: float = 1.0,
    classes: tuple[int, ...] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Chooses the examples to protect: some classes only, a random fraction of them.

    Args:
      labels: (N,) integer.
      fraction: share of the examples in (0, 1], drawn at random.
      classes: the classes from which they are drawn; None for all.
      seed: of the draw, not negative.

    Returns:
      (N,) bool.

    Raises:
      ValueError: if the fraction, the seed or a class is out of range, or nothing is
        chosen.
    """
    labels = np.asarray(labels)
    check_number("fraction", fraction, "in (0, 1]")
    check_number("seed", seed, ">= 0", whole=True)
    known = sorted({int(label) for label in labels})
    for label in classes or ():
        if label not in known:
            raise ValueError(f"class {label} to protect is not in the data: {known}")
    eligible = np.flatnonzero(np.isin(labels, known if classes is None else classes))
    size = round(fraction * len(eligible))
    if size == 0:
        raise ValueError(
            f"a fraction of {fraction} of {len(eligible)} images leaves none to protect"
        )
    chosen = np.random.default_rng(seed).choice(eligible, size, replace=False)
    selected = np.zeros(len(labels), bool)
    selected[chosen] = True
    return selected
