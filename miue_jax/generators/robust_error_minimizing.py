"""REM, and its variants SEM and EM: perturbations that withstand adversarial training.

The surrogate is trained as an adversarially trained victim would be, and the
perturbation minimizes the loss that the victim's adversary has maximized.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax import _flat_draws, projected_gradient
from miue_jax._checks import check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators import surrogate, transformed
from miue_jax.generators.adversarial_views import adversarial_views
from miue_jax.generators.base import DataSpec, Generator, no_mean
from miue_jax.generators.surrogate import SurrogateConfig, check_radius
from miue_jax.train import classifier, sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.parallel import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustErrorMinimizingConfig(SurrogateConfig):
    """Settings of REM, SEM and EM; the surrogate's settings are inherited.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of the perturbation's projected gradient, in gray levels.
      pgd_steps: of the perturbation, from a random start at each visit.
      transformations: random views over which each of these steps averages, drawn anew
        in every step, transformations of `views` among them. They pass
        through the network together, as a batch that many times as large.
      crop: largest shift of a view, in pixels, as by a victim's random crop; 0 for
        none.
      mirror: whether to mirror views with probability 1/2.
      adversarial_radius: largest change of a channel by the adversary, in gray levels;
        0 for no adversary.
      adversarial_step_size: of its projected gradient, in gray levels.
      adversarial_steps: of the adversary, from a random start on each view; 0 leaves
        it at the start, which is SEM's uniform noise.
      iterations: batches of training.
      learning_rate_drop: factor applied to the learning rate at each drop.
      learning_rate_drop_every: batches of training between drops.
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


# "sem" replaces the adversary's steps with noise, in training and in generation, which
# takes about a tenth of the time. Unlike the published script, all presets visit every
# image after training (the script omits the last, incomplete batch) and give the
# network values in [0, 1], not in [-0.5, 0.5]; perturbations stay in the image box
# throughout. "em" is EM as in REM's code, from which several papers took theirs: no
# augmentation, no adversary, and perturbations that start from noise at each visit,
# where EM's own code continues from the visit before.
PRESETS: dict[str, RobustErrorMinimizingConfig] = {
    "rem": RobustErrorMinimizingConfig(),
    "sem": RobustErrorMinimizingConfig(adversarial_steps=0),
    "em": RobustErrorMinimizingConfig(
        adversarial_radius=0, transformations=1, crop=0, mirror=False
    ),
}


# Keys of a run are folded with these, so that no two uses share a stream.
_INIT, _ORDER, _START, _DEFENSE, _TRAIN = range(5)


class _PerExample(NamedTuple):
    levels: jax.Array  # (g, n, H, W, C) int8 or int16, perturbations in gray levels
    order: jax.Array  # (g, n) int32


