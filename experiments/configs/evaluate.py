"""Trains victims by one protocol.

The argument names the protocol (`miue_jax.victims.presets`: em, iss, authors, ...), `quick`
when left out, and after a slash perhaps the defense, all settings of which can then be
set:

    python experiments/evaluate.py --workdir runs/cifar10-victims \
        --config experiments/configs/evaluate.py:em \
        --config.train.name_or_path=runs/cifar10/protected.npz \
        --config.test.name_or_path=cifar10 --config.seeds='(0, 1, 2)'
    python experiments/evaluate.py --workdir runs/cifar10-adversarial \
        --config experiments/configs/evaluate.py:rem_adversarial/adversarial_training \
        --config.train.name_or_path=runs/cifar10/protected.npz \
        --config.test.name_or_path=cifar10 \
        --config.defense.radius=4 --config.defense.protocol=rem
"""

from configs.generate import as_config
from ml_collections import ConfigDict, config_dict

from miue_jax import _checks, defenses
from miue_jax.victims import presets


def get_config(argument: str = "quick") -> ConfigDict:
    """Returns the configuration of a run.

    Args:
      argument: "protocol" or "protocol/defense".

    Returns:
      The configuration.

    Raises:
      ValueError: if there is no such protocol or defense.
    """
    protocol, _, defense = argument.partition("/")
    if protocol not in presets.PROTOCOLS:
        raise _checks.unknown("protocol", protocol, presets.PROTOCOLS)
    return ConfigDict(
        {
            "train": _source("train"),
            "test": _source("test"),
            "victim": as_config(presets.PROTOCOLS[protocol]),
            "defense": _defense(defense) if defense else "none",
            "seeds": (0, 1, 2),
            "num_shards": config_dict.placeholder(int),
            # Both in epochs; the last one always counts.
            "evaluate_every": 1,
            "checkpoint_every": 1,
        }
    )


def _defense(name: str) -> ConfigDict:
    config = ConfigDict({"name": name})
    for field, parameter in defenses.parameters(name).items():
        value = parameter.default
        if value is None or value is parameter.empty:
            whole = parameter.annotation in (int, int | None)
            value = config_dict.placeholder(int if whole else float)
        config[field] = value
    return config


def _source(split: str) -> ConfigDict:
    return ConfigDict(
        {
            "name_or_path": "shapes",
            "split": split,
            "per_class": config_dict.placeholder(int),
            "seed": 0,
            "data_dir": config_dict.placeholder(str),
        }
    )
