"""Training a classifier: its state, learning rates, one step, its accuracy.

Victims and the surrogates of generators are built from these.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from miue_jax._checks import check_number
from miue_jax.train import sampling
from miue_jax.train.metrics import Mean

# Rows of every shard in a forward pass of an evaluation.
ROWS_AT_ONCE = 256


class Forward(Protocol):
    """The forward pass of a network in training, as a function of images."""

    def __call__(
        self, images: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Any]:
        """Returns the logits (B, K) of images (B, H, W, C), and the network's state.

        With ``train``, batch normalization uses the statistics of the batch and the
        state holds the updated running statistics. Without it, the running statistics
        are used and returned unchanged.
        """
        ...


# A loss: (forward, images (B, H, W, C), labels) -> (value, (logits, state)), with
# labels (B,) int32 or (B, K) class probabilities, a scalar to differentiate, and the
# result of the forward pass that the accuracy and the running statistics come from.
Objective = Callable[
    [Forward, jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, Any]]
]


class Learner(NamedTuple):
    """A classifier in training.

    Attributes:
      variables: the Flax variables, "params" and perhaps "batch_stats".
      opt_state: the state of the optimizer.

    Example:
      >>> import jax
      >>> from miue_jax import models
      >>> from miue_jax.train import classifier
      >>> module = models.create("linear", num_classes=2)
      >>> learner = classifier.init_learner(
      ...     jax.random.key(0), module, classifier.sgd(0.1), (8, 8, 3)
      ... )
      >>> list(learner.variables)
      ['params']
    """

    variables: Any
    opt_state: optax.OptState


def init_learner(
    key: jax.Array,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
) -> Learner:
    """Initializes a classifier and its optimizer.

    Args:
      key: a PRNG key.
      module: a classifier that returns (features, logits).
      optimizer: an Optax optimizer.
      image_shape: (H, W, C).

    Returns:
      The untrained learner.

    Example:
      >>> import jax
      >>> from miue_jax import models
      >>> from miue_jax.train import classifier
      >>> module = models.create("linear", num_classes=2)
      >>> learner = classifier.init_learner(
      ...     jax.random.key(0), module, classifier.sgd(0.1), (8, 8, 3)
      ... )
      >>> sum(leaf.size for leaf in jax.tree.leaves(learner.variables))
      386
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = dict(module.init(key, images, train=False))
    # Layers sow intermediates during initialization; only the state is kept.
    variables.pop("intermediates", None)
    return Learner(variables, optimizer.init(variables["params"]))


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns SGD with momentum and L2 decay of all parameters, as in PyTorch scripts.

    Args:
      learning_rate: a number or an Optax schedule.
      momentum: the momentum factor.
      nesterov: whether to use Nesterov momentum.
      weight_decay: factor of the parameters that is added to their gradient.
      clip_norm: largest global norm of the gradient, before decay; None for no limit.

    Returns:
      An Optax optimizer.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import classifier
      >>> optimizer = classifier.sgd(0.1, weight_decay=0.5)
      >>> params = jnp.array(2.0)
      >>> updates, _ = optimizer.update(jnp.array(1.0), optimizer.init(params), params)
      >>> round(float(updates), 3)  # -0.1 (1 + 0.5 * 2)
      -0.2
    """
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
    )


def epochwise_cosine(
    start: float, end: float, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns a cosine schedule that changes once per epoch.

    Args:
      start: the learning rate of the first epoch.
      end: the learning rate that one more epoch would have.
      epochs: epochs in all.
      steps_per_epoch: optimizer steps in an epoch.

    Returns:
      An Optax schedule.

    Example:
      >>> from miue_jax.train.classifier import epochwise_cosine
      >>> rate = epochwise_cosine(0.1, 0.0, epochs=2, steps_per_epoch=10)
      >>> [round(float(rate(step)), 3) for step in (0, 9, 10)]
      [0.1, 0.1, 0.05]
    """
    cosine = optax.cosine_decay_schedule(start, epochs, alpha=end / start)
    return lambda count: cosine(jnp.asarray(count) // steps_per_epoch)


def check_milestones(name: str, milestones: object) -> tuple[float, ...]:
    """Checks the milestones of `stepwise`.

    Args:
      name: name of the setting.
      milestones: its value.

    Returns:
      The milestones as a tuple.

    Raises:
      ValueError: if they are not a tuple or list of numbers in (0, 1].

    Example:
      >>> from miue_jax.train.classifier import check_milestones
      >>> check_milestones("milestones", [0.5, 0.75])
      (0.5, 0.75)
    """
    if not isinstance(milestones, tuple | list):
        raise ValueError(f"{name} is {milestones!r}; allowed: a tuple of shares")
    for milestone in milestones:
        check_number(name, milestone, "in (0, 1]")
    return tuple(milestones)


def stepwise(
    start: float, milestones: Sequence[float], *, num_steps: int, drop: float = 0.1
) -> optax.Schedule:
    """Returns a schedule that drops at fractions of the training.

    Args:
      start: the first learning rate.
      milestones: fractions of the steps, in (0, 1], after which it drops.
      num_steps: optimizer steps in all.
      drop: factor of the learning rate at each milestone.

    Returns:
      An Optax schedule.

    Example:
      >>> from miue_jax.train.classifier import stepwise
      >>> rate = stepwise(0.1, (0.5,), num_steps=10)
      >>> round(float(rate(0)), 3), round(float(rate(5)), 3)
      (0.1, 0.01)
    """
    scales: dict[int, float] = {}
    for milestone in milestones:
        step = round(milestone * num_steps)
        # In a short training two milestones may fall on one step.
        scales[step] = scales.get(step, 1.0) * drop
    return optax.piecewise_constant_schedule(start, scales)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of a batch, in nats.

    Args:
      logits: (B, K) float.
      labels: (B,) int, or (B, K) class probabilities.

    Returns:
      () float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train.classifier import cross_entropy
      >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 1]))), 4)  # log 4
      1.3863
    """
    logits = logits.astype(jnp.float32)
    if labels.ndim == 2:
        return jnp.mean(optax.softmax_cross_entropy(logits, labels))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def plain_loss(
    forward: Forward, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """Returns the cross-entropy of a forward pass, an ``Objective``.

    Args:
      forward: the forward pass.
      images: (B, H, W, C) float.
      labels: (B,) int, or (B, K) class probabilities.

    Returns:
      The loss, and what `forward` returned.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train.classifier import plain_loss
      >>> forward = lambda images, train=True: (jnp.zeros((len(images), 4)), {})
      >>> loss, _ = plain_loss(forward, jnp.zeros((2, 8, 8, 3)), jnp.array([0, 1]))
      >>> round(float(loss), 4)  # log 4
      1.3863
    """
    logits, state = forward(images)
    return cross_entropy(logits, labels), (logits, state)


def train_step(
    learner: Learner,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    images: jax.Array,
    labels: jax.Array,
    *,
    loss: Objective = plain_loss,
    axis_name: str | None = None,
) -> tuple[Learner, jax.Array, jax.Array]:
    """Takes one optimizer step on the loss of a batch.

    Args:
      learner: the classifier.
      module: its Flax module.
      optimizer: its optimizer.
      images: (B, H, W, C) float, the device's share of the batch.
      labels: (B,) int32, or (B, K) class probabilities.
      loss: cross-entropy, or the loss of a defense.
      axis_name: the mesh axis over which the batch is split.

    Returns:
      The learner after the step, and the loss and accuracy of the batch before it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import models
      >>> from miue_jax.train import classifier
      >>> module = models.create("linear", num_classes=2)
      >>> optimizer = classifier.sgd(0.1)
      >>> learner = classifier.init_learner(
      ...     jax.random.key(0), module, optimizer, (8, 8, 3)
      ... )
      >>> images, labels = jnp.ones((2, 8, 8, 3)), jnp.array([0, 0])
      >>> losses = []
      >>> for _ in range(2):
      ...     learner, loss, accuracy = classifier.train_step(
      ...         learner, module, optimizer, images, labels
      ...     )
      ...     losses.append(float(loss))
      >>> losses[1] < losses[0]
      True
    """
    state = {k: v for k, v in learner.variables.items() if k != "params"}
    answers = jnp.argmax(labels, -1) if labels.ndim == 2 else labels

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        def forward(images: jax.Array, *, train: bool = True) -> tuple[jax.Array, Any]:
            if not train:
                outputs: Any = module.apply(
                    {"params": params, **state}, images, train=False
                )
                return outputs[1], state
            (_, logits), updated = module.apply(
                {"params": params, **state}, images, train=True, mutable=list(state)
            )
            return logits, updated

        value, (logits, updated) = loss(forward, images, labels)
        return value, (updated, jnp.mean(jnp.argmax(logits, -1) == answers))

    params = learner.variables["params"]
    (value, (state, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        params
    )
    if axis_name is not None:
        value, accuracy, grads = jax.lax.pmean((value, accuracy, grads), axis_name)
    updates, opt_state = optimizer.update(grads, learner.opt_state, params)
    params = optax.apply_updates(params, updates)
    return Learner({"params": params, **state}, opt_state), value, accuracy


def accuracy_of(
    module: nn.Module,
    variables: Any,
    data: sampling.Shards,
    *,
    axis_name: str | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
    change: Callable[[jax.Array, sampling.Batch], jax.Array] | None = None,
    batches: jax.Array | None = None,
) -> Mean:
    """Returns the accuracy on a whole data set, in evaluation mode.

    Args:
      module: a classifier that returns (features, logits).
      variables: its variables.
      data: the device's shards.
      axis_name: the mesh axis over which the shards are split.
      rows_at_once: rows of every shard in one forward pass; affects memory only.
      change: (step, batch) -> (B, H, W, C), images to classify in place of a batch's.
      batches: (2,) int32, the first batch and the one after the last, of data of which
        there is a window; None for all.

    Returns:
      The fraction of correct predictions, weighted by the number of examples; NaN if an
      output is not finite.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import models
      >>> from miue_jax.train import classifier, metrics, sampling
      >>> module = models.create("linear", num_classes=2)
      >>> images = np.zeros((4, 8, 8, 3), np.uint8)  # all get one prediction
      >>> variables = module.init(jax.random.key(0), images / 255, train=False)
      >>> data = sampling.deal(images, np.array([0, 1, 0, 1]), num_shards=1)
      >>> mean = classifier.accuracy_of(module, variables, data)
      >>> metrics.values({"accuracy": mean})
      {'accuracy': 0.5}
    """
    rows = data.labels.shape[1]
    share = min(rows, rows_at_once)
    first, last = (0, -(-rows // share)) if batches is None else batches

    def count_right(i: jax.Array, right: jax.Array) -> jax.Array:
        batch = sampling.take_in_order(data, i, share)
        if change is None:
            images = batch.images.reshape(-1, *batch.images.shape[2:])
        else:
            images = change(i, batch)
        outputs: Any = module.apply(variables, images, train=False)
        logits = outputs[1]
        hits = jnp.argmax(logits, -1).reshape(batch.labels.shape) == batch.labels
        # The argmax of a diverged network would pass for a prediction of class 0.
        finite = jnp.all(jnp.isfinite(logits), -1).reshape(batch.labels.shape)
        hits = jnp.where(finite, hits.astype(jnp.float32), jnp.nan)
        return right + jnp.sum(jnp.where(batch.fresh, hits, 0))

    # Typed, since it would be float64 with x64 enabled.
    nothing = jnp.zeros((), jnp.float32)
    right = jax.lax.fori_loop(first, last, count_right, nothing)
    counted = data.count
    if batches is not None:
        counted = jnp.clip(counted, max=last * share) - jnp.minimum(
            counted, first * share
        )
    total = jnp.sum(counted).astype(jnp.float32)
    if axis_name is not None:
        right, total = jax.lax.psum((right, total), axis_name)
    return Mean(right, total)
