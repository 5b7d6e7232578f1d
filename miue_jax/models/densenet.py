"""DenseNet-BC with the stem of small images: 3x3, stride one, no pooling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.models._layers import Layer, classify, conv_and_norm, to_input


class DenseNet(nn.Module):
    """Four dense stages; between them the channels and the map are halved.

    Intermediates, before each transition: ``stem``, ``stage1`` to ``stage4``.

    Attributes:
      num_classes: number of logits.
      stage_sizes: layers in each stage; DenseNet-121 by default.
      width: the growth rate, channels that each layer adds.
      dtype: compute dtype; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are shared.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      Huang et al., Densely Connected Convolutional Networks, CVPR 2017.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (6, 12, 24, 16)
    width: int = 32
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: Callable[..., jax.Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, D) and logits.

        Raises:
          ValueError: for images that the transitions would halve to nothing: smaller
            than 8x8 with four stages.
        """
        conv, norm = conv_and_norm(self, train=train)
        x = to_input(images, self.dtype)
        smallest = 2 ** (len(self.stage_sizes) - 1)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"this DenseNet needs images of at least {smallest}x{smallest}; "
                f"given {x.shape[1]}x{x.shape[2]}"
            )
        x = conv(2 * self.width, name="stem_conv")(x)
        self.sow("intermediates", "stem", x)
        for stage, size in enumerate(self.stage_sizes, start=1):
            for index in range(size):
                x = _DenseLayer(
                    growth=self.width,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage}_layer{index + 1}",
                )(x)
            self.sow("intermediates", f"stage{stage}", x)
            if stage < len(self.stage_sizes):
                x = nn.relu(norm(name=f"transition{stage}_norm")(x))
                x = conv(x.shape[-1] // 2, 1, name=f"transition{stage}_conv")(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(norm(name="final_norm")(x))
        return classify(x, self.num_classes)


class _DenseLayer(nn.Module):
    growth: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(4 * self.growth, 1)(nn.relu(self.norm()(x)))
        y = self.conv(self.growth, 3)(nn.relu(self.norm()(y)))
        return jnp.concatenate((x, y), axis=-1)
