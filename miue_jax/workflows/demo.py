"""A demonstration: protects the data set `shapes` and trains victims on it."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from miue_jax import generators, victims
from miue_jax.data import DataSource, artifact
from miue_jax.train import run_directory
from miue_jax.workflows import evaluate, pictures, protect

__all__ = ["demo"]

# A part of the data and a narrow network keep it within five minutes on two cores. The
# perturbation takes more epochs than a victim: it has to be learned before the shapes.
_TRAIN = DataSource("shapes", per_class=200)
_TEST = DataSource("shapes", split="test", per_class=100)
_SHARED = {"model": "resnet10", "width": 8, "batch_size": 50, "learning_rate": 0.05}
_GENERATOR_EPOCHS, _VICTIM_EPOCHS = 18, 12
# Through the crops and the compression of the victims, each image in another of them in
# every step.
_ROBUST_EPOCHS = 8
_ROBUST_VIEWS = {"jpeg": 0.5, "crop": 0.4, "min_quality": 30, "redraw": "step"}
_COMPRESSED = "jpeg-50"


def demo(
    workdir: str | os.PathLike[str],
    *,
    say: Callable[[str], object] = lambda text: None,
    progress: bool = False,
) -> dict[str, float]:
    """Protects images twice, trains victims on clean and protected ones, and draws.

    The second protection is made to outlast compression, and its victim is trained on
    JPEG files of quality 50. Rerun it to resume.

    Args:
      workdir: directory of the demonstration.
      say: called with a line of text about each step.
      progress: whether to show progress bars.

    Returns:
      The accuracy on clean test images of the victim of each training set: "clean" and
      "protected" as they are, "clean_jpeg_50" and "robust_jpeg_50" after compression.

    Raises:
      ValueError: if the directory holds something else; nothing is written then.

    Example:
      It takes a few minutes:

      >>> from miue_jax.workflows.demo import demo
      >>> accuracies = demo("runs/demo", say=print)  # doctest: +SKIP
    """
    if not os.fspath(workdir):
        raise ValueError("workdir is empty: name a directory")
    workdir = pathlib.Path(workdir)
    # On shapes, unlike on photographs, a victim's crops undo a perturbation that was
    # made without.
    specs = {
        "protected": generators.spec(
            "mi_ue/interleaved", **_SHARED, epochs=_GENERATOR_EPOCHS, crop=4
        ),
        "robust": generators.spec(
            "mi_ue/robust",
            **_SHARED,
            epochs=_ROBUST_EPOCHS,
            pgd_steps=4,
            views=_ROBUST_VIEWS,
        ),
    }
    victim = victims.preset("quick", **_SHARED, epochs=_VICTIM_EPOCHS)
    settings = {name: spec.to_plain() for name, spec in specs.items()}
    settings["victim"] = dataclasses.asdict(victim)
    with run_directory.open_directory(workdir, settings, resume=True):
        return _run(specs, victim, workdir, say, progress=progress)


def _run(
    specs: dict[str, generators.GeneratorSpec],
    victim: victims.VictimConfig,
    workdir: pathlib.Path,
    say: Callable[[str], object],
    *,
    progress: bool,
) -> dict[str, float]:
    sources, described = {"clean": _TRAIN}, []
    trainings = {
        "clean": ("clean", "none"),
        "protected": ("protected", "none"),
        "clean_jpeg_50": ("clean", _COMPRESSED),
        "robust_jpeg_50": ("robust", _COMPRESSED),
    }
    steps = len(specs) + len(trainings)
    for number, (name, spec) in enumerate(specs.items(), start=1):
        how = "" if name == "protected" else " so that it outlasts compression"
        say(f"{number}/{steps} protecting the images{how}")
        config = protect.ProtectConfig(data=_TRAIN, generator=spec)
        folder = workdir / f"protect-{name}"
        made = protect.run(config, folder, progress=progress)
        if name == "protected":
            pictures.comparison(workdir / "protected.png", _TRAIN.load(), made.dataset)
        sources[name] = DataSource(str(folder / protect.ARTIFACT))
        described.append(f"{name}: {artifact.describe(made)}")
    found = {}
    for number, (name, (source, defense)) in enumerate(
        trainings.items(), start=len(specs) + 1
    ):
        how = "" if defense == "none" else ", compressed"
        say(f"{number}/{steps} training a victim on the {source} images{how}")
        training = evaluate.EvaluateConfig(
            train=sources[source],
            test=_TEST,
            victim=victim,
            defense=defense,
            seeds=(0,),
        )
        result = evaluate.run(training, workdir / f"victim-{name}", progress=progress)
        found[name] = result["final"]["mean"]
    say("\n" + "\n".join(described))
    say(f"picture: {workdir / 'protected.png'}\n")
    say("victim trained on   accuracy on clean test images")
    for name in ("clean", "protected"):
        say(f"{name:<20}{100 * found[name]:.1f} %")
    say(
        f"{'robust, JPEG 50':<20}{100 * found['robust_jpeg_50']:.1f} % "
        f"(clean, JPEG 50: {100 * found['clean_jpeg_50']:.1f} %)"
    )
    return found
