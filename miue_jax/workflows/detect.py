"""Tells whether a protected data set can be told from a clean one.

    python experiments/detect.py --data cifar10 \
        --protected runs/miue/protected.npz --json runs/miue/detection.json

Prints how well a linear classifier tells the classes by the perturbation alone, and how
well simple networks learn protected and clean images: the accuracy on images that were
held out, all in percent.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from miue_jax import _checks, cli, data, detection, models
from miue_jax._checks import check_number
from miue_jax.data import artifact, atomic
from miue_jax.detection import SimpleNetworkConfig
from miue_jax.train import run_directory

_PROTECTED = flags.DEFINE_string("protected", None, "The artifact.")
_DATA = flags.DEFINE_string("data", None, "Its clean source: a name or a path.")
_PER_CLASS = flags.DEFINE_integer("per_class", None, "Images of a class, if a subset.")
_DATA_SEED = flags.DEFINE_integer("data_seed", 0, "Seed of that subset.")
_MODELS = flags.DEFINE_list("models", list(detection.MODELS), "The simple networks.")
_WIDTH = flags.DEFINE_integer("width", None, "Hidden units; the network's own if none.")
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Of the simple networks.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Of the simple networks.")
_STEPS = flags.DEFINE_integer(
    "steps",
    detection.STEPS["orthogonal_projection"],
    "Iterations of the logistic regression at most.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of what is held out and of the weights.")
_JSON = flags.DEFINE_string("json", None, "A file for the results.")


def main(rest: Sequence[str]) -> None:
    """Detects what the flags name."""
    del rest
    path, source, output = _PROTECTED.value, _DATA.value, _JSON.value
    if path is None or source is None:
        raise ValueError("give --protected and --data")
    if output is not None:
        atomic.check_new_file(output)
    run_directory.check_seeds("seed", [_SEED.value])
    check_number("steps", _STEPS.value, "> 0", whole=True)
    configs = _configs()
    made = artifact.load(path)
    clean = data.load(source, per_class=_PER_CLASS.value, seed=_DATA_SEED.value)
    artifact.check_source(made, clean)
    # A width that a network has not is found before anything is trained.
    for config in configs:
        models.create(
            config.model, num_classes=len(clean.class_names), width=config.width
        )
    cli.keep_compiled()
    results = {
        "protected": str(path),
        "fingerprint": made.metadata["fingerprint"],
        "seed": _SEED.value,
        "steps": _STEPS.value,
        "epochs": _EPOCHS.value,
        "batch_size": _BATCH_SIZE.value,
        "width": _WIDTH.value,
        **detect(jax.random.key(_SEED.value), made.dataset, clean, configs),
    }
    if output is not None:
        run_directory.write_json(pathlib.Path(output), results)
    print(_table(results))


def detect(
    key: jax.Array,
    given: data.Dataset,
    clean: data.Dataset,
    configs: Sequence[SimpleNetworkConfig],
) -> dict[str, Any]:
    """Runs every detector on a protected data set and on its source.

    Args:
      key: a PRNG key, the same for each detector.
      given: the protected data set.
      clean: its source.
      configs: of the simple networks.

    Returns:
      What JSON can hold: the accuracies, in [0, 1].

    Raises:
      ValueError: if nothing is protected, or a network does not fit the data.
    """
    num_classes = len(clean.class_names)
    changed = (given.images != clean.images).any(axis=(1, 2, 3))
    if not changed.any():
        raise ValueError("the protected images equal the clean ones: nothing to detect")
    delta = given.images[changed].astype(np.int16) - clean.images[changed]
    for config in configs:
        detection.check_size(config, len(clean.labels))
    # First, as it finds what is too little before the networks are trained.
    separability = detection.linear_separability(
        key, delta, clean.labels[changed], num_classes, steps=_STEPS.value
    )
    networks = {}
    for config in configs:
        networks[config.model] = {
            name: detection.simple_network(
                key, dataset.images, dataset.labels, num_classes, config
            )._asdict()
            for name, dataset in (("protected", given), ("clean", clean))
        }
    return {
        "images": len(clean.labels),
        "images_changed": int(changed.sum()),
        "largest_class": float(np.bincount(clean.labels).max() / len(clean.labels)),
        "linear_separability": separability._asdict(),
        "simple_networks": networks,
    }


def _configs() -> list[SimpleNetworkConfig]:
    if not _MODELS.value:
        raise ValueError(f"give --models, some of {', '.join(detection.MODELS)}")
    for name in _MODELS.value:
        if name not in detection.MODELS:
            raise _checks.unknown("simple network", name, detection.MODELS)
    return [
        SimpleNetworkConfig(
            model=name,
            width=None if name == "linear" else _WIDTH.value,
            epochs=_EPOCHS.value,
            batch_size=_BATCH_SIZE.value,
        )
        for name in _MODELS.value
    ]


def _table(results: dict[str, Any]) -> str:
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


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=cli.parse)
    except (ValueError, OSError) as error:
        cli.fail(error)
