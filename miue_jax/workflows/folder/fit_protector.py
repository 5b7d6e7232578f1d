"""Fits a protector on a folder of pictures or on a data set."""

import logging
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import pictures, protector
from miue_jax._checks import check_flag, one_line
from miue_jax.data import Dataset, DataSource, atomic, load, picture_kinds
from miue_jax.protector import FitConfig, Protector, Settings, clusters, full_size
from miue_jax.train import run_directory
from miue_jax.workflows.folder import plan, resumable_fit, squares

_LOGGER = logging.getLogger("miue_jax")


def fit_protector(
    data: str | os.PathLike[str] | DataSource | Dataset,
    output: str | os.PathLike[str],
    *,
    config: FitConfig | None = None,
    any_pictures: bool = False,
    skip_unreadable: bool = False,
    strength: int = 8,
    size: int = 96,
    num_codes: int = 32,
    progress: bool = False,
) -> Protector:
    """Fits a protector and writes it.

    Args:
      data: a folder of pictures of any sizes, or a data set: a name or path (see
        `miue_jax.data.load`), a `DataSource` or a `Dataset`.
      output: the safetensors file to write. A folder of its name with ``.fit`` holds
        what a stopped fit needs, until it is done.
      config: of the fit; None for the defaults.
      any_pictures: whether it is for any pictures: codes at random, none for a class.
      skip_unreadable: whether to go on where pictures of a folder cannot be read.
      strength: largest change of a channel, in gray levels.
      size: pixels of the shorter side at which it sees pictures, at most.
      num_codes: kinds of perturbation; there are at least as many as classes.
      progress: whether to show progress bars.

    Returns:
      The protector.

    Raises:
      ValueError: if an input is bad, and nothing is written then.
      Busy: if another process is fitting the same file.
      OSError: naming the file, if it cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from miue_jax.protector import FitConfig
      >>> from miue_jax.workflows.folder.fit_protector import fit_protector
      >>> shapes = mj.data.load("shapes", per_class=2)
      >>> config = FitConfig(steps=1, batch_size=2, model="linear", model_width=None)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "mine.safetensors")
      ...     made = fit_protector(shapes, path, config=config)
      ...     mj.Protector.load(path).settings.size
      32
    """
    check_flag("skip_unreadable", skip_unreadable)
    config = config or FitConfig()
    output = pathlib.Path(output)
    atomic.check_new_file(output)
    if picture_kinds.looks_like_picture(output.suffix):
        # A slip must not put it in the place of a picture.
        raise ValueError(f"{output}: is named like a picture; name a .safetensors file")
    folder = output.with_name(f"{output.name}.fit")
    resumable_fit.check(folder)
    # Whatever is wrong with them is found before pictures are read.
    Settings(strength=float(strength), num_codes=num_codes, size=size)
    seen, names = _read(data, size, skip_unreadable=skip_unreadable)
    if not len(seen.images):
        name = data.name if isinstance(data, DataSource) else data
        raise ValueError(f"{name}: no pictures in it")
    size = seen.images.shape[1]
    codes, groups = seen.labels, clusters.none()
    if any_pictures:
        codes, names = np.full_like(codes, -1), ()
    elif not names:
        groups, codes = find_clusters(seen.images, len(seen.images), seed=config.seed)
    settings = Settings(
        strength=float(strength),
        num_codes=max(num_codes, len(names), len(groups.centers)),
        size=size,
        class_names=names,
        about=f"fitted on {len(seen.images)} squares of pictures, {config.steps} steps",
    )
    with run_directory.locked(folder):
        made = resumable_fit.run(
            *(config, seen.images, codes, settings, groups, folder), progress=progress
        )
        protector.save(output, made)
        resumable_fit.forget(folder)
    return made


