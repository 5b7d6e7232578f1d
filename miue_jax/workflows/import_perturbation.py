"""Makes a protected data set from a perturbation that another program generated.

    python experiments/import_perturbation.py --data cifar10 \
        --perturbation poison.npy --radius 8 --output runs/theirs/protected.npz

Reads .npy, .npz, PNG folders and PyTorch's .pt (without running what it may contain).
The result is audited and evaluated like any other.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from miue_jax import cli, data
from miue_jax.budget import NORMS, Budget
from miue_jax.data import artifact, exchange

_DATA = flags.DEFINE_string("data", None, "The clean data: a name or a path.")
_PERTURBATION = flags.DEFINE_string("perturbation", None, "File or folder to read.")
_NORM = flags.DEFINE_enum("norm", "linf", NORMS, "Norm that bounds the change.")
_RADIUS = flags.DEFINE_float(
    "radius", 8.0, "Its largest value: gray levels (linf), [0, 1] units (l2), pixels."
)
_CLASS_WISE = flags.DEFINE_bool("class_wise", None, "One for every class, not image.")
_EXPORT = flags.DEFINE_enum(
    "export", "round", EXPORTS, "How it becomes whole gray levels."
)
_OUTPUT = flags.DEFINE_string("output", None, "The .npz file to write.")


def main(rest: Sequence[str]) -> None:
    """Imports what the flags name."""
    del rest
    name, source, output = _DATA.value, _PERTURBATION.value, _OUTPUT.value
    if name is None or source is None or output is None:
        raise ValueError("give --data, --perturbation and --output")
    artifact.check_name(output)
    clean = data.load(name)
    delta = exchange.import_perturbation(source, clean, class_wise=_CLASS_WISE.value)
    made = artifact.build(
        clean,
        delta,
        budget=_budget(_NORM.value, _RADIUS.value),
        export=_EXPORT.value,
        metadata={"method": {"name": "imported", "file": pathlib.Path(source).name}},
    )
    pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
    artifact.save(output, made, delta=delta)
    print(f"{output}: {artifact.describe(made)}")


def _budget(norm: str, radius: float) -> Budget:
    if norm == "unbounded":
        return Budget(norm, None)
    return Budget(norm, int(radius) if norm == "l0" and radius.is_integer() else radius)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=cli.parse)
    except (ValueError, OSError) as error:
        cli.fail(error)
