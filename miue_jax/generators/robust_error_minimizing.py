"""REM: error-minimizing perturbations that outlast adversarial training, SEM and EM.

The surrogate is trained as an adversarially trained victim would be, and the
perturbation makes the loss small that the victim's adversary has made large.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax import projected_gradient
from miue_jax.budget import Budget
from miue_jax.generators import surrogate
from miue_jax.generators.adversarial_views import adversarial_views
from miue_jax.generators.base import Generator
from miue_jax.generators.robust_error_minimizing_config import (
    RobustErrorMinimizingConfig,
)
from miue_jax.train import classifier, sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics, mean_of
from miue_jax.train.parallel import State

# Keys of a run are folded with these, so that no two uses share a stream.
_INIT, _ORDER, _START, _DEFENSE, _TRAIN = range(5)


class _PerExample(NamedTuple):
    levels: jax.Array  # (g, n, H, W, C) int16, the perturbation in gray levels
    order: jax.Array  # (g, n) int32


def robust_error_minimizing(
    config: RobustErrorMinimizingConfig,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Generator:
    """Builds REM, SEM if the adversary takes no steps, or EM if there is none.

    With views T, cross-entropy L of the surrogate f, and balls of the radii r and a,
    surrogate and perturbations solve

        min_f min_{|d| <= r} E_T max_{|e| <= a} L(f(T(x + d) + e), y).

    A batch's d is made from noise by descent, of which each step draws new views and
    lets the adversary find e on each of them. The gradient takes e as constant, and
    passes T exactly. Rounded to gray levels, d then perturbs the batch for one step of
    the surrogate, on one new view and its e. After the training every image is visited
    once more, and its perturbation made anew with the final surrogate. Batch statistics
    are the running ones in both attacks, and the batch's in the surrogate's step.

    Args:
      config: its settings.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator. A step is one batch: of training, then of the last visit.

    Raises:
      ValueError: if the data do not fill a batch, or it does not split over the shards.

    References:
      Fu, He, Liu, Shen, Tao, Robust Unlearnable Examples, ICLR 2022. Liu, Xu, Chen,
      Sun, Stable Unlearnable Example, AAAI 2024.
    """
    module = surrogate.create(config, num_classes=num_classes, axis_name=axis_name)
    share = config.batch_size // num_shards
    batches = sampling.steps_per_pass(num_examples, num_shards, config.batch_size)
    radius = config.radius / 255
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
        surrogate.check_images(shape, config)
        surrogate.check_crop(shape, config.crop)
        learner = classifier.init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, shape
        )
        levels = jnp.zeros(data.images.shape, jnp.int16)
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
    ) -> tuple[jax.Array, jax.Array]:
        return adversarial_views(
            key,
            data.shard,
            images,
            labels,
            lambda images, labels: loss_of(variables, images, labels),
            views=views,
            crop=config.crop,
            mirror=config.mirror,
            radius=config.adversarial_radius / 255,
            step_size=config.adversarial_step_size / 255,
            num_steps=config.adversarial_steps,
        )

    def noise(
        key: jax.Array, data: sampling.Shards, shape: tuple[int, ...]
    ) -> jax.Array:
        def draw(shard: jax.Array) -> jax.Array:
            own = jax.random.fold_in(key, shard)
            return jax.random.uniform(own, shape, jnp.float32, -radius, radius)

        return jax.vmap(draw)(data.shard)

    def defend(
        key: jax.Array, state: State, data: sampling.Shards, batch: sampling.Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Makes a batch's perturbations; also returns the loss before the last step."""
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
                )
                return loss_of(variables, seen, labels)

            delta, losses = projected_gradient.pgd_with_losses(
                loss_fn,
                images,
                delta,
                radius=radius,
                step_size=config.step_size / 255,
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
        perturbed = jnp.clip(batch.images + levels.astype(jnp.float32) / 255, 0, 1)
        step_key = jax.random.fold_in(jax.random.fold_in(key, _TRAIN), state.step)
        seen, labels = attack(
            step_key, data, learner.variables, perturbed, batch.labels, 1
        )
        learner, loss, accuracy = classifier.train_step(
            learner,
            module,
            optimizer,
            surrogate.normalize(seen, config),
            labels,
            axis_name=axis_name,
        )
        return learner, {
            "surrogate_loss": mean_of(loss),
            "surrogate_accuracy": mean_of(accuracy),
        }

    def step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        training = state.step < config.iterations
        number, position = jnp.divmod(state.step, batches)
        # The last visit is a pass of its own, wherever the training has ended.
        number = jnp.where(training, number, config.iterations // batches + 1)
        position = jnp.where(training, position, state.step - config.iterations)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), number)
        order = state.per_example.order
        order = sampling.order_of_pass(order_key, position, order, data)
        batch = sampling.take(data, order, position, share)
        delta, loss = defend(key, state, data, batch)
        if axis_name is not None:
            loss = lax.pmean(loss, axis_name)
        selected = batch.selected[..., None, None, None]
        levels = jnp.where(selected, jnp.rint(255 * delta), 0).astype(jnp.int16)
        nothing = Mean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
        names = ("surrogate_loss", "surrogate_accuracy")
        learner, metrics = lax.cond(
            training,
            lambda: train(key, state, data, batch, levels),
            lambda: (state.shared, dict.fromkeys(names, nothing)),
        )
        stored = sampling.store(state.per_example.levels, batch, batch.fresh, levels)
        return State(state.step + 1, learner, _PerExample(stored, order)), {
            **metrics,
            "perturbation_loss": mean_of(loss),
        }

    return Generator(
        init=init,
        step=step,
        num_steps=config.iterations + batches,
        perturbation=lambda state: state.per_example.levels.astype(jnp.float32) / 255,
        finished=lambda state: jnp.zeros((), bool),
        per_class=False,
        budget=Budget("linf", config.radius),
    )