def robust_error_minimizing(
    config: RobustErrorMinimizingConfig, spec: DataSpec
) -> Generator:
    r"""Builds REM, SEM if the adversary takes no steps, or EM if there is none.

    With random views T and the L-infinity radii r and a, surrogate f and perturbations
    solve

    .. math:: \min_f \min_{\lVert\delta\rVert_\infty \le r} \mathbb E_T
              \max_{\lVert\epsilon\rVert_\infty \le a}
              \mathrm{CE}(f(T(x + \delta) + \epsilon), y).

    The :math:`\delta` of a batch descend from noise; each step draws new views and lets
    the adversary find :math:`\epsilon` on each of them. The gradient treats
    :math:`\epsilon` as constant and passes through T exactly. Rounded to gray levels,
    :math:`\delta` then perturbs the batch for one step of the surrogate, on one new
    view with its :math:`\epsilon`. After the training, every image is visited once
    more, and its perturbation is recomputed with the final surrogate. Both attacks use
    running batch statistics, the surrogate's step those of the batch.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. A step is one batch: of training, then of the last visit.

    Raises:
      ValueError: if the data do not fill a batch, it does not split over the shards, or
        the images do not fit the settings.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators import robust_error_minimizing as rem
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("robust_error_minimizing", "sem", batch_size=16)
      >>> rem.robust_error_minimizing(config, spec).num_steps
      5004

    References:
      Fu, He, Liu, Shen, Tao, Robust Unlearnable Examples, ICLR 2022. Liu, Xu, Chen,
      Sun, Stable Unlearnable Example, AAAI 2024.
    """
    module = surrogate.create(config, spec, crop=config.crop)
    share = spec.share(config.batch_size)
    batches = spec.steps_per_pass(config.batch_size)
    radius = to_unit(config.radius)
    dtype = jnp.int8 if config.radius <= 127 else jnp.int16
    optimizer = classifier.sgd(
        optax.exponential_decay(
            config.learning_rate,
            config.learning_rate_drop_every,
            config.learning_rate_drop,
            staircase=True,
        ),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )

    def init(key: jax.Array, data: sampling.Shards) -> State:
        shape = data.images.shape[2:]
        learner = classifier.init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, shape
        )
        levels = jnp.zeros(data.images.shape, dtype)
        order = jnp.zeros(data.labels.shape, jnp.int32)
        return State(jnp.zeros((), jnp.int32), learner, _PerExample(levels, order))

    def loss_of(variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        outputs: Any = module.apply(
            variables, surrogate.normalize(images, config), train=False
        )
        return classifier.cross_entropy(outputs[1], labels)

    def attack(
        key: jax.Array,
        data: sampling.Shards,
        variables: Any,
        images: jax.Array,
        labels: jax.Array,
        views: int,
        step: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        def transform(key: jax.Array) -> transformed.Transformed:
            return transformed.draw(
                *(key, data.shard, images.shape, labels, config.views),
                num_classes=spec.num_classes,
                progress=step / config.iterations,
            )

        return adversarial_views(
            key,
            data.shard,
            images,
            labels,
            lambda images, labels: loss_of(variables, images, labels),
            views=views,
            crop=config.crop,
            mirror=config.mirror,
            radius=to_unit(config.adversarial_radius),
            step_size=to_unit(config.adversarial_step_size),
            num_steps=config.adversarial_steps,
            transformed=None if config.views.plain == 1 else transform,
        )

    def noise(
        key: jax.Array, data: sampling.Shards, shape: tuple[int, ...]
    ) -> jax.Array:
        def draw(shard: jax.Array) -> jax.Array:
            shard_key = jax.random.fold_in(key, shard)
            return _flat_draws.draw(
                jax.random.uniform, shard_key, shape, jnp.float32, -radius, radius
            )

        return jax.vmap(draw)(data.shard)

    def defend(
        key: jax.Array, state: State, data: sampling.Shards, batch: sampling.Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Perturbs a batch; also returns the loss before the last step."""
        variables = state.shared.variables
        images = batch.images.reshape(-1, *batch.images.shape[2:])

        def descend(delta: jax.Array, step_key: jax.Array):
            def loss_fn(perturbed: jax.Array) -> jax.Array:
                seen, labels = attack(
                    step_key,
                    data,
                    variables,
                    perturbed.reshape(batch.images.shape),
                    batch.labels,
                    config.transformations,
                    state.step,
                )
                return loss_of(variables, seen, labels)

            delta, losses = projected_gradient.pgd_with_losses(
                loss_fn,
                images,
                delta,
                radius=radius,
                step_size=to_unit(config.step_size),
                num_steps=1,
            )
            return delta, losses[0]

        start_key = jax.random.fold_in(jax.random.fold_in(key, _START), state.step)
        start = noise(start_key, data, batch.images.shape[1:]).reshape(images.shape)
        start = projected_gradient.clip_to_images(images, start)
        step_key = jax.random.fold_in(jax.random.fold_in(key, _DEFENSE), state.step)
        delta, losses = lax.scan(
            descend, start, jax.random.split(step_key, config.pgd_steps)
        )
        return delta.reshape(batch.images.shape), losses[-1]

    def train(
        key: jax.Array,
        state: State,
        data: sampling.Shards,
        batch: sampling.Batch,
        levels: jax.Array,
    ) -> tuple[Learner, Metrics]:
        learner = state.shared
        perturbed = jnp.clip(batch.images + to_unit(levels.astype(jnp.float32)), 0, 1)
        step_key = jax.random.fold_in(jax.random.fold_in(key, _TRAIN), state.step)
        seen, labels = attack(
            *(step_key, data, learner.variables, perturbed, batch.labels),
            *(1, state.step),
        )
        learner, loss, accuracy = classifier.train_step(
            learner,
            module,
            optimizer,
            surrogate.normalize(seen, config),
            labels,
            axis_name=spec.axis_name,
        )
        measured = (mean_of(loss), mean_of(accuracy))
        return learner, dict(zip(surrogate.METRICS, measured, strict=True))

    def step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        training = state.step < config.iterations
        number, position = jnp.divmod(state.step, batches)
        # The last visit is a new pass, wherever in a pass the training has ended.
        number = jnp.where(training, number, config.iterations // batches + 1)
        position = jnp.where(training, position, state.step - config.iterations)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), number)
        order = state.per_example.order
        order = sampling.order_of_pass(order_key, position, order, data)
        batch = sampling.take(data, order, position, share)
        delta, loss = defend(key, state, data, batch)
        loss = spec.mean(loss)
        selected = batch.selected[..., None, None, None]
        levels = jnp.where(selected, jnp.rint(255 * delta), 0).astype(dtype)
        learner, metrics = lax.cond(
            training,
            lambda: train(key, state, data, batch, levels),
            lambda: (state.shared, dict.fromkeys(surrogate.METRICS, no_mean())),
        )
        stored = sampling.store(state.per_example.levels, batch, batch.fresh, levels)
        return State(state.step + 1, learner, _PerExample(stored, order)), {
            **metrics,
            "perturbation_loss": mean_of(loss),
        }

    def decode(levels: jax.Array) -> jax.Array:
        return to_unit(levels.astype(jnp.float32))

    return Generator(
        init=init,
        step=step,
        num_steps=config.iterations + batches,
        perturbation=lambda state: decode(state.per_example.levels),
        stored=lambda state: state.per_example.levels,
        decode=decode,
        budget=Budget("linf", config.radius),
        sharded=True,
    )
