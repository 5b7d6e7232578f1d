"""Tasks with known mutual information, by name.

`BENCHMARK` are the 40 tasks of the Beyond Normal benchmark; `NAMES` adds label
channels, the poisoning path, sphere clusters, a finite table and the counterexamples.
"""

import functools
from collections.abc import Callable

import jax

from miue_jax import _checks
from miue_jax.information.tasks import transforms as _maps
from miue_jax.information.tasks.additive import additive as additive
from miue_jax.information.tasks.counterexamples import (
    COUNTEREXAMPLES as COUNTEREXAMPLES,
)
from miue_jax.information.tasks.counterexamples import (
    Counterexample as Counterexample,
)
from miue_jax.information.tasks.counterexamples import counterexamples
from miue_jax.information.tasks.finite import finite as finite
from miue_jax.information.tasks.finite import random_pmf as random_pmf
from miue_jax.information.tasks.gaussian import bivariate as bivariate
from miue_jax.information.tasks.gaussian import dense as dense
from miue_jax.information.tasks.gaussian import gaussian as gaussian
from miue_jax.information.tasks.gaussian import sparse as sparse
from miue_jax.information.tasks.label_channel import label_channel as label_channel
from miue_jax.information.tasks.noisy_points import (
    noisy_information as noisy_information,
)
from miue_jax.information.tasks.noisy_points import noisy_points as noisy_points
from miue_jax.information.tasks.noisy_points import quadrature as quadrature
from miue_jax.information.tasks.path_information import LABEL_SCALES as LABEL_SCALES
from miue_jax.information.tasks.path_information import (
    PathInformation as PathInformation,
)
from miue_jax.information.tasks.path_information import named_path
from miue_jax.information.tasks.path_information import (
    path_information as path_information,
)
from miue_jax.information.tasks.path_information import path_task as path_task
from miue_jax.information.tasks.poisoning_path import PathModel as PathModel
from miue_jax.information.tasks.poisoning_path import poisoning_path as poisoning_path
from miue_jax.information.tasks.sphere import sphere as sphere
from miue_jax.information.tasks.sphere import sphere_clusters as sphere_clusters
from miue_jax.information.tasks.student import student as student
from miue_jax.information.tasks.task import Task as Task
from miue_jax.information.tasks.task import double_precision
from miue_jax.information.tasks.task import mean_pointwise as mean_pointwise
from miue_jax.information.tasks.transforms import transform as transform

_Builders = dict[str, Callable[[], Task]]
_Map = Callable[[jax.Array], jax.Array]


def _mapped(
    name: str, base: Callable[[], Task], x: _Map, y: _Map, dim_x: int | None = None
) -> Task:
    return transform(name, base(), x=x, y=y, dim_x=dim_x)


def _benchmark() -> _Builders:
    normal = "1v1-normal-0.75"
    found: _Builders = {normal: functools.partial(bivariate, 0.75)}

    def add(prefix: str, base: str, x: _Map, y: _Map, dim_x: int | None = None) -> None:
        name = f"{prefix}-{base}"
        found[name] = functools.partial(_mapped, name, found[base], x, y, dim_x)

    add("normal_cdf", normal, _maps.normal_cdf, _maps.normal_cdf)
    add("wiggly", normal, _maps.wiggly_x, _maps.wiggly_y)
    add("half_cube", normal, _maps.half_cube, _maps.half_cube)
    uniform = f"normal_cdf-{normal}"
    add("swissroll_x", uniform, _maps.swiss_roll, _maps.identity, 2)
    found["1v1-bimodal-0.75"] = functools.partial(
        _mapped,
        "1v1-bimodal-0.75",
        found[normal],
        _maps.bimodal((0.3, 0.7), (0.0, 5.0)),
        _maps.bimodal((0.5, 0.5), (-1.0, 3.0)),
    )
    for epsilon in (0.1, 0.75):
        found[f"1v1-additive-{epsilon}"] = functools.partial(additive, epsilon)
    for dim, degrees in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3)):
        name = f"student-identity-{dim}-{dim}-{degrees}"
        found[name] = functools.partial(student, dim, dim, degrees=degrees)
        if degrees == (1 if dim < 3 else 2):
            add("asinh", name, _maps.asinh, _maps.asinh)
    for dim in (2, 3, 5, 25, 50):
        found[f"multinormal-dense-{dim}-{dim}-0.5"] = functools.partial(dense, dim, dim)
    for dim in (2, 3, 5, 25):
        name = f"multinormal-sparse-{dim}-{dim}-2-2.0"
        found[name] = functools.partial(sparse, dim, dim)
        if dim > 2:
            add("normal_cdf", name, _maps.normal_cdf, _maps.normal_cdf)
            add("half_cube", name, _maps.half_cube, _maps.half_cube)
            turn = functools.partial(_maps.spiral, speed=1 / dim)
            add("spiral", name, turn(0, 1), turn(1, 2))
            add("spiral", f"normal_cdf-{name}", turn(0, 1), turn(1, 2))
    return found


def _finite(name: str) -> Task:
    build = functools.partial(random_pmf, shape=(4, 6))
    return finite(name, double_precision(build, jax.random.key(0)))


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
    """Makes a task by name.

    Args:
      name: one of `NAMES`.

    Returns:
      The task; where its information is a Monte-Carlo mean, finding it takes a few
      seconds.

    Raises:
      ValueError: if the name is unknown.
    """
    if name not in _REGISTRY:
        raise _checks.unknown("task", name, NAMES)
    return _REGISTRY[name]()
