"""Two features that share nothing but a label, passed on with errors."""

import math

import jax
import jax.numpy as jnp

from miue_jax.information.tasks.task import Task

# Below 1/2, so that a feature tells its label without doubt.
_SPREAD = 0.3


def label_channel(num_classes: int, error: float, *, dim: int = 16) -> Task:
    r"""X shows a uniform label, y the label after a symmetric channel.

    Either feature is the unit vector of its label plus independent noise, uniform on
    [-0.3, 0.3] in every coordinate: it tells the label without doubt and nothing else,
    so that with the channel's error probability e

    .. math:: I(x; y) = \log K + (1 - e) \log(1 - e) + e \log\frac{e}{K - 1}.

    Args:
      num_classes: K, at least 2.
      error: e, in [0, 1]; the label is then replaced by one of the others.
      dim: coordinates of either feature, at least K.

    Returns:
      The task `label-channel-<K>-<e>`; its labels are those that x shows.

    Raises:
      ValueError: for fewer than two classes, fewer coordinates than classes, or an
        error probability out of range.

    References:
      Cover and Thomas, Elements of Information Theory, section 7.2.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, given {num_classes}")
    if dim < num_classes:
        raise ValueError(f"dim must be at least {num_classes} classes, given {dim}")
    if not 0 <= error <= 1:
        raise ValueError(f"error must be between 0 and 1, given {error}")

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, 4)
        labels = jax.random.randint(keys[0], (size,), 0, num_classes, jnp.int32)
        wrong = jax.random.bernoulli(keys[1], error, (size,))
        others = jax.random.randint(keys[2], (size,), 1, num_classes, jnp.int32)
        received = (labels + jnp.where(wrong, others, 0)) % num_classes
        shown = jax.nn.one_hot(jnp.stack([labels, received]), dim, dtype=float)
        spread = jax.random.uniform(
            keys[3], shown.shape, minval=-_SPREAD, maxval=_SPREAD
        )
        x, y = shown + spread
        return x, y, labels

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        right = jnp.argmax(x, axis=1) == jnp.argmax(y, axis=1)
        return jnp.where(
            right,
            jnp.log(num_classes * (1 - error)),
            jnp.log(num_classes * error / (num_classes - 1)),
        )

    information = math.log(num_classes)
    if error < 1:
        information += (1 - error) * math.log(1 - error)
    if error > 0:
        information += error * math.log(error / (num_classes - 1))
    return Task(
        name=f"label-channel-{num_classes}-{error}",
        sample=sample,
        information=information,
        standard_error=0.0,
        dim_x=dim,
        dim_y=dim,
        num_classes=num_classes,
        pointwise=pointwise,
    )
