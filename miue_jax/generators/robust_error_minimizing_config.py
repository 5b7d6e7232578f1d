"""The settings of REM, and of SEM and EM as special cases."""

import dataclasses

from miue_jax._checks import check_number
from miue_jax.generators.surrogate import SurrogateConfig, check_radius


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustErrorMinimizingConfig(SurrogateConfig):
    """Settings of REM, SEM and EM; the surrogate's settings are inherited.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of the perturbation's projected gradient, in gray levels.
      pgd_steps: of the perturbation, from a random start at each visit.
      transformations: random views over which each of these steps takes the mean. They
        pass through the network together, as a batch that many times as large.
      crop: pixels by which a view is shifted at most, as by a victim's random crop; 0
        for none.
      mirror: whether a view is mirrored with probability one half besides.
      adversarial_radius: largest change of a channel by the adversary, in gray levels;
        0 for no adversary.
      adversarial_step_size: of its projected gradient, in gray levels.
      adversarial_steps: of the adversary, from a random start on each view; 0 leaves
        it at the start, which is SEM's uniform noise.
      iterations: batches of training.
      learning_rate_drop: factor of the learning rate at each of its drops.
      learning_rate_drop_every: batches of training from one drop to the next.
    """

    radius: float = 8.0
    step_size: float = 1.6
    pgd_steps: int = 10
    transformations: int = 5
    crop: int = 4
    mirror: bool = True
    adversarial_radius: float = 4.0
    adversarial_step_size: float = 0.8
    adversarial_steps: int = 10
    iterations: int = 5000
    learning_rate_drop: float = 0.1
    learning_rate_drop_every: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_radius(self.radius)
        for name in ("step_size", "adversarial_step_size"):
            check_number(name, getattr(self, name), "> 0")
        whole = ("pgd_steps", "transformations", "iterations")
        for name in (*whole, "learning_rate_drop_every"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("crop", "adversarial_steps"):
            check_number(name, getattr(self, name), ">= 0", whole=True)
        check_number("adversarial_radius", self.adversarial_radius, ">= 0")
        if self.adversarial_radius > 255:
            raise ValueError(
                f"adversarial_radius is {self.adversarial_radius!r}; allowed: gray "
                "levels from 0 to 255"
            )
        check_number("learning_rate_drop", self.learning_rate_drop, "in (0, 1]")


# "sem" replaces the adversary's steps by noise, in training and in generation, which
# takes about a tenth of the time. Unlike the published script all visit every image
# after training (the script leaves out the last, incomplete batch), and give the
# network values in [0, 1], not in [-0.5, 0.5]; perturbations stay in the image box
# throughout. "em" is EM as in REM's code, from which several papers took theirs: the
# images as they are, no adversary, and perturbations made from noise at each visit,
# where EM's own code goes on with those of the visit before.
PRESETS: dict[str, RobustErrorMinimizingConfig] = {
    "rem": RobustErrorMinimizingConfig(),
    "sem": RobustErrorMinimizingConfig(adversarial_steps=0),
    "em": RobustErrorMinimizingConfig(
        adversarial_radius=0, transformations=1, crop=0, mirror=False
    ),
}
