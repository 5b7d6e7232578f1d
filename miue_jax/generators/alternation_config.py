"""The schedule of generators that train a surrogate and a perturbation in turn."""

import dataclasses

from miue_jax._checks import check_choice, check_number
from miue_jax.generators.surrogate import SurrogateConfig, check_radius


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlternationConfig(SurrogateConfig):
    """The schedule of a min-min generator; the surrogate's settings are inherited.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of the first epoch's projected gradient, in gray levels.
      step_size_end: approached linearly over the epochs, in gray levels.
      pgd_steps: projected-gradient steps on a batch at each visit.
      schedule: "alternating" trains for whole epochs, then visits every image once;
        "interleaved" visits each batch right before the surrogate trains on it.
      epochs: training epochs of the surrogate.
      perturb_every: training epochs before each visit of the images (alternating).
      batches_per_epoch: batches that count as an epoch of training; None for as many
        as the data have (alternating).
      perturbation_batch_size: global batch of the visits (alternating).
      batches_per_visit: batches of a visit, in a new random order each time; None for
        as many as meet every image (alternating).
      learning_rate_end: approached from `learning_rate` along a cosine over the epochs;
        None for a constant rate.
      clip_norm: largest gradient norm of its SGD; None for no limit.
      flip: mirror images while generating: "none"; "joint", image and perturbation
        together as a victim does; "image_only", the image under the perturbation.
      crop: pixels by which image and perturbation together are shifted at most while
        generating, as by a victim's random crop; 0 for none.
      perturbation: "sample", one for every image, or "class", one for every class,
        moved by the gradient of the whole batch.
      stop_error: error in [0, 1] on the images of a visit, each batch once it is moved
        (which perturbations of classes are by later batches too), at which the
        generator stops early; None never stops (alternating).
    """

    radius: float = 8.0
    step_size: float = 0.8
    step_size_end: float = 0.8
    pgd_steps: int = 10
    schedule: str = "alternating"
    epochs: int = 100
    perturb_every: int = 1
    batches_per_epoch: int | None = None
    perturbation_batch_size: int = 512
    batches_per_visit: int | None = None
    learning_rate_end: float | None = None
    clip_norm: float | None = None
    flip: str = "none"
    crop: int = 0
    perturbation: str = "sample"
    stop_error: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("schedule", self.schedule, ("alternating", "interleaved"))
        check_choice("flip", self.flip, ("none", "joint", "image_only"))
        check_choice("perturbation", self.perturbation, ("sample", "class"))
        for name in ("pgd_steps", "epochs", "perturb_every"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        size = self.perturbation_batch_size
        check_number("perturbation_batch_size", size, "> 0", whole=True)
        for name in ("step_size", "step_size_end"):
            check_number(name, getattr(self, name), "> 0")
        if self.learning_rate_end is not None:
            check_number("learning_rate_end", self.learning_rate_end, ">= 0")
        check_number("crop", self.crop, ">= 0", whole=True)
        for name in ("batches_per_epoch", "batches_per_visit"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), "> 0", whole=True)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, "> 0")
        if self.stop_error is not None:
            check_number("stop_error", self.stop_error, "in [0, 1]")
        check_radius(self.radius)
        if self.perturbation == "class" and self.radius > 127:
            raise ValueError(
                f"radius is {self.radius!r}; allowed with perturbation 'class': whole "
                "gray levels from 1 to 127"
            )
        if self.schedule == "alternating":
            if self.epochs % self.perturb_every:
                raise ValueError(
                    f"epochs ({self.epochs}) must be a multiple of perturb_every "
                    f"({self.perturb_every}), or the last epochs change nothing"
                )
        elif any(
            setting is not None
            for setting in (
                *(self.stop_error, self.batches_per_epoch, self.batches_per_visit),
            )
        ):
            raise ValueError(
                "stop_error, batches_per_epoch and batches_per_visit belong to the "
                "alternating schedule"
            )
