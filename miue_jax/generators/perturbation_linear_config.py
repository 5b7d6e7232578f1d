"""The settings of PIL."""

import dataclasses

from miue_jax._checks import check_number
from miue_jax.generators.surrogate import check_radius


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerturbationLinearConfig:
    """Settings of PIL.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of a step of sign descent, in gray levels.
      pgd_steps: steps of sign descent on each image's noise.
      noise_weight: in [0, 1], of the loss of the noise alone; what remains is the
        weight of the loss of the image without the noise.
      depth: matrices of the linear classifier, without bias; their product is one.
      epochs: passes of the classifier over the clean images.
      batch_size: global batch, of training and of sign descent.
      learning_rate: of the first epoch; a cosine over the epochs takes it to 0.
      momentum: of the classifier's SGD.
    """

    radius: float = 8.0
    step_size: float = 0.8
    pgd_steps: int = 30
    noise_weight: float = 0.9
    depth: int = 2
    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 0.003
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_radius(self.radius)
        for name in ("step_size", "learning_rate"):
            check_number(name, getattr(self, name), "> 0")
        for name in ("pgd_steps", "depth", "epochs", "batch_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        check_number("noise_weight", self.noise_weight, "in [0, 1]")
        check_number("momentum", self.momentum, "in [0, 1)")


# The last batch of a pass is filled up from the front; the published one is smaller.
PRESETS: dict[str, PerturbationLinearConfig] = {"published": PerturbationLinearConfig()}
