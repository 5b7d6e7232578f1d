"""Estimators of mutual information from samples, in nats.

Each is a pure function of paired samples x (N, dx) and y (N, dy) that returns an
`Estimate`, whose ``kind`` says whether the population value is a bound.
docs/theory.md discusses which of them to trust where.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import Estimate
from miue_jax.information.estimators.class_conditional_gaussian import (
    class_conditional_gaussian,
)
from miue_jax.information.estimators.club import club, contrastive_log_ratio
from miue_jax.information.estimators.critic import fit_critic
from miue_jax.information.estimators.fitting import FitConfig
from miue_jax.information.estimators.gaussian import ClusteredFeaturesWarning, gaussian
from miue_jax.information.estimators.ksg import ksg, ksg_conditional
from miue_jax.information.estimators.relations import (
    DiscreteSamplesWarning,
    FunctionalRelationWarning,
)
from miue_jax.information.estimators.renyi import renyi
from miue_jax.information.estimators.ross import ross
from miue_jax.information.estimators.score_bounds import (
    donsker_varadhan,
    infonce,
    nwj,
    smile,
)
from miue_jax.information.estimators.sliced import sliced
from miue_jax.information.estimators.variational import variational

__all__ = [
    "NAMES",
    "ClusteredFeaturesWarning",
    "DiscreteSamplesWarning",
    "Estimate",
    "FitConfig",
    "FunctionalRelationWarning",
    "class_conditional_gaussian",
    "club",
    "contrastive_log_ratio",
    "donsker_varadhan",
    "estimate",
    "fit_critic",
    "gaussian",
    "infonce",
    "ksg",
    "ksg_conditional",
    "nwj",
    "renyi",
    "ross",
    "sliced",
    "smile",
    "variational",
]


class _Entry(NamedTuple):
    function: Callable[..., Estimate]
    needs: tuple[str, ...] = ("y",)
    takes: tuple[str, ...] = ()


_WITHIN_CLASSES = ("y", "labels", "num_classes")
_REGISTRY = {
    "ksg": _Entry(ksg),
    "ksg_conditional": _Entry(ksg_conditional, _WITHIN_CLASSES),
    "ross": _Entry(ross, ("labels", "num_classes")),
    "gaussian": _Entry(gaussian, takes=("labels",)),
    "copula": _Entry(functools.partial(gaussian, copula=True), takes=("labels",)),
    "class_conditional_gaussian": _Entry(class_conditional_gaussian, _WITHIN_CLASSES),
    "sliced": _Entry(sliced, ("key", "y")),
    **{
        bound: _Entry(functools.partial(variational, bound=bound), ("key", "y"))
        for bound in ("infonce", "nwj", "dv", "smile")
    },
    "club": _Entry(club, ("key", "y")),
    "renyi": _Entry(renyi),
}

NAMES: tuple[str, ...] = tuple(_REGISTRY)


def estimate(
    name: str,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    key: jax.Array | None = None,
    labels: ArrayLike | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> Estimate:
    """Calls an estimator by name.

    Arguments that the estimator does not use (a key, labels) are ignored, so that one
    call works for all of them.

    Args:
      name: one of `NAMES`. "dv" is the bound of Donsker and Varadhan, trained as MINE;
        "ross" estimates the information of the labels about x.
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      key: a random key, for estimators that draw or train.
      labels: (N,) integers in [0, num_classes), for estimators within classes; the
        pooled Gaussian ones warn if labels reveal clusters.
      num_classes: number of classes.
      **options: options of the estimator.

    Returns:
      The estimate, nats.

    Raises:
      ValueError: for an unknown name or option, a missing argument that the estimator
        needs, or samples that it refuses.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x, noise = np.random.default_rng(0).standard_normal((2, 1000))
      >>> y = 0.8 * x + 0.6 * noise  # -log(1 - 0.8^2) / 2 = 0.511 nats
      >>> for name in ("ksg", "gaussian"):
      ...     found = estimators.estimate(name, x, y, key=jax.random.key(0))
      ...     print(name, abs(float(found.value) - 0.511) < 0.15)
      ksg True
      gaussian True
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise _checks.unknown("estimator", name, NAMES)
    function, needs, takes = _REGISTRY[name]
    given = {"key": key, "y": y, "labels": labels, "num_classes": num_classes}
    for need in needs:
        if given[need] is None:
            raise ValueError(f"estimator {name!r} needs {need}")
    # Neither what the name fixes nor what has a parameter of its own is an option.
    fixed = {"x", *given, *getattr(function, "keywords", {})}
    known = [k for k in inspect.signature(function).parameters if k not in fixed]
    for option in options:
        if option not in known:
            raise _checks.unknown(f"option of estimator {name!r}", option, known)
    arguments = {k: given[k] for k in (*needs, *takes)}
    return function(x=x, **arguments, **options)
