"""The matrix of all generators and defenses on two cores of a CPU.

    miue sweep DATA --test DATA --config experiments/matrix_cifar10_cpu.py \
        --data-name CIFAR-10 --devices 2 --workdir runs/matrix

DATA is CIFAR-10: `cifar10` (TFDS), an image folder, the original binary archive or a
.npz file of its arrays. The result is results/matrix_cpu.json: without a defense
interleaved MI-UE leaves 10.7 % of 58.4 %, JPEG at quality 10 brings it back to 53.9 %.
It takes about two minutes of one core per victim without a costly defense, and there
are 246 of them; the most informative cells run first, and table.md and heat_map.png
show what is done so far.

5,000 training and 5,000 test images, a ResNet-10 of width 16 as surrogate and as
victim, ten epochs in batches of 32. Generators that train a surrogate are cut down to
some tens of passes over the data; they are far from their published strength, and
comparisons hold for this budget only. The EM of the cells with several seeds is the
interleaved one, by far the stronger in as many passes.
"""

from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.workflows.sweep.plan import Block, Sweep, row

SMALL = {"model": "resnet10"}
ATTACK = {**SMALL, "epochs": 10, "pgd_steps": 30, "step_size": 1.0}
INTERLEAVED = {**SMALL, "epochs": 15}

# The cheap and the strong ones first.
GENERATORS = {
    "clean": None,
    "mi_ue_interleaved": row("mi_ue/interleaved", **INTERLEAVED),
    "mi_ue_robust": row("mi_ue/robust", **SMALL),
    "em_interleaved": row("error_minimizing/interleaved", **INTERLEAVED),
    # As many batches as published; longer steps of the classifier diverge.
    "pil": row("perturbation_linear", epochs=300),
    "lsp": row("linear_synthetic"),
    "ar": row("autoregressive"),
    "ops": row("one_pixel"),
    "cuda": row("convolution_filter"),
    "random_noise": row("random_noise"),
    "ap": row("adversarial_poisoning/targeted", **ATTACK, restarts=1),
    # Three epochs of training and thirty steps on every image.
    "mi_ue_authors": row("mi_ue/authors_code", **SMALL, epochs=3),
    "em": row("error_minimizing/plain", **SMALL, epochs=3),
    "ntga": row("neural_tangent", block_size=128, validation_size=512),
    "sem": row(
        "robust_error_minimizing/sem",
        **SMALL,
        iterations=240,
        learning_rate_drop_every=100,
        pgd_steps=4,
        step_size=3.0,
        transformations=2,
    ),
    "sep": row(
        "self_ensemble/variance_reduced",
        **{**ATTACK, "pgd_steps": 6, "step_size": 3.0},
        checkpoints=3,
        inner_steps=3,
    ),
    "hypo": row(
        "hypocritical", **{**ATTACK, "epochs": 3, "pgd_steps": 20}, train_pgd_steps=2
    ),
    "rem": row(
        "robust_error_minimizing/rem",
        **SMALL,
        iterations=200,
        learning_rate_drop_every=80,
        pgd_steps=3,
        step_size=4.0,
        transformations=1,
        adversarial_steps=2,
        adversarial_step_size=2.0,
    ),
}

ADVERSARIAL = {
    "name": "adversarial_training",
    "num_steps": 3,
    "protocol": "miue",
    "eval_steps": 10,
}

DEFENSES = {
    "none": "none",
    "jpeg_10": "jpeg-10",
    "grayscale": "grayscale",
    "jpeg_50": "jpeg-50",
    "bit_depth_2": "bit_depth-2",
    "cutout": "cutout",
    "cutmix": "cutmix",
    # As many steps as published.
    "orthogonal_projection": {"name": "orthogonal_projection", "epochs": 200},
    "at_2": {**ADVERSARIAL, "radius": 2, "step_size": 1.0},
    "at_8": {**ADVERSARIAL, "radius": 8, "step_size": 4.0},
    "ueraser": "ueraser",
}

DEPTH = (
    *("clean", "em_interleaved", "ap", "rem", "pil"),
    *("mi_ue_authors", "mi_ue_interleaved"),
)
TRAINED = ("at_2", "ueraser", "at_8")
PUBLISHED = ("none", "jpeg_10", "jpeg_50", "grayscale")
BREADTH = ("jpeg_50", "bit_depth_2", "cutout", "cutmix", "orthogonal_projection")


def get_config() -> Sweep:
    """Returns the sweep."""
    return Sweep(
        data=DataSource("cifar10", per_class=500),
        test=DataSource("cifar10", split="test", per_class=500),
        generators=GENERATORS,
        defenses=DEFENSES,
        victims={
            # In 390 batches of 128 a victim does not find what OPS, LSP and PIL offer.
            "resnet10": victims.preset(
                "quick", epochs=10, batch_size=32, learning_rate=0.05
            )
        },
        blocks=(
            Block(defenses=("none",)),
            Block(defenses=("jpeg_10", "grayscale")),
            Block(generators=DEPTH, defenses=TRAINED),
            Block(generators=DEPTH, defenses=("none", "jpeg_10"), seeds=(1, 2)),
            Block(defenses=BREADTH),
            Block(generators=DEPTH, defenses=TRAINED, seeds=(1, 2)),
            # What happens to pictures that are published.
            Block(generators=("mi_ue_robust",), defenses=PUBLISHED, seeds=(1, 2)),
            Block(generators=("mi_ue_robust",), defenses=TRAINED),
        ),
        # The 5,000 test images cost a third of training an epoch.
        evaluate_every=2,
    )
