"""Measures the information between features of clean and of protected images.

For every victim and layer: the bracket that needs no estimator, with limits, over a
grid of noise variances; the class-conditional Gaussian; nearest neighbors within
classes; InfoNCE and SMILE; pooled nearest neighbors; and sliced information, which
moves the wrong way and is there for comparison with the literature. docs/theory.md,
"Reading a measurement", says what each of them proves.

Only on images that the victim was not trained on are these numbers about the law of
images (T12). But the protected version of an image exists only where the generator has
seen it. So protect a data set and train the victim on a part of it (`per_class` of the
training data): the pairs of the rest are held out from the victim. They are not held
out from the generator, which optimized the perturbations of all images together: the
limits are conditional on what it learned. Where no pair was held out, training images
are measured, and `held_out` is false in the results and the marks are hollow in the
plots. A victim trained on clean images is measured on the pairs of any protected data
set with the same source. A victim that was trained on an exported folder is not
recognized as trained on protected images: train on the artifact. Whatever a victim's
defense did to its training images, images are measured as they are, unless `defended`
asks for both images of a pair as JPEG, grayscale or fewer bits leave them.

The working directory then holds results.json, a file for each victim and three
plots. Rerun it to resume, also with more victims.
"""

import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from miue_jax import __version__, _settings, data, features
from miue_jax.data import DataSource, bucket, public
from miue_jax.information import bounds
from miue_jax.train import loop, parallel, run_directory
from miue_jax.workflows.measure import brackets, estimates, summary, victims
from miue_jax.workflows.measure.config import MeasureConfig
from miue_jax.workflows.protect import data_settings, directory_of

RESULTS = "results.json"
PLOTS = ("mi-against-accuracy.png", "mi-per-layer.png", "bracket-over-noise.png")

# What the results of every victim depend on.
_SETTINGS = (
    *("layers", "per_class", "defended", "noise_variances", "confidence"),
    *("estimators", "seed"),
)

_LOGGER = logging.getLogger("miue_jax")


