"""A trained victim, and the pairs of images on which it is measured."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from miue_jax import _checks, _settings, data, defenses, features, models, victims
from miue_jax.data import DataSource, artifact, bucket
from miue_jax.train import checkpoints, run_directory, sampling
from miue_jax.workflows import evaluate
from miue_jax.workflows.measure.config import FEWEST, MeasureConfig

_NEEDED = (
    *("train", "victim", "defense", "seeds"),
    *("num_shards", "fingerprints", "final"),
)


class Victim(NamedTuple):
    """A victim whose training is finished.

    Attributes:
      module: its network.
      variables: its parameters and batch statistics, or their shapes.
      accuracy: on the clean test images of its run.
      identity: all that a measurement of it depends on, as JSON.
    """

    module: nn.Module
    variables: Any
    accuracy: float
    identity: dict[str, Any]


class Pairs(NamedTuple):
    """Clean and protected versions of the same images.

    Attributes:
      clean: (N, H, W, C) uint8.
      protected: (N, H, W, C) uint8.
      labels: (N,) int32.
      held_out: whether the victim was trained on neither version of any of them.
    """

    clean: np.ndarray
    protected: np.ndarray
    labels: np.ndarray
    held_out: bool


def seeds_of(config: MeasureConfig, label: str) -> list[int]:
    """The seeds of the victims of a run.

    Args:
      config: the settings.
      label: of the run.

    Returns:
      The seeds.

    Raises:
      ValueError: if the run is missing or not finished.
    """
    return _results(label, config.victims[label].run)["seeds"]


def load(
    config: MeasureConfig, label: str, seed: int, clean: data.Dataset
) -> tuple[Victim, Pairs]:
    """Reads a victim and chooses the images to measure it on.

    Args:
      config: the settings.
      label: of the run.
      seed: of the victim.
      clean: the source of the protected data set.

    Returns:
      The victim and its pairs.

    Raises:
      ValueError: naming the victim, if anything does not fit.
    """
    entry = config.victims[label]
    results = _results(label, entry.run)
    if "name" not in results["train"]:
        raise ValueError(
            f"victim {label!r} was trained on images in memory; only those of a name "
            "or path can be loaded again"
        )
    source = DataSource(**results["train"])
    train_set = source.load()
    if data.fingerprint(train_set) != results["fingerprints"][0]:
        raise ValueError(
            f"victim {label!r}: {source.name} is not what it was trained on: the "
            "fingerprint differs"
        )
    if (train_set.class_names, train_set.images.shape[1:]) != (
        clean.class_names,
        clean.images.shape[1:],
    ):
        raise ValueError(
            f"victim {label!r} was trained on images of {train_set.images.shape[1:]} "
            f"and classes {train_set.class_names}; the clean images are of "
            f"{clean.images.shape[1:]} and {clean.class_names}"
        )
    seen = None  # the protected data set that it was trained on
    if _is_artifact(source.name):
        seen = _load_protected(label, source.name, clean)
    path = entry.protected or (source.name if seen else config.protected)
    if path is None:
        raise ValueError(
            f"victim {label!r} was not trained on a protected data set: set "
            "'protected' to the one whose images are to be measured"
        )
    measured = seen if seen and path == source.name else None
    measured = measured or _load_protected(label, path, clean)
    trained = _found(measured.dataset.images, train_set.images)
    trained |= _found((seen.dataset if seen else clean).images, train_set.images)
    pairs = _choose(label, clean, measured.dataset, trained, config.per_class)
    if config.defended:
        pairs = _defended(label, pairs, results["defense"], len(clean.class_names))
    module, variables = _restore(label, entry.run, results, seed, train_set)
    known = features.layer_names(module, variables, clean.images.shape[1:])
    for layer in config.layers or ():
        if layer not in known:
            raise _checks.unknown(f"layer of victim {label!r}", layer, known)
    generator = "clean"
    if seen:
        generator = seen.metadata.get("generator", {}).get("name", label)
    identity = {
        "victim": label,
        "run": entry.run,
        "generator": entry.generator or generator,
        "depth": entry.depth,
        "protected": path,
        "seed": seed,
        "protocol": results["victim"],
        "defense": results["defense"],
        "trained_on": results["fingerprints"][0],
        "measured_on": measured.metadata["fingerprint"],
    }
    accuracy = results["final"]["values"][results["seeds"].index(seed)]
    return Victim(module, variables, accuracy, identity), pairs


def _results(label: str, run: str) -> dict[str, Any]:
    bucket.refuse(victim=run)
    path = pathlib.Path(run)
    if not path.is_dir():
        raise ValueError(f"victim {label!r}: there is no run directory {run}")
    if not (path / evaluate.RESULTS).exists():
        raise ValueError(
            f"victim {label!r}: {run} holds no finished run of evaluate: it has no "
            f"{evaluate.RESULTS}"
        )
    results = run_directory.read_json(path / evaluate.RESULTS)
    missing = [key for key in _NEEDED if key not in results]
    if not missing:
        return results
    cells = sorted(path.glob(f"cells/*/{evaluate.RESULTS}"))
    hint = f"; name its victims, such as {cells[0].parent}" if cells else ""
    kind = "a sweep" if cells else f"no run of evaluate: it has no {missing[0]}"
    raise ValueError(f"victim {label!r}: {run} holds {kind}{hint}")


def _is_artifact(name: str) -> bool:
    file = pathlib.Path(name)
    return file.suffix == ".npz" and file.is_file() and artifact.is_artifact(file)


def _load_protected(label: str, path: str, clean: data.Dataset) -> artifact.Protected:
    made = artifact.load(path)
    try:
        artifact.check_source(made, clean)
    except ValueError as error:
        raise ValueError(f"victim {label!r}: {path}: {error}") from error
    if made.dataset.class_names != clean.class_names:
        raise ValueError(
            f"victim {label!r}: the classes of {path} are {made.dataset.class_names}, "
            f"those of the clean images {clean.class_names}"
        )
    return made


def _found(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(N,) bool: which images are, byte by byte, among others."""

    def digest(image: np.ndarray) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(image).data).digest()

    seen = {digest(image) for image in among}
    return np.array([digest(image) in seen for image in images])


