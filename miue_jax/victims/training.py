"""The training of a victim, as pure functions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from miue_jax import defenses, models
from miue_jax._checks import check_number
from miue_jax.image import augment
from miue_jax.train import sampling
from miue_jax.train.classifier import (
    accuracy_of,
    init_learner,
    plain_loss,
    sgd,
    train_step,
)
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.parallel import State
from miue_jax.victims.presets import VictimConfig, learning_rate

# Folded into the run's key, so that no two uses share a stream.
_INIT, _ORDER, _AUGMENT, _DEFENSE, _LOSS, _ATTACK = range(6)


class Victim(NamedTuple):
    """The training of a victim, as pure functions of one device's share of the data.

    Attributes:
      init: (key, data) -> state.
      step: (key, state, data) -> (state, metrics), for one batch.
      evaluate: (state, data, batches=None) -> metrics on a whole data set, or on some
        batches of it, without augmentation.
      evaluate_robust: the same, but under the defense's attack; None if it has none.
      num_steps: steps in all.
      steps_per_epoch: steps in a pass over the training data.
      streamed: how it runs on data of which the devices hold a window at a time.

    Example:
      >>> from miue_jax import victims
      >>> config = victims.preset("quick", model="linear", epochs=2, batch_size=4)
      >>> victim = victims.victim(config, num_examples=8, num_classes=2)
      >>> victim.num_steps, victim.steps_per_epoch
      (4, 2)
    """

    init: Callable[[jax.Array, sampling.Shards], State]
    step: Callable[[jax.Array, State, sampling.Shards], tuple[State, Metrics]]
    evaluate: Callable[..., Metrics]
    evaluate_robust: Callable[..., Metrics] | None
    num_steps: int
    steps_per_epoch: int
    streamed: sampling.Streamed


def victim(
    config: VictimConfig,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
    defense: defenses.Defense = defenses.NONE,
) -> Victim:
    """Builds the training of a victim, with random crops and flips.

    Args:
      config: the protocol.
      num_examples: images in the training data.
      num_classes: classes in the training data.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.
      defense: its augmentation, loss and attack are used; purifying the training images
        is up to the caller.

    Returns:
      The victim.

    Raises:
      ValueError: if the model is unknown, or a batch is larger than the data or does
        not split over the shards.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import victims
      >>> from miue_jax.train import sampling
      >>> config = victims.preset("quick", model="linear", epochs=1, batch_size=4)
      >>> victim = victims.victim(config, num_examples=8, num_classes=2)
      >>> images = np.zeros((8, 8, 8, 3), np.uint8)
      >>> data = sampling.deal(images, np.arange(8) % 2, num_shards=1)
      >>> int(victim.init(jax.random.key(0), data).step), victim.num_steps
      (0, 2)
    """
    module = models.create(
        config.model,
        num_classes=num_classes,
        width=config.width,
        dtype=jnp.dtype(config.dtype),
        axis_name=axis_name,
        convolution=models.loop_convolution,
    )
    share = config.batch_size // num_shards
    steps = sampling.steps_per_pass(num_examples, num_shards, config.batch_size)
    # The steps of all epochs, which a run counts in 32 bits.
    check_number("steps of the victim", config.epochs * steps, "> 0", whole=True)
    optimizer = sgd(
        learning_rate(config, steps),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )

    def init(key: jax.Array, data: sampling.Shards) -> State:
        image_shape = data.images.shape[2:]
        models.check_own(
            config.model,
            image_shape=image_shape,
            num_classes=num_classes,
            width=config.width,
        )
        learner = init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, image_shape
        )
        order = jnp.zeros(data.labels.shape, jnp.int32)
        return State(jnp.zeros((), jnp.int32), learner, order)

    def step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        epoch, position = jnp.divmod(state.step, steps)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
        order = sampling.order_of_pass(order_key, position, state.per_example, data)
        batch = sampling.take(data, order, position, share)
        images = jax.vmap(augment.crop_and_flip)(
            sampling.shard_keys(key, data.shard, _AUGMENT, state.step), batch.images
        )
        labels = batch.labels
        if defense.augment is not None:
            images, labels = jax.vmap(defense.augment)(
                sampling.shard_keys(key, data.shard, _DEFENSE, state.step),
                images,
                labels,
            )
        objective = plain_loss
        if defense.loss is not None:
            objective = functools.partial(
                defense.loss,
                sampling.image_keys(
                    sampling.shard_keys(key, data.shard, _LOSS, state.step), share
                ),
                state.step.astype(jnp.float32) / (config.epochs * steps),
            )
        learner, loss, accuracy = train_step(
            state.shared,
            module,
            optimizer,
            images.reshape(-1, *images.shape[2:]),
            labels.reshape(-1, *labels.shape[2:]),
            loss=objective,
            axis_name=axis_name,
        )
        metrics = {"loss": mean_of(loss), "accuracy": mean_of(accuracy)}
        return State(state.step + 1, learner, order), metrics

    def evaluate(
        state: State, data: sampling.Shards, batches: jax.Array | None = None
    ) -> Metrics:
        variables = state.shared.variables
        accuracy = accuracy_of(
            module, variables, data, axis_name=axis_name, batches=batches
        )
        return {"accuracy": accuracy}

    def evaluate_robust(
        attack: defenses.Attack,
        state: State,
        data: sampling.Shards,
        batches: jax.Array | None = None,
    ) -> Metrics:
        variables = state.shared.variables

        def predict(images: jax.Array) -> jax.Array:
            outputs: Any = module.apply(variables, images, train=False)
            return outputs[1]

        def change(step: jax.Array, batch: sampling.Batch) -> jax.Array:
            # The attack draws the same in every evaluation, whatever the run's key.
            keys = sampling.shard_keys(jax.random.key(0), data.shard, _ATTACK, step)
            return attack(
                sampling.image_keys(keys, batch.images.shape[1]),
                predict,
                batch.images.reshape(-1, *batch.images.shape[2:]),
                batch.labels.reshape(-1),
            )

        accuracy = accuracy_of(
            *(module, variables, data),
            axis_name=axis_name,
            change=change,
            batches=batches,
        )
        return {"accuracy": accuracy}

    robust = None
    if defense.attack is not None:
        robust = functools.partial(evaluate_robust, defense.attack)

    def place(step: int) -> sampling.Place:
        return sampling.Place(_ORDER, *divmod(step, steps), share)

    return Victim(
        *(init, step, evaluate, robust, config.epochs * steps, steps),
        streamed=sampling.Streamed(place, share),
    )
