"""Estimators of mutual information from samples, in nats.

Each is a pure function of paired samples x (N, dx) and y (N, dy) that returns an
`Estimate`, whose ``kind`` says whether the population value is a bound. Which of them
to believe where is told in docs/theory.md.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information.estimate import Estimate as Estimate
from miue_jax.information.estimators.class_conditional_gaussian import (
    class_conditional_gaussian as class_conditional_gaussian,
)
from miue_jax.information.estimators.club import club as club
from miue_jax.information.estimators.club import (
    contrastive_log_ratio as contrastive_log_ratio,
)
from miue_jax.information.estimators.critic import fit_critic as fit_critic
from miue_jax.information.estimators.fitting import FitConfig as FitConfig
from miue_jax.information.estimators.gaussian import (
    ClusteredFeaturesWarning as ClusteredFeaturesWarning,
)
from miue_jax.information.estimators.gaussian import gaussian as gaussian
from miue_jax.information.estimators.ksg import ksg as ksg
from miue_jax.information.estimators.ksg import ksg_conditional as ksg_conditional
from miue_jax.information.estimators.renyi import renyi as renyi
from miue_jax.information.estimators.ross import ross as ross
from miue_jax.information.estimators.score_bounds import (
    donsker_varadhan as donsker_varadhan,
)
from miue_jax.information.estimators.score_bounds import infonce as infonce
from miue_jax.information.estimators.score_bounds import nwj as nwj
from miue_jax.information.estimators.score_bounds import smile as smile
from miue_jax.information.estimators.sliced import sliced as sliced
from miue_jax.information.estimators.variational import variational as variational


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
    "infonce": _Entry(functools.partial(variational, bound="infonce"), ("key", "y")),
    "nwj": _Entry(functools.partial(variational, bound="nwj"), ("key", "y")),
    "dv": _Entry(functools.partial(variational, bound="dv"), ("key", "y")),
    "smile": _Entry(functools.partial(variational, bound="smile"), ("key", "y")),
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

    What an estimator has no use for (a key, labels) may be given all the same, so that
    one call serves all of them.

    Args:
      name: one of `NAMES`. "dv" is the bound of Donsker and Varadhan, trained as MINE;
        "ross" estimates the information of the labels about x.
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      key: a PRNG key, for estimators that draw or train.
      labels: (N,) integers in [0, num_classes), for estimators within classes; the
        pooled Gaussian ones warn where labels show clusters.
      num_classes: number of classes.
      **options: of the estimator.

    Returns:
      The estimate, nats.

    Raises:
      ValueError: for an unknown name or option, something missing that the estimator
        needs, or whatever it finds wrong with the samples.
    """
    if name not in _REGISTRY:
        raise _checks.unknown("estimator", name, NAMES)
    function, needs, takes = _REGISTRY[name]
    given = {"key": key, "y": y, "labels": labels, "num_classes": num_classes}
    for need in needs:
        if given[need] is None:
            raise ValueError(f"estimator {name!r} needs {need}")
    # What makes the name what it is, and what is given by itself, are no options.
    fixed = {"x", *given, *getattr(function, "keywords", {})}
    known = [k for k in inspect.signature(function).parameters if k not in fixed]
    for option in options:
        if option not in known:
            raise _checks.unknown(f"option of estimator {name!r}", option, known)
    arguments = {k: given[k] for k in (*needs, *takes)}
    return function(x=x, **arguments, **options)
