"""Linear separability of a perturbation: what a linear classifier reads from it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax._checks import check_number

# Iterations of the two publications that report it, by the method of each: 500 and 50
# calls of PyTorch's L-BFGS, each of up to 20.
STEPS: dict[str, int] = {"orthogonal_projection": 10_000, "linear_synthetic": 1000}

# A largest gradient or a change of the loss below these is converged, as in PyTorch.
_CONVERGED, _CHANGE = 1e-7, 1e-9

_Weights = tuple[jax.Array, jax.Array]
_Carry = tuple[jax.Array, _Weights, Any, jax.Array]


class Separability(NamedTuple):
    """How well a linear classifier tells the classes by perturbations alone.

    Attributes:
      train_accuracy: in [0, 1], of a classifier fitted to all of them, as published.
      held_out_accuracy: in [0, 1], of one fitted to a part, on the others.

    Example:
      >>> from miue_jax import detection
      >>> detection.Separability(1.0, 0.5).held_out_accuracy
      0.5
    """

    train_accuracy: float
    held_out_accuracy: float


def linear_separability(
    key: jax.Array,
    delta: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    steps: int = STEPS["orthogonal_projection"],
    held_out: float = 0.2,
) -> Separability:
    """Fits multinomial logistic regressions to perturbations.

    The perturbations are scaled to [0, 1] by the smallest and the largest value of all;
    L-BFGS minimizes the mean cross-entropy, from weights of 0, until it has converged.
    Here it searches along each direction; the publications take half of every step.

    Beware of the accuracy on the perturbations that were fitted, the published figure:
    with fewer images than values in an image even independent noise is separated. The
    accuracy on perturbations that were held out is high only if what tells the classes
    is common to their images.

    Args:
      key: a PRNG key, for the choice of those held out.
      delta: (N, ...) perturbations of any real type, in any unit.
      labels: (N,) int in [0, num_classes).
      num_classes: K.
      steps: iterations of L-BFGS at most; see `STEPS` for the published numbers.
      held_out: the share that is held out, in (0, 1).

    Returns:
      Both accuracies.

    Raises:
      ValueError: if a setting is out of range, the labels are not one per perturbation
        or out of range, a value is not finite, or a part would be empty.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import detection
      >>> labels = np.arange(20) % 2
      >>> delta = np.where(labels[:, None], 1.0, -1.0) * np.ones(4)
      >>> found = detection.linear_separability(jax.random.key(0), delta, labels, 2)
      >>> found.held_out_accuracy
      1.0

    References:
      Yu, Zhang, Chen, Yin, Liu, "Availability attacks create shortcuts", KDD 2022,
      section 3. Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, "What can we
      learn from unlearnable datasets?", NeurIPS 2023, on linear separability.
    """
    check_number("linear_separability steps", steps, "> 0", whole=True)
    check_number("linear_separability held_out", held_out, "in (0, 1]")
    delta, labels = np.asarray(delta), np.asarray(labels)
    size = len(delta)
    if labels.shape != (size,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape ({size},), one per perturbation, got "
            f"{labels.dtype} {labels.shape}"
        )
    if size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes - 1}], got {labels.min()} to "
            f"{labels.max()}"
        )
    count = round(held_out * size)
    if not 0 < count < size:
        raise ValueError(
            f"held_out {held_out} of {size} perturbations leaves {size - count} to fit "
            f"and {count} to test; both must be positive"
        )
    inputs = jnp.asarray(_scaled(delta.reshape(size, -1)))
    targets = jnp.asarray(labels, jnp.int32)
    order = jax.random.permutation(key, size)
    tested = jnp.zeros(size, bool).at[order[:count]].set(True)
    everywhere = jnp.ones(size, bool)

    def measured(fitted: jax.Array, on: jax.Array) -> float:
        weights = _fit(inputs, targets, fitted, steps, num_classes=num_classes)
        return float(_accuracy(weights, inputs, targets, on))

    return Separability(measured(everywhere, everywhere), measured(~tested, tested))


def _scaled(delta: np.ndarray) -> np.ndarray:
    # In their own precision: an offset may be all that float32 would keep.
    wide = delta.dtype.itemsize > 4 or delta.dtype.kind in "iu"
    values = delta.astype(np.float64 if wide else np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the perturbations hold values that are not finite")
    values /= 2  # the difference of the largest and the smallest must not overflow
    low, high = values.min(), values.max()
    values -= low
    # One value everywhere is separable by nothing, and stays 0.
    values /= high - low if high > low else 1
    return values.astype(np.float32, copy=False)


def _logits(weights: _Weights, inputs: jax.Array) -> jax.Array:
    matrix, bias = weights
    return jnp.dot(inputs, matrix, precision=jax.lax.Precision.HIGHEST) + bias


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(
    inputs: jax.Array,
    labels: jax.Array,
    fitted: jax.Array,
    steps: int | jax.Array,
    *,
    num_classes: int,
) -> _Weights:
    def loss(weights: _Weights) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            _logits(weights, inputs), labels
        )
        return jnp.mean(losses, where=fitted)

    optimizer = optax.lbfgs()
    start = (
        jnp.zeros((inputs.shape[1], num_classes), jnp.float32),
        jnp.zeros(num_classes, jnp.float32),
    )
    value_and_grad = optax.value_and_grad_from_state(loss)

    def going(carry: _Carry) -> jax.Array:
        done, _, state, change = carry
        slopes = jax.tree.leaves(optax.tree.get(state, "grad"))
        steepest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in slopes]))
        moving = (steepest > _CONVERGED) & (change > _CHANGE)
        return (done == 0) | ((done < steps) & moving)

    def move(carry: _Carry) -> _Carry:
        done, weights, state, _ = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = optimizer.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=loss
        )
        change = jnp.abs(optax.tree.get(state, "value") - value)
        moved: Any = optax.apply_updates(weights, updates)
        return done + 1, moved, state, change

    change = jnp.full((), jnp.inf, jnp.float32)
    begin = (jnp.zeros((), jnp.int32), start, optimizer.init(start), change)
    return jax.lax.while_loop(going, move, begin)[1]


def _accuracy(
    weights: _Weights, inputs: jax.Array, labels: jax.Array, on: jax.Array
) -> jax.Array:
    return jnp.mean(jnp.argmax(_logits(weights, inputs), -1) == labels, where=on)
