"""Protocols of victims, named after the publications that they are from."""

import dataclasses

import optax

from miue_jax._checks import check_choice, check_number, check_text
from miue_jax.train import classifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class VictimConfig:
    """Protocol of a victim: how a classifier is trained from scratch.

    Attributes:
      model: the architecture, one of ``models.NAMES`` or ``module:function``.
      width: width of the architecture; None for its default.
      epochs: passes over the training data.
      batch_size: images in a global batch.
      learning_rate: learning rate of the first epoch.
      schedule: "cosine" decays the learning rate to 0, changing once per epoch; "steps"
        drops it at the milestones.
      milestones: for "steps", fractions of the training in (0, 1]; none for a constant
        learning rate.
      drop: factor of the learning rate at each milestone, in (0, 1].
      momentum: momentum of SGD.
      weight_decay: weight decay of SGD, for all parameters.
      clip_norm: largest global norm of the gradient; None for no limit.
      dtype: dtype of computations, "float32" or "bfloat16".

    Raises:
      ValueError: if a setting is not allowed.

    Example:
      >>> from miue_jax import victims
      >>> victims.VictimConfig(model="vgg11", epochs=30).learning_rate
      0.1
    """

    model: str = "resnet18"
    width: int | None = None
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    drop: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_text("victim model", self.model)
        for name in ("epochs", "batch_size"):
            check_number(f"victim {name}", getattr(self, name), "> 0", whole=True)
        check_number("victim learning_rate", self.learning_rate, "> 0")
        check_choice("victim schedule", self.schedule, ("cosine", "steps"))
        # JSON has lists only, and a config must be hashable.
        milestones = classifier.check_milestones("victim milestones", self.milestones)
        object.__setattr__(self, "milestones", milestones)
        if milestones and self.schedule == "cosine":
            raise ValueError(
                f"victim milestones are {milestones}; allowed with the cosine "
                "schedule: none"
            )
        check_number("victim drop", self.drop, "in (0, 1]")
        check_number("victim momentum", self.momentum, "in [0, 1)")
        check_number("victim weight_decay", self.weight_decay, ">= 0")
        if self.clip_norm is not None:
            check_number("victim clip_norm", self.clip_norm, "> 0")
        if self.width is not None:
            check_number("victim width", self.width, "> 0", whole=True)
        check_choice("victim dtype", self.dtype, ("float32", "bfloat16"))


# The adversarial protocols belong to the attacks of the same names in
# `defenses.adversarial_training`, "authors_adversarial" to "miue". "ueraser" is that of
# its script; its authors also mention a learning rate of 0.1. "orthogonal_projection"
# is that of victims with this defense, without their augmentations (CutMix of every
# second image, rotation, shear, scale and jitter). Assumed, because not found: a weight
# decay of 5e-4 for APBench, HYPO and UEraser, and batches of 128 except for APBench.
# The 40,000 batches of REM are 102 epochs of CIFAR-10.
PROTOCOLS: dict[str, VictimConfig] = {
    # The protocol of MI-UE.
    "authors": VictimConfig(epochs=200, learning_rate=0.5, weight_decay=1e-4),
    "em": VictimConfig(epochs=60, clip_norm=5.0),
    "iss": VictimConfig(epochs=60),
    "pil": VictimConfig(epochs=30, batch_size=512, weight_decay=1e-4),
    "apbench": VictimConfig(
        epochs=200, batch_size=256, schedule="steps", milestones=(0.5,), drop=0.5
    ),
    "ueraser": VictimConfig(
        epochs=200, learning_rate=0.01, schedule="steps", milestones=(0.5, 0.75)
    ),
    "orthogonal_projection": VictimConfig(
        epochs=50, schedule="steps", milestones=(0.5, 0.74), weight_decay=1e-4
    ),
    "quick": VictimConfig(model="resnet10", epochs=30),
    "authors_adversarial": VictimConfig(
        epochs=100, schedule="steps", milestones=(0.4, 0.8)
    ),
    "em_adversarial": VictimConfig(epochs=100, clip_norm=5.0),
    "pil_adversarial": VictimConfig(epochs=100, weight_decay=1e-4),
    "apbench_adversarial": VictimConfig(
        epochs=200, batch_size=256, schedule="steps", milestones=(0.5,), drop=0.5
    ),
    "rem_adversarial": VictimConfig(
        epochs=102, schedule="steps", milestones=(0.4, 0.8)
    ),
    "dune_adversarial": VictimConfig(epochs=80, schedule="steps", weight_decay=0.0),
    "hypo_adversarial": VictimConfig(
        epochs=100, schedule="steps", milestones=(0.75, 0.9)
    ),
}


def learning_rate(config: VictimConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate schedule of a protocol.

    Args:
      config: the protocol.
      steps_per_epoch: optimizer steps in an epoch.

    Returns:
      An Optax schedule.

    Example:
      >>> from miue_jax import victims
      >>> from miue_jax.victims.presets import learning_rate
      >>> schedule = learning_rate(victims.preset("em"), steps_per_epoch=10)
      >>> round(float(schedule(0)), 3)
      0.1
    """
    if config.schedule == "cosine":
        return classifier.epochwise_cosine(
            config.learning_rate, 0.0, config.epochs, steps_per_epoch
        )
    return classifier.stepwise(
        config.learning_rate,
        config.milestones,
        num_steps=config.epochs * steps_per_epoch,
        drop=config.drop,
    )
