"""Mutual information: estimators, provable bounds, tasks with known truth, inference.

The subpackages are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miue_jax.information import bounds as bounds
    from miue_jax.information import estimators as estimators
    from miue_jax.information import inference as inference
    from miue_jax.information import tasks as tasks
    from miue_jax.information import testing as testing
    from miue_jax.information._core import Estimate as Estimate

__all__ = ["Estimate", "bounds", "estimators", "inference", "tasks", "testing"]


def __getattr__(name: str) -> Any:
    if name == "Estimate":
        return importlib.import_module(f"{__name__}._core").Estimate
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
