"""PIL: subtracts noise from which a linear classifier predicts the label."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax import _flat_draws
from miue_jax._checks import check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators import surrogate
from miue_jax.generators.base import DataSpec, Generator, Stage, in_stages
from miue_jax.generators.surrogate import check_radius
from miue_jax.train import classifier, sampling
from miue_jax.train.metrics import Mean, Metrics, mean_of
from miue_jax.train.parallel import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerturbationLinearConfig:
    """Settings of PIL.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of a step of sign descent, in gray levels.
      pgd_steps: steps of sign descent on each image's noise.
      noise_weight: in [0, 1], of the loss of the noise alone; the rest is the weight of
        the loss of the image without the noise.
      depth: number of matrices, without biases, whose product is the linear classifier.
      epochs: passes of the classifier over the clean images.
      batch_size: global batch size, of training and of sign descent.
      learning_rate: of the first epoch; it decays to 0 along a cosine over the epochs.
      momentum: of the classifier's SGD.
    """

    radius: float = 8.0
    step_size: float = 0.8
    pgd_steps: int = 30
    noise_weight: float = 0.9
    depth: int = 2
    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 0.003
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_radius(self.radius)
        for name in ("step_size", "learning_rate"):
            check_number(name, getattr(self, name), "> 0")
        for name in ("pgd_steps", "depth", "epochs", "batch_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        check_number("noise_weight", self.noise_weight, "in [0, 1]")
        check_number("momentum", self.momentum, "in [0, 1)")


# The last batch of a pass is padded from its front; the published one is smaller.
PRESETS: dict[str, PerturbationLinearConfig] = {"published": PerturbationLinearConfig()}


# Keys of a run are folded with these, so that no two uses share a stream.
_INIT, _NOISE = range(2)


class _Shared(NamedTuple):
    weights: Any  # a list of (D, K), (K, K), ...
    opt_state: optax.OptState


def noise_loss(
    matrix: jax.Array,
    noise: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    noise_weight: float,
) -> jax.Array:
    r"""The loss that PIL minimizes over the noise n of an image x with label y.

    .. math:: w\, \mathrm{CE}(g(n), y) + (1 - w)\,
              \mathrm{KL}(\mathrm{uniform} \,\Vert\, \mathrm{softmax}\, g(x - n))

    Here g(x) = x M for the classifier's matrix M, and w is the noise weight.

    Args:
      matrix: (D, K), of the linear classifier.
      noise: (B, D) in [0, 1] units.
      images: (B, D) in [0, 1].
      labels: (B,) int32.
      noise_weight: in [0, 1].

    Returns:
      (B,) losses, in nats.
    """
    read = optax.softmax_cross_entropy_with_integer_labels(
        _product(noise, matrix), labels
    )
    log_probabilities = jax.nn.log_softmax(_product(images - noise, matrix))
    unread = -jnp.log(matrix.shape[1]) - jnp.mean(log_probabilities, -1)
    return noise_weight * read + (1 - noise_weight) * unread


def noise_gradient(
    matrix: jax.Array,
    noise: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    noise_weight: float,
) -> jax.Array:
    r"""The gradient of `noise_loss` with respect to the noise, in closed form.

    .. math:: \bigl(w\, (\mathrm{softmax}\, g(n) - e_y)
              - (1 - w) (\mathrm{softmax}\, g(x - n) - 1 / K)\bigr) M^\top

    Here :math:`e_y` is the one-hot label.

    Args:
      matrix: (D, K), of the linear classifier.
      noise: (B, D) in [0, 1] units.
      images: (B, D) in [0, 1].
      labels: (B,) int32.
      noise_weight: in [0, 1].

    Returns:
      (B, D), the gradient of each image's loss.
    """
    classes = matrix.shape[1]
    target = jax.nn.one_hot(labels, classes, dtype=matrix.dtype)
    read = jax.nn.softmax(_product(noise, matrix)) - target
    unread = jax.nn.softmax(_product(images - noise, matrix)) - 1 / classes
    return _product(noise_weight * read - (1 - noise_weight) * unread, matrix.T)


def perturbation_linear(config: PerturbationLinearConfig, spec: DataSpec) -> Generator:
    r"""Builds PIL.

    A linear classifier is trained on clean images. Then sign descent lowers
    `noise_loss` over the noise n of every image, in the L-infinity ball and from
    uniform noise, and the perturbation is :math:`\delta = -n`, shortened to the image
    box.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. A step is one batch: of the classifier's training, then of sign
      descent.

    Raises:
      ValueError: if the data do not fill a batch.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.perturbation_linear import perturbation_linear
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("perturbation_linear", batch_size=16)
      >>> perturbation_linear(config, spec).num_steps  # 30 epochs and the descent
      124

    References:
      Liu, Chen, Zhang, Perturbation-Induced Linearization, ICLR 2026, arXiv 2601.19967.
    """
    share = spec.share(config.batch_size)
    batches = spec.steps_per_pass(config.batch_size)
    radius, step_size = to_unit(config.radius), to_unit(config.step_size)
    optimizer = classifier.sgd(
        classifier.epochwise_cosine(config.learning_rate, 0.0, config.epochs, batches),
        momentum=config.momentum,
    )
    # Uniform in +-1 / sqrt(fan-in), as PyTorch initializes linear layers.
    initialize = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    def init(key: jax.Array, data: sampling.Shards) -> State:
        pixels = data.images[0, 0].size
        sizes = (pixels, *[spec.num_classes] * config.depth)
        keys = jax.random.split(jax.random.fold_in(key, _INIT), config.depth)
        weights = [
            initialize(keys[i], sizes[i : i + 2], jnp.float32)
            for i in range(config.depth)
        ]
        return State(
            jnp.zeros((), jnp.int32),
            _Shared(weights, optimizer.init(weights)),
            jnp.zeros(data.images.shape, jnp.float32),
        )

    def next_batch(
        data: sampling.Shards, count: jax.Array
    ) -> tuple[sampling.Batch, jax.Array, jax.Array]:
        """The next batch in the order of the data, its flat images and its labels."""
        batch = sampling.take_in_order(data, count % batches, share)
        labels = batch.labels.reshape(-1)
        return batch, batch.images.reshape(len(labels), -1), labels

    def mean(value: jax.Array) -> Mean:
        return mean_of(spec.mean(jnp.mean(value)))

    def train(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        del key
        _, images, labels = next_batch(data, count)
        weights, opt_state = state.shared

        def loss_fn(weights: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
            logits = images
            for weight in weights:
                logits = logits @ weight
            return classifier.cross_entropy(logits, labels), logits

        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(weights)
        grads = spec.mean(grads)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        shared = _Shared(optax.apply_updates(weights, updates), opt_state)
        right = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
        measured = (mean(loss), mean(right))
        return state._replace(shared=shared), dict(
            zip(surrogate.METRICS, measured, strict=True)
        )

    def draw(key: jax.Array, data: sampling.Shards, batch: sampling.Batch) -> jax.Array:
        keys = sampling.shard_keys(key, data.shard, _NOISE)
        shape = batch.images.shape[2:]

        def of_row(shard_key: jax.Array, row: jax.Array) -> jax.Array:
            row_key = jax.random.fold_in(shard_key, row)
            return _flat_draws.draw(
                jax.random.uniform, row_key, shape, jnp.float32, -radius, radius
            )

        return jax.vmap(jax.vmap(of_row, (None, 0)))(keys, batch.rows)

    def perturb(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        batch, images, labels = next_batch(data, count)
        matrix, *later = state.shared.weights
        for weight in later:
            matrix = matrix @ weight
        options = {"noise_weight": config.noise_weight}

        def descend(_: jax.Array, noise: jax.Array) -> jax.Array:
            gradient = noise_gradient(matrix, noise, images, labels, **options)
            return jnp.clip(noise - step_size * jnp.sign(gradient), -radius, radius)

        noise = draw(key, data, batch).reshape(images.shape)
        noise = lax.fori_loop(0, config.pgd_steps, descend, noise)
        delta = jnp.clip(images - noise, 0, 1) - images
        stored = sampling.store(state.per_example, batch, batch.fresh, delta)
        loss = noise_loss(matrix, noise, images, labels, **options)
        state = state._replace(per_example=stored)
        return state, {"perturbation_loss": mean(loss)}

    step, num_steps = in_stages(
        (
            Stage(train, config.epochs * batches, surrogate.METRICS),
            Stage(perturb, batches, ("perturbation_loss",)),
        )
    )
    return Generator(
        init=init,
        step=step,
        num_steps=num_steps,
        perturbation=lambda state: state.per_example,
        budget=Budget("linf", config.radius),
        sharded=True,
    )


def _product(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    # Only the gradient's sign is used, which low precision would flip.
    return jnp.matmul(rows, matrix, precision=lax.Precision.HIGHEST)
