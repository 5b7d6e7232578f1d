"""The published setting on CIFAR-10 for one GPU or TPU: ResNet-18, all 50,000 images.

    python experiments/compare.py --config experiments/configs/cifar10_gpu.py \
        --workdir runs/cifar10_gpu

MI-UE as the released command runs it (100 epochs of training and 1,000 steps on every
image) and interleaved (30 epochs), in bfloat16; three victims each by the `em` protocol
(60 epochs), without defence and after JPEG compression. Not run yet: its time is not
known. `--config.sources.mi_ue_authors_code.epochs=10` shortens the longest part.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from miue_jax import methods, training


def _method(name: str, preset: str) -> dict[str, Any]:
    settings = dataclasses.replace(methods.preset(name, preset), dtype="bfloat16")
    return {"name": name, **dataclasses.asdict(settings)}


def get_config() -> ConfigDict:
    """Returns the configuration of the comparison."""
    data = {
        "name_or_path": "cifar10",
        "per_class": config_dict.placeholder(int),
        "seed": 0,
        "data_dir": config_dict.placeholder(str),
    }
    victim = dataclasses.asdict(
        dataclasses.replace(training.PROTOCOLS["em"], dtype="bfloat16")
    )
    return ConfigDict(
        {
            "data_name": "CIFAR-10",
            "data": {**data, "split": "train"},
            "test": {**data, "split": "test"},
            "sources": {
                "clean": config_dict.placeholder(dict),
                "mi_ue_authors_code": _method("mi_ue", "authors_code"),
                "mi_ue_interleaved": _method("mi_ue", "interleaved"),
            },
            "victims": {
                "resnet18": {"protocol": victim, "defense": "none"},
                "resnet18_jpeg10": {"protocol": victim, "defense": "jpeg-10"},
            },
            "seeds": (0, 1, 2),
            "generator_seed": 0,
            "evaluate_every": 1,
        }
    )
