"""Perturbations from a surrogate that was trained before: adversarial, or the reverse.

A surrogate is trained on the images as they are. Then every image is visited, batch by
batch in a fixed order, and its perturbation moved by projected gradient so that the
finished surrogate takes shifted and mirrored views of it for what the objective says.
AP and HYPO differ in the objective and in how the surrogate is trained.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax import projected_gradient
from miue_jax.budget import Budget
from miue_jax.generators import surrogate, surrogate_training
from miue_jax.generators.affine_view import shift_and_flip
from miue_jax.generators.base import Generator
from miue_jax.generators.stages import Stage, in_turn
from miue_jax.generators.surrogate_attack_config import SurrogateAttackConfig
from miue_jax.train import sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State

# The training of the surrogate folds the run's key with numbers below these.
_VIEW, _START = 16, 17


class _Shared(NamedTuple):
    learner: Learner
    loss: Mean  # over the images of the restart under way
    lowest: jax.Array  # () float32, mean loss of the restart that is kept


class _PerExample(NamedTuple):
    order: jax.Array  # (g, n) int32
    delta: jax.Array  # (g, n, H, W, C), of the restart under way
    kept: jax.Array | None  # (g, n, H, W, C), of the best one, if there are several


def surrogate_attack(
    config: SurrogateAttackConfig,
    *,
    restarts: int = 1,
    train_attack: surrogate_training.Attack | None = None,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Generator:
    """Builds a generator that attacks a finished surrogate.

    Args:
      config: its settings.
      restarts: attacks on the whole data set, of which the one is kept whose loss,
        averaged over all protected images before the last step, is lowest.
      train_attack: what the surrogate is trained to withstand, None for nothing.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator. A step is one batch: of training, or all steps of an attack.
    """
    module = surrogate.create(config, num_classes=num_classes, axis_name=axis_name)
    trainer = surrogate_training.trainer(
        config,
        module,
        num_examples=num_examples,
        num_shards=num_shards,
        axis_name=axis_name,
        attack=train_attack,
    )
    size = config.perturbation_batch_size
    visits = sampling.steps_per_pass(num_examples, num_shards, size)
    share = size // num_shards
    radius = config.radius / 255

    def init(key: jax.Array, data: sampling.Shards) -> State:
        zero = jnp.zeros((), jnp.float32)
        delta = jnp.zeros(data.images.shape, jnp.float32)
        return State(
            jnp.zeros((), jnp.int32),
            _Shared(trainer.init(key, data), Mean(zero, zero), zero),
            _PerExample(
                jnp.zeros(data.labels.shape, jnp.int32),
                delta,
                delta if restarts > 1 else None,
            ),
        )

    def train(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        learner, order, metrics = trainer.step(
            key, count, state.shared.learner, state.per_example.order, data
        )
        state = state._replace(
            shared=state.shared._replace(learner=learner),
            per_example=state.per_example._replace(order=order),
        )
        return state, metrics

    def start(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if config.start == "normal":
            draws = radius * jax.random.normal(key, shape, jnp.float32)
            return jnp.clip(draws, -radius, radius)
        if config.start == "uniform":
            return jax.random.uniform(key, shape, jnp.float32, -radius, radius)
        return jnp.zeros(shape, jnp.float32)

    def costs(variables: Any, seen: jax.Array, labels: jax.Array) -> jax.Array:
        outputs: Any = module.apply(variables, seen, train=False)
        away = 1 if config.objective == "next_class" else 0
        aims = (labels + away) % num_classes
        values = optax.softmax_cross_entropy_with_integer_labels(outputs[1], aims)
        return -values if config.objective == "other_class" else values

    def visit(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        """Takes all steps on one batch."""
        batch = sampling.take_in_order(data, count % visits, share)
        chosen = batch.fresh & batch.selected
        shape = batch.images.shape
        images = batch.images.reshape(-1, *shape[2:])
        labels = batch.labels.reshape(-1)

        def shard_keys(key: jax.Array) -> jax.Array:
            return sampling.shard_keys(key, data.shard, count)

        def total_cost(keys: jax.Array, perturbed: jax.Array) -> jax.Array:
            # As published, what a shift brings in is 0 in the surrogate's own scale.
            seen = surrogate.normalize(perturbed, config).reshape(shape)
            views = jax.vmap(lambda k, x: shift_and_flip(k, x, shift=config.shift))
            seen = views(keys, seen).reshape(images.shape)
            values = costs(state.shared.learner.variables, seen, labels)
            return jnp.sum(jnp.where(chosen.reshape(-1), values, 0))

        def move(delta: jax.Array, step_key: jax.Array) -> tuple[jax.Array, jax.Array]:
            delta, values = projected_gradient.pgd_with_losses(
                lambda perturbed: total_cost(shard_keys(step_key), perturbed),
                images,
                delta,
                radius=radius,
                step_size=config.step_size / 255,
                num_steps=1,
            )
            return delta, values[0]

        delta = jax.vmap(lambda k: start(k, shape[1:]))(
            shard_keys(jax.random.fold_in(key, _START))
        ).reshape(images.shape)
        step_keys = jax.random.split(jax.random.fold_in(key, _VIEW), config.pgd_steps)
        delta, values = lax.scan(move, delta, step_keys)
        loss = Mean(values[-1], jnp.sum(chosen, dtype=jnp.float32))
        if axis_name is not None:
            loss = lax.psum(loss, axis_name)
        stored = sampling.store(state.per_example.delta, batch, chosen, delta)
        state = state._replace(per_example=state.per_example._replace(delta=stored))
        if restarts > 1:
            state = keep_better(state, loss, count)
        return state, {"perturbation_loss": loss}

    def keep_better(state: State, loss: Mean, count: jax.Array) -> State:
        restart, position = jnp.divmod(count, visits)
        old = state.shared.loss
        loss = Mean(
            loss.total + jnp.where(position == 0, 0, old.total),
            loss.weight + jnp.where(position == 0, 0, old.weight),
        )
        mean = loss.total / jnp.maximum(loss.weight, 1)
        lowest = state.shared.lowest
        better = (position == visits - 1) & ((restart == 0) | (mean < lowest))
        kept = lax.cond(
            better, lambda own: own.delta, lambda own: own.kept, state.per_example
        )
        return state._replace(
            shared=state.shared._replace(
                loss=loss, lowest=jnp.where(better, mean, lowest)
            ),
            per_example=state.per_example._replace(kept=kept),
        )

    def perturbation_of(state: State) -> jax.Array:
        own = state.per_example
        return jnp.clip(own.kept if restarts > 1 else own.delta, -radius, radius)

    step, num_steps = in_turn(
        (
            Stage(
                train, config.epochs * trainer.epoch_steps, surrogate_training.MEASURES
            ),
            Stage(visit, restarts * visits, ("perturbation_loss",)),
        )
    )
    return Generator(
        init=init,
        step=step,
        num_steps=num_steps,
        perturbation=perturbation_of,
        finished=lambda state: jnp.zeros((), bool),
        per_class=False,
        budget=Budget("linf", config.radius),
    )
