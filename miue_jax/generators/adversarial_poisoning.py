"""AP, also TAP: adversarial examples of a clean surrogate as training images."""

import dataclasses

from miue_jax._checks import check_number
from miue_jax.generators.base import DataSpec, Generator
from miue_jax.generators.surrogate import Normalization
from miue_jax.generators.surrogate_attack import (
    Start,
    SurrogateAttackConfig,
    surrogate_attack,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialPoisoningConfig(SurrogateAttackConfig):
    """Settings of AP; those of the attack and the surrogate are inherited.

    Attributes:
      restarts: attacks on the whole data set; the one of the lowest mean loss is kept.
    """

    normalization: Normalization = "cifar10"
    # The published 14, 24 and 35 of 40 epochs: a floor division took the place of the
    # 15, 25 and 35 that were meant.
    milestones: tuple[float, ...] = (0.35, 0.6, 0.875)
    nesterov: bool = True
    start: Start = "normal"
    restarts: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("restarts", self.restarts, "> 0", whole=True)


# "robust_code" is the variant in the code of REM, from which several papers took their
# AP: a longer training without Nesterov's momentum or normalization, one restart, and
# steps a sixth as long. Of its 40,000 batches of training there are 102 epochs here;
# its crops by whole pixels are the shifts of this file, and when its learning rate
# drops is assumed: at the shares of that code's training of victims.
PRESETS: dict[str, AdversarialPoisoningConfig] = {
    "targeted": AdversarialPoisoningConfig(),
    "untargeted": AdversarialPoisoningConfig(objective="other_class"),
    "robust_code": AdversarialPoisoningConfig(
        normalization="none",
        epochs=102,
        milestones=(0.4, 0.8),
        nesterov=False,
        step_size=0.064,
        start="uniform",
        restarts=1,
    ),
}


def adversarial_poisoning(
    config: AdversarialPoisoningConfig, spec: DataSpec
) -> Generator:
    r"""Builds AP.

    With a surrogate f trained on clean images and a random view T, drawn anew for every
    step,

    .. math:: \delta_i = \arg\min_{\lVert\delta\rVert_\infty \le r}
              \mathbb E_T\, \mathrm{CE}(f(T(x_i + \delta)), y_i + 1)

    (targeted), or the maximum of the same with :math:`y_i` (untargeted).

    Args:
      config: its settings.
      spec: of the data.

    Returns:
      The generator.

    Raises:
      ValueError: if the data do not fill a batch.

    References:
      Fowl et al., Adversarial Examples Make Strong Poisons, NeurIPS 2021,
      arXiv 2106.10807.
    """
    return surrogate_attack(config, spec, restarts=config.restarts)
