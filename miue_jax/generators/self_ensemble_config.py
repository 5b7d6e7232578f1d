"""The settings of SEP, and its variants by name."""

import dataclasses

from miue_jax._checks import check_choice, check_number
from miue_jax.generators.surrogate import check_radius
from miue_jax.generators.surrogate_training import SurrogateTrainingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfEnsembleConfig(SurrogateTrainingConfig):
    """Settings of SEP; those of the protecting training are inherited.

    The published code keeps a checkpoint whenever the accuracy on test data improves,
    and takes every so many-th of them. That takes test data, which a generator does not
    have: here the checkpoints are those after evenly spaced epochs, the last included.

    Attributes:
      checkpoints: n, at most one an epoch. They are all held in memory, and saved with
        the state of a run.
      objective: "cross_entropy" toward the class y + K // 2 (mod K), or "features",
        the mean squared distance of the last layer's features from that class's mean
        over the clean data, for each checkpoint its own.
      radius: largest change of a channel, in gray levels.
      step_size: of a step, in gray levels.
      pgd_steps: steps on each image.
      inner_steps: steps of variance reduction within each of them; 0 for none.
      inner_means: whose class means the inner steps aim at, the drawn checkpoint's
        "own" or the "last" one's; the other steps take its own always. Of no effect
        without inner steps, or toward no means.
      perturbation_batch_size: global batch of the visits.
    """

    normalization: str = "cifar10"
    epochs: int = 120
    milestones: tuple[float, ...] = (0.625, 0.75)
    warmup_epochs: int = 1
    checkpoints: int = 30
    objective: str = "features"
    radius: float = 8.0
    step_size: float = 1.0
    pgd_steps: int = 30
    inner_steps: int = 0
    inner_means: str = "own"
    perturbation_batch_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoints", "pgd_steps", "perturbation_batch_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        check_choice("objective", self.objective, ("cross_entropy", "features"))
        check_choice("inner_means", self.inner_means, ("own", "last"))
        check_radius(self.radius)
        check_number("step_size", self.step_size, "> 0")
        check_number("inner_steps", self.inner_steps, ">= 0", whole=True)
        if self.checkpoints > self.epochs:
            raise ValueError(
                f"checkpoints ({self.checkpoints}) must be at most one an epoch, and "
                f"there are {self.epochs} epochs"
            )


# Tables that say SEP mean the variant of reduced variance: "variance_reduced" as the
# paper has it, "authors_code" as all released scripts of it have it, from which the
# published figures presumably are: there the steps within a step aim at the means of
# the last checkpoint, whichever is drawn. "sep" is the paper's plain ensemble. The
# published commands have radius 2, the tables 8 too. Its images are truncated to gray
# levels: the export "truncate".
PRESETS: dict[str, SelfEnsembleConfig] = {
    "variance_reduced": SelfEnsembleConfig(checkpoints=15, inner_steps=15),
    "authors_code": SelfEnsembleConfig(
        checkpoints=15, inner_steps=15, inner_means="last"
    ),
    "feature_alignment": SelfEnsembleConfig(),
    "sep": SelfEnsembleConfig(objective="cross_entropy"),
}
