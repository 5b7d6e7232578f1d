"""One sweep for every launcher: two generators, three defenses, two seeds.

    miue sweep --config experiments/launched_sweep.py --launcher local --devices 1 \
        --workdir runs/local
    miue sweep --config experiments/launched_sweep.py --launcher ray --cpus 1 \
        --workdir runs/ray
    miue sweep --config experiments/launched_sweep.py --launcher slurm --cpus 1 \
        --workdir runs/slurm

The result are fourteen cells that are equal whoever ran them: the bytes of the
protected data sets, and all accuracies. It takes about four minutes by each launcher on
a core that other programs use, once the programs are compiled. Victims are too small to
learn much in two epochs; what they learn is not the question.
"""

from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.workflows.sweep.plan import Sweep, row

_SMALL = {"model": "resnet10", "width": 8, "epochs": 2}


def get_config() -> Sweep:
    """Returns the sweep."""
    return Sweep(
        data=DataSource("shapes", per_class=50),
        test=DataSource("shapes", split="test", per_class=20),
        generators={
            "em": row("error_minimizing/interleaved", **_SMALL),
            "mi_ue": row("mi_ue/interleaved", **_SMALL),
        },
        defenses={"none": "none", "jpeg_50": "jpeg-50", "cutout": "cutout"},
        victims={"small": victims.preset("quick", batch_size=32, **_SMALL)},
        seeds=(0, 1),
    )