def measure(
    runs: str | os.PathLike[str] | Sequence[str] | Mapping[str, Any],
    data: str | os.PathLike[str] | DataSource | data.Dataset = "shapes",
    *,
    workdir: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Measures the information between features of clean and of protected images.

    Args:
      runs: the victims: directories of `evaluate`, or a mapping of labels to such
        directories or `MeasuredRun`.
      data: the clean images, the source of every protected data set: a name or path
        (see `data.load`), a `DataSource` or a `Dataset`.
      workdir: directory of the measurement, which can be resumed; None for a temporary
        one.
      progress: whether to show a progress bar.
      **settings: other fields of `MeasureConfig`.

    Returns:
      What results.json holds: all settings; "entries" with the bracket and the
      estimates, in nats, of each victim and layer; "correlations" of every measure with
      the accuracy of the victims; and "data_processing", the rises over layers that no
      information can have.

    Raises:
      ValueError: if an input is bad, and nothing is written then.

    Example:
      >>> from miue_jax.workflows.measure.run import measure
      >>> results = measure(  # doctest: +SKIP
      ...     ["runs/clean", "runs/mi_ue"],
      ...     "cifar10",
      ...     protected="runs/protected.npz",
      ...     workdir="runs/measured",
      ... )
      >>> measure("runs/nowhere")
      Traceback (most recent call last):
      ...
      ValueError: victim 'nowhere': there is no run directory runs/nowhere
    """
    config = MeasureConfig(data=data, victims=runs, **settings)
    with directory_of(workdir) as path:
        return run(config, path, progress=progress)


def run(
    config: MeasureConfig,
    workdir: bucket.Place,
    *,
    resume: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures victims in a working directory, or finishes a run that was stopped.

    Args:
      config: the settings.
      workdir: directory of the measurement, also in a bucket.
      resume: whether to resume a run that is in the directory.
      progress: whether to show a progress bar.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if an input is bad, and nothing is written then.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.measure.config import MeasureConfig
      >>> from miue_jax.workflows.measure.run import run
      >>> run(MeasureConfig(victims=["runs/nowhere"]), pathlib.Path("runs/measured"))
      Traceback (most recent call last):
      ...
      ValueError: victim 'nowhere': there is no run directory runs/nowhere
    """
    if jax.process_count() > 1:
        raise ValueError("measurements run in one process")
    if not config.victims:
        raise ValueError("victims is empty; name at least one")
    cells = [
        (label, seed)
        for label in config.victims
        for seed in victims.seeds_of(config, label)
    ]
    source = config.data
    named = isinstance(source, DataSource)
    clean = source.load() if named else data.load(source)
    for cell in cells:
        victims.load(config, *cell, clean)
    # Victims are not part of it: each has its own file with its own identity.
    identity = {
        "data": data_settings(source),
        **_settings.to_plain({name: getattr(config, name) for name in _SETTINGS}),
        "source": data.fingerprint(clean),
    }
    with run_directory.open_directory(workdir, identity, resume=resume) as opened:
        folder = opened.path
        measured = []
        with loop.progress(len(cells), 0, quiet=not progress) as bar:
            for cell in cells:
                measured.append(_measure_once(config, folder, clean, *cell))
                opened.keep()
                bar.update(1)
        results = {**_about(), **identity, **_together(measured)}
        if named:
            results["data"] = {"name": source.name, **data_settings(source)}
        run_directory.write_json(folder / RESULTS, results)
        _draw(folder, results)
        return results


def _measure_once(
    config: MeasureConfig,
    workdir: pathlib.Path,
    clean: data.Dataset,
    label: str,
    seed: int,
) -> dict[str, Any]:
    """Returns what a victim's file holds, and measures the victim if there is none."""
    victim, pairs = victims.load(config, label, seed, clean)
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
        # In nats: what the victim computes tells at least so much about the label, if
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
    config: MeasureConfig,
    victim: victims.Victim,
    pairs: victims.Pairs,
    *,
    num_classes: int,
) -> list[dict[str, Any]]:
    """The report on each layer, in order of depth."""
    shape = pairs.clean.shape[1:]
    last, logits, *inner = features.layer_names(victim.module, victim.variables, shape)
    by_depth = [*inner, last, logits]
    chosen = [n for n in by_depth if n in (config.layers or [*inner, last])]
    last_values = _extract(victim, pairs.protected, last)
    fitted = _halves(pairs.labels, config.seed, num_classes)
    reports = []
    for layer in chosen:
        protected = _extract(victim, pairs.protected, layer)
        same = protected.shape == last_values.shape and np.allclose(
            protected, last_values, rtol=1e-5, atol=1e-6
        )
        if config.layers is None and layer != last and same:
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
        key = jax.random.key(config.seed)
        arguments = (clean, protected, pairs.labels, fitted)
        try:
            bracket = brackets.bound(
                jax.random.fold_in(key, 0),
                *arguments,
                num_classes=num_classes,
                noise_variances=config.noise_variances,
                confidence=config.confidence,
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
                    settings=config.estimators,
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
        about = public.without_folders(about)
        entries += [{**about, **report} for report in found["layers"]]
    return {
        "held_out": all(found["held_out"] for found in measured),
        "correlations": summary.correlations(entries),
        "data_processing": summary.data_processing(entries),
        "entries": entries,
    }


def _about() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in ("jax", "flax", "optax", "numpy"):
        versions[name] = importlib.metadata.version(name)
    return {
        "command": public.command(["miue", *sys.argv[1:]]),
        "hardware": f"{platform.processor() or platform.machine()}, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {**versions, "miue_jax": __version__},
    }


def _draw(workdir: pathlib.Path, results: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        _LOGGER.warning("no plots without matplotlib: pip install 'miue_jax[plots]'")
        return
    from miue_jax.workflows.measure import plots

    entries = results["entries"]
    # The features, or what is deepest of what was chosen.
    found = sorted(entries, key=lambda e: (e["layer"] == "features", e["index"]))
    layer = found[-1]["layer"]
    against, per_layer, over_noise = (workdir / name for name in PLOTS)
    plots.accuracy(against, entries, results["correlations"], layer)
    plots.layers(per_layer, entries, results["data_processing"])
    plots.noise(over_noise, entries, layer)


def describe(results: Mapping[str, Any]) -> str:
    """What a measurement found, in a few lines.

    Args:
      results: what `measure` returned.

    Returns:
      How many victims and layers were measured, on which images, and how the measures
      of the features rank with the accuracy of the victims.

    Example:
      >>> from miue_jax.workflows.measure.run import describe
      >>> print(describe({
      ...     "entries": [{}, {}],
      ...     "held_out": True,
      ...     "data_processing": [],
      ...     "correlations": [{
      ...         "measure": "ksg",
      ...         "layer": "features",
      ...         "spearman": 0.8,
      ...         "victims": 5,
      ...     }],
      ... }))
      2 victims and layers, measured on held-out images; 0 rises over layers that ...
        ksg                          Spearman with accuracy +0.80 (5 victims)
    """
    contradicted = sum(c["contradicts"] for c in results["data_processing"])
    where = "held-out images" if results["held_out"] else "TRAINING images, in part"
    lines = [
        f"{len(results['entries'])} victims and layers, measured on {where}; "
        f"{contradicted} rises over layers that no information has (T11)"
    ]
    lines += [
        f"  {found['measure']:<28} Spearman with accuracy {found['spearman']:+.2f} "
        f"({found['victims']} victims)"
        for found in results["correlations"]
        if found["layer"] == "features" and found["spearman"] is not None
    ]
    return "\n".join(lines)
