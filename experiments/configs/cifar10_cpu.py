"""Generators against each other on a part of CIFAR-10, small enough for two cores.

    python experiments/compare.py --config experiments/configs/cifar10_cpu.py \
        --config.data.name_or_path=DIR --config.test.name_or_path=DIR \
        --workdir runs/cifar10_cpu

DIR is CIFAR-10: `cifar10` (TFDS), an image folder, the original binary archive or a
.npz file of its arrays. 5,000 training images, all test images, a ResNet-10 of width 16
as surrogate and victim, a VGG-11 of width 16 as the victim of another architecture. All
generators that train a surrogate get about 30 passes over the data. Takes about three
hours of one core; started twice at once, the processes share the work.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from miue_jax import methods, training


def _method(name: str, preset: str, **changes: Any) -> dict[str, Any]:
    settings = methods.preset(name, preset)
    if hasattr(settings, "model"):
        changes["model"] = "resnet10"
    settings = dataclasses.replace(settings, **changes)
    return {"name": name, **dataclasses.asdict(settings)}


def get_config() -> ConfigDict:
    """Returns the configuration of the comparison."""
    data = {
        "name_or_path": "cifar10",
        "per_class": 500,
        "seed": 0,
        "data_dir": config_dict.placeholder(str),
    }
    victim = dataclasses.asdict(training.PROTOCOLS["quick"])
    # The further columns ask who wins, not how high clean accuracy can rise.
    shorter = {**victim, "epochs": 20}
    return ConfigDict(
        {
            "data_name": "CIFAR-10",
            "data": {**data, "split": "train"},
            "test": {
                **data,
                "split": "test",
                "per_class": config_dict.placeholder(int),
            },
            "sources": {
                "clean": config_dict.placeholder(dict),
                "random_noise": _method("random_noise", "uniform"),
                # Three epochs of training and thirty steps on every image.
                "em": _method("error_minimizing", "plain", epochs=3),
                "em_interleaved": _method("error_minimizing", "interleaved", epochs=15),
                "mi_ue_paper": _method("mi_ue", "paper", epochs=3),
                "mi_ue_interleaved": _method("mi_ue", "interleaved", epochs=15),
            },
            "victims": {
                "resnet10": {"protocol": victim, "defense": "none"},
                "vgg11": {
                    "protocol": {**shorter, "model": "vgg11", "width": 16},
                    "defense": "none",
                },
                "resnet10_jpeg10": {"protocol": shorter, "defense": "jpeg-10"},
            },
            "seeds": (0, 1),
            "generator_seed": 0,
            # In epochs: all 10,000 test images cost as much as training an epoch.
            "evaluate_every": 10,
        }
    )
