"""What small networks learn from the pictures of a folder, clean and protected."""

import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from miue_jax import victims
from miue_jax.data import Dataset
from miue_jax.pictures import Entry
from miue_jax.workflows import evaluate
from miue_jax.workflows.folder import squares

_MODEL = "resnet10"
_EPOCHS = 15
_SEEDS = (0, 1)
# Pixels of a side, pictures at most, and pictures that are needed.
_SIZE = 48
_MOST = 600
_FEWEST, _FEWEST_OF_CLASS = 40, 10
# Of every ten pictures of a class, the others test.
_TRAINED = 7
_QUALITY = 75
_SMALLER = 0.75


def why_not(labels: Sequence[str]) -> str | None:
    """Tells why nothing can be measured.

    Args:
      labels: of all pictures.

    Returns:
      A sentence, or None if it can.

    Example:
      >>> from miue_jax.workflows.folder import measured
      >>> measured.why_not(["sea"] * 20)
      'All pictures are of one class: there is nothing for a network to learn.'
    """
    classes = {name: labels.count(name) for name in dict.fromkeys(labels)}
    if len(classes) < 2:
        return "All pictures are of one class: there is nothing for a network to learn."
    enough = [name for name, count in classes.items() if count >= _FEWEST_OF_CLASS]
    if len(enough) < 2 or sum(classes[name] for name in enough) < _FEWEST:
        return (
            f"There are too few pictures: at least two classes of {_FEWEST_OF_CLASS} "
            f"and {_FEWEST} pictures in all are needed."
        )
    return None


def run(
    entries: Sequence[Entry],
    labels: Sequence[str],
    path_of: Callable[[Entry], pathlib.Path],
    workdir: pathlib.Path,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Trains networks on clean and on protected pictures and tests them on clean ones.

    Seven of ten pictures of each class are trained on, as they are, and reduced to
    three quarters and compressed by JPEG of quality 75. The others, clean, are tested
    on. The networks see all at a small size.

    Args:
      entries: the clean pictures; see `why_not` for how many it takes.
      labels: their classes.
      path_of: the file of a picture's protected copy.
      workdir: of the runs, which can be resumed.
      progress: whether to show progress bars.

    Returns:
      JSON: ``rows``, one for how pictures are seen, with the accuracies of networks
      trained on ``clean`` and on ``protected`` ones for each of ``seeds``.

    Raises:
      ValueError: if a picture cannot be read.

    Example:
      >>> import pathlib
      >>> from miue_jax import pictures
      >>> from miue_jax.workflows.folder import measured
      >>> header, path = pictures.Header("PNG", 64, 48, False), pathlib.Path("none.png")
      >>> entry = pictures.Entry("none.png", path, header, "none.png", None, ())
      >>> measured.run(
      ...     *([entry] * 40, ["cat"] * 20 + ["dog"] * 20),
      ...     *(lambda entry: entry.path, pathlib.Path("run")),
      ...     progress=False,
      ... )
      Traceback (most recent call last):
      ValueError: none.png: not a readable picture (No such file or directory)
    """
    counts = {name: list(labels).count(name) for name in dict.fromkeys(labels)}
    names = tuple(sorted(n for n, count in counts.items() if count >= _FEWEST_OF_CLASS))
    known = [
        entry._replace(label=names.index(label))
        for entry, label in zip(entries, labels, strict=True)
        if label in names
    ]
    chosen = squares.sample(known, _MOST)
    size = squares.working_size(chosen, _SIZE)
    clean = squares.read(chosen, size, per_picture=1)
    protected = squares.read(chosen, size, path_of=path_of, per_picture=1)
    trained = _trained(clean.labels)
    victim = victims.preset(
        "quick", model=_MODEL, epochs=_EPOCHS, batch_size=32, learning_rate=0.05
    )
    rows = []
    for number, (seen, change) in enumerate(_SEEN.items()):
        test = Dataset(change(clean.images[~trained]), clean.labels[~trained], names)
        row: dict[str, Any] = {"seen": seen}
        for kind, images in (("clean", clean.images), ("protected", protected.images)):
            data = Dataset(change(images[trained]), clean.labels[trained], names)
            config = evaluate.EvaluateConfig(
                train=data,
                test=test,
                victim=victim,
                seeds=_SEEDS,
                evaluate_every=_EPOCHS,
            )
            results = evaluate.run(
                config, workdir / f"{kind}_{number}", progress=progress
            )
            row[kind] = results["final"]["values"]
        rows.append(row)
    return {
        "chance": max(np.bincount(clean.labels[~trained])) / int((~trained).sum()),
        "classes": len(names),
        "train_images": int(trained.sum()),
        "test_images": int((~trained).sum()),
        "seeds": list(_SEEDS),
        "victim": f"ResNet-10 of width 16, {_EPOCHS} epochs, {size}x{size} pixels",
        "rows": rows,
    }


def _trained(labels: np.ndarray) -> np.ndarray:
    """Seven of ten pictures of each class, evenly spread over their names."""
    result = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        result[places[np.arange(len(places)) % 10 < _TRAINED]] = True
    return result


def compressed(images: np.ndarray) -> np.ndarray:
    """Reduces images to three quarters and compresses them by JPEG of quality 75.

    Args:
      images: (N, s, s, C) uint8, C = 1 or 3.

    Returns:
      (N, t, t, C) uint8, as they are decoded.

    Example:
      >>> import numpy as np
      >>> from miue_jax.workflows.folder import measured
      >>> measured.compressed(np.zeros((2, 64, 64, 3), np.uint8)).shape
      (2, 48, 48, 3)
    """
    side = round(_SMALLER * images.shape[1])

    def one(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        gray = image.shape[-1] == 1
        small = Image.fromarray(image[..., 0] if gray else image)
        small = small.resize((side, side), Image.Resampling.BILINEAR)
        small.save(file, "JPEG", quality=_QUALITY)
        with Image.open(file) as decoded:
            return np.asarray(decoded).reshape(side, side, -1)

    return np.stack([one(image) for image in images])


_SEEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda images: images,
    "resized to three quarters, JPEG of quality 75": compressed,
}
