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


def demo(
    workdir: str | os.PathLike[str],
    *,
    say: Callable[[str], object] = lambda text: None,
    progress: bool = False,
) -> dict[str, float]:
    """Protects images, trains a victim on clean and one on protected ones, and draws.

    Rerun it to resume.

    Args:
      workdir: directory of the demonstration.
      say: called with a line of text about each step.
      progress: whether to show progress bars.

    Returns:
      The accuracy on clean test images of the victim of each training set, "clean" and
      "protected".

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
    spec = generators.spec(
        "mi_ue/interleaved", **_SHARED, epochs=_GENERATOR_EPOCHS, crop=4
    )
    victim = victims.preset("quick", **_SHARED, epochs=_VICTIM_EPOCHS)
    settings = {"generator": spec.to_plain(), "victim": dataclasses.asdict(victim)}
    with run_directory.open_directory(workdir, settings, resume=True):
        return _run(spec, victim, workdir, say, progress=progress)


def _run(
    spec: generators.GeneratorSpec,
    victim: victims.VictimConfig,
    workdir: pathlib.Path,
    say: Callable[[str], object],
    *,
    progress: bool,
) -> dict[str, float]:
    clean = _TRAIN.load()
    say("1/3 protecting the images")
    config = protect.ProtectConfig(data=_TRAIN, generator=spec)
    made = protect.run(config, workdir / "protect", progress=progress)
    pictures.comparison(workdir / "protected.png", clean, made.dataset)
    protected = DataSource(str(workdir / "protect" / protect.ARTIFACT))
    found = {}
    for number, (name, source) in enumerate(
        {"clean": _TRAIN, "protected": protected}.items(), start=2
    ):
        say(f"{number}/3 training a victim on the {name} images")
        training = evaluate.EvaluateConfig(
            train=source,
            test=_TEST,
            victim=victim,
            seeds=(0,),
        )
        result = evaluate.run(training, workdir / f"victim-{name}", progress=progress)
        found[name] = result["final"]["mean"]
    say(f"\nprotected: {artifact.describe(made)}")
    say(f"picture: {workdir / 'protected.png'}\n")
    say("victim trained on   accuracy on clean test images")
    for name, accuracy in found.items():
        say(f"{name:<20}{100 * accuracy:.1f} %")
    return found
