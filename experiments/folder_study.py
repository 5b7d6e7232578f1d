"""What `miue protect IN OUT` does to networks trained on the pictures.

    python experiments/folder_study.py photographs --workdir runs/photographs

or, for other pictures,

    python experiments/folder_study.py /usr/share/datasets/fashion-mnist \
        --workdir runs/fashion
    python experiments/folder_study.py cifar10 --per-class 500 --workdir runs/cifar10

The first (`pip install scikit-image scikit-learn`) makes a folder of crops of twelve
photographs that these packages ship, 64x64 pixels, each photograph a class: from its
left 70 % to train on, from the rest to test. The second makes one of Fashion-MNIST,
from its IDX files (Debian: dataset-fashion-mnist), the third takes class folders train/
and test/ of pictures of one size as they are. The training pictures are protected and
read back from their files. Victims, a ResNet-10 of width 16, see clean or protected
pictures, as they are, and reduced to three quarters and compressed by JPEG of quality
75; the clean test pictures are reduced and compressed likewise. Beside them stands what
the nearest neighbor by color recognizes: where the means and deviations of the channels
tell classes apart, changes of few gray levels do little.

Rerun a command to resume it. results.json in the work directory holds the accuracies.
The result of the second is results/folder_fashion.json. It takes about an hour beside
much other work; alone, it was not timed. On photographs, the study has not been run.
"""

import dataclasses
import gzip
import importlib.util
import pathlib
import platform
import shutil
import statistics
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from tyro.conf import Positional, arg

from miue_jax import _command_line, data, victims
from miue_jax.data import Dataset, atomic, public
from miue_jax.train import run_directory
from miue_jax.workflows import evaluate
from miue_jax.workflows.folder import run as folder
from miue_jax.workflows.folder.measured import compressed

PROG = "folder_study.py"