def _choose(
    label: str,
    clean: data.Dataset,
    measured: data.Dataset,
    trained: np.ndarray,
    per_class: int,
) -> Pairs:
    """The first pairs of each class that were held out, or of those trained on."""
    changed = (clean.images != measured.images).any(axis=(1, 2, 3))
    classes = range(len(clean.class_names))

    def members(eligible: np.ndarray) -> list[np.ndarray]:
        found = [np.flatnonzero(eligible & (clean.labels == y)) for y in classes]
        return [index[:per_class] for index in found]

    chosen = members(changed & ~trained)
    held_out = min(map(len, chosen)) >= FEWEST
    if not held_out:
        chosen = members(changed)
    counts = [len(index) for index in chosen]
    if min(counts) < FEWEST:
        name = clean.class_names[int(np.argmin(counts))]
        raise ValueError(
            f"victim {label!r}: class {name!r} has {min(counts)} pairs of an image and "
            f"its protected version; at least {FEWEST} are needed"
        )
    index = np.sort(np.concatenate(chosen))
    labels = clean.labels[index]
    return Pairs(clean.images[index], measured.images[index], labels, held_out)


# Others fit themselves to the training set, or to none of its images at all.
_ALONE = ("none", "jpeg", "grayscale", "bit_depth")


def _defended(
    label: str, pairs: Pairs, defense: Mapping[str, Any], num_classes: int
) -> Pairs:
    """Both images of each pair, as the defense of a victim prepares them."""
    if defense["name"] not in _ALONE:
        raise ValueError(
            f"victim {label!r} was trained behind {defense['name']!r}, which does not "
            f"prepare images one by one; allowed with 'defended': {', '.join(_ALONE)}"
        )
    purify = defenses.create(
        defense, image_shape=pairs.clean.shape[1:], num_classes=num_classes
    ).purify
    if purify is None:
        return pairs
    clean, protected = (
        np.asarray(purify(jax.random.key(0), images, pairs.labels))
        for images in (pairs.clean, pairs.protected)
    )
    return pairs._replace(clean=clean, protected=protected)


def _restore(
    label: str,
    run: str,
    results: Mapping[str, Any],
    seed: int,
    train_set: data.Dataset,
) -> tuple[nn.Module, Any]:
    """The network of a victim and its variables."""
    used = {**results["victim"], **results.get("clipped", {})}
    config = _settings.from_plain(victims.VictimConfig, used, "victim")
    num_classes, num_shards = len(train_set.class_names), results["num_shards"]
    protocol = victims.victim(
        config,
        num_examples=len(train_set.labels),
        num_classes=num_classes,
        num_shards=num_shards,
    )
    dealt = sampling.deal(train_set.images, train_set.labels, num_shards)
    # On one device, whatever the victim was trained on.
    place = SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(protocol.init, jax.random.key(0), dealt),
    )
    identity = run_directory.read_json(pathlib.Path(run) / "config.json")
    folder = pathlib.Path(run) / f"seed_{seed}" / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"victim {label!r}: there are no checkpoints in {folder}")
    with checkpoints.Checkpoints(
        folder, config={**identity, "seed": seed}, read_only=True
    ) as saved:
        if saved.latest_step != protocol.num_steps:
            raise ValueError(
                f"victim {label!r}: {folder} has no checkpoint of the finished victim "
                f"(step {protocol.num_steps}); its newest is of step "
                f"{saved.latest_step}"
            )
        state, _ = saved.restore(like)
    module = models.create(
        config.model,
        num_classes=num_classes,
        width=config.width,
        dtype=jnp.dtype(config.dtype),
        convolution=models.loop_convolution,  # as `victims.train`
    )
    return module, state.shared.variables
