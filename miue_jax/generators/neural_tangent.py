"""NTGA: perturbations on which an infinitely wide network generalizes poorly."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax import projected_gradient
from miue_jax._checks import check_choice, check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators import tangent_kernel
from miue_jax.generators.base import DataSpec, Generator
from miue_jax.generators.surrogate import check_radius
from miue_jax.train import classifier, sampling
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.parallel import State

_NETWORKS = ("cnn", "fnn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuralTangentConfig:
    """Settings of NTGA.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of projected gradient, in gray levels.
      pgd_steps: projected-gradient steps on a block.
      network: "cnn", two convolutions and three dense layers, or "fnn", five layers of
        the error function.
      weight_variance: of the network at initialization, times the inputs of a neuron.
      bias_variance: of the network at initialization.
      time: learning rate times steps of gradient descent on a block.
      regularization: added to the diagonal of a block's kernel, relative to its mean.
      block_size: images that are perturbed together, as one training set.
      validation_size: images on which the trained network is validated, different ones
        for each block.
      rows_at_once: images that each device compares with a block at a time; affects
        memory only.
    """

    radius: float = 8.0
    step_size: float = 8.0
    pgd_steps: int = 1
    network: Literal["cnn", "fnn"] = "cnn"
    weight_variance: float = 1.76
    bias_variance: float = 0.18
    time: float = 64.0
    regularization: float = 1e-4
    block_size: int = 512
    validation_size: int = 10_000
    rows_at_once: int = 64

    def __post_init__(self) -> None:
        check_radius(self.radius)
        check_choice("network", self.network, _NETWORKS)
        for name in ("pgd_steps", "block_size", "validation_size", "rows_at_once"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("step_size", "weight_variance", "bias_variance", "time"):
            check_number(name, getattr(self, name), "> 0")
        check_number("regularization", self.regularization, ">= 0")


# "cnn" and "fnn" are what was published: the paper's ten steps of projected gradient
# are, in the released code, ten times the same step of the whole radius from the clean
# image. "pgd" takes the steps that the paper describes. In the publication, only whole
# blocks of 40,000 images are perturbed and validated on 10,000 that stay clean; here
# all images are, and a block is validated on those that follow it in a random order.
# The rate of the descent is divided by the n K entries of the targets, as in the
# library that the code calls.
PRESETS: dict[str, NeuralTangentConfig] = {
    "cnn": NeuralTangentConfig(),
    "fnn": NeuralTangentConfig(network="fnn"),
    "pgd": NeuralTangentConfig(step_size=0.88, pgd_steps=10),
}


_ORDER = 0  # folded into the run's key


def _kernel(
    image_shape: tuple[int, ...], config: NeuralTangentConfig
) -> tangent_kernel.TangentKernel:
    variances = {
        "weight_variance": config.weight_variance,
        "bias_variance": config.bias_variance,
    }
    if config.network == "fnn":
        return tangent_kernel.fully_connected(**variances)
    return tangent_kernel.convolutional(image_shape, **variances)


def validation_loss(
    kernel: tangent_kernel.TangentKernel,
    block: jax.Array,
    targets: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    config: NeuralTangentConfig,
) -> jax.Array:
    r"""Cross-entropy of an infinitely wide network trained on a block.

    .. math:: \frac1V \sum_{v=1}^V \mathrm{CE}(f(x_v), y_v)

    The network f starts from 0 and descends on the squared error of one-hot targets.

    Args:
      kernel: of the network.
      block: (n, H, W, C) float in [0, 1], the training images.
      targets: (n, K) one-hot labels.
      images: (V, H, W, C) float in [0, 1], the validation images.
      labels: (V,) int32.
      config: its `time`, `regularization` and `rows_at_once`.

    Returns:
      () float32, in nats.
    """
    patches = kernel.patches(block)

    def row(image: jax.Array) -> jax.Array:
        return kernel.compare(kernel.patches(image[None]), patches)[0]

    def loss_of(example: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, label = example
        logits = jnp.dot(row(image), coefficients, precision=lax.Precision.HIGHEST)
        return classifier.cross_entropy(logits[None], label[None])

    def in_pieces(function, examples):
        # Recomputed for the gradient: a block's kernels for every layer and position do
        # not fit in memory.
        again = jax.checkpoint(function, prevent_cse=False)
        return lax.map(again, examples, batch_size=config.rows_at_once)

    coefficients = tangent_kernel.descent_coefficients(
        in_pieces(row, block),
        targets,
        time=config.time,
        regularization=config.regularization,
    )
    return jnp.mean(in_pieces(loss_of, (images, labels)))


def neural_tangent(config: NeuralTangentConfig, spec: DataSpec) -> Generator:
    r"""Builds NTGA.

    With the infinitely wide network :math:`f_\delta` that gradient descent gives on a
    perturbed block, and other images :math:`x_v`,

    .. math:: \max_{\lVert\delta\rVert_\infty \le r}
              \frac1V \sum_{v=1}^V \mathrm{CE}(f_\delta(x_v), y_v).

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. A step is one block, to which every shard contributes an equal
      share; the devices share the work on its validation images.

    Raises:
      ValueError: if a block and its validation images do not split over the shards, or
        are more than the data have.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.neural_tangent import neural_tangent
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset(
      ...     "neural_tangent", "fnn", block_size=16, validation_size=32
      ... )
      >>> neural_tangent(config, spec).num_steps
      4

    References:
      Yuan, Wu, Neural Tangent Generalization Attacks, ICML 2021.
    """
    blocks = spec.steps_per_pass(config.block_size, "block_size")
    if config.validation_size % spec.num_shards:
        raise ValueError(
            f"validation_size is {config.validation_size}; it must be a multiple of "
            f"the {spec.num_shards} shards"
        )
    share = spec.share(config.block_size)
    held = spec.share(config.validation_size)
    if share + held > spec.share(spec.num_examples):
        raise ValueError(
            f"block_size {config.block_size} and validation_size "
            f"{config.validation_size} take more images from each of {spec.num_shards} "
            f"shards than the {spec.share(spec.num_examples)} that it is sure to have"
        )
    radius, step_size = to_unit(config.radius), to_unit(config.step_size)

    def init(key: jax.Array, data: sampling.Shards) -> State:
        del key
        delta = jnp.zeros(data.images.shape, jnp.float32)
        order = jnp.zeros(data.labels.shape, jnp.int32)
        return State(jnp.zeros((), jnp.int32), None, (delta, order))

    def everywhere(values: jax.Array) -> jax.Array:
        if spec.axis_name is not None:
            values = lax.all_gather(values, spec.axis_name, tiled=True)
        return values.reshape(-1, *values.shape[2:])

    def step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        delta, order = state.per_example
        order_key = jax.random.fold_in(key, _ORDER)
        order = sampling.order_of_pass(order_key, state.step, order, data)
        positions = state.step * share + jnp.arange(order.shape[1], dtype=jnp.int32)
        rotated = positions % data.count[:, None]
        rotated = jnp.take_along_axis(order, rotated, axis=1)
        # The block comes first, followed by its validation images.
        taken = sampling.take(data, rotated, 0, share + held)
        batch = jax.tree.map(lambda values: values[:, :share], taken)
        images, labels, selected = map(
            everywhere, (batch.images, batch.labels, batch.selected)
        )
        changing = selected[:, None, None, None]
        targets = jax.nn.one_hot(labels, spec.num_classes, dtype=jnp.float32)
        held_out = taken.images[:, share:]
        held_out = held_out.reshape(-1, *held_out.shape[2:])
        held_out_labels = taken.labels[:, share:].reshape(-1)
        kernel = _kernel(images.shape[1:], config)

        def loss_fn(perturbed: jax.Array) -> jax.Array:
            if spec.axis_name is not None:
                # The identity on replicated values; it averages their gradients.
                perturbed = lax.pmean(perturbed, spec.axis_name)
            block = jnp.where(changing, perturbed, images)
            return validation_loss(
                kernel, block, targets, held_out, held_out_labels, config
            )

        moved, losses = projected_gradient.pgd_with_losses(
            loss_fn,
            images,
            jnp.zeros_like(images),
            radius=radius,
            step_size=step_size,
            num_steps=config.pgd_steps,
            ascend=True,
        )
        loss = spec.mean(losses[0])
        shares = moved.reshape(-1, share, *moved.shape[1:])[data.shard]
        # The last block is padded from the front, where images have been perturbed.
        fresh = positions[:share] < data.count[:, None]
        delta = sampling.store(delta, batch, fresh, shares)
        state = State(state.step + 1, None, (delta, order))
        return state, {"validation_loss": mean_of(loss)}

    return Generator(
        init=init,
        step=step,
        num_steps=blocks,
        perturbation=lambda state: state.per_example[0],
        budget=Budget("linf", config.radius),
        sharded=True,
    )
