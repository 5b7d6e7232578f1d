"""Tasks with known mutual information, by name.

`BENCHMARK` lists the 40 tasks of the Beyond Normal benchmark; `NAMES` adds label
channels, the poisoning path, sphere clusters, a finite table and the counterexamples.
"""

import functools
from collections.abc import Callable

import jax

from miue_jax import _checks
from miue_jax.information.tasks import task as _task
from miue_jax.information.tasks.closed_form import (
    additive,
    bivariate,
    dense,
    gaussian,
    sparse,
    student,
)
from miue_jax.information.tasks.counterexamples import (
    COUNTEREXAMPLES,
    Counterexample,
    counterexamples,
)
from miue_jax.information.tasks.finite import finite, label_channel, random_pmf
from miue_jax.information.tasks.noisy_points import (
    noisy_information,
    noisy_points,
    quadrature,
    sphere,
    sphere_clusters,
)
from miue_jax.information.tasks.poisoning_path import (
    LABEL_SCALES,
    PathInformation,
    PathModel,
    named_path,
    path_information,
    path_task,
    poisoning_path,
)
from miue_jax.information.tasks.task import Task, mean_pointwise, transform

__all__ = [
    "BENCHMARK",
    "COUNTEREXAMPLES",
    "LABEL_SCALES",
    "NAMES",
    "Counterexample",
    "PathInformation",
    "PathModel",
    "Task",
    "additive",
    "bivariate",
    "create",
    "dense",
    "finite",
    "gaussian",
    "label_channel",
    "mean_pointwise",
    "noisy_information",
    "noisy_points",
    "path_information",
    "path_task",
    "poisoning_path",
    "quadrature",
    "random_pmf",
    "sparse",
    "sphere",
    "sphere_clusters",
    "student",
    "transform",
]

_Builders = dict[str, Callable[[], Task]]


def _mapped(
    name: str,
    base: Callable[[], Task],
    x: _task.Map,
    y: _task.Map,
    dim_x: int | None = None,
) -> Task:
    return transform(name, base(), x=x, y=y, dim_x=dim_x)


def _benchmark() -> _Builders:
    normal = "1v1-normal-0.75"
    found: _Builders = {normal: functools.partial(bivariate, 0.75)}

    def add(
        prefix: str, base: str, x: _task.Map, y: _task.Map, dim_x: int | None = None
    ) -> None:
        name = f"{prefix}-{base}"
        found[name] = functools.partial(_mapped, name, found[base], x, y, dim_x)

    add("normal_cdf", normal, _task.normal_cdf, _task.normal_cdf)
    add("wiggly", normal, _task.wiggly_x, _task.wiggly_y)
    add("half_cube", normal, _task.half_cube, _task.half_cube)
    uniform = f"normal_cdf-{normal}"
    add("swissroll_x", uniform, _task.swiss_roll, _task.identity, 2)
    found["1v1-bimodal-0.75"] = functools.partial(
        _mapped,
        "1v1-bimodal-0.75",
        found[normal],
        _task.bimodal((0.3, 0.7), (0.0, 5.0)),
        _task.bimodal((0.5, 0.5), (-1.0, 3.0)),
    )
    for epsilon in (0.1, 0.75):
        found[f"1v1-additive-{epsilon}"] = functools.partial(additive, epsilon)
    for dim, degrees in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3)):
        name = f"student-identity-{dim}-{dim}-{degrees}"
        found[name] = functools.partial(student, dim, dim, degrees=degrees)
        if degrees == (1 if dim < 3 else 2):
            add("asinh", name, _task.asinh, _task.asinh)
    for dim in (2, 3, 5, 25, 50):
        found[f"multinormal-dense-{dim}-{dim}-0.5"] = functools.partial(dense, dim, dim)
    for dim in (2, 3, 5, 25):
        name = f"multinormal-sparse-{dim}-{dim}-2-2.0"
        found[name] = functools.partial(sparse, dim, dim)
        if dim > 2:
            add("normal_cdf", name, _task.normal_cdf, _task.normal_cdf)
            add("half_cube", name, _task.half_cube, _task.half_cube)
            turn = functools.partial(_task.spiral, speed=1 / dim)
            add("spiral", name, turn(0, 1), turn(1, 2))
            add("spiral", f"normal_cdf-{name}", turn(0, 1), turn(1, 2))
    return found


def _finite(name: str) -> Task:
    build = functools.partial(random_pmf, shape=(4, 6))
    return finite(name, _task.double_precision(build, jax.random.key(0)))


def _others() -> _Builders:
    found: _Builders = {"finite-4-6": functools.partial(_finite, "finite-4-6")}
    for error in (0.0, 0.2, 0.5):
        name = f"label-channel-10-{error}"
        found[name] = functools.partial(label_channel, 10, error)
    for kind in LABEL_SCALES:
        for scale in (1.0, 0.5, 0.2, 0.05, 0.0):
            name = f"path-{kind}-{scale:g}"
            found[name] = functools.partial(named_path, name, kind, scale)
    for dim in (8, 64):
        for spread in (0.02, 0.1, 0.4):
            found[f"sphere-{dim}-{spread}"] = functools.partial(sphere, dim, spread)
    return found | counterexamples()


_BENCHMARK = _benchmark()
_REGISTRY = _BENCHMARK | _others()

BENCHMARK: tuple[str, ...] = tuple(_BENCHMARK)
NAMES: tuple[str, ...] = tuple(_REGISTRY)


def create(name: str) -> Task:
    """Creates a task by name.

    Args:
      name: one of `NAMES`.

    Returns:
      The task; if its information is a Monte-Carlo mean, this takes a few seconds.

    Raises:
      ValueError: if the name is unknown.

    Example:
      >>> from miue_jax.information import tasks
      >>> task = tasks.create("multinormal-dense-5-5-0.5")
      >>> task.dim_x, round(task.information, 4)
      (5, 0.5928)
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise _checks.unknown("task", name, NAMES)
    return _REGISTRY[name]()
