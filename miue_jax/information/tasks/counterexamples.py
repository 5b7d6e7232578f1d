"""Claims about covariance and information that sound natural and are false.

Each is refuted by tasks named after it, whose exact information contradicts it.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from miue_jax.information.tasks.closed_form import bivariate, gaussian
from miue_jax.information.tasks.noisy_points import noisy_points
from miue_jax.information.tasks.poisoning_path import named_path
from miue_jax.information.tasks.task import Task, identity, transform


class Counterexample(NamedTuple):
    """A false claim and the tasks that refute it.

    Attributes:
      claim: the false claim; c are clean and p poisoned features, Y the label.
      reason: why it is false.
      tasks: functions that build the tasks, by the parameter in their names.

    Example:
      >>> from miue_jax.information import tasks
      >>> example = tasks.COUNTEREXAMPLES["F2"]
      >>> [f"F2-{parameter}" for parameter in example.tasks]
      ['F2-residual-3', 'F2-residual-0.1']
    """

    claim: str
    reason: str
    tasks: dict[str, Callable[[str], Task]]


def _scaled(name: str, scale: float) -> Task:
    return transform(name, bivariate(0.8), x=identity, y=lambda y: scale * y)


def _residual(name: str, residual: float) -> Task:
    # Explained variance 1, residual variance as given, noise variance 0.1.
    covariance = np.array([[1, 1], [1, 1 + residual + 0.1]])
    return gaussian(name, covariance, dim_x=1)


def _label(name: str, spread: float) -> Task:
    # x is the label -1 or 1; the spread within classes and the noise (0.2) add up.
    points, labels = np.array([[-1.0], [1.0]]), np.array([0, 1])
    return noisy_points(name, points, noise_variance=spread**2 + 0.04, labels=labels)


def _atoms(name: str, count: int, reach: float) -> Task:
    points = np.linspace(-reach, reach, count)[:, None]
    return noisy_points(name, points, noise_variance=0.02**2)


def _two_points(name: str, reach: float) -> Task:
    return noisy_points(name, np.array([[-reach], [reach]]), noise_variance=1.0)


def _independent(name: str, variance: float) -> Task:
    return gaussian(name, np.diag([1.0, variance]), dim_x=1)


def _radii(name: str) -> Task:
    points = np.outer([1.0, 2.0, 3.0, 4.0], [0.6, 0.8])
    return noisy_points(name, points, noise_variance=0.01)


def _of(build: Callable[..., Task], *arguments: float | str) -> Callable[[str], Task]:
    return lambda name: build(name, *arguments)


COUNTEREXAMPLES: dict[str, Counterexample] = {
    "F1": Counterexample(
        claim="Shrinking Var(p | Y) lowers I(c; p).",
        reason="Without noise p can be scaled back: the information stays.",
        tasks={"scale-1": _of(_scaled, 1.0), "scale-0.001": _of(_scaled, 1e-3)},
    ),
    "F2": Counterexample(
        claim="If Cov(p | Y) is smaller in the Loewner order, so is I(c; p + noise).",
        reason="Variance that p shares with nothing hides what it shares with c.",
        tasks={"residual-3": _of(_residual, 3.0), "residual-0.1": _of(_residual, 0.1)},
    ),
    "F3": Counterexample(
        claim="Collapse within classes lowers I(c; p).",
        reason="With c = Y it reveals the label: the information rises to log 2.",
        tasks={
            f"spread-{spread:g}": _of(_label, spread)
            for spread in (2.0, 1.0, 0.5, 0.1, 0.0)
        },
    ),
    "F4": Counterexample(
        claim="Of two laws of p, the one of smaller variance has less information.",
        reason="Many close but distinguishable atoms say more than two distant ones.",
        tasks={"atoms-2": _of(_atoms, 2, 1.0), "atoms-16": _of(_atoms, 16, 0.8)},
    ),
    "F5": Counterexample(
        claim="Large Cov(p | Y) means large I(c; p).",
        reason="Two atoms hold log 2 at any distance; independent variance holds 0.",
        tasks={
            **{f"reach-{reach:g}": _of(_two_points, reach) for reach in (3, 30, 300)},
            "independent": _of(_independent, 10.4),
        },
    ),
    "F6": Counterexample(
        claim="Cosine 1 within classes means that p says nothing about the instance.",
        reason="The norm identifies it, and cosines do not see the norm.",
        tasks={"radii": _of(_radii)},
    ),
    "F7": Counterexample(
        claim="The covariance bound on I(c; p) certifies that clean features fail.",
        reason="With H(Y | p) added it is at least H(Y), which allows accuracy 1.",
        tasks={"path-0.05": _of(named_path, "weak", 0.05)},
    ),
}


def counterexamples() -> dict[str, Callable[[], Task]]:
    """Builders of the tasks of all counterexamples by name, such as ``F2-residual-3``.

    The statements F1 to F7 are in docs/theory.md.
    """
    return {
        name: functools.partial(build, name)
        for statement, example in COUNTEREXAMPLES.items()
        for suffix, build in example.tasks.items()
        for name in [f"{statement}-{suffix}"]
    }
