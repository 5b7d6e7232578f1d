"""NTGA: perturbations under which an infinitely wide network generalizes badly."""

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax import projected_gradient
from miue_jax.budget import Budget
from miue_jax.generators import tangent_kernel
from miue_jax.generators.base import Generator
from miue_jax.generators.neural_tangent_config import NeuralTangentConfig
from miue_jax.train import classifier, sampling
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.parallel import State

_ORDER = 0  # the run's key is folded with it


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
    """Cross-entropy of an infinitely wide network trained on a block.

    The network f starts from 0 and descends on the squared error of one-hot targets;
    the loss is mean_v CE(f(x_v), y_v).

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
        # Computed again for the gradient: a block's kernels of every layer and position
        # are too large to keep.
        again = jax.checkpoint(function, prevent_cse=False)
        return lax.map(again, examples, batch_size=config.rows_at_once)

    coefficients = tangent_kernel.descent_coefficients(
        in_pieces(row, block),
        targets,
        time=config.time,
        regularization=config.regularization,
    )
    return jnp.mean(in_pieces(loss_of, (images, labels)))


def neural_tangent(
    config: NeuralTangentConfig,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Generator:
    """Builds NTGA.

    Args:
      config: its settings.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator. A step is one block, to which every shard gives an equal share; the
      devices share the work on its validation images.

    Raises:
      ValueError: if a block and its validation images do not split over the shards, or
        are more than the data have.

    References:
      Yuan, Wu, Neural Tangent Generalization Attacks, ICML 2021.
    """
    blocks = sampling.steps_per_pass(num_examples, num_shards, config.block_size)
    if config.validation_size % num_shards:
        raise ValueError(
            f"validation_size is {config.validation_size}; it must be a multiple of "
            f"the {num_shards} shards"
        )
    share = config.block_size // num_shards
    held = config.validation_size // num_shards
    if share + held > num_examples // num_shards:
        raise ValueError(
            f"block_size {config.block_size} and validation_size "
            f"{config.validation_size} take more images from each of {num_shards} "
            f"shards than the {num_examples // num_shards} that it is sure to have"
        )
    radius, step_size = config.radius / 255, config.step_size / 255

    def init(key: jax.Array, data: sampling.Shards) -> State:
        del key
        delta = jnp.zeros(data.images.shape, jnp.float32)
        order = jnp.zeros(data.labels.shape, jnp.int32)
        return State(jnp.zeros((), jnp.int32), None, (delta, order))

    def everywhere(values: jax.Array) -> jax.Array:
        if axis_name is not None:
            values = lax.all_gather(values, axis_name, tiled=True)
        return values.reshape(-1, *values.shape[2:])

    def step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        delta, order = state.per_example
        order_key = jax.random.fold_in(key, _ORDER)
        order = sampling.order_of_pass(order_key, state.step, order, data)
        positions = state.step * share + jnp.arange(order.shape[1], dtype=jnp.int32)
        turned = positions % data.count[:, None]
        turned = jnp.take_along_axis(order, turned, axis=1)
        # The block comes first, the images that judge it follow.
        taken = sampling.take(data, turned, 0, share + held)
        own = jax.tree.map(lambda values: values[:, :share], taken)
        images, labels, selected = map(
            everywhere, (own.images, own.labels, own.selected)
        )
        changing = selected[:, None, None, None]
        targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        judges = taken.images[:, share:]
        judges = judges.reshape(-1, *judges.shape[2:])
        answers = taken.labels[:, share:].reshape(-1)
        kernel = _kernel(images.shape[1:], config)

        def loss_fn(perturbed: jax.Array) -> jax.Array:
            if axis_name is not None:
                # Of copies this is the identity, and it averages their gradients.
                perturbed = lax.pmean(perturbed, axis_name)
            block = jnp.where(changing, perturbed, images)
            return validation_loss(kernel, block, targets, judges, answers, config)

        moved, losses = projected_gradient.pgd_with_losses(
            loss_fn,
            images,
            jnp.zeros_like(images),
            radius=radius,
            step_size=step_size,
            num_steps=config.pgd_steps,
            ascend=True,
        )
        loss = losses[0]
        if axis_name is not None:
            loss = lax.pmean(loss, axis_name)
        shares = moved.reshape(-1, share, *moved.shape[1:])[data.shard]
        # The last block is filled up from the front, where images have been perturbed.
        fresh = positions[:share] < data.count[:, None]
        delta = sampling.store(delta, own, fresh, shares)
        state = State(state.step + 1, None, (delta, order))
        return state, {"validation_loss": mean_of(loss)}

    return Generator(
        init=init,
        step=step,
        num_steps=blocks,
        perturbation=lambda state: state.per_example[0],
        finished=lambda state: jnp.zeros((), bool),
        per_class=False,
        budget=Budget("linf", config.radius),
    )
