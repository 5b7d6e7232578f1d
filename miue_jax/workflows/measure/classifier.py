"""A linear classifier on features: fitted on some images, judged on others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax.information import bounds

# Mixed into the predictions, so that no loss exceeds log(K / floor).
FLOOR = 0.01
_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 300
_LEARNING_RATE = 0.05


def held_out_losses(
    features: np.ndarray, labels: np.ndarray, fitted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Cross-entropies of a linear classifier on images that it was not fitted to.

    Softmax regression on standardized features with the weight decay, of several, that
    does best on a quarter of the images for fitting.

    Args:
      features: (N, D).
      labels: (N,) integers.
      fitted: (N,) bool, the images to fit on, in random order.
      num_classes: K.

    Returns:
      (M,) nats, at most log(K / `FLOOR`): of the images that are not `fitted`.
    """
    mean, scale = features[fitted].mean(axis=0), features[fitted].std(axis=0)
    standard = (features - mean) / np.where(scale > 0, scale, 1)
    rows = np.flatnonzero(fitted)
    # Every fourth of a class, so that no class is missing.
    position = np.empty(len(rows), int)
    for label in range(num_classes):
        own = np.flatnonzero(labels[rows] == label)
        position[own] = np.arange(len(own))
    judged = position % 4 == 3
    weights = _fit(
        standard[rows[~judged]],
        labels[rows[~judged]],
        standard[rows[judged]],
        labels[rows[judged]],
        num_classes=num_classes,
    )
    logits = standard[~fitted] @ weights[:-1] + weights[-1]
    return np.asarray(
        bounds.floored_cross_entropy(logits, labels[~fitted], floor=FLOOR)
    )


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(
    x: jax.Array,
    labels: jax.Array,
    judge_x: jax.Array,
    judge_labels: jax.Array,
    *,
    num_classes: int,
) -> jax.Array:
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))

    def loss(weights: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        logits = x @ weights[:-1] + weights[-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -jnp.mean(picked)

    def fit(decay: jax.Array) -> tuple[jax.Array, jax.Array]:
        def penalized(weights: jax.Array) -> jax.Array:
            return loss(weights, x, labels) + decay * jnp.sum(weights[:-1] ** 2) / 2

        def step(_: jax.Array, carry: tuple) -> tuple:
            weights, state = carry
            updates, state = optimizer.update(jax.grad(penalized)(weights), state)
            return optax.apply_updates(weights, updates), state

        weights = jnp.zeros((x.shape[1] + 1, num_classes), x.dtype)
        start = weights, optimizer.init(weights)
        weights, _ = jax.lax.fori_loop(0, _STEPS, step, start)
        return weights, loss(weights, judge_x, judge_labels)

    weights, losses = jax.vmap(fit)(jnp.asarray(_DECAYS, x.dtype))
    return weights[jnp.argmin(losses)]
