"""Feature extraction: the penultimate layer, or any named one, of a classifier.

Layers are "features" (penultimate, (B, D)), "logits" and whatever the network sows in
its collection ``intermediates``, nested names joined by "/". Networks run in evaluation
mode, with running statistics; values come back in float32.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from miue_jax import _checks
from miue_jax.budget import to_unit

# Values of images that a device takes at once: 512 images of 64x64 pixels.
_VALUES = 512 * 64 * 64 * 3


def extract(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    layer: str = "features",
    pool: bool = False,
) -> jax.Array:
    """Computes one layer for a batch of images.

    Args:
      module: a classifier of `miue_jax.models`, or any Flax module called as
        ``module(images, train=False)`` that returns (features, logits).
      variables: its parameters and batch statistics.
      images: (B, H, W, C) floating in [0, 1], or uint8.
      layer: "features", "logits" or the name of an intermediate.
      pool: average a map (B, ..., D) over all but its first and last axis.

    Returns:
      The layer as the network has it, (B, ...), or (B, D) if pooled; float32.

    Raises:
      ValueError: for a layer that the network does not have, or images that it cannot
        take.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import features, models
      >>> net = models.create("mlp2", num_classes=3, width=4)
      >>> images = jnp.zeros((2, 8, 8, 3))
      >>> variables = net.init(jax.random.key(0), images, train=False)
      >>> features.extract(net, variables, images).shape
      (2, 4)
    """
    layers = _run(module, variables, images)
    if layer not in layers:
        raise _checks.unknown("layer", layer, layers)
    values = layers[layer].astype(jnp.float32)
    if pool:
        values = values.mean(tuple(range(1, values.ndim - 1)))
    return values


def extract_dataset(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: np.ndarray,
    *,
    layer: str = "features",
    batch_size: int = 512,
    mesh: Mesh | None = None,
    pool: bool = False,
) -> np.ndarray:
    """Computes one layer for a whole data set, in batches spread over devices.

    The network is compiled once: the last batch is padded and the padding dropped. The
    result does not depend on the batch size or on the number of devices, but for
    rounding.

    Args:
      module: as for `extract`; hashable, as Flax modules are.
      variables: its parameters and batch statistics.
      images: (N, H, W, C) floating in [0, 1], or uint8 (converted on the devices).
      layer: "features", "logits" or the name of an intermediate.
      batch_size: images in each step over all devices together, rounded up to a
        multiple of their number and down to the data set. Of images above 64x64 pixels
        there are fewer on each device, so that memory does not grow with their size.
      mesh: a mesh of one axis; by default all devices of this process.
      pool: average a map (N, ..., D) over all but its first and last axis.

    Returns:
      The layer, (N, ...), or (N, D) if pooled; float32.

    Raises:
      ValueError: for a mesh of several axes, a batch size that is not positive, a layer
        that the network does not have or images that it cannot take.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import features, models
      >>> net = models.create("mlp2", num_classes=3, width=4)
      >>> images = jnp.zeros((2, 8, 8, 3))
      >>> variables = net.init(jax.random.key(0), images, train=False)
      >>> import numpy as np
      >>> pictures = np.zeros((5, 8, 8, 3), np.uint8)
      >>> features.extract_dataset(net, variables, pictures, layer="logits").shape
      (5, 3)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, given {batch_size}")
    if mesh is None:
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
    if len(mesh.axis_names) != 1:
        raise ValueError(f"the mesh must have one axis, given {mesh.axis_names}")
    # The compiler is to place what follows from the batch, whatever the caller's mesh.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    replicated = NamedSharding(mesh, PartitionSpec())

    count = len(images)
    fitting = max(1, _VALUES // max(1, math.prod(images.shape[1:])))
    batch_size = min(batch_size, fitting * mesh.size)
    batch_size = -(-min(batch_size, max(count, 1)) // mesh.size) * mesh.size
    options = {"module": module, "layer": layer, "pool": pool}
    dtype = jax.dtypes.canonicalize_dtype(images.dtype)
    batch = jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), dtype)
    shape = jax.eval_shape(
        functools.partial(_extract_jit, **options), variables=variables, images=batch
    ).shape[1:]

    result = np.empty((count, *shape), np.float32)
    variables = jax.device_put(variables, replicated)
    for start in range(0, count, batch_size):
        part = np.asarray(images[start : start + batch_size])
        size = len(part)
        padding = ((0, batch_size - size), *((0, 0),) * (part.ndim - 1))
        part = jax.device_put(np.pad(part, padding), split)
        values = _extract_jit(variables=variables, images=part, **options)
        result[start : start + size] = np.asarray(values)[:size]
    return result


def layer_names(
    module: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]
) -> tuple[str, ...]:
    """Lists the layers that `extract` can return, without computing anything.

    Args:
      module: as for `extract`.
      variables: its parameters and batch statistics, or their shapes.
      image_shape: (H, W, C).

    Returns:
      "features", "logits" and the names of the intermediates, in the network's order.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import features, models
      >>> net = models.create("mlp2", num_classes=3, width=4)
      >>> images = jnp.zeros((2, 8, 8, 3))
      >>> variables = net.init(jax.random.key(0), images, train=False)
      >>> features.layer_names(net, variables, (8, 8, 3))[:2]
      ('features', 'logits')
    """
    found: list[str] = []

    def record(variables, images):
        # Collected while tracing: a returned dictionary would come back sorted.
        found.extend(_run(module, variables, images))

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(record, variables, images)
    return tuple(found)


def _run(
    module: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
    if images.dtype == jnp.uint8:
        images = to_unit(images.astype(jnp.float32))
    (features, logits), state = module.apply(
        variables, images, train=False, mutable=["intermediates"]
    )
    # Flax sows tuples, one value for each call.
    sown: dict[str, Any] = traverse_util.flatten_dict(
        state.get("intermediates", {}), sep="/"
    )
    return {
        "features": features,
        "logits": logits,
        **{
            name: value[-1] if isinstance(value, tuple) else value
            for name, value in sown.items()
        },
    }


# At module level, so that repeated calls find what was compiled.
_extract_jit = functools.partial(jax.jit, static_argnames=("module", "layer", "pool"))(
    extract
)
