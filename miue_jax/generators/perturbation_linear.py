"""PIL: noise in which a linear classifier reads the label, taken off the image."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

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
      noise_weight: in [0, 1], of the loss of the noise alone; what remains is the
        weight of the loss of the image without the noise.
      depth: matrices of the linear classifier, without bias; their product is one.
      epochs: passes of the classifier over the clean images.
      batch_size: global batch, of training and of sign descent.
      learning_rate: of the first epoch; a cosine over the epochs takes it to 0.
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


# The last batch of a pass is filled up from the front; the published one is smaller.
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
    """What PIL minimizes over the noise n of an image x with label y.

    w CE(g(n), y) + (1 - w) KL(uniform || softmax g(x - n)) with g(x) = x matrix, w the
    weight of the noise.

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
    """The gradient of `noise_loss` with respect to the noise, in closed form.

    (w (softmax g(n) - e_y) - (1 - w) (softmax g(x - n) - 1 / K)) matrix^T, where e_y is
    the label as a one-hot row.

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
    """Builds PIL.

    Args:
      config: its settings.
      spec: of the data.

    Returns:
      The generator. A step is one batch: of the classifier's training on clean images,
      and after its last epoch of the sign descent that makes each image's noise.

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
    # Uniform in +-1 / sqrt(fan in), as PyTorch initializes linear layers.
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
        """The next images in the order of the data, also flat, and their labels."""
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
            return jax.random.uniform(row_key, shape, jnp.float32, -radius, radius)

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
    # Only the gradient's sign is used, which products of few digits would turn.
    return jnp.matmul(rows, matrix, precision=lax.Precision.HIGHEST)
