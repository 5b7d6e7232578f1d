"""Measures the information between features of clean and of protected images.

    python experiments/measure.py --config experiments/configs/measure.py:runs/mi \
        --config.data.name_or_path=path/to/cifar10 --workdir runs/mi-measured

For every victim and layer: the bracket that needs no estimator, with limits, over a
grid of noise variances; the class-conditional Gaussian; nearest neighbors within
classes; InfoNCE and SMILE; pooled nearest neighbors; and sliced information, which
moves the wrong way and is there for comparison with the literature. docs/theory.md,
"Reading a measurement", says what each of them proves.

What is measured on. Only on images that the victim was not trained on are these numbers
about the law of images (T12). But the protected version of an image exists only where
the generator has seen it. So protect a data set and train the victim on a part of it
(`--config.train.per_class` of evaluate.py): the pairs of the rest are held out from the
victim. They are not from the generator, which made the perturbation of all images
together: the limits are conditional on what it learned. Where no pair was held out,
training images are measured, and `held_out` is false in the results and the marks
hollow in the pictures. A victim trained on clean images is measured on the pairs of any
protected data set with the same source. One that was trained on an exported folder is
not recognized as trained on protected images: train on the artifact. Whatever a
victim's defense did to its training images, images are measured as they are.

The working directory then holds results.json, a file for each victim and three
pictures. The same command goes on where it was stopped; victims may be added.
"""

import importlib.metadata
import json
import pathlib
import platform
import re
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from miue_jax import cli, data, features
from miue_jax._checks import check_number
from miue_jax.information import bounds
from miue_jax.train import loop, parallel, run_directory
from miue_jax.workflows.measure import brackets, estimates, plots, summary, victims

RESULTS = "results.json"
PICTURES = ("mi-against-accuracy.png", "mi-per-layer.png", "bracket-over-noise.png")

_COUNTS = (
    *("components", "ksg_components", "neighbors"),
    *("critic_steps", "critic_seeds", "num_slices"),
)


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    resume: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures victims, or finishes what was stopped.

    Args:
      config: as in experiments/configs/measure.py.
      workdir: the directory of the measurement.
      resume: whether a directory that was used before may be continued.
      quiet: no progress bar.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if any input is bad, and nothing is written then.
    """
    _check(config)
    clean = data.load(**config["data"])
    cells = [
        (label, dict(entry), seed)
        for label, entry in config["victims"].items()
        for seed in victims.seeds_of(label, entry["run"])
    ]
    for cell in cells:
        _load(config, clean, *cell)
    # Victims are not part of it: each has a file of its own, which says what it is of.
    settings = {k: v for k, v in config.items() if k != "victims"}
    identity = {**json.loads(json.dumps(settings)), "source": data.fingerprint(clean)}
    with run_directory.open_directory(workdir, identity, resume=resume):
        measured = []
        with loop.progress(len(cells), 0, quiet=quiet) as bar:
            for cell in cells:
                measured.append(_measure_once(config, workdir, clean, *cell))
                bar.update(1)
        results = {**_about(identity), **_together(measured)}
        run_directory.write_json(workdir / RESULTS, results)
        _draw(workdir, results)
        return results


def _check(config: Mapping[str, Any]) -> None:
    """Finds what is wrong with the settings."""
    if jax.process_count() > 1:
        raise ValueError("measure.py runs in one process")
    run_directory.check_seeds("seed", (config["seed"],))
    if not config["victims"]:
        raise ValueError("victims is empty; name at least one")
    for label in config["victims"]:
        # It becomes the name of a file.
        if not re.fullmatch(r"[\w.+-]+", label):
            raise ValueError(
                f"victim {label!r}: a label has letters, digits and any of _ . + -"
            )
    check_number("per_class", config["per_class"], "> 0", whole=True)
    if config["per_class"] < victims.FEWEST:
        raise ValueError(
            f"per_class is {config['per_class']}; at least {victims.FEWEST} are needed"
        )
    check_number("confidence", config["confidence"], "in [0, 1)")
    check_number("confidence", config["confidence"], "> 0")
    if not config["noise_variances"]:
        raise ValueError("noise_variances is empty; name at least one")
    for variance in config["noise_variances"]:
        check_number("noise_variances", variance, "> 0")
    settings = config["estimators"]
    for name in _COUNTS:
        check_number(f"estimators.{name}", settings[name], "> 0", whole=True)
    check_number(
        "estimators.permutations", settings["permutations"], ">= 0", whole=True
    )
    if settings["neighbors"] >= victims.FEWEST // 2:
        raise ValueError(
            f"estimators.neighbors is {settings['neighbors']}; it must be below "
            f"{victims.FEWEST // 2}"
        )


def _load(
    config: Mapping[str, Any],
    clean: data.Dataset,
    label: str,
    entry: Mapping[str, Any],
    seed: int,
) -> tuple[victims.Victim, victims.Pairs]:
    layers = config["layers"]
    return victims.load(
        label,
        entry,
        seed,
        clean,
        layers=None if layers is None else tuple(layers),
        per_class=config["per_class"],
    )


def _measure_once(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    clean: data.Dataset,
    label: str,
    entry: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """What a victim's file holds; it is measured first where there is none."""
    victim, pairs = _load(config, clean, label, entry, seed)
    folder = workdir / "victims"
    folder.mkdir(exist_ok=True)
    file = folder / f"{label}-seed_{seed}.json"
    if file.exists():
        found = run_directory.read_json(file, needed=("accuracy", "held_out", "layers"))
        run_directory.check_same(file, found, victim.identity, whole=False)
        return found
    began = time.perf_counter()
    classes = len(clean.class_names)
    chance = np.bincount(pairs.labels, minlength=classes).max() / len(pairs.labels)
    found = {
        **victim.identity,
        "accuracy": victim.accuracy,
        # In nats: no less information about the label is in what it computes, as far as
        # the accuracy measured is that of the population.
        "information_from_accuracy": float(
            bounds.fano_information(max(victim.accuracy, chance), 1 / chance)
        ),
        "held_out": pairs.held_out,
        "images": len(pairs.labels),
        "layers": _layers(config, victim, pairs, num_classes=classes),
        "seconds": round(time.perf_counter() - began, 1),
    }
    run_directory.write_json(file, found)
    return found


