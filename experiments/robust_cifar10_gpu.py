"""All of CIFAR-10 protected so that it outlasts compression, on one GPU.

    miue sweep cifar10 --config experiments/robust_cifar10_gpu.py \
        --workdir runs/robust_gpu

It has not been run yet, for want of a GPU: neither its result nor its time is known. It
is meant for ten minutes of one H100; what takes longer is resumed by the same command.

ResNet-18 in bfloat16 as surrogate, 30 epochs of `mi_ue/robust` with four steps a visit,
and as victim, EM's protocol cut to 15 epochs: plain, behind JPEG of quality 10 and
behind gray. The matrix of all generators is experiments/matrix_cifar10_gpu.py.
"""

from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.workflows.sweep.plan import Sweep, row

FAST = {"dtype": "bfloat16"}


def get_config() -> Sweep:
    """Returns the sweep."""
    return Sweep(
        data=DataSource("cifar10"),
        generators={
            "clean": None,
            "mi_ue_robust": row("mi_ue/robust", **FAST, epochs=30, pgd_steps=4),
        },
        defenses={"none": "none", "jpeg_10": "jpeg-10", "grayscale": "grayscale"},
        victims={"resnet18": victims.preset("em", **FAST, epochs=15)},
        evaluate_every=5,
    )
