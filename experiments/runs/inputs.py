"""What the configurations of several scripts have in common, checked."""

from typing import Any

import jax


def check_seeds(name: str, seeds: Any) -> None:
    """Checks the seeds of runs that must differ.

    Args:
      name: what they are called in the configuration.
      seeds: of the runs, in a list or tuple.

    Raises:
      ValueError: if there is none, or one is no integer that a key can be made of, or
        two are the same.
    """
    if not isinstance(seeds, list | tuple):
        raise ValueError(f"{name} is {seeds!r}; it must be a list of integers")
    if not seeds:
        raise ValueError(f"{name} is empty; name at least one")
    for seed in seeds:
        # Of a larger number a key would take 32 bits and leave the rest.
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(
                f"{name} holds {seed!r}; allowed: integers from 0 to 2**32 - 1"
            )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name} is {tuple(seeds)}; they must differ")


def number_of_shards(given: int | None, mesh: jax.sharding.Mesh) -> int:
    """The number of shards that was given, or one for each device.

    Args:
      given: `num_shards` of the configuration.
      mesh: the devices.

    Returns:
      A positive number.

    Raises:
      ValueError: if another was given.
    """
    if given is None:
        return mesh.size
    if given <= 0:
        raise ValueError(f"num_shards is {given}; it must be positive")
    return given
