"""Protects one data set with one generator.

The argument names the generator and its preset, `mi_ue/interleaved` when left out:

    python experiments/generate.py --workdir runs/cifar10 \
        --config experiments/configs/generate.py:mi_ue/authors_code \
        --config.data.name_or_path=cifar10 --config.method.dtype=bfloat16

Data: "shapes", a TFDS name, or the path of an image folder, a .npz file or an original
CIFAR archive. The fields of a method are those of its config in miue_jax/methods/.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from miue_jax import generators

_OPTIONAL = {"int | None": int, "float | None": float}


def as_config(settings: Any) -> ConfigDict:
    """A frozen dataclass as a config whose empty fields can still be set."""
    values = ConfigDict()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None:
            value = config_dict.placeholder(_OPTIONAL[_annotation(field)])
        values[field.name] = value
    return values


def _annotation(field: dataclasses.Field) -> str:
    return field.type if isinstance(field.type, str) else str(field.type)


def get_config(argument: str = "mi_ue/interleaved") -> ConfigDict:
    """Returns the configuration of a run.

    Args:
      argument: "method" or "method/preset".

    Returns:
      The configuration.
    """
    name, _, preset = argument.partition("/")
    settings = as_config(generators.preset(name, preset or None))
    method = ConfigDict({"name": name})
    method.update(settings)
    return ConfigDict(
        {
            "data": {
                "name_or_path": "shapes",
                "split": "train",
                "per_class": config_dict.placeholder(int),
                "seed": 0,
                "data_dir": config_dict.placeholder(str),
            },
            "method": method,
            "protect": {
                "fraction": 1.0,
                "classes": config_dict.placeholder(tuple),
                "seed": 0,
            },
            # How the perturbation becomes whole gray levels: "round", "truncate" or, as
            # in the code of EM, "drop_negative".
            "export": "round",
            "seed": 0,
            # Shards of the data; as many as devices when not set. Results depend on it,
            # not on the devices: set it to reproduce a larger machine on a smaller one.
            "num_shards": config_dict.placeholder(int),
            "checkpoint_every": 200,
        }
    )
