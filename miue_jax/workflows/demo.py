"""The library's whole job in a few minutes: protect `shapes`, train two victims.

    python experiments/demo.py --workdir runs/demo

Prints the accuracy on clean test images of a victim of the clean and of one of the
protected images, and draws the images. The same command continues what was stopped.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags
from configs import evaluate as evaluate_config
from configs import generate as generate_config

from miue_jax import cli, data
from miue_jax.workflows import evaluate, pictures, protect

# A part of the data and a narrow network keep it within five minutes on two cores. The
# perturbation takes more epochs than a victim: it has to be learned before the shapes.
_PER_CLASS = {"train": 200, "test": 100}
_SHARED = {"model": "resnet10", "width": 8, "batch_size": 50, "learning_rate": 0.05}
_GENERATOR_EPOCHS, _VICTIM_EPOCHS = 18, 12


def run(workdir: pathlib.Path, *, quiet: bool = False) -> dict[str, float]:
    """Protects, trains and draws.

    Args:
      workdir: the directory of the demonstration.
      quiet: no progress bars.

    Returns:
      The clean test accuracy of the victim of each training set.
    """
    making = generate_config.get_config("mi_ue/interleaved").to_dict()
    making["data"]["per_class"] = _PER_CLASS["train"]
    # On shapes, unlike on photographs, a victim's crops undo what was made without.
    making["method"] |= {**_SHARED, "epochs": _GENERATOR_EPOCHS, "crop": 4}
    print("1/3 protecting the images", flush=True)
    made = protect.run(making, workdir / "protect", quiet=quiet)
    clean = data.load(**making["data"])
    pictures.comparison(workdir / "protected.png", clean, made.dataset)
    found = {}
    artifact = str(workdir / "protect" / protect.ARTIFACT)
    for number, (name, source, part) in enumerate(
        (("clean", "shapes", _PER_CLASS["train"]), ("protected", artifact, None)),
        start=2,
    ):
        print(f"{number}/3 training a victim on the {name} images", flush=True)
        training = evaluate_config.get_config("quick").to_dict()
        training["train"] |= {"name_or_path": source, "per_class": part}
        training["test"]["per_class"] = _PER_CLASS["test"]
        training["victim"] |= {**_SHARED, "epochs": _VICTIM_EPOCHS}
        training["seeds"] = (0,)
        result = evaluate.run(training, workdir / f"victim-{name}", quiet=quiet)
        found[name] = result["final"]["mean"]
    print(f"\nprotected: {artifact.describe(made)}")
    print(f"picture: {workdir / 'protected.png'}\n")
    print("victim trained on   accuracy on clean test images")
    for name, accuracy in found.items():
        print(f"{name:<20}{100 * accuracy:.1f} %")
    return found


def main(rest: Sequence[str]) -> None:
    """Runs the demonstration."""
    del rest
    cli.keep_compiled()
    run(pathlib.Path(flags.FLAGS.workdir))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/demo", "Directory of the demonstration.")
    try:
        app.run(main, flags_parser=cli.parse)
    except (ValueError, OSError) as error:
        cli.fail(error)
