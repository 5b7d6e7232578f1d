"""Trains victims by one protocol.

The argument names the protocol (authors, em, quick), `quick` when left out:

    python experiments/evaluate.py --workdir runs/cifar10-victims \
        --config experiments/configs/evaluate.py:em \
        --config.train.name_or_path=runs/cifar10/protected.npz \
        --config.test.name_or_path=cifar10 --config.seeds='(0, 1, 2)'
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from miue_jax import names, training


def get_config(argument: str = "quick") -> ConfigDict:
    """Returns the configuration of a run.

    Args:
      argument: name of the protocol.

    Returns:
      The configuration.

    Raises:
      ValueError: if there is no such protocol.
    """
    if argument not in training.PROTOCOLS:
        raise names.unknown("protocol", argument, training.PROTOCOLS)
    victim = dataclasses.asdict(training.PROTOCOLS[argument])
    return ConfigDict(
        {
            "train": _source("train"),
            "test": _source("test"),
            "victim": {
                k: config_dict.placeholder(int) if v is None else v
                for k, v in victim.items()
            },
            "defense": "none",
            "seeds": (0, 1, 2),
            "num_shards": config_dict.placeholder(int),
            # Both in epochs; the last one always counts.
            "evaluate_every": 1,
            "checkpoint_every": 1,
        }
    )


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
