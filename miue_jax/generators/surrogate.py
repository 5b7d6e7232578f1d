"""The surrogate of a generator: its settings, network and training."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from miue_jax import models
from miue_jax._checks import check_choice, check_number, check_text
from miue_jax.generators import transformed
from miue_jax.generators.base import DataSpec
from miue_jax.image import augment, views
from miue_jax.image.views import ViewsConfig
from miue_jax.train import classifier, sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Metrics, mean_of

_MEAN_AND_STD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}

# Keys of a run are folded with these; attacks on the surrogate use others.
_INIT, _ORDER, _AUGMENT, _ATTACK, _TRANSFORMATION = range(5)

# Padding of `augment.crop_and_flip`, which surrogates train with, in pixels.
PADDING = 4

Normalization = Literal["none", "imagenet", "cifar10"]

METRICS = ("surrogate_loss", "surrogate_accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Settings of a surrogate and its SGD.

    Attributes:
      model: architecture (`models.NAMES`, or module:function).
      width: its width; None for the architecture's own.
      dtype: compute dtype.
      normalization: of the network's input: none, or by the channel means and standard
        deviations of ImageNet or CIFAR-10.
      batch_size: global batch size of its training.
      learning_rate: of the first epoch.
      momentum: of its SGD.
      weight_decay: of its SGD.
      views: how it, and the perturbation's objective, see images: "none" for as they
        are, "compression" or "robust", or a `ViewsConfig` or a mapping of its settings.
        Views come before crops and mirroring.
    """

    model: str = "resnet18"
    width: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    normalization: Normalization = "none"
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    views: ViewsConfig = views.PRESETS["none"]

    def __post_init__(self) -> None:
        check_text("model", self.model)
        object.__setattr__(self, "views", views.preset(self.views))
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))
        check_choice("normalization", self.normalization, ("none", *_MEAN_AND_STD))
        if self.width is not None:
            check_number("width", self.width, "> 0", whole=True)
        check_number("batch_size", self.batch_size, "> 0", whole=True)
        check_number("learning_rate", self.learning_rate, "> 0")
        check_number("momentum", self.momentum, "in [0, 1)")
        check_number("weight_decay", self.weight_decay, ">= 0")


def create(config: SurrogateConfig, spec: DataSpec, *, crop: int = 0) -> nn.Module:
    """Creates the surrogate's network, which takes normalized images.

    Args:
      config: the settings.
      spec: of the data.
      crop: largest shift of the images, in pixels.

    Returns:
      The module.

    Raises:
      ValueError: if the normalization or the crop does not fit the images, or the model
        is unknown.
    """
    height, width, channels = spec.image_shape
    if config.normalization != "none" and channels != 3:
        raise ValueError(
            f"normalization {config.normalization!r} is for three channels, the images "
            f"have {channels}; set it to 'none'"
        )
    if crop >= min(height, width):
        raise ValueError(
            f"crop is {crop} pixels, the images have {height}x{width}: "
            "a shift as large as the image leaves nothing of it"
        )
    views.check(config.views, spec.image_shape)
    models.check_own(
        config.model,
        image_shape=spec.image_shape,
        num_classes=spec.num_classes,
        width=config.width,
    )
    return models.create(
        config.model,
        num_classes=spec.num_classes,
        width=config.width,
        dtype=jnp.dtype(config.dtype),
        axis_name=spec.axis_name,
        convolution=models.loop_convolution,
    )


def normalize(images: jax.Array, config: SurrogateConfig) -> jax.Array:
    """Normalizes images for the surrogate.

    Args:
      images: (..., C) float in [0, 1].
      config: the settings; only `normalization` matters.

    Returns:
      An array of the same shape.
    """
    if config.normalization == "none":
        return images
    mean, std = map(jnp.asarray, _MEAN_AND_STD[config.normalization])
    return (images - mean) / std


