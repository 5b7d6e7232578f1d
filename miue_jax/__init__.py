"""Mutual-information unlearnable examples as pure JAX functions.

    import miue_jax as mj

The losses (`mi_ue_loss`, `similarity_loss`, `distance_loss`,
`conditional_covariance_loss`), projected gradient (`pgd`, `Budget`) and the workflows
(`protect`, `protect_folder`, `evaluate`, `sweep`) are functions of this package;
`generators`, `defenses`, `victims`, `models`, `data`, `features`, `information`,
`pictures`, `protector` and `testing` are its parts. Each is imported when it is first
used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name is defined; None for a module of its own name.
_PUBLIC = {
    "Budget": "budget",
    "Protector": "protector.protector",
    "Sweep": "workflows.sweep.plan",
    "conditional_covariance_loss": "losses",
    "data": None,
    "defenses": None,
    "distance_loss": "losses",
    "evaluate": "workflows.evaluate",
    "features": None,
    "generators": None,
    "information": None,
    "mi_ue_loss": "losses",
    "models": None,
    "pgd": "projected_gradient",
    "pictures": None,
    "protect": "workflows.protect",
    "protect_folder": "workflows.folder.run",
    "protector": None,
    "similarity_loss": "losses",
    "sweep": "workflows.sweep.run",
    "testing": None,
    "victims": None,
}

if TYPE_CHECKING:
    from miue_jax import data as data
    from miue_jax import defenses as defenses
    from miue_jax import features as features
    from miue_jax import generators as generators
    from miue_jax import information as information
    from miue_jax import models as models
    from miue_jax import pictures as pictures
    from miue_jax import protector as protector
    from miue_jax import testing as testing
    from miue_jax import victims as victims
    from miue_jax.budget import Budget as Budget
    from miue_jax.losses import (
        conditional_covariance_loss as conditional_covariance_loss,
    )
    from miue_jax.losses import distance_loss as distance_loss
    from miue_jax.losses import mi_ue_loss as mi_ue_loss
    from miue_jax.losses import similarity_loss as similarity_loss
    from miue_jax.projected_gradient import pgd as pgd
    from miue_jax.protector.protector import Protector as Protector
    from miue_jax.workflows.evaluate import evaluate as evaluate
    from miue_jax.workflows.folder.run import protect_folder as protect_folder
    from miue_jax.workflows.protect import protect as protect
    from miue_jax.workflows.sweep.plan import Sweep as Sweep
    from miue_jax.workflows.sweep.run import sweep as sweep

__all__ = ["__version__", *_PUBLIC]  # pyrefly: ignore


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PUBLIC[name]
    module = importlib.import_module(f"{__name__}.{place or name}")
    value = module if place is None else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
