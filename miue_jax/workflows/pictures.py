"""Pictures of clean images, their perturbation, and the protected images."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

from miue_jax.data import atomic
from miue_jax.data.dataset import Dataset

_MAGNIFY = 16


def comparison(
    path: pathlib.Path, clean: Dataset, protected: Dataset, *, classes: int = 5
) -> None:
    """Draws one image of each of the first classes: clean, perturbation, protected.

    Args:
      path: the PNG file to write.
      clean: the source.
      protected: the same images, protected.
      classes: how many rows.
    """
    rows = [int(np.argmax(clean.labels == label)) for label in range(classes)]
    change = protected.images[rows].astype(np.int16) - clean.images[rows]
    magnified = np.clip(128 + _MAGNIFY * change, 0, 255).astype(np.uint8)
    columns = {
        "clean": clean.images[rows],
        f"perturbation x {_MAGNIFY}": magnified,
        "protected": protected.images[rows],
    }
    size = (2 * len(columns), 2 * classes)
    figure, axes = pyplot.subplots(classes, len(columns), figsize=size, squeeze=False)
    for j, (title, images) in enumerate(columns.items()):
        axes[0, j].set_title(title)
        for i, image in enumerate(images):
            gray = image.shape[-1] == 1
            axes[i, j].imshow(image.squeeze(), cmap="gray" if gray else None)
            axes[i, j].set_xticks([])
            axes[i, j].set_yticks([])
    for i, row in enumerate(rows):
        axes[i, 0].set_ylabel(clean.class_names[clean.labels[row]])
    figure.tight_layout()
    with atomic.write_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
    pyplot.close(figure)
