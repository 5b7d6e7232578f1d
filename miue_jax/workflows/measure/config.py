"""The settings of a measurement."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from miue_jax import _settings
from miue_jax._checks import (
    as_tuple,
    check_flag,
    check_number,
    check_seeds,
    check_text,
    shown,
)
from miue_jax.data import DataSource, source

# Fewest pairs per class: every estimator then has its neighbors in each half.
FEWEST = 12

_COUNTS = (
    *("components", "ksg_components", "neighbors"),
    *("critic_steps", "critic_seeds", "num_slices"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A run of `evaluate` whose victims are measured.

    Attributes:
      run: its directory.
      protected: the protected data set whose images are measured; None for the one the
        victims were trained on.
      generator: what tables and plots call the training data; None for the name of the
        generator, or "clean".
      depth: of the network, with which the table correlates the measures; None for
        unknown.

    Raises:
      ValueError: if a field has another type or value.

    Example:
      >>> from miue_jax.workflows.measure.config import MeasuredRun
      >>> MeasuredRun(run="runs/mi_ue", depth=18).depth
      18
    """

    run: str
    protected: str | None = None
    generator: str | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("run", "protected", "generator"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike) and (
                name == "run" or value is not None
            ):
                raise ValueError(f"{name} is {shown(value)}; it must be a string")
        if self.depth is not None:
            check_number("depth", self.depth, ">= 0", whole=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """Settings of the estimators.

    Attributes:
      components: principal components of the class-conditional Gaussian.
      ksg_components: directions of nearest neighbors within classes.
      neighbors: of each point.
      critic_steps: optimizer steps of a critic at most.
      critic_seeds: trainings of each critic.
      num_slices: random directions of sliced information.
      permutations: within classes, for the p-value; 0 for none.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax.workflows.measure.config import EstimatorConfig
      >>> EstimatorConfig(critic_seeds=1).neighbors
      5
    """

    components: int = 16
    ksg_components: int = 8
    neighbors: int = 5
    critic_steps: int = 1000
    critic_seeds: int = 3
    num_slices: int = 128
    permutations: int = 99

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_number(f"estimators.{name}", getattr(self, name), "> 0", whole=True)
        check_number("estimators.permutations", self.permutations, ">= 0", whole=True)
        if self.neighbors >= FEWEST // 2:
            raise ValueError(
                f"estimators.neighbors is {self.neighbors}; it must be below "
                f"{FEWEST // 2}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """Settings of a measurement.

    Labels of victims become parts of file names: letters, digits and any of ``_.+-``.

    Attributes:
      data: the clean images, the source of every protected data set: a name or path
        (see `data.load`), a `DataSource` or a `Dataset`.
      victims: a `MeasuredRun`, its fields or the directory of a run, by label; or
        directories, which are labeled by their names.
      protected: the protected data set whose images are measured where a victim names
        none and was not trained on one.
      layers: which layers; None for the inner ones and the features.
      per_class: pairs of each class at most.
      defended: whether both images of a pair are measured as the victim's defense
        prepares images for training, not as they are; for defenses that treat every
        image alone (JPEG, grayscale, bit depth).
      noise_variances: of the bracket, on the scale of features of unit norm.
      confidence: of the limits.
      estimators: settings of the estimators.
      seed: of all draws, the same for every victim.

    Raises:
      ValueError: if a setting is not allowed.

    Example:
      >>> from miue_jax.workflows.measure.config import MeasureConfig
      >>> config = MeasureConfig(victims=["runs/clean", "runs/mi_ue"], per_class=100)
      >>> list(config.victims), config.victims["mi_ue"].run
      (['clean', 'mi_ue'], 'runs/mi_ue')
    """

    data: Any = "shapes"
    victims: Any = ()
    protected: str | None = None
    layers: tuple[str, ...] | None = None
    per_class: int = 250
    defended: bool = False
    noise_variances: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    confidence: float = 0.95
    estimators: EstimatorConfig = EstimatorConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("data", _source(self.data))
        put("victims", _labeled(self.victims))
        if self.layers is not None:
            put("layers", as_tuple("layers", self.layers))
            for layer in self.layers:
                check_text("a layer", layer)
        put("noise_variances", as_tuple("noise_variances", self.noise_variances))
        if not isinstance(self.protected, str | os.PathLike | None):
            raise ValueError(
                f"protected is {shown(self.protected)}; it must be a string"
            )
        if isinstance(self.estimators, Mapping):
            put(
                "estimators",
                _settings.from_plain(EstimatorConfig, self.estimators, "estimators"),
            )
        if not isinstance(self.estimators, EstimatorConfig):
            raise ValueError(
                f"estimators are {shown(self.estimators)}; allowed: an EstimatorConfig "
                "or its fields"
            )
        check_flag("defended", self.defended)
        check_seeds("seed", (self.seed,))
        check_number("per_class", self.per_class, "> 0", whole=True)
        if self.per_class < FEWEST:
            raise ValueError(
                f"per_class is {self.per_class}; at least {FEWEST} are needed"
            )
        check_number("confidence", self.confidence, "in [0, 1)")
        check_number("confidence", self.confidence, "> 0")
        if not self.noise_variances:
            raise ValueError("noise_variances is empty; name at least one")
        for variance in self.noise_variances:
            check_number("noise_variances", variance, "> 0")


def _source(given: Any) -> Any:
    if isinstance(given, DataSource | tuple):
        return given
    if isinstance(given, Mapping):
        return _settings.from_plain(DataSource, given, "data")
    return source(given)


def _labeled(given: Any) -> dict[str, MeasuredRun]:
    if isinstance(given, str | os.PathLike):
        given = (given,)
    if not isinstance(given, Mapping):
        given = as_tuple("victims", given)
        runs = [_run("", run).run for run in given]
        names = [pathlib.Path(run).name for run in runs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"several victims are named {name!r}; give them labels, as a "
                    "mapping in a configuration file"
                )
        given = dict(zip(names, given, strict=True))
    for label in given:
        # It becomes the name of a file.
        if not isinstance(label, str) or not re.fullmatch(r"[\w.+-]+", label):
            raise ValueError(
                f"victim {label!r}: a label has letters, digits and any of _ . + -"
            )
    return {label: _run(label, entry) for label, entry in given.items()}


def _run(label: str, given: Any) -> MeasuredRun:
    if isinstance(given, MeasuredRun):
        return given
    if isinstance(given, Mapping):
        return _settings.from_plain(MeasuredRun, given, f"victim {label!r}")
    return MeasuredRun(run=given)
