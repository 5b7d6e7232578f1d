"""Perturbations kept in eight bits or bfloat16 between visits, beside float32.

    miue sweep DATA --test DATA --config experiments/storage.py \
        --data-name CIFAR-10 --workdir runs/storage

DATA is CIFAR-10: `cifar10` (TFDS), an image folder, the original binary archive or a
.npz file of its arrays. The result is results/storage_cpu.json: victims of three seeds
of the generator have 13.3, 10.4, 10.1 % with float32, 13.0, 18.5, 10.3 % with int8 and
16.9, 10.7, 13.8 % with bfloat16, whose first is the median of three victims (15.7,
16.9, 52.9). It takes about six minutes of a core for a generator and two to three for
each victim.

5,000 training and 5,000 test images, `mi_ue/interleaved` with a ResNet-10 of width 16
in 15 epochs, victims of the matrix (`matrix_cifar10_cpu.py`).
"""

from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.generators.perturbation_store import STORAGES
from miue_jax.workflows.sweep.plan import Block, Sweep, row

# Whether a perturbation of MI-UE holds depends on its draw, and a victim's luck.
GENERATOR_SEEDS = (0, 1, 2)

DRAWN = {
    f"{storage}_{seed}": row(
        "mi_ue/interleaved", model="resnet10", epochs=15, storage=storage, seed=seed
    )
    for seed in GENERATOR_SEEDS
    for storage in STORAGES
}


def get_config() -> Sweep:
    """Returns the sweep."""
    return Sweep(
        data=DataSource("cifar10", per_class=500),
        test=DataSource("cifar10", split="test", per_class=500),
        generators=DRAWN,
        defenses={"none": "none"},
        victims={
            "resnet10": victims.preset(
                "quick", epochs=10, batch_size=32, learning_rate=0.05
            )
        },
        seeds=(0, 1, 2),
        blocks=(
            Block(seeds=(0,)),
            # Its first victim learned.
            Block(generators=("bfloat16_0",)),
        ),
        evaluate_every=2,
    )
