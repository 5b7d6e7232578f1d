"""A demonstration: protects the data set `shapes` and trains two victims."""

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
# Long steps, since they must carry coefficients over the quantizer's thresholds; with
# fewer of them or fewer epochs, the shapes are learned before the perturbation.
_ROBUST = {"epochs": 10, "pgd_steps": 4, "step_size": 2.0, "step_size_end": 1.5}
_VIEWS = {"jpeg": 0.7, "min_quality": 30, "max_quality": 70}
_QUALITY = 50


def demo(
    workdir: str | os.PathLike[str],
    *,
    say: Callable[[str], object] = lambda text: None,
    progress: bool = False,
) -> dict[str, float]:
    """Protects images, trains victims on clean and on protected ones, and draws.

    Two more victims are trained on JPEGs of the clean images and of images that were
    protected through compression. Rerun it to resume.

    Args:
      workdir: directory of the demonstration.
      say: called with a line of text about each step.
      progress: whether to show progress bars.

    Returns:
      The accuracy on clean test images of the victim of each training set, "clean",
      "protected", "clean-jpeg" and "robust-jpeg".

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
    shared = {**_SHARED, "crop": 4}
    specs = {
        "protected": generators.spec(
            "mi_ue/interleaved", **shared, epochs=_GENERATOR_EPOCHS
        ),
        "robust": generators.spec("mi_ue/robust", **shared, **_ROBUST, views=_VIEWS),
    }
    victim = victims.preset("quick", **_SHARED, epochs=_VICTIM_EPOCHS)
    settings = {
        **{name: spec.to_plain() for name, spec in specs.items()},
        "victim": dataclasses.asdict(victim),
        "quality": _QUALITY,
    }
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
    clean = _TRAIN.load()
    sources, made = {"clean": _TRAIN}, {}
    for number, (name, spec) in enumerate(specs.items(), start=1):
        how = "" if name == "protected" else " through compression"
        say(f"{number}/6 protecting the images{how}")
        config = protect.ProtectConfig(data=_TRAIN, generator=spec)
        made[name] = protect.run(config, workdir / name, progress=progress)
        sources[name] = DataSource(str(workdir / name / protect.ARTIFACT))
    pictures.comparison(workdir / "protected.png", clean, made["protected"].dataset)
    jpeg = f"jpeg-{_QUALITY}"
    trainings = {
        "clean": ("clean", "none"),
        "protected": ("protected", "none"),
        "clean-jpeg": ("clean", jpeg),
        "robust-jpeg": ("robust", jpeg),
    }
    found = {}
    for number, (name, (source, defense)) in enumerate(trainings.items(), start=3):
        how = "" if defense == "none" else ", compressed"
        say(f"{number}/6 training a victim on the {source} images{how}")
        training = evaluate.EvaluateConfig(
            train=sources[source],
            test=_TEST,
            victim=victim,
            defense=defense,
            seeds=(0,),
        )
        result = evaluate.run(training, workdir / f"victim-{name}", progress=progress)
        found[name] = result["final"]["mean"]
    shown = {name: f"{100 * accuracy:.1f} %" for name, accuracy in found.items()}
    say(f"\nprotected: {artifact.describe(made['protected'])}")
    say(f"picture: {workdir / 'protected.png'}\n")
    say("victim trained on   accuracy on clean test images")
    for name in ("clean", "protected"):
        say(f"{name:<20}{shown[name]}")
    say(
        f"{f'JPEGs, quality {_QUALITY}':<20}{shown['clean-jpeg']} clean, "
        f"{shown['robust-jpeg']} protected through compression"
    )
    return found
