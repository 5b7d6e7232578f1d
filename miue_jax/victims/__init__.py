"""Victims: classifiers trained from scratch on protected data, by published protocols.

A `VictimConfig` is a protocol; `preset` returns a published one by name, and `victim`
builds the training as pure functions.
"""

import dataclasses
from typing import Any

from miue_jax import _checks, _settings
from miue_jax.victims.presets import PROTOCOLS, VictimConfig
from miue_jax.victims.training import Victim, victim

__all__ = ["NAMES", "Victim", "VictimConfig", "preset", "victim"]

NAMES: tuple[str, ...] = tuple(PROTOCOLS)


def preset(name: str, **changes: Any) -> VictimConfig:
    """Returns a published protocol.

    Args:
      name: one of ``NAMES``.
      **changes: settings that differ from the protocol's.

    Returns:
      The settings.

    Raises:
      ValueError: if the name or a setting is unknown (with the nearest ones), or a
        value is not allowed.

    Example:
      >>> from miue_jax import victims
      >>> victims.preset("quick", epochs=3).epochs
      3
    """
    if name not in PROTOCOLS:
        raise _checks.unknown("protocol", name, PROTOCOLS)
    settings = {**dataclasses.asdict(PROTOCOLS[name]), **changes}
    return _settings.from_plain(VictimConfig, settings, name)
