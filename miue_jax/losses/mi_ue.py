"""The poisoning objective of MI-UE."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._centering import unrounded
from miue_jax.losses import _batch
from miue_jax.losses._pairs import AxisName
from miue_jax.losses.distance import global_distance
from miue_jax.losses.similarity import global_similarity


def mi_ue_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    distance_weight: ArrayLike = 0.1,
    per_dimension: bool = True,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """The MI-UE objective: `similarity_loss` + ``distance_weight`` * `distance_loss`.

    Args:
      features: (B, D), floating point, not normalized; computed in float32 or wider.
      labels: (B,) integers from 0; negative ones give NaN where they are traced.
      temperature: of the similarity, > 0, a scalar.
      distance_weight: a scalar >= 0; 0.1 in the paper, 0 in the command the authors
        released, where the distance is not computed at all.
      per_dimension: whether the distances are divided by D, see `distance_loss`.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss, a scalar.

    Raises:
      ValueError: for wrong shapes or dtypes, negative labels, a temperature as
        `similarity_loss` refuses it, or a weight that is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> loss = mj.mi_ue_loss(features, labels, temperature=0.5, distance_weight=0.1)
      >>> round(float(loss), 4)
      0.1269

    References:
      MI-UE (arXiv 2603.03725), the poisoning objective.
    """
    _batch.check_weight(distance_weight)
    _checks.check_flag("per_dimension", per_dimension)
    batch = _batch.prepare(features, labels)
    _batch.check_positive("temperature", temperature, batch[0].dtype)
    loss = global_similarity(*batch, temperature, axis_name)
    if isinstance(distance_weight, int | float) and distance_weight == 0:
        return loss
    if unrounded(features) is not None:
        batch = _batch.prepare(features, labels, shift=True)
    weight = jnp.asarray(distance_weight, loss.dtype)
    return loss + weight * global_distance(*batch, per_dimension, axis_name)
