"""Detection: how well simple models tell protected data from clean ones."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from miue_jax import data, detection, models
from miue_jax._checks import check_number, check_seeds, unknown
from miue_jax.data import DataSource, artifact
from miue_jax.data.artifact import Protected
from miue_jax.detection import SimpleNetworkConfig
from miue_jax.workflows.protect import report_clipped

__all__ = ["DetectConfig", "describe", "detect"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Settings of the detectors.

    Attributes:
      models: the simple networks: linear, mlp2 and mlp3.
      width: their hidden units; None for each network's own.
      epochs: of the simple networks.
      batch_size: of the simple networks.
      steps: iterations of the logistic regression at most.
      seed: of what is held out and of the weights.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax.workflows.detect import DetectConfig
      >>> DetectConfig(models=("linear",), epochs=10).batch_size
      128
    """

    models: tuple[str, ...] = detection.MODELS
    width: int | None = None
    epochs: int = 100
    batch_size: int = 128
    steps: int = detection.STEPS["orthogonal_projection"]
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds("seed", [self.seed])
        for name in ("epochs", "batch_size", "steps"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        if self.width is not None:
            check_number("width", self.width, "> 0", whole=True)


def detect(
    protected: str | os.PathLike[str] | Protected,
    clean: str | DataSource | data.Dataset,
    config: DetectConfig | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Runs every detector on a protected data set and on its source.

    A linear classifier reads the classes from the perturbation alone, and simple
    networks learn protected and clean images; all are tested on images that were held
    out.

    Args:
      protected: the protected data set, or its path.
      clean: its source: a name or path, a `DataSource` or a `Dataset`.
      config: the settings; None for the defaults.
      **settings: those that differ.

    Returns:
      The settings and the accuracies, in [0, 1], as JSON can hold them.

    Raises:
      ValueError: if a setting is not allowed, the source is another one, nothing is
        protected, or a network does not fit the data.

    Example:
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.detect import detect
      >>> clean = mj.data.load("shapes", per_class=5)
      >>> made = mj.protect(clean, "linear_synthetic", radius=1.0)
      >>> found = detect(made, clean, models=("linear",), epochs=1, steps=5)
      >>> found["images_changed"], sorted(found["simple_networks"]["linear"])
      (50, ['clean', 'protected'])
    """
    config = dataclasses.replace(config or DetectConfig(), **settings)
    networks = _networks(config)
    made = protected if isinstance(protected, Protected) else artifact.load(protected)
    source = clean.load() if isinstance(clean, DataSource) else data.load(clean)
    artifact.check_source(made, source)
    num_classes = len(source.class_names)
    given = made.dataset
    changed = (given.images != source.images).any(axis=(1, 2, 3))
    if not changed.any():
        raise ValueError("the protected images equal the clean ones: nothing to detect")
    fitted = len(source.labels) - round(networks[0].validation * len(source.labels))
    batch_size = max(1, min(config.batch_size, fitted))
    clipped = {"batch_size": batch_size} if batch_size < config.batch_size else {}
    for network in networks:
        # A width that a network does not have is found before anything is trained.
        models.create(network.model, num_classes=num_classes, width=network.width)
    networks = [dataclasses.replace(x, batch_size=batch_size) for x in networks]
    key = jax.random.key(config.seed)
    delta = given.images[changed].astype(np.int16) - source.images[changed]
    # First, as it finds too little data before the networks are trained.
    separability = detection.linear_separability(
        key, delta, source.labels[changed], num_classes, steps=config.steps
    )
    if clipped:
        report_clipped("detect", clipped, fitted)
    found = {
        network.model: {
            name: detection.simple_network(
                key, dataset.images, dataset.labels, num_classes, network
            )._asdict()
            for name, dataset in (("protected", given), ("clean", source))
        }
        for network in networks
    }
    return {
        "fingerprint": made.metadata["fingerprint"],
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "models"},
        "images": len(source.labels),
        "images_changed": int(changed.sum()),
        "largest_class": float(np.bincount(source.labels).max() / len(source.labels)),
        "linear_separability": separability._asdict(),
        "simple_networks": found,
    }


def _networks(config: DetectConfig) -> list[SimpleNetworkConfig]:
    if not config.models:
        raise ValueError(f"models is empty; allowed: {', '.join(detection.MODELS)}")
    for name in config.models:
        if name not in detection.MODELS:
            raise unknown("simple network", name, detection.MODELS)
    return [
        SimpleNetworkConfig(
            model=name,
            width=None if name == "linear" else config.width,
            epochs=config.epochs,
            batch_size=config.batch_size,
        )
        for name in config.models
    ]


def describe(results: Mapping[str, Any]) -> str:
    """The accuracies as a table.

    Args:
      results: what `detect` returned.

    Returns:
      Lines of text, accuracies in percent.

    Example:
      >>> from miue_jax.workflows import detect
      >>> accuracies = {"train_accuracy": 1.0, "held_out_accuracy": 0.9}
      >>> results = {
      ...     "images": 100,
      ...     "images_changed": 80,
      ...     "largest_class": 0.5,
      ...     "linear_separability": accuracies,
      ...     "simple_networks": {},
      ... }
      >>> print(detect.describe(results))
      80 of 100 images are changed; the largest class holds 50.00 %
      accuracy in %                       fitted  held out
      perturbation, linear classifier     100.00     90.00
    """

    def row(name: str, *values: float) -> str:
        return f"{name:<32}" + "".join(f"{100 * value:>10.2f}" for value in values)

    separability = results["linear_separability"]
    lines = [
        f"{results['images_changed']} of {results['images']} images are changed; "
        f"the largest class holds {100 * results['largest_class']:.2f} %",
        f"{'accuracy in %':<32}{'fitted':>10}{'held out':>10}",
        row("perturbation, linear classifier", *separability.values()),
    ]
    for model, values in results["simple_networks"].items():
        for name, accuracies in values.items():
            lines.append(row(f"{name} images, {model}", *accuracies.values()))
    return "\n".join(lines)