def _layers(
    config: Mapping[str, Any],
    victim: victims.Victim,
    pairs: victims.Pairs,
    *,
    num_classes: int,
) -> list[dict[str, Any]]:
    """The report on each layer, in order of depth."""
    shape = pairs.clean.shape[1:]
    last, logits, *inner = features.layer_names(victim.module, victim.variables, shape)
    by_depth = [*inner, last, logits]
    wanted = config["layers"]
    chosen = [n for n in by_depth if n in (wanted or [*inner, last])]
    last_values = _extract(victim, pairs.protected, last)
    fitted = _halves(pairs.labels, config["seed"], num_classes)
    reports = []
    for layer in chosen:
        protected = _extract(victim, pairs.protected, layer)
        same = protected.shape == last_values.shape and np.allclose(
            protected, last_values, rtol=1e-5, atol=1e-6
        )
        if wanted is None and layer != last and same:
            # The last map, averaged, is the features.
            continue
        clean = _extract(victim, pairs.clean, layer)
        whole = jax.eval_shape(
            lambda variables, images, layer=layer: features.extract(
                victim.module, variables, images, layer=layer
            ),
            victim.variables,
            pairs.clean[:1],
        )
        # The same draws for every victim: what differs is the victim.
        key = jax.random.key(config["seed"])
        arguments = (clean, protected, pairs.labels, fitted)
        try:
            bracket = brackets.bound(
                jax.random.fold_in(key, 0),
                *arguments,
                num_classes=num_classes,
                noise_variances=tuple(config["noise_variances"]),
                confidence=config["confidence"],
            )
        except ValueError as error:
            bracket = {"problem": str(error)}
        reports.append(
            {
                "layer": layer,
                "index": by_depth.index(layer),
                "dimension": clean.shape[1],
                "averaged": len(whole.shape) > 2,
                "bracket": bracket,
                "estimates": estimates.estimate(
                    jax.random.fold_in(key, 1),
                    *arguments,
                    num_classes=num_classes,
                    settings=config["estimators"],
                ),
            }
        )
    return reports


def _extract(victim: victims.Victim, images: np.ndarray, layer: str) -> np.ndarray:
    return features.extract_dataset(
        victim.module,
        victim.variables,
        images,
        layer=layer,
        mesh=parallel.data_mesh(),
        pool=True,
    )


def _halves(labels: np.ndarray, seed: int, num_classes: int) -> np.ndarray:
    """(N,) bool: a random half of each class."""
    rng = np.random.default_rng(seed)
    fitted = np.zeros(len(labels), bool)
    for label in range(num_classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        fitted[members[: len(members) // 2]] = True
    return fitted


def _together(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry for each victim and layer, and what they say together."""
    entries = []
    for found in measured:
        about = {k: v for k, v in found.items() if k != "layers"}
        entries += [{**about, **report} for report in found["layers"]]
    return {
        "held_out": all(found["held_out"] for found in measured),
        "correlations": summary.correlations(entries),
        "data_processing": summary.data_processing(entries),
        "entries": entries,
    }


def _about(identity: Mapping[str, Any]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in ("jax", "flax", "optax", "numpy", "miue_jax"):
        versions[name] = importlib.metadata.version(name)
    return {
        "command": shlex.join(["python", *sys.argv]),
        "hardware": f"{platform.processor() or platform.machine()}, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": versions,
        **identity,
    }


def _draw(workdir: pathlib.Path, results: Mapping[str, Any]) -> None:
    entries = results["entries"]
    # The features, or what is deepest of what was chosen.
    found = sorted(entries, key=lambda e: (e["layer"] == "features", e["index"]))
    layer = found[-1]["layer"]
    against, per_layer, over_noise = (workdir / name for name in PICTURES)
    plots.accuracy(against, entries, results["correlations"], layer)
    plots.layers(per_layer, entries, results["data_processing"])
    plots.noise(over_noise, entries, layer)


def main(config: dict[str, Any], workdir: pathlib.Path, resume: bool) -> None:
    """Runs and prints what came out."""
    results = run(config, workdir, resume=resume)
    entries = results["entries"]
    contradicted = sum(c["contradicts"] for c in results["data_processing"])
    where = "held-out images" if results["held_out"] else "TRAINING images, in part"
    print(
        f"{workdir / RESULTS}: {len(entries)} victims and layers, measured on {where}; "
        f"{contradicted} rises over layers that no information has (T11)"
    )
    for found in results["correlations"]:
        if found["layer"] == "features" and found["spearman"] is not None:
            print(
                f"  {found['measure']:<28} Spearman with accuracy "
                f"{found['spearman']:+.2f} ({found['victims']} victims)"
            )


if __name__ == "__main__":
    cli.run(
        main,
        config_file="experiments/configs/measure.py",
        description="Which victims to measure, and how.",
    )
