"""The matrix of all generators at their published settings.

    miue sweep cifar10 --config experiments/matrix_cifar10_gpu.py --devices 8 \
        --workdir runs/cifar10_gpu

It has not been run yet, for want of a GPU: neither its result nor its time is known. To
compare with: the published tables have MI-UE hold out against adversarial training.

ResNet-18, all images of the data (any data set will do), generators as published but
for AP, which takes one restart of its eight, in bfloat16, SEP as its paper has it, and
all perturbations rounded to gray levels. Victims train by EM's protocol, behind
adversarial training by MI-UE's and behind UEraser by its own.
"""

from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.workflows.sweep.plan import Block, Sweep, row

FAST = {"dtype": "bfloat16"}

GENERATORS = {
    "clean": None,
    "mi_ue_authors": row("mi_ue/authors_code", **FAST),
    "mi_ue_interleaved": row("mi_ue/interleaved", **FAST),
    "em": row("error_minimizing/published", **FAST),
    "em_interleaved": row("error_minimizing/interleaved", **FAST),
    "ap": row("adversarial_poisoning/targeted", **FAST, restarts=1),
    "sem": row("robust_error_minimizing/sem", **FAST),
    "rem": row("robust_error_minimizing/rem", **FAST),
    "sep": row("self_ensemble/variance_reduced", **FAST),
    "hypo": row("hypocritical", **FAST),
    "ntga": row("neural_tangent"),
    "pil": row("perturbation_linear"),
    "lsp": row("linear_synthetic"),
    "ar": row("autoregressive"),
    "ops": row("one_pixel"),
    "cuda": row("convolution_filter"),
}

DEFENSES = {
    "none": "none",
    "jpeg_10": "jpeg-10",
    "grayscale": "grayscale",
    "at_4": "adversarial_training-4",
    "ueraser": "ueraser",
}

VICTIMS = {
    "resnet18": victims.preset("em", **FAST),
    # Adversarial training and UEraser take longer than others.
    "resnet18_adversarial": victims.preset("authors_adversarial", **FAST),
    "resnet18_ueraser": victims.preset("ueraser", **FAST),
}
PLAIN = ("resnet18",)


def get_config() -> Sweep:
    """Returns the sweep."""
    return Sweep(
        data=DataSource("cifar10"),
        generators=GENERATORS,
        defenses=DEFENSES,
        victims=VICTIMS,
        blocks=(
            Block(defenses=("none", "jpeg_10", "grayscale"), victims=PLAIN),
            Block(defenses=("at_4",), victims=("resnet18_adversarial",)),
            Block(defenses=("ueraser",), victims=("resnet18_ueraser",)),
            Block(defenses=("none", "jpeg_10"), victims=PLAIN, seeds=(1, 2)),
        ),
        evaluate_every=2,
    )
