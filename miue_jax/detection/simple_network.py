"""Detection by simple networks: they learn protected data far too well."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax._checks import check_choice, check_number
from miue_jax.train import sampling
from miue_jax.train.classifier import (
    Learner,
    accuracy_of,
    init_learner,
    sgd,
    stepwise,
    train_step,
)

MODELS = ("linear", "mlp2", "mlp3")

# The key of a run is folded with these, so that no two uses share a stream.
_SPLIT, _INIT, _ORDER = range(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleNetworkConfig:
    """Protocol of the detection.

    The learning rate falls to a tenth at three quarters and again at nine tenths of the
    epochs. Momentum and decay are those of the field's victims.

    Attributes:
      model: one of `MODELS`: a linear classifier, a 2-NN or a 3-NN.
      width: hidden units of the latter two; None for the architecture's own.
      epochs: passes over the training part.
      batch_size: images in a batch.
      learning_rate: of SGD in its first epoch.
      momentum: of SGD.
      weight_decay: of SGD.
      validation: share of the data that is held out, in (0, 1).

    Example:
      >>> from miue_jax import detection
      >>> detection.SimpleNetworkConfig(model="linear").epochs
      100
    """

    model: str = "mlp2"
    width: int | None = None
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    validation: float = 0.2

    def __post_init__(self) -> None:
        check_choice("simple_network model", self.model, MODELS)
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            check_number(f"simple_network {name}", value, "> 0", whole=True)
        if self.width is not None:
            check_number("simple_network width", self.width, "> 0", whole=True)
        check_number("simple_network learning_rate", self.learning_rate, "> 0")
        check_number("simple_network momentum", self.momentum, "in [0, 1)")
        check_number("simple_network weight_decay", self.weight_decay, ">= 0")
        check_number("simple_network validation", self.validation, "in (0, 1]")


class SimpleNetwork(NamedTuple):
    """How well a simple network learned a data set.

    Attributes:
      train_accuracy: in [0, 1], on the part that it was trained on.
      validation_accuracy: in [0, 1], on the part that was held out. High where the data
        are protected by what a simple network can read, as no natural images are.

    Example:
      >>> from miue_jax import detection
      >>> detection.SimpleNetwork(0.9, 0.8).validation_accuracy
      0.8
    """

    train_accuracy: float
    validation_accuracy: float


def check_size(config: SimpleNetworkConfig, size: int) -> int:
    """Checks that a data set has enough images for `simple_network`.

    Args:
      config: the protocol.
      size: N, the number of its images.

    Returns:
      The steps of an epoch.

    Raises:
      ValueError: if a part is empty or smaller than a batch.

    Example:
      >>> from miue_jax import detection
      >>> detection.check_size(detection.SimpleNetworkConfig(batch_size=10), 100)
      8
    """
    count = round(config.validation * size)
    if not 0 < count < size:
        raise ValueError(
            f"validation {config.validation} of {size} images leaves {size - count} to "
            f"train on and {count} to validate; both must be positive"
        )
    return sampling.steps_per_pass(size - count, 1, config.batch_size)


def simple_network(
    key: jax.Array,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    config: SimpleNetworkConfig,
) -> SimpleNetwork:
    """Trains a simple network on a part of a data set and tests it on the rest.

    No clean images are needed: both parts are of the data that may be protected. There
    is no augmentation.

    Args:
      key: a PRNG key, for the parts, the weights and the order of the images.
      images: (N, H, W, C) uint8.
      labels: (N,) int.
      num_classes: classes.
      config: the protocol.

    Returns:
      Both accuracies, after the last epoch.

    Raises:
      ValueError: if a part is empty or smaller than a batch, or images and labels do
        not fit each other.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import detection
      >>> labels = np.arange(20) % 2
      >>> images = np.zeros((20, 4, 4, 1), np.uint8) + 255 * labels[:, None, None, None]
      >>> config = detection.SimpleNetworkConfig(model="linear", epochs=5, batch_size=8)
      >>> found = detection.simple_network(
      ...     jax.random.key(0), images.astype(np.uint8), labels, 2, config
      ... )
      >>> 0 <= found.validation_accuracy <= 1
      True

    References:
      Zhu, Yu, Gao, "Detection and defense of unlearnable examples", AAAI 2024, on
      detection by simple networks.
    """
    size = len(images)
    steps = check_size(config, size)
    count = round(config.validation * size)
    split = jax.random.permutation(jax.random.fold_in(key, _SPLIT), size)
    held_out, rest = np.split(np.asarray(split), [count])
    train, validation = (
        jax.tree.map(jnp.asarray, sampling.deal(images[part], labels[part], 1))
        for part in (rest, held_out)
    )
    module = models.create(config.model, num_classes=num_classes, width=config.width)
    schedule = stepwise(
        config.learning_rate, (0.75, 0.9), num_steps=config.epochs * steps
    )
    optimizer = sgd(
        schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )

    @jax.jit
    def fit(key: jax.Array, data: sampling.Shards) -> Learner:
        learner = init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, data.images.shape[2:]
        )
        order_key = jax.random.fold_in(key, _ORDER)

        def run_epoch(epoch: jax.Array, learner: Learner) -> Learner:
            order = sampling.shuffled(jax.random.fold_in(order_key, epoch), data)

            def step(position: jax.Array, learner: Learner) -> Learner:
                batch = sampling.take(data, order, position, config.batch_size)
                return train_step(
                    learner, module, optimizer, batch.images[0], batch.labels[0]
                )[0]

            return jax.lax.fori_loop(0, steps, step, learner)

        return jax.lax.fori_loop(0, config.epochs, run_epoch, learner)

    @jax.jit
    def accuracy(learner: Learner, data: sampling.Shards) -> jax.Array:
        right, total = accuracy_of(module, learner.variables, data)
        return right / total

    learner = fit(key, train)
    return SimpleNetwork(
        float(accuracy(learner, train)), float(accuracy(learner, validation))
    )
