"""Pictures of clean images, their perturbation, and the protected images."""

import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from miue_jax.data import Dataset, atomic

__all__ = ["comparison"]

_MAGNIFY = 16
_SIDE, _GAP, _TITLE = 128, 8, 24


def comparison(
    path: str | os.PathLike[str],
    clean: Dataset,
    protected: Dataset,
    *,
    classes: int = 5,
) -> None:
    """Draws one image of each of the first classes: clean, perturbation, protected.

    The perturbation is magnified 16 times around mid-gray.

    Args:
      path: the PNG file to write.
      clean: the source.
      protected: the same images, protected.
      classes: number of rows, at most the classes there are.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from miue_jax.workflows import pictures
      >>> clean = mj.data.load("shapes", per_class=1)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "comparison.png")
      ...     pictures.comparison(path, clean, clean, classes=2)
      ...     path.exists()
      True
    """
    present = sorted({int(label) for label in clean.labels})[:classes]
    rows = [int(np.argmax(clean.labels == label)) for label in present]
    change = protected.images[rows].astype(np.int16) - clean.images[rows]
    columns = {
        "clean": clean.images[rows],
        f"perturbation x {_MAGNIFY}": np.clip(128 + _MAGNIFY * change, 0, 255),
        "protected": protected.images[rows],
    }
    step = _SIDE + _GAP
    size = (len(columns) * step + _GAP, len(rows) * (step + _TITLE) + _TITLE)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for j, (title, images) in enumerate(columns.items()):
        left = _GAP + j * step
        draw.text((left, 6), title, fill="black", font=font)
        for i, image in enumerate(images.astype(np.uint8)):
            top = _TITLE + i * (step + _TITLE)
            shown = Image.fromarray(image.repeat(4 - image.shape[-1], -1)[..., :3])
            resized = shown.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            canvas.paste(resized, (left, top))
            if j == 0:
                name = clean.class_names[clean.labels[rows[i]]]
                draw.text((left, top + _SIDE + 4), name, fill="black", font=font)
    with atomic.write_file(path) as file:
        canvas.save(file, format="PNG")
