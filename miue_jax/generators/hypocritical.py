"""HYPO: error-minimizing noise of a robust surrogate, against robust training."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from miue_jax import _flat_draws, projected_gradient
from miue_jax._checks import check_number
from miue_jax.budget import to_unit
from miue_jax.generators.base import DataSpec, Generator
from miue_jax.generators.surrogate import Attack, check_radius
from miue_jax.generators.surrogate_attack import (
    Objective,
    SurrogateAttackConfig,
    surrogate_attack,
)
from miue_jax.train.classifier import cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class HypocriticalConfig(SurrogateAttackConfig):
    """Settings of HYPO; those of the attack and the surrogate are inherited.

    Attributes:
      train_radius: of the adversarial training of the surrogate, in gray levels; its
        steps are a quarter as long.
      train_pgd_steps: projected-gradient steps on each batch of that training.
    """

    # Only the first 10 of 100 epochs are trained: the drops at 75 and 90 never happen.
    epochs: int = 10
    train_radius: float = 2.0
    train_pgd_steps: int = 10
    objective: Objective = "own_class"
    step_size: float = 0.8
    pgd_steps: int = 100
    perturbation_batch_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            check_radius(self.train_radius)
        except ValueError as error:
            raise ValueError(f"train_{error}") from error
        check_number("train_pgd_steps", self.train_pgd_steps, "> 0", whole=True)


PRESETS: dict[str, HypocriticalConfig] = {
    "hypocritical": HypocriticalConfig(),
    "adversarial": HypocriticalConfig(objective="next_class"),
}


def hypocritical(config: HypocriticalConfig, spec: DataSpec) -> Generator:
    r"""Builds HYPO.

    With a surrogate f that was trained adversarially at a small radius and a random
    view T, drawn at every step,

    .. math:: \delta_i = \arg\min_{\lVert\delta\rVert_\infty \le r}
              \mathbb E_T\, \mathrm{CE}(f(T(x_i + \delta)), y_i).

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator.

    Raises:
      ValueError: if the data do not fill a batch, or the images do not fit the
        settings.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.hypocritical import hypocritical
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset(
      ...     "hypocritical", batch_size=16, perturbation_batch_size=64
      ... )
      >>> hypocritical(config, spec).num_steps  # 10 epochs, one attack
      41

    References:
      Tao et al., Can Adversarial Training Be Manipulated By Non-Robust Features?,
      NeurIPS 2022, arXiv 2201.13329.
    """
    return surrogate_attack(config, spec, train_attack=_train_attack(config))


def _train_attack(config: HypocriticalConfig) -> Attack:
    radius = to_unit(config.train_radius)

    def attack(
        keys: jax.Array,
        predict: Callable[[jax.Array], jax.Array],
        images: jax.Array,
        labels: jax.Array,
    ) -> jax.Array:
        draw = jax.vmap(
            lambda key: _flat_draws.draw(
                *(jax.random.uniform, key, images.shape[1:]),
                *(jnp.float32, -radius, radius),
            )
        )
        delta = projected_gradient.pgd(
            lambda perturbed: cross_entropy(predict(perturbed), labels),
            images,
            projected_gradient.clip_to_images(images, draw(keys)),
            radius=radius,
            step_size=radius / 4,
            num_steps=config.train_pgd_steps,
            ascend=True,
        )
        return images + delta

    return attack
