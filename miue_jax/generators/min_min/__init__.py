"""Min-min generation: a surrogate and a perturbation that improve in turn.

The surrogate is trained on perturbed images; the perturbations are moved by projected
gradient so that an objective of the surrogate's outputs decreases. EM and MI-UE differ
in the objective and in how often they alternate.
"""

from miue_jax.generators.min_min.config import MinMinConfig
from miue_jax.generators.min_min.generator import min_min
from miue_jax.generators.min_min.state import Objective, Outputs

__all__ = ["MinMinConfig", "Objective", "Outputs", "min_min"]
