"""Settings of min-min generation."""

import dataclasses
from typing import Literal

from miue_jax._checks import check_choice, check_number
from miue_jax.generators import perturbation_store
from miue_jax.generators.perturbation_store import Storage
from miue_jax.generators.surrogate import SurrogateConfig, check_radius


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinMinConfig(SurrogateConfig):
    """Settings of a min-min generator; the surrogate's are inherited.

    Attributes:
      radius: largest change of a channel, in gray levels.
      smooth_radius: the same where the picture is smooth: there the change is at most
        the local contrast, see `image.contrast.radius_map`; None for `radius`
        everywhere.
      step_size: of projected gradient in the first epoch, in gray levels.
      step_size_end: approached linearly from `step_size` over the epochs, in gray
        levels.
      pgd_steps: projected-gradient steps per batch each time it is perturbed.
      schedule: "alternating" trains for whole epochs, then perturbs every image once;
        "interleaved" perturbs each batch right before the surrogate trains on it.
      epochs: training epochs of the surrogate.
      perturb_every: training epochs between perturbation passes (alternating).
      batches_per_epoch: batches that count as an epoch of training; None for a pass
        over the data (alternating).
      perturbation_batch_size: global batch size of a perturbation pass (alternating).
      batches_per_visit: batches of a perturbation pass, in a new random order each
        time; None for all images (alternating).
      learning_rate_end: approached from `learning_rate` along a cosine over the epochs;
        None for a constant rate.
      clip_norm: largest gradient norm of the surrogate's SGD; None for no limit.
      flip: mirror images while generating: "none"; "joint", image and perturbation
        together as a victim does; "image_only", the image under the perturbation.
      crop: pixels by which image and perturbation together are shifted at most, as by a
        victim's random crop; 0 for none.
      perturbation: "sample", one per image, or "class", one per class, moved by the
        gradient of the whole batch.
      storage: of the perturbations of images between visits: "float32", or "bfloat16"
        or "int8" in a half or a quarter of the memory, see
        `generators.perturbation_store`.
      second_model: another architecture that is trained and seen through along with
        `model`; the perturbation lowers the mean of both objectives. None for none.
      second_width: its width; None for the architecture's own.
      adversarial_radius: largest change of a channel, in gray levels, by an adversary
        who raises the cross-entropy of whatever a surrogate sees, in its training and
        in every step of the perturbation; 0 for none.
      adversarial_step_size: of its projected gradient, in gray levels.
      adversarial_steps: of the adversary, from a random start; 0 leaves it at the
        start, which is the noise of SEM.
      stop_error: error in [0, 1] on the images of a perturbation pass at which the
        generator stops early; None never stops (alternating). Each batch is measured
        right after it is perturbed, although perturbations of classes keep moving with
        later batches.
    """

    radius: float = 8.0
    smooth_radius: float | None = None
    step_size: float = 0.8
    step_size_end: float = 0.8
    pgd_steps: int = 10
    schedule: Literal["alternating", "interleaved"] = "alternating"
    epochs: int = 100
    perturb_every: int = 1
    batches_per_epoch: int | None = None
    perturbation_batch_size: int = 512
    batches_per_visit: int | None = None
    learning_rate_end: float | None = None
    clip_norm: float | None = None
    flip: Literal["none", "joint", "image_only"] = "none"
    crop: int = 0
    perturbation: Literal["sample", "class"] = "sample"
    storage: Storage = "float32"
    second_model: str | None = None
    second_width: int | None = None
    adversarial_radius: float = 0.0
    adversarial_step_size: float = 0.8
    adversarial_steps: int = 0
    stop_error: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("schedule", self.schedule, ("alternating", "interleaved"))
        check_choice("flip", self.flip, ("none", "joint", "image_only"))
        check_choice("perturbation", self.perturbation, ("sample", "class"))
        for name in ("pgd_steps", "epochs", "perturb_every", "perturbation_batch_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("step_size", "step_size_end"):
            check_number(name, getattr(self, name), "> 0")
        if self.learning_rate_end is not None:
            check_number("learning_rate_end", self.learning_rate_end, ">= 0")
        for name in ("crop", "adversarial_steps"):
            check_number(name, getattr(self, name), ">= 0", whole=True)
        check_number("adversarial_step_size", self.adversarial_step_size, "> 0")
        check_number("adversarial_radius", self.adversarial_radius, ">= 0")
        if self.adversarial_radius > 255:
            raise ValueError(
                f"adversarial_radius is {self.adversarial_radius!r}; allowed: gray "
                "levels from 0 to 255"
            )
        if self.second_width is not None:
            check_number("second_width", self.second_width, "> 0", whole=True)
            if self.second_model is None:
                raise ValueError(
                    f"second_width is {self.second_width}; allowed without a "
                    "second_model: None"
                )
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
        if self.smooth_radius is not None:
            check_number("smooth_radius", self.smooth_radius, "> 0")
            if not 1 <= self.smooth_radius <= self.radius:
                raise ValueError(
                    f"smooth_radius is {self.smooth_radius!r}; allowed: gray levels "
                    f"from 1 to radius, {self.radius:g}"
                )
            if self.perturbation == "class":
                raise ValueError(
                    f"smooth_radius is {self.smooth_radius!r}; allowed with "
                    "perturbation 'class', which no single picture limits: None"
                )
        perturbation_store.check(
            *(self.storage, self.radius),
            step_size=self.step_size,
            step_size_end=self.step_size_end,
        )
        if self.storage != "float32":
            for name, needed in (("perturbation", "sample"), ("smooth_radius", None)):
                if (value := getattr(self, name)) != needed:
                    raise ValueError(
                        f"{name} is {value!r}; allowed with storage {self.storage!r}: "
                        f"{needed!r}"
                    )
        alternating = (self.stop_error, self.batches_per_epoch, self.batches_per_visit)
        if self.schedule == "alternating":
            if self.epochs % self.perturb_every:
                raise ValueError(
                    f"epochs ({self.epochs}) must be a multiple of perturb_every "
                    f"({self.perturb_every}), or the last epochs change nothing"
                )
        elif any(setting is not None for setting in alternating):
            raise ValueError(
                "stop_error, batches_per_epoch and batches_per_visit belong to the "
                "alternating schedule"
            )
