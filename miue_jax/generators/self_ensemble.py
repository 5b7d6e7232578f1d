"""SEP: adversarial examples of all the checkpoints of one training at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax.budget import Budget
from miue_jax.generators import checkpoint_ensemble, surrogate, surrogate_training
from miue_jax.generators.base import Generator
from miue_jax.generators.self_ensemble_config import SelfEnsembleConfig
from miue_jax.generators.stages import Stage, in_turn
from miue_jax.train import sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State

# The training of the surrogate folds the run's key with numbers below this.
_ATTACK = 16


class _Checkpoint(NamedTuple):
    variables: Any
    sums: jax.Array | None  # (K, D) of each class's features, where they are aims


class _Shared(NamedTuple):
    learner: Learner
    stack: _Checkpoint  # leaves (n, ...)
    counts: jax.Array  # (K,) float32, images of each class whose features are summed


class _PerExample(NamedTuple):
    order: jax.Array  # (g, n) int32
    delta: jax.Array  # (g, n, H, W, C)


def self_ensemble(
    config: SelfEnsembleConfig,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Generator:
    r"""Builds SEP.

    With the checkpoints :math:`f_k` of one training on clean images, the features
    :math:`h_k` before their last layer and the means :math:`\mu_{k,c}` of class c,

    .. math:: \delta_i = \arg\min_{\lVert\delta\rVert_\infty \le r} \frac1n \sum_k
              \frac1D \lVert h_k(x_i + \delta) - \mu_{k, y_i + \lfloor K/2 \rfloor}
              \rVert_2^2

    or the same with the cross-entropy of :math:`f_k` toward that class.

    Args:
      config: its settings.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator. A step is one batch: of training, of the features' means, or all
      steps of the attack.

    Raises:
      ValueError: if the data do not fill a batch.

    References:
      Chen et al., Self-Ensemble Protection: Training Checkpoints Are Good Data
      Protectors, ICLR 2023, arXiv 2211.12005.
    """
    module = surrogate.create(config, num_classes=num_classes, axis_name=axis_name)
    trainer = surrogate_training.trainer(
        config,
        module,
        num_examples=num_examples,
        num_shards=num_shards,
        axis_name=axis_name,
    )
    size = config.perturbation_batch_size
    visits = sampling.steps_per_pass(num_examples, num_shards, size)
    share = size // num_shards
    radius = config.radius / 255
    by_features = config.objective == "features"

    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = surrogate.normalize(images, config)
        outputs: Any = module.apply(variables, seen, train=False)
        return outputs

    def init(key: jax.Array, data: sampling.Shards) -> State:
        learner = trainer.init(key, data)
        one = jnp.zeros((1, *data.images.shape[2:]), jnp.float32)
        features, _ = jax.eval_shape(forward, learner.variables, one)
        count = config.checkpoints
        stack = jax.tree.map(
            lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), learner.variables
        )
        sums = jnp.zeros((count, num_classes, features.shape[-1]), jnp.float32)
        return State(
            jnp.zeros((), jnp.int32),
            _Shared(
                learner,
                _Checkpoint(stack, sums if by_features else None),
                jnp.zeros(num_classes, jnp.float32),
            ),
            _PerExample(
                jnp.zeros(data.labels.shape, jnp.int32),
                jnp.zeros(data.images.shape, jnp.float32),
            ),
        )

    def train(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        shared = state.shared
        learner, order, metrics = trainer.step(
            key, count, shared.learner, state.per_example.order, data
        )
        epochs = (count + 1) // trainer.epoch_steps
        before = count // trainer.epoch_steps * config.checkpoints // config.epochs
        after = epochs * config.checkpoints // config.epochs
        stack = checkpoint_ensemble.save(
            shared.stack.variables,
            jnp.maximum(after - 1, 0),
            learner.variables,
            after > before,
        )
        shared = shared._replace(
            learner=learner, stack=shared.stack._replace(variables=stack)
        )
        per_example = state.per_example._replace(order=order)
        return state._replace(shared=shared, per_example=per_example), metrics

    def sum_features(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        """Adds one batch to the features' sums by class, for every checkpoint."""
        del key
        batch = sampling.take_in_order(data, count, share)
        images = batch.images.reshape(-1, *batch.images.shape[2:])
        members = jax.nn.one_hot(
            batch.labels.reshape(-1), num_classes, dtype=jnp.float32
        )
        members = members * batch.fresh.reshape(-1, 1)

        def class_sums(variables: Any) -> jax.Array:
            features, _ = forward(variables, images)
            return jnp.matmul(members.T, features, precision=lax.Precision.HIGHEST)

        stack = state.shared.stack
        sums = lax.map(class_sums, stack.variables)
        counts = jnp.sum(members, axis=0)
        if axis_name is not None:
            sums, counts = lax.psum((sums, counts), axis_name)
        shared = state.shared._replace(
            stack=stack._replace(sums=stack.sums + sums),
            counts=state.shared.counts + counts,
        )
        return state._replace(shared=shared), {}

    def attack(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        """Takes all steps on one batch."""
        batch = sampling.take_in_order(data, count, share)
        chosen = batch.fresh & batch.selected
        aims = (batch.labels.reshape(-1) + num_classes // 2) % num_classes

        def cost(one: _Checkpoint, images: jax.Array) -> jax.Array:
            features, logits = forward(one.variables, images)
            if one.sums is None:
                values = optax.softmax_cross_entropy_with_integer_labels(logits, aims)
            else:
                means = one.sums / jnp.maximum(state.shared.counts, 1)[:, None]
                values = jnp.mean(jnp.square(features - means[aims]), axis=-1)
            return jnp.sum(jnp.where(chosen.reshape(-1), values, 0))

        stack = state.shared.stack
        inner = stack
        if stack.sums is not None and config.inner_means == "last":
            last = jnp.broadcast_to(stack.sums[-1:], stack.sums.shape)
            inner = stack._replace(sums=last)
        delta, loss = checkpoint_ensemble.descend(
            jax.random.fold_in(jax.random.fold_in(key, _ATTACK), count),
            cost,
            stack,
            batch.images.reshape(-1, *batch.images.shape[2:]),
            checkpoint_ensemble.Steps(
                radius, config.step_size / 255, config.pgd_steps, config.inner_steps
            ),
            inner_stack=inner,
        )
        measured = Mean(loss, jnp.sum(chosen, dtype=jnp.float32))
        if axis_name is not None:
            measured = lax.psum(measured, axis_name)
        stored = sampling.store(state.per_example.delta, batch, chosen, delta)
        per_example = state.per_example._replace(delta=stored)
        metrics = {"perturbation_loss": measured}
        return state._replace(per_example=per_example), metrics

    training = config.epochs * trainer.epoch_steps
    stages = [Stage(train, training, surrogate_training.MEASURES)]
    if by_features:
        stages.append(Stage(sum_features, visits, ()))
    stages.append(Stage(attack, visits, ("perturbation_loss",)))
    step, num_steps = in_turn(stages)
    return Generator(
        init=init,
        step=step,
        num_steps=num_steps,
        perturbation=lambda state: jnp.clip(state.per_example.delta, -radius, radius),
        finished=lambda state: jnp.zeros((), bool),
        per_class=False,
        budget=Budget("linf", config.radius),
    )
