"""A surrogate that is trained first, on images as they are, and attacked afterwards."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from miue_jax._checks import check_number
from miue_jax.generators import surrogate
from miue_jax.generators.surrogate import SurrogateConfig
from miue_jax.image import augment
from miue_jax.train import classifier, sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Metrics, mean_of

# Keys of a run are folded with these; attacks on the surrogate use others.
_INIT, _ORDER, _AUGMENT, _ATTACK = range(4)

# Of the crops of `augment.crop_and_flip`, in pixels.
_PADDING = 4

MEASURES = ("surrogate_loss", "surrogate_accuracy")

# (keys (B,), predict: images -> logits, images (B, H, W, C), labels (B,)) -> images
Attack = Callable[
    [jax.Array, Callable[[jax.Array], jax.Array], jax.Array, jax.Array], jax.Array
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateTrainingConfig(SurrogateConfig):
    """How the surrogate is trained; its own settings are inherited.

    Attributes:
      epochs: passes over the data.
      milestones: shares of the training, in (0, 1], after each of which the learning
        rate is a tenth.
      warmup_epochs: first epochs, over which the learning rate climbs linearly from a
        hundredth.
      nesterov: whether the momentum is Nesterov's.
    """

    epochs: int = 40
    milestones: tuple[float, ...] = ()
    warmup_epochs: int = 0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epochs", self.epochs, "> 0", whole=True)
        check_number("warmup_epochs", self.warmup_epochs, ">= 0", whole=True)
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be at most epochs "
                f"({self.epochs})"
            )
        # JSON has lists only, and a config is to be hashable.
        milestones = classifier.check_milestones("milestones", self.milestones)
        object.__setattr__(self, "milestones", milestones)


class Trainer(NamedTuple):
    """The training of a surrogate, as a part of a generator's state.

    Attributes:
      init: (key, data) -> learner.
      step: (key, count, learner, order, data) -> (learner, order, metrics), one batch;
        count is the () int32 number of batches before and order (g, n) int32 that of
        the rows in the pass under way, of any value before the first batch.
      epoch_steps: batches in a pass over the data.
    """

    init: Callable[[jax.Array, sampling.Shards], Learner]
    step: Callable[
        [jax.Array, jax.Array, Learner, jax.Array, sampling.Shards],
        tuple[Learner, jax.Array, Metrics],
    ]
    epoch_steps: int


def trainer(
    config: SurrogateTrainingConfig,
    module: nn.Module,
    *,
    num_examples: int,
    num_shards: int = 1,
    axis_name: str | None = None,
    attack: Attack | None = None,
) -> Trainer:
    """Builds the training of a surrogate on cropped and mirrored images.

    Args:
      config: its settings.
      module: the network, from `surrogate.create`.
      num_examples: images in the data set.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.
      attack: what it is trained to withstand: applied to every batch, to the network in
        evaluation mode; None for nothing. Its keys are one an image.

    Returns:
      The training.

    Raises:
      ValueError: if the data do not fill a batch.
    """
    share = config.batch_size // num_shards
    steps = sampling.steps_per_pass(num_examples, num_shards, config.batch_size)
    optimizer = classifier.sgd(
        learning_rate(config, steps),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )

    def init(key: jax.Array, data: sampling.Shards) -> Learner:
        shape = data.images.shape[2:]
        surrogate.check_images(shape, config)
        surrogate.check_crop(shape, _PADDING)
        return classifier.init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, shape
        )

    def step(
        key: jax.Array,
        count: jax.Array,
        learner: Learner,
        order: jax.Array,
        data: sampling.Shards,
    ) -> tuple[Learner, jax.Array, Metrics]:
        epoch, position = jnp.divmod(count, steps)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
        order = sampling.order_of_pass(order_key, position, order, data)
        batch = sampling.take(data, order, position, share)
        images = jax.vmap(augment.crop_and_flip)(
            sampling.shard_keys(key, data.shard, _AUGMENT, count), batch.images
        )
        images = images.reshape(-1, *images.shape[2:])
        labels = batch.labels.reshape(-1)
        if attack is not None:

            def predict(images: jax.Array) -> jax.Array:
                seen = surrogate.normalize(images, config)
                outputs: Any = module.apply(learner.variables, seen, train=False)
                return outputs[1]

            attack_keys = sampling.shard_keys(key, data.shard, _ATTACK, count)
            attack_keys = sampling.image_keys(attack_keys, share)
            images = attack(attack_keys, predict, images, labels)
        learner, loss, accuracy = classifier.train_step(
            learner,
            module,
            optimizer,
            surrogate.normalize(images, config),
            labels,
            axis_name=axis_name,
        )
        measured = (mean_of(loss), mean_of(accuracy))
        return learner, order, dict(zip(MEASURES, measured, strict=True))

    return Trainer(init, step, steps)


def learning_rate(config: SurrogateTrainingConfig, epoch_steps: int) -> optax.Schedule:
    """The surrogate's learning rate: a climb, then drops to a tenth.

    Args:
      config: its learning_rate, epochs, milestones and warmup_epochs.
      epoch_steps: batches in an epoch.

    Returns:
      An Optax schedule: () number of batches before -> () float.
    """
    steps, climb = config.epochs * epoch_steps, config.warmup_epochs * epoch_steps
    rate = classifier.stepwise(config.learning_rate, config.milestones, num_steps=steps)
    if not climb:
        return rate
    share = optax.linear_schedule(0.01, 1.0, climb)
    return lambda count: share(count) * rate(count)
