"""Random noise: the baseline that every generator has to beat."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from miue_jax import _flat_draws
from miue_jax._checks import check_choice
from miue_jax.budget import Budget, to_unit
from miue_jax.generators.base import DataSpec, Generator
from miue_jax.generators.surrogate import check_radius
from miue_jax.train.metrics import Metrics
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomNoiseConfig:
    """Settings of random noise.

    Attributes:
      radius: largest change of a channel, in gray levels.
      perturbation: "sample", one draw per image, or "class", one per class.
    """

    radius: float = 8.0
    perturbation: Literal["sample", "class"] = "sample"

    def __post_init__(self) -> None:
        check_radius(self.radius)
        check_choice("perturbation", self.perturbation, ("sample", "class"))


PRESETS: dict[str, RandomNoiseConfig] = {"uniform": RandomNoiseConfig()}


def random_noise(config: RandomNoiseConfig, spec: DataSpec) -> Generator:
    """Builds uniform noise in the L-infinity ball, drawn in one step.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.random_noise import random_noise
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("random_noise", radius=4)
      >>> random_noise(config, spec).budget.radius
      4
    """
    radius = to_unit(config.radius)
    per_class = config.perturbation == "class"

    def init(key: jax.Array, data: Shards) -> State:
        del key
        shape = data.images.shape[2:]
        shared = (
            jnp.zeros((spec.num_classes, *shape), jnp.float32) if per_class else None
        )
        delta = None if per_class else jnp.zeros(data.images.shape, jnp.float32)
        return State(jnp.zeros((), jnp.int32), shared, delta)

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return _flat_draws.draw(
            jax.random.uniform, key, shape, jnp.float32, -radius, radius
        )

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        if per_class:
            return state._replace(
                step=state.step + 1, shared=draw(key, state.shared.shape)
            ), {}
        shape = state.per_example.shape[1:]
        draws = jax.vmap(lambda shard: draw(jax.random.fold_in(key, shard), shape))
        return state._replace(step=state.step + 1, per_example=draws(data.shard)), {}

    return Generator(
        init=init,
        step=step,
        perturbation=lambda state: state.shared if per_class else state.per_example,
        budget=Budget("linf", config.radius),
        per_class=per_class,
        sharded=True,
    )