def check_radius(radius: float) -> None:
    """Checks an L-infinity budget: published images are 8-bit, so levels are whole.

    Args:
      radius: largest change of a channel, in gray levels.

    Raises:
      ValueError: if it is not a whole number from 1 to 255.
    """
    fits = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
    if not fits or not 1 <= radius <= 255 or radius != round(radius):
        raise ValueError(
            f"radius is {radius!r}; allowed: whole gray levels from 1 to 255"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateTrainingConfig(SurrogateConfig):
    """Settings of a surrogate that is trained first and attacked afterwards.

    Attributes:
      epochs: passes over the data.
      milestones: shares of the training, in (0, 1], after each of which the learning
        rate drops to a tenth.
      warmup_epochs: first epochs, over which the learning rate rises linearly from a
        hundredth.
      nesterov: whether to use Nesterov momentum.
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
        # JSON has only lists, and a config must be hashable.
        milestones = classifier.check_milestones("milestones", self.milestones)
        object.__setattr__(self, "milestones", milestones)


# (keys (B,), predict: images -> logits, images (B, H, W, C), labels (B,) or class
# probabilities (B, K)) -> images
Attack = Callable[
    [jax.Array, Callable[[jax.Array], jax.Array], jax.Array, jax.Array], jax.Array
]


class Trainer(NamedTuple):
    """The training of a surrogate, as part of a generator.

    Attributes:
      init: (key, data) -> learner.
      step: (key, count, learner, order, data) -> (learner, order, metrics), one batch;
        count is the () int32 number of batches before it, and order the (g, n) int32
        order of the rows in the current pass, arbitrary before the first batch.
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
    spec: DataSpec,
    *,
    attack: Attack | None = None,
) -> Trainer:
    """Builds the training of a surrogate on cropped and mirrored views of images.

    Args:
      config: the settings.
      module: the network, from `create`.
      spec: of the data.
      attack: applied to each batch, with the network in evaluation mode and one key per
        image; None for none.

    Returns:
      The training.

    Raises:
      ValueError: if the data do not fill a batch.
    """
    share = spec.share(config.batch_size)
    steps = spec.steps_per_pass(config.batch_size)
    optimizer = classifier.sgd(
        learning_rate(config, steps),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )

    def init(key: jax.Array, data: sampling.Shards) -> Learner:
        return classifier.init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, data.images.shape[2:]
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
        view_key = jax.random.fold_in(jax.random.fold_in(key, _TRANSFORMATION), count)
        shape = batch.images.shape
        changed = transformed.draw(
            *(view_key, data.shard, shape, batch.labels, config.views),
            num_classes=spec.num_classes,
            progress=epoch / config.epochs,
        )
        seen = changed.see(batch.images.reshape(-1, *shape[2:])).reshape(shape)
        images = jax.vmap(augment.crop_and_flip)(
            sampling.shard_keys(key, data.shard, _AUGMENT, count), seen
        )
        images = images.reshape(-1, *images.shape[2:])
        labels = changed.targets
        if attack is not None:

            def predict(images: jax.Array) -> jax.Array:
                seen = normalize(images, config)
                outputs: Any = module.apply(learner.variables, seen, train=False)
                return outputs[1]

            attack_keys = sampling.shard_keys(key, data.shard, _ATTACK, count)
            attack_keys = sampling.image_keys(attack_keys, share)
            images = attack(attack_keys, predict, images, labels)
        learner, loss, accuracy = classifier.train_step(
            learner,
            module,
            optimizer,
            normalize(images, config),
            labels,
            axis_name=spec.axis_name,
        )
        measured = (mean_of(loss), mean_of(accuracy))
        return learner, order, dict(zip(METRICS, measured, strict=True))

    return Trainer(init, step, steps)


def learning_rate(config: SurrogateTrainingConfig, epoch_steps: int) -> optax.Schedule:
    """The surrogate's learning rate: a linear warmup, then drops to a tenth.

    Args:
      config: the settings.
      epoch_steps: batches in an epoch.

    Returns:
      An Optax schedule: () number of batches before -> () float.
    """
    steps, warmup = config.epochs * epoch_steps, config.warmup_epochs * epoch_steps
    rate = classifier.stepwise(config.learning_rate, config.milestones, num_steps=steps)
    if not warmup:
        return rate
    share = optax.linear_schedule(0.01, 1.0, warmup)
    return lambda count: share(count) * rate(count)
