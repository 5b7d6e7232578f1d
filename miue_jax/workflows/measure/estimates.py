"""The estimators of the report on a layer, in one table."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from miue_jax.information import estimators, inference
from miue_jax.information.estimators.ksg import value_on_host
from miue_jax.workflows.measure.config import EstimatorConfig

TOTAL, WITHIN = "I(Zc; Zp)", "I(Zc; Zp | Y)"

# Every slice is a search for neighbors; more images would not move the mean.
_SLICED_IMAGES = 1000

# Canonical directions of more principal components would fit the sample, not the law.
_BEFORE_CCA = 4


class _Layer(NamedTuple):
    """The arguments of `estimate`."""

    clean: np.ndarray
    protected: np.ndarray
    labels: np.ndarray
    fitted: np.ndarray
    num_classes: int
    settings: EstimatorConfig


def estimate(
    key: jax.Array,
    clean: np.ndarray,
    protected: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray,
    *,
    num_classes: int,
    settings: EstimatorConfig,
) -> dict[str, dict[str, Any]]:
    """Estimates the information between features of clean and protected images.

    Args:
      key: for everything that is drawn.
      clean: (N, D) features.
      protected: (N, D) features.
      labels: (N,) integers.
      fitted: (N,) bool, the images that give the directions of nearest neighbors.
      num_classes: number of classes.
      settings: of the estimators.

    Returns:
      By name: `of`, which information is meant; `value`, `standard_error` and `kind`
      (`Estimate`); diagnostics. Where an estimator refuses the features its value is
      None and `problem` says why.
    """
    layer = _Layer(clean, protected, labels, fitted, num_classes, settings)
    table: dict[str, tuple[str, Callable[[_Layer, jax.Array], Any]]] = {
        "class_conditional_gaussian": (TOTAL, _gaussian),
        "ksg_conditional_pca": (WITHIN, functools.partial(_within, kind="pca")),
        "ksg_conditional_cca": (WITHIN, functools.partial(_within, kind="cca")),
        "infonce": (TOTAL, functools.partial(_variational, bound="infonce")),
        "smile": (TOTAL, functools.partial(_variational, bound="smile")),
        "ksg": (TOTAL, _pooled),
        "sliced": (TOTAL, _sliced),
    }
    found: dict[str, dict[str, Any]] = {}
    for index, (name, (quantity, function)) in enumerate(table.items()):
        try:
            result = function(layer, jax.random.fold_in(key, index))
        except ValueError as error:
            result = {"value": None, "problem": str(error)}
        found[name] = {"of": quantity, **result}
    return found


def _plain(result: estimators.Estimate) -> dict[str, Any]:
    """Value, standard error, kind and scalar diagnostics, None for what is infinite."""
    scalars = {k: v for k, v in result.diagnostics.items() if np.ndim(v) == 0}
    found: dict[str, Any] = {
        "value": _finite(result.value),
        "standard_error": _finite(result.standard_error),
        "kind": result.kind,
        **{k: _finite(v) for k, v in scalars.items()},
    }
    if found["value"] is None:
        found["problem"] = f"the value is {float(result.value)}"
    return found


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _gaussian(layer: _Layer, _: jax.Array) -> dict[str, Any]:
    smallest = int(np.bincount(layer.labels, minlength=layer.num_classes).min())
    # A class needs a few images for every dimension of its covariance.
    components = min(layer.settings.components, max(1, smallest // 8))
    result = estimators.class_conditional_gaussian(
        *layer[:3], num_classes=layer.num_classes, components=components
    )
    return {**_plain(result), "components": components}


def _sliced(layer: _Layer, key: jax.Array) -> dict[str, Any]:
    sampled = np.random.default_rng(0).permutation(len(layer.labels))[:_SLICED_IMAGES]
    result = estimators.sliced(
        key,
        layer.clean[sampled],
        layer.protected[sampled],
        num_slices=layer.settings.num_slices,
        neighbors=layer.settings.neighbors,
    )
    return {
        **_plain(result),
        "images": len(sampled),
        "note": "moves the wrong way: rises as classes collapse",
    }


def _variational(layer: _Layer, key: jax.Array, *, bound: Any) -> dict[str, Any]:
    """A variational bound, averaged over keys of the splits and the training."""
    config = estimators.FitConfig(
        max_steps=layer.settings.critic_steps,
        # Two thirds of the images are left to train on.
        batch_size=min(256, max(2, len(layer.clean) // 3)),
    )
    results = [
        estimators.variational(
            key, layer.clean, layer.protected, bound=bound, config=config
        )
        for key in jax.random.split(key, layer.settings.critic_seeds)
    ]
    values = np.array([float(result.value) for result in results])
    errors = np.array([float(result.standard_error) for result in results])
    count = len(values)
    between = values.var(ddof=1) if count > 1 else 0.0
    # Images are shared: their part of the error does not shrink with the seeds.
    error = math.sqrt(np.mean(errors**2) + between / count)
    return {
        **_plain(results[0]),
        "value": _finite(values.mean()),
        "standard_error": _finite(error),
        "values": [_finite(value) for value in values],
    }


def _pooled(layer: _Layer, key: jax.Array) -> dict[str, Any]:
    pair, neighbors = layer[:2], layer.settings.neighbors
    found = _plain(estimators.ksg(*pair, neighbors=neighbors, backend=_backend()))
    if len(layer.clean) >= 20 * neighbors:
        found |= _interval(key, _ksg(neighbors), *pair, (2, 5, 10))
    return found


def _backend() -> Literal["auto", "host"]:
    # Programs for many sizes of samples take a CPU longer to compile than it takes to
    # find all neighbors without any.
    return "host" if jax.default_backend() == "cpu" else "auto"


def _within(layer: _Layer, key: jax.Array, *, kind: Any) -> dict[str, Any]:
    """KSG within classes on fitted directions, with its error and its null."""
    settings, num_classes = layer.settings, layer.num_classes
    x, y = project(*layer[:4], kind=kind, components=settings.ksg_components)
    labels = layer.labels[~layer.fitted].astype(np.int32)
    neighbors = settings.neighbors
    found = _plain(
        estimators.ksg_conditional(
            *(x, y, labels),
            num_classes=num_classes,
            neighbors=neighbors,
            backend=_backend(),
        )
    )
    found |= {"directions": x.shape[1], "images": len(labels)}
    estimator = _ksg_conditional(num_classes, neighbors)
    labeled = np.concatenate([x, labels[:, None]], axis=1)
    # A fifth of the images has to leave every class its neighbors, and some more.
    if np.bincount(labels, minlength=num_classes).min() >= 10 * (neighbors + 1):
        found |= _interval(key, estimator, labeled, y, (2, 5))
    if settings.permutations:
        test = inference.permutation_test(
            *(key, _ksg_within(num_classes, neighbors, labels.tobytes()), x, y),
            labels=labels,
            num_permutations=settings.permutations,
            compiled=_backend() != "host",
        )
        found["p_value"] = float(test.p_value)
        found["null_mean"] = _finite(test.null.mean())
    return found


def _interval(
    key: jax.Array, estimator: Any, x: Any, y: Any, num_parts: tuple[int, ...]
) -> dict[str, Any]:
    found = inference.subsample_interval(
        *(key, estimator, x, y),
        num_parts=num_parts,
        compiled=_backend() != "host",
    )
    return {
        "standard_error": _finite(found.standard_error),
        "bias": _finite(found.bias),
    }


# Cached per setting: JAX finds a compiled program by the function it was compiled from.
@functools.cache
def _ksg(neighbors: int) -> Callable[[Any, Any], Any]:
    def value(x: Any, y: Any) -> Any:
        if isinstance(x, np.ndarray):
            labels = np.zeros(len(x), np.int32)
            return value_on_host(x, y, labels, num_classes=1, neighbors=neighbors)
        return estimators.ksg(x, y, neighbors=neighbors).value

    return value


@functools.cache
def _ksg_conditional(num_classes: int, neighbors: int) -> Callable[[Any, Any], Any]:
    def value(x: Any, y: Any) -> Any:
        # The last column of x is the label, so that it is split with the images.
        x, labels = x[:, :-1], x[:, -1].astype(np.int32)
        if isinstance(x, np.ndarray):
            return value_on_host(
                *(x, y, labels), num_classes=num_classes, neighbors=neighbors
            )
        return estimators.ksg_conditional(
            x, y, labels, num_classes=num_classes, neighbors=neighbors
        ).value

    return value


@functools.lru_cache(maxsize=8)
def _ksg_within(
    num_classes: int, neighbors: int, labels: bytes
) -> Callable[[Any, Any], Any]:
    # Permutations within classes leave the labels where they are. Known ones make the
    # work of an estimate that of its classes, not of all pairs.
    known = np.frombuffer(labels, np.int32)

    def value(x: Any, y: Any) -> Any:
        options = {"num_classes": num_classes, "neighbors": neighbors}
        if isinstance(x, np.ndarray):
            return value_on_host(x, y, known, **options)
        return estimators.ksg_conditional(x, y, known, **options).value

    return value


def project(
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray,
    *,
    kind: Literal["pca", "cca"],
    components: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Projects paired features on directions of their variation within classes.

    What was fitted on other images is a fixed map for these, so what the projections
    tell about each other is at most what the features do (data processing).

    Args:
      x: (N, dx).
      y: (N, dy).
      labels: (N,) integers.
      fitted: (N,) bool, the images that give the directions.
      kind: principal directions, of x and y each by itself, or canonical directions of
        four times as many principal ones.
      components: directions of each at most.

    Returns:
      (M, k) float64 each, of the images that are not `fitted`.
    """
    sides = [np.asarray(z, np.float64) for z in (x, y)]
    centered = [_center(z[fitted], labels[fitted]) for z in sides]
    keep = components if kind == "pca" else _BEFORE_CCA * components
    frames = [_principal(z, keep) for z in centered]
    if kind == "cca":
        # To unit variance: canonical directions then are singular ones.
        frames = [
            frame / np.maximum((z @ frame).std(axis=0), np.finfo(float).tiny)
            for z, frame in zip(centered, frames, strict=True)
        ]
        whitened = [z @ frame for z, frame in zip(centered, frames, strict=True)]
        left, _, right = np.linalg.svd(whitened[0].T @ whitened[1])
        frames[0] = frames[0] @ left[:, :components]
        frames[1] = frames[1] @ right[:components].T
    first, second = (
        (z[~fitted] - z[fitted].mean(axis=0)) @ frame
        for z, frame in zip(sides, frames, strict=True)
    )
    return first, second


def _center(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    centered = samples.copy()
    for label in np.unique(labels):
        centered[labels == label] -= samples[labels == label].mean(axis=0)
    return centered


def _principal(centered: np.ndarray, most: int) -> np.ndarray:
    """The leading directions whose variance is no rounding error; at least one."""
    variances, axes = np.linalg.eigh(centered.T @ centered)
    # The features came in float32.
    floor = len(variances) * np.finfo(np.float32).eps ** 2 * variances[-1]
    kept = max(1, min(most, int(np.sum(variances > floor))))
    return axes[:, ::-1][:, :kept]
