"""Protectors: fitted once, they protect a picture by one forward pass of a network."""

from miue_jax.protector.clusters import Clusters
from miue_jax.protector.fitting import Fit, FitConfig, State, fit
from miue_jax.protector.full_size import lay, thumbnail
from miue_jax.protector.network import UNet
from miue_jax.protector.protector import (
    Protector,
    Settings,
    digest,
    load,
    save,
    shipped,
    untrained,
)

__all__ = [
    "Clusters",
    "Fit",
    "FitConfig",
    "Protector",
    "Settings",
    "State",
    "UNet",
    "digest",
    "fit",
    "lay",
    "load",
    "save",
    "shipped",
    "thumbnail",
    "untrained",
]
