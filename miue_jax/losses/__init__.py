"""Objectives on features: cosine similarity, distance and covariance within classes.

All are pure functions of ``features`` (B, D) and ``labels`` (B,) that take O(B * D)
memory beside a row of blocks: no matrix of all pairs of a large batch is kept. With
``axis_name`` they are called by every device of a `jax.shard_map` or `jax.pmap` with
that device's rows, all of one number, and return the loss of the global batch, equal on
every device.

Gradients across devices: where ``psum`` is transposed to ``psum`` (``pmap``, and
``shard_map`` with ``check_vma=False``), differentiating on every device with respect to
that device's features gives the device count times the gradient of the global loss.
This is what makes the usual ``lax.pmean`` of parameter gradients the gradient of the
global loss. A signed or normalized step on the inputs does not see the factor. With
``check_vma=True`` the gradients with respect to features carry no factor.

Batches that are split over the devices of a mesh with explicit axes
(`jax.sharding.AxisType.Explicit`) need no ``axis_name``: rows stay where they are and
are compared with all.

Labels are integers from 0. A negative one is no class: it is refused where labels are
known, and makes the loss NaN where they are traced, in all losses alike. So is a label
that is not below the number of classes, for the loss that takes one.

What is known in a wider type than JAX computes in (float64 arrays of NumPy) is centered
within classes before it is rounded, where the loss does not depend on the origin.
"""

from miue_jax.losses.class_means import class_mean_loss as class_mean_loss
from miue_jax.losses.class_means import update_class_means as update_class_means
from miue_jax.losses.conditional_covariance import (
    conditional_covariance_loss as conditional_covariance_loss,
)
from miue_jax.losses.distance import distance_loss as distance_loss
from miue_jax.losses.mi_ue import mi_ue_loss as mi_ue_loss
from miue_jax.losses.paired_similarity import (
    paired_similarity_loss as paired_similarity_loss,
)
from miue_jax.losses.similarity import similarity_loss as similarity_loss
