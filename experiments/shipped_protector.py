"""Fits the protector that comes with the package, for any pictures.

    python experiments/shipped_protector.py --workdir runs/shipped

A hundred crops of each of twelve photographs that scikit-image ships
(`pip install scikit-image`), all in the public domain or under CC0 by its
documentation; 900 steps with codes at random. It takes 18 minutes of a busy core; rerun
it to resume it. The result is `shipped.safetensors` in the work directory; a copy of it
in miue_jax/protector/ is what `--effort fast` uses.
"""

import dataclasses
import importlib.util
import pathlib
import sys

import numpy as np
from PIL import Image

from miue_jax import _command_line
from miue_jax.data import atomic
from miue_jax.protector import FitConfig
from miue_jax.workflows.folder import fit_protector

PROG = "shipped_protector.py"

_PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png"),
    *("coffee.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png"),
    *("retina.jpg", "rocket.jpg"),
)
_CROPS = 100
_SIDE = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Fits the protector that comes with the package.

    Attributes:
      workdir: directory of the crops and of the protector.
      steps: of the fit.
    """

    workdir: pathlib.Path
    steps: int = 900


def make_crops(root: pathlib.Path, photographs: pathlib.Path) -> None:
    """Writes crops of all sizes, as pictures show things near and far."""
    rng = np.random.default_rng(0)
    for name in _PHOTOGRAPHS:
        with Image.open(photographs / name) as opened:
            image = opened.convert("RGB")
        folder = root / pathlib.Path(name).stem
        folder.mkdir(parents=True)
        for number in range(_CROPS):
            largest = np.log(min(image.size))
            side = int(np.exp(rng.uniform(np.log(_SIDE), largest)))
            left = int(rng.integers(0, image.width - side + 1))
            top = int(rng.integers(0, image.height - side + 1))
            crop = image.crop((left, top, left + side, top + side))
            crop = crop.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            crop.save(folder / f"{number:03d}.png")


def main() -> None:
    """Makes the crops, unless they are there, and fits the protector."""
    options = _command_line.parse(Options, sys.argv[1:], prog=PROG)
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise ValueError("scikit-image is missing: pip install scikit-image")
    crops = options.workdir / "crops"
    if not crops.exists():
        options.workdir.mkdir(parents=True, exist_ok=True)
        with atomic.write_folder(crops) as made:
            make_crops(made, pathlib.Path(found.origin).parent / "data")
    output = options.workdir / "shipped.safetensors"
    protector = fit_protector.fit_protector(
        crops,
        output,
        config=FitConfig(steps=options.steps, random_codes=1.0),
        any_pictures=True,
        progress=True,
    )
    _command_line.report(f"{output}: {fit_protector.describe(protector)}")


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
