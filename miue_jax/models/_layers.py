"""What the networks share: their convolution, their normalization and their head."""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax import _flat_draws

Layer = Callable[..., Any]


def _kernel_init(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.Array:
    """He's initialization by the fan out, as Flax has it, but faster to compile."""
    fan_out = math.prod(shape[:-2]) * shape[-1]
    draws = _flat_draws.draw(jax.random.normal, key, shape, dtype)
    return draws * jnp.sqrt(jnp.asarray(2.0 / fan_out, dtype))


class _Settings(Protocol):
    @property
    def dtype(self) -> Any: ...

    @property
    def axis_name(self) -> str | None: ...

    @property
    def convolution(self) -> Callable[..., jax.Array]: ...

    def is_initializing(self) -> bool: ...


def to_input(images: jax.Array, dtype: Any) -> jax.Array:
    """Checks a batch of images and casts it to the compute dtype.

    Args:
      images: (B, H, W, C) floating, in [0, 1].
      dtype: the compute dtype.

    Returns:
      (B, H, W, C) of ``dtype``.

    Raises:
      ValueError: for another rank, or for integers, which would pass as huge values.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            "images must be floating, of shape (B, H, W, C) and in [0, 1]; "
            f"given {images.dtype} of shape {images.shape}"
        )
    return images.astype(dtype)


def conv_and_norm(module: _Settings, *, train: bool) -> tuple[Layer, Layer]:
    """The bias-free convolution and the batch normalization of a network.

    Padding is half the kernel on each side, so that weights trained elsewhere fit.
    Statistics are of the global batch when the module names a mapped axis.

    Args:
      module: the network, for its dtype, axis name and convolution.
      train: whether to normalize with the statistics of the batch.

    Returns:
      ``conv(features, kernel=3, strides=1, groups=1, name=None)`` and ``norm()``.
    """

    def conv(
        features: int,
        kernel: int = 3,
        strides: int = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> nn.Conv:
        return nn.Conv(
            features,
            (kernel, kernel),
            (strides, strides),
            padding=kernel // 2,
            feature_group_count=groups,
            use_bias=False,
            dtype=module.dtype,
            kernel_init=_kernel_init,
            conv_general_dilated=module.convolution,
            name=name,
        )

    norm = functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=module.dtype,
        # Initialization runs outside the mapped axis.
        axis_name=None if module.is_initializing() else module.axis_name,
    )
    return conv, norm


def classify(x: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Averages over space and adds the linear layer, both in float32.

    Args:
      x: (B, H, W, D) or (B, D) of any floating dtype.
      num_classes: number of logits.

    Returns:
      Features (B, D) and logits (B, num_classes), float32.
    """
    features = x.astype(jnp.float32)
    if features.ndim == 4:
        features = features.mean((1, 2))
    return features, nn.Dense(num_classes, dtype=jnp.float32, name="head")(features)