_SKIMAGE = (
    *("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "motorcycle_left.png", "retina.jpg"),
    "rocket.jpg",
)
_SKLEARN = ("china.jpg", "flower.jpg")
_SIDE = 64
_LEFT = 0.7
_FASHION = (
    *("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt"),
    *("sneaker", "bag", "boot"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Studies what a protected folder of pictures does to networks.

    Attributes:
      data: "photographs", the folder of Fashion-MNIST's IDX files, or a folder with
        class folders in train/ and test/.
      workdir: directory of the study, which can be resumed.
      effort: of the protection.
      per_class: pictures of a class to protect.
      epochs: of the victims.
      seeds: of the victims.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    workdir: pathlib.Path
    effort: Literal["fast", "standard", "strong"] = "standard"
    per_class: int = 150
    epochs: int = 15
    seeds: tuple[int, ...] = (0, 1, 2)


def make_photographs(root: pathlib.Path, per_class: int) -> None:
    """Writes crops of photographs as class folders train/ and test/."""
    places = [(_package("skimage") / "data", name) for name in _SKIMAGE]
    places += [(_package("sklearn") / "datasets" / "images", n) for n in _SKLEARN]
    rng = np.random.default_rng(0)
    for place, name in places:
        with Image.open(place / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width = pixels.shape[:2]
        cut = int(_LEFT * width)
        for split, low, high, count in (
            ("train", 0, cut, per_class),
            ("test", cut, width, per_class // 2),
        ):
            crops = [
                pixels[y : y + _SIDE, x : x + _SIDE]
                for y, x in zip(
                    rng.integers(0, height - _SIDE + 1, count),
                    rng.integers(low, high - _SIDE + 1, count),
                    strict=True,
                )
            ]
            _write(root / split / pathlib.Path(name).stem, crops)


def make_fashion(root: pathlib.Path, source: pathlib.Path, per_class: int) -> None:
    """Writes pictures of Fashion-MNIST as class folders train/ and test/."""
    for split, name in (("train", "train"), ("test", "t10k")):
        images = _idx(source, f"{name}-images-idx3-ubyte", 16)
        labels = _idx(source, f"{name}-labels-idx1-ubyte", 8)
        images = images.reshape(len(labels), 28, 28)
        for number, label in enumerate(_FASHION):
            _write(root / split / label, images[labels == number][:per_class])


def copy_classes(root: pathlib.Path, source: pathlib.Path, per_class: int) -> None:
    """Copies the first pictures of class folders train/ and test/."""
    for split in ("train", "test"):
        for place in sorted((source / split).iterdir()):
            to = root / split / place.name
            to.mkdir(parents=True)
            for path in sorted(place.iterdir())[:per_class]:
                shutil.copy(path, to / path.name)


def _package(name: str) -> pathlib.Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ValueError(f"{name} is missing: pip install scikit-image scikit-learn")
    return pathlib.Path(found.origin).parent


def _idx(folder: pathlib.Path, name: str, header: int) -> np.ndarray:
    for path, opened in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.is_file():
            with opened(path, "rb") as file:
                return np.frombuffer(file.read(), np.uint8, offset=header)
    raise ValueError(f"{folder}: there is no {name}, nor {name}.gz")


def _write(folder: pathlib.Path, images: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")


_SEEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda images: images,
    "three quarters of the size, JPEG 75": compressed,
}


def by_color(train: Dataset, test: Dataset) -> float:
    """The accuracy of the nearest neighbor by means and deviations of the channels."""

    def numbers(images: np.ndarray) -> np.ndarray:
        return np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1)

    apart = numbers(test.images)[:, None] - numbers(train.images)
    nearest = np.square(apart).sum(-1).argmin(1)
    return float((train.labels[nearest] == test.labels).mean())


def study(options: Options) -> dict[str, Any]:
    """Runs what is missing; returns what results.json holds."""
    root = options.workdir / "pictures"
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with atomic.write_folder(root) as made:
            if options.data == "photographs":
                make_photographs(made, options.per_class)
            elif pathlib.Path(options.data, "train").is_dir():
                copy_classes(made, pathlib.Path(options.data), options.per_class)
            else:
                make_fashion(made, pathlib.Path(options.data), options.per_class)
    config = folder.FolderConfig(effort=options.effort, measure=False)
    output = options.workdir / f"protected_{options.effort}"
    found = folder.run(config, root / "train", output, folder.workdir_of(output))
    clean, test = (data.load(str(root), split) for split in ("train", "test"))
    protected = data.load(str(output))
    victim = victims.preset(
        "quick", epochs=options.epochs, batch_size=32, learning_rate=0.05
    )
    rows = []
    for number, (seen, change) in enumerate(_SEEN.items()):
        new = _changed(test, change)
        for kind, given in (("clean", clean), (options.effort, protected)):
            trained_on = _changed(given, change)
            evaluated = evaluate.run(
                evaluate.EvaluateConfig(
                    train=trained_on,
                    test=new,
                    victim=victim,
                    seeds=options.seeds,
                    evaluate_every=options.epochs,
                ),
                options.workdir / f"victim_{kind}_{number}",
                progress=False,
            )
            values = evaluated["final"]["values"]
            rows.append(
                {
                    "trained_on": kind,
                    "seen": seen,
                    "accuracies": values,
                    "nearest_by_color": by_color(trained_on, new),
                }
            )
            _command_line.report(f"{kind}, {seen}: {values}")
    audits = [entry.audit or {} for entry in found.written.values()]
    return {
        "command": public.command(["python", *sys.argv]),
        "data": pathlib.Path(options.data).name,
        "hardware": platform.machine(),
        "train_images": len(clean.images),
        "test_images": len(test.images),
        "classes": len(clean.class_names),
        "effort": options.effort,
        "epochs": options.epochs,
        "seeds": list(options.seeds),
        "largest_change": max(audit["max_change"] for audit in audits),
        "psnr": statistics.median(audit["psnr"] for audit in audits),
        "rows": rows,
    }


def _changed(given: Dataset, change: Callable[[np.ndarray], np.ndarray]) -> Dataset:
    return Dataset(change(given.images), given.labels, given.class_names)


def main() -> None:
    """Runs the study; bad input is one line."""
    options = _command_line.parse(Options, sys.argv[1:], prog=PROG)
    results = study(options)
    run_directory.write_json(options.workdir / "results.json", results)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
