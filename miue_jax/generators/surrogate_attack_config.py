"""The settings of generators that attack a finished surrogate."""

import dataclasses

from miue_jax._checks import check_choice, check_number
from miue_jax.generators.surrogate import check_radius
from miue_jax.generators.surrogate_training import SurrogateTrainingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateAttackConfig(SurrogateTrainingConfig):
    """The attack on a finished surrogate; the surrogate's settings are inherited.

    Attributes:
      objective: "next_class" makes the surrogate take an image of class y for one of
        y + 1 (mod K), "own_class" for one of y even more surely, "other_class" for
        anything but y.
      radius: largest change of a channel, in gray levels.
      step_size: of a projected-gradient step, in gray levels.
      pgd_steps: projected-gradient steps on each image.
      start: of a perturbation: "zero"; "uniform" in the ball; "normal" with the radius
        as deviation, cut off at the radius.
      shift: largest shift of the views, see `shift_and_flip`.
      perturbation_batch_size: global batch of the visits.
    """

    objective: str = "next_class"
    radius: float = 8.0
    step_size: float = 0.4
    pgd_steps: int = 250
    start: str = "zero"
    shift: float = 8 / 31
    perturbation_batch_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(
            "objective", self.objective, ("next_class", "own_class", "other_class")
        )
        check_radius(self.radius)
        check_number("step_size", self.step_size, "> 0")
        check_number("pgd_steps", self.pgd_steps, "> 0", whole=True)
        check_choice("start", self.start, ("zero", "uniform", "normal"))
        check_number("shift", self.shift, "in [0, 1]")
        size = self.perturbation_batch_size
        check_number("perturbation_batch_size", size, "> 0", whole=True)
