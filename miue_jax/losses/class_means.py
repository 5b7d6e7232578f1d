"""Means of classes that outlive a batch, and similarity to them."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.losses import _batch
from miue_jax.losses._pairs import AxisName, matmul
from miue_jax.losses.paired_similarity import log_sum


def class_mean_loss(
    features: ArrayLike,
    labels: ArrayLike,
    class_means: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    margin: ArrayLike = 0.0,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Similarity to a mean of the own class, which outlives the batch.

    With unit features :math:`z_i` and unit means :math:`\mu_k`,

    .. math:: L = \frac1B \sum_i \log\Bigl(1 + e^{m/t}
       \sum_{k \ne y_i} e^{z_i^\top (\mu_k - \mu_{y_i}) / t}\Bigr).

    The classes of a batch may agree within and yet go elsewhere in each batch; means
    that are kept over batches (`update_class_means`) hold them in place. A mean of zero
    has cosine 0 to all.

    Args:
      features: (B, D), floating point; computed in float32 or wider.
      labels: (B,) integers in [0, K); others give NaN where they are traced.
      class_means: (K, D), of any norm, the same on every device.
      temperature: t > 0, a scalar, as in `similarity_loss`.
      margin: m >= 0, a scalar, as in `paired_similarity_loss`.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss in nats, a scalar.

    Raises:
      ValueError: for wrong shapes or dtypes, labels out of range, a temperature as
        `similarity_loss` refuses it, or a margin that is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> means = jnp.eye(2)
      >>> loss = mj.losses.class_mean_loss(
      ...     means, jnp.array([0, 1]), means, temperature=0.5
      ... )
      >>> round(float(loss), 4)  # log(1 + exp(-2))
      0.1269

    References:
      Snell, Swersky, Zemel, Prototypical Networks for Few-shot Learning, 2017; Wang et
      al., CosFace, 2018, on the margin.
    """
    means = _batch.check_means(class_means, features)
    rows, labels = _batch.prepare(features, labels, num_classes=len(means))
    _batch.check_positive("temperature", temperature, rows.dtype)
    _batch.check_weight(margin, "margin")
    same = labels[:, None] == jnp.arange(len(means))
    cosines = matmul(_batch.unit(rows), _batch.unit(means.astype(rows.dtype)).T)
    temperature = jnp.asarray(temperature, cosines.dtype)
    scores = cosines / temperature
    odds = log_sum(scores, ~same) - log_sum(scores, same)
    odds += jnp.asarray(margin, cosines.dtype) / temperature
    return _batch.mean(jax.nn.softplus(odds), axis_name)


def update_class_means(
    class_means: ArrayLike,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    memory: float,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Moves means of classes toward the mean unit features of a batch.

    .. math:: \mu_k \leftarrow \rho\, \mu_k + (1 - \rho)\, \bar z_k

    for the classes of the batch; a mean that is still zero becomes :math:`\bar z_k`.

    Args:
      class_means: (K, D), zero where nothing is known.
      features: (B, D), floating point.
      labels: (B,) integers in [0, K).
      memory: rho in [0, 1).
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      (K, D), of the dtype of the means, without gradient.

    Raises:
      ValueError: for wrong shapes or dtypes, labels or a memory out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features, labels = jnp.array([[2.0, 0.0]]), jnp.array([1])
      >>> mj.losses.update_class_means(
      ...     jnp.array([[0.0, 1.0], [0.0, 1.0]]), features, labels, memory=0.75
      ... ).tolist()
      [[0.0, 1.0], [0.25, 0.75]]
    """
    means = _batch.check_means(class_means, features)
    _checks.check_number("memory", memory, "in [0, 1)")
    rows, labels = _batch.prepare(features, labels, num_classes=len(means))
    members = jax.nn.one_hot(labels, len(means), dtype=rows.dtype)
    sums, counts = matmul(members.T, _batch.unit(rows)), jnp.sum(members, axis=0)
    if axis_name is not None:
        sums, counts = lax.psum((sums, counts), axis_name)
    counts = counts[:, None]
    batch_means = (sums / jnp.maximum(counts, 1)).astype(means.dtype)
    known = jnp.any(means != 0, axis=1, keepdims=True)
    moved = jnp.where(known, memory * means + (1 - memory) * batch_means, batch_means)
    return lax.stop_gradient(jnp.where(counts > 0, moved, means))