def find_clusters(
    images: np.ndarray, num_pictures: int, *, seed: int
) -> tuple[clusters.Clusters, np.ndarray]:
    """Finds clusters of squares, of at least eight pictures on average.

    Args:
      images: (N, s, s, 3) uint8.
      num_pictures: how many pictures they are of.
      seed: of the start.

    Returns:
      The clusters, at most ten, and the cluster of each square: (N,) int32.

    Example:
      >>> import numpy as np
      >>> from miue_jax.workflows.folder.fit_protector import find_clusters
      >>> images = np.repeat(np.array([0, 200], np.uint8), 8)[:, None, None, None]
      >>> images = np.broadcast_to(images, (16, 32, 32, 3))
      >>> groups, codes = find_clusters(images, 16, seed=0)
      >>> sorted(set(codes.tolist()))
      [0, 1]
    """
    count = max(1, min(_CLUSTERS, num_pictures // _CLUSTER))
    small = jnp.asarray(np.stack([tiny(image) for image in images])) / 255
    described = np.asarray(jax.jit(clusters.describe)(small))
    groups = clusters.find(described, count, seed=seed)
    return groups, np.asarray(jax.jit(clusters.nearest)(groups, small))


# Pictures of a cluster at least, and clusters at most.
_CLUSTER, _CLUSTERS = 8, 10


def tiny(square: np.ndarray) -> np.ndarray:
    """A square at the size at which clusters look at it.

    Args:
      square: (s, s, 3) uint8.

    Returns:
      (32, 32, 3) uint8.

    Example:
      >>> import numpy as np
      >>> from miue_jax.workflows.folder import fit_protector
      >>> fit_protector.tiny(np.zeros((96, 96, 3), np.uint8)).shape
      (32, 32, 3)
    """
    return full_size.exactly(square, clusters.SIDE)


def describe(made: Protector) -> str:
    """Says in a sentence what a protector is.

    Args:
      made: the protector.

    Returns:
      The sentence.

    Example:
      >>> from miue_jax import protector
      >>> from miue_jax.workflows.folder import fit_protector
      >>> settings = protector.Settings(num_codes=4, about="not fitted")
      >>> fit_protector.describe(
      ...     protector.Protector({}, protector.clusters.none(), settings)
      ... ).partition(",")[0]
      '4 kinds of perturbation'
    """
    settings = made.settings
    kinds = f"{settings.num_codes} kinds of perturbation"
    if settings.class_names:
        kinds += f", {len(settings.class_names)} of them of classes"
    return (
        f"{kinds}, at most {settings.strength:g} gray levels, for pictures of "
        f"{settings.size} pixels and more; {settings.about}"
    )


def _read(
    data: Any, size: int, *, skip_unreadable: bool
) -> tuple[squares.Squares, tuple[str, ...]]:
    name = data.name if isinstance(data, DataSource) else data
    if isinstance(name, str | os.PathLike) and pathlib.Path(name).is_dir():
        return _read_folder(pathlib.Path(name), size, skip_unreadable=skip_unreadable)
    if isinstance(data, DataSource):
        given = data.load()
    else:
        given = data if isinstance(data, Dataset) else load(data)
    height, width = given.images.shape[1:3]
    if min(width, height) < full_size.SMALLEST:
        raise ValueError(f"an image of the data {full_size.too_small(width, height)}")
    images = np.broadcast_to(given.images, (*given.images.shape[:3], 3))
    small = [
        full_size.exactly(
            full_size.square(full_size.thumbnail(np.ascontiguousarray(x), size), 0.5),
            min(size, min(x.shape[:2]) // 8 * 8),
        )
        for x in images
    ]
    return squares.Squares(np.stack(small), given.labels), tuple(given.class_names)


def _read_folder(
    folder: pathlib.Path, size: int, *, skip_unreadable: bool
) -> tuple[squares.Squares, tuple[str, ...]]:
    found = pictures.scan(folder)
    protectable, left_out = plan.protectable(found)
    entries = squares.sample(protectable)
    if not entries and not left_out:
        raise ValueError(f"{folder}: no pictures in it")

    def skipped(entry: pictures.Entry, error: ValueError) -> None:
        left_out.append((entry.name, plan.reason_of(error, entry.path)))

    size = squares.working_size(entries, size) if entries else size
    seen = squares.read(entries, size, skipped=skipped)
    left_out.sort()
    if left_out and not (len(seen.images) and skip_unreadable):
        raise ValueError(plan.refusal(folder, left_out, skipped=skip_unreadable))
    for name, reason in left_out:
        _LOGGER.warning("left out: %s", one_line(f"{name}: {reason}", 500))
    return seen, found.class_names or ()
