"""The schedule of generators that train a surrogate and a perturbation in turn."""

import dataclasses
import numbers

from miue_jax.settings import check_number


def check_radius(radius: float) -> None:
    """Checks a budget: published images are 8-bit, so it is in whole grey levels.

    Args:
      radius: largest change of a channel, in grey levels.

    Raises:
      ValueError: if it is not a whole number from 1 to 255.
    """
    fits = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
    if not fits or not 1 <= radius <= 255 or radius != round(radius):
        raise ValueError(
            f"radius is {radius!r}; allowed: whole grey levels from 1 to 255"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlternationConfig:
    """The schedule of a min-min generator.

    Attributes:
      model: architecture of the surrogate (`models.NAMES`).
      width: its width; None for the architecture's own.
      dtype: its compute type, "float32" or "bfloat16".
      normalization: of the surrogate's input, "none" or "imagenet" (three channels).
      radius: largest change of a channel, in grey levels.
      step_size: of the first epoch's projected gradient, in grey levels.
      step_size_end: approached linearly over the epochs, in grey levels.
      pgd_steps: projected-gradient steps on a batch at each visit.
      schedule: "alternating" trains for whole epochs, then visits every image once;
        "interleaved" visits each batch right before the surrogate trains on it.
      epochs: training epochs of the surrogate.
      perturb_every: training epochs before each visit of all images (alternating).
      batches_per_epoch: batches that count as an epoch of training; None for as many
        as the data have (alternating).
      batch_size: global batch of the training.
      perturbation_batch_size: global batch of the visits (alternating).
      learning_rate: of the surrogate's first epoch.
      learning_rate_end: approached along a cosine over the epochs.
      momentum: of its SGD.
      weight_decay: of its SGD.
      clip_norm: largest gradient norm of its SGD; None for no limit.
      flip: mirror images while generating: "none"; "joint", image and perturbation
        together as a victim does; "image_only", the image under the perturbation.
      crop: pixels by which image and perturbation together are shifted at most while
        generating, as by a victim's random crop; 0 for none.
      perturbation: "sample", one for every image, or "class", one for every class,
        moved by the gradient of the whole batch.
      stop_error: training error in [0, 1] after a visit of all images at which the
        generator stops early; None never stops (alternating).
    """

    model: str = "resnet18"
    width: int | None = None
    dtype: str = "float32"
    normalization: str = "none"
    radius: float = 8.0
    step_size: float = 0.8
    step_size_end: float = 0.8
    pgd_steps: int = 10
    schedule: str = "alternating"
    epochs: int = 100
    perturb_every: int = 1
    batches_per_epoch: int | None = None
    batch_size: int = 128
    perturbation_batch_size: int = 512
    learning_rate: float = 0.1
    learning_rate_end: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    flip: str = "none"
    crop: int = 0
    perturbation: str = "sample"
    stop_error: float | None = None

    def __post_init__(self) -> None:
        allowed = {
            "dtype": ("float32", "bfloat16"),
            "normalization": ("none", "imagenet"),
            "schedule": ("alternating", "interleaved"),
            "flip": ("none", "joint", "image_only"),
            "perturbation": ("sample", "class"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(values)}"
                )
        for name in (
            "pgd_steps",
            "epochs",
            "perturb_every",
            "batch_size",
            "perturbation_batch_size",
        ):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("step_size", "step_size_end", "learning_rate"):
            check_number(name, getattr(self, name), "> 0")
        for name in ("learning_rate_end", "weight_decay"):
            check_number(name, getattr(self, name), ">= 0")
        check_number("momentum", self.momentum, "in [0, 1)")
        check_number("crop", self.crop, ">= 0", whole=True)
        for name in ("width", "batches_per_epoch"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), "> 0", whole=True)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, "> 0")
        if self.stop_error is not None:
            check_number("stop_error", self.stop_error, "in [0, 1]")
        check_radius(self.radius)
        if self.schedule == "alternating":
            if self.epochs % self.perturb_every:
                raise ValueError(
                    f"epochs ({self.epochs}) must be a multiple of perturb_every "
                    f"({self.perturb_every}), or the last epochs change nothing"
                )
        elif self.stop_error is not None or self.batches_per_epoch is not None:
            raise ValueError(
                "stop_error and batches_per_epoch belong to the alternating schedule"
            )
