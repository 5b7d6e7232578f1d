"""The settings of the benchmark of estimators."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tyro.conf import Fixed, Suppress

from miue_jax.information import estimators, tasks

_TRAINED = ("infonce", "dv", "nwj", "smile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """An estimator of the table.

    Attributes:
      title: what the table calls it.
      name: one of `estimators.NAMES`.
      published: its name in `estimator_table.PUBLISHED`; None if nothing was.
      options: of the estimator; `config` holds fields of `estimators.FitConfig`.
    """

    title: str
    name: str
    published: str | None = None
    options: Mapping[str, Any]


_KSG = {"variant": 1, "standardize": True}
_CRITIC = {"embedding": 32}

ROWS: dict[str, Row] = {
    "gaussian_plug_in": Row(
        title="Gaussian, plug-in",
        name="gaussian",
        published="Gaussian plug-in",
        options={"correction": False},
    ),
    "gaussian_corrected": Row(
        title="Gaussian, corrected",
        name="gaussian",
        published="Gaussian + digamma correction",
        options={"correction": True},
    ),
    "copula": Row(
        title="Gaussian copula, corrected",
        name="copula",
        published="GCMI",
        options={"correction": True},
    ),
    "ksg_10": Row(
        title="KSG, k = 10",
        name="ksg",
        published="KSG k=10",
        options={"neighbors": 10, **_KSG},
    ),
    "ksg_5": Row(title="KSG, k = 5", name="ksg", options={"neighbors": 5, **_KSG}),
    "infonce": Row(
        title="InfoNCE", name="infonce", published="InfoNCE", options=_CRITIC
    ),
    "dv": Row(
        title="Donsker-Varadhan (MINE)", name="dv", published="MINE", options=_CRITIC
    ),
    "nwj": Row(title="NWJ", name="nwj", options=_CRITIC),
    "smile": Row(title="SMILE", name="smile", options={"clip": 5.0, **_CRITIC}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """What KSG within classes is timed on.

    Attributes:
      size: samples in all.
      dim: dimensions of x and of y; the default is that of a network's features.
      classes: of equal size.
      repeats: calls after the first, which compiles.
    """

    size: int = 10_000
    dim: int = 512
    classes: int = 10
    repeats: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Which estimators run on which tasks, sizes and seeds.

    Attributes:
      rows: names of the estimators, in the order of the table, the cheap ones first.
      tasks: names of the tasks.
      sizes: numbers of samples.
      seeds: of the samples and of the estimators.
      training: of the critics.
      speed: what KSG within classes is timed on.
      estimators: what the rows are.
    """

    rows: tuple[str, ...] = tuple(ROWS)
    tasks: tuple[str, ...] = tasks.BENCHMARK
    sizes: tuple[int, ...] = (5000,)
    seeds: tuple[int, ...] = (0, 1, 2)
    training: estimators.FitConfig = dataclasses.field(
        default_factory=estimators.FitConfig
    )
    speed: Speed = Speed()
    estimators: Suppress[Fixed[Mapping[str, Row]]] = dataclasses.field(
        default_factory=lambda: ROWS
    )

    def options(self, label: str) -> dict[str, Any]:
        """All options of an estimator, as JSON can hold them."""
        row = self.estimators[label]
        training = {"config": dataclasses.asdict(self.training)}
        return {**(training if row.name in _TRAINED else {}), **row.options}
