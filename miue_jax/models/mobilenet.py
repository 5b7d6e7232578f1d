"""MobileNetV2 with the strides of small images: 32x32 reaches 4x4, not 1x1."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.models._layers import Layer, classify, conv_and_norm, to_input

# Expansion, channels for width 32, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FEATURES = 1280


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks.

    The stem and the second stage keep the resolution, as is usual on CIFAR.
    Intermediates: ``stem``, ``stage1`` to ``stage7``, ``stage8`` (the last 1x1
    convolution, whose average is the features).

    Attributes:
      num_classes: number of logits.
      width: channels of the stem; all others are scaled by ``width / 32``.
      dtype: compute dtype; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are shared.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018,
      table 2.
    """

    num_classes: int
    width: int = 32
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: Callable[..., jax.Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, D) and logits."""
        conv, norm = conv_and_norm(self, train=train)
        x = to_input(images, self.dtype)
        x = nn.relu6(norm(name="stem_norm")(conv(self.width, name="stem_conv")(x)))
        self.sow("intermediates", "stem", x)
        for stage, (expansion, channels, size, strides) in enumerate(_STAGES, start=1):
            for index in range(size):
                x = _InvertedResidual(
                    width=self._scaled(channels),
                    expansion=expansion,
                    strides=strides if index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
            self.sow("intermediates", f"stage{stage}", x)
        x = conv(self._scaled(_FEATURES), 1, name="final_conv")(x)
        x = nn.relu6(norm(name="final_norm")(x))
        self.sow("intermediates", "stage8", x)
        return classify(x, self.num_classes)

    def _scaled(self, channels: int) -> int:
        return max(1, channels * self.width // 32)


class _InvertedResidual(nn.Module):
    width: int
    expansion: int
    strides: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.expansion * x.shape[-1]
        y = x
        if self.expansion > 1:
            y = nn.relu6(self.norm()(self.conv(inner, 1)(y)))
        y = nn.relu6(self.norm()(self.conv(inner, 3, self.strides, groups=inner)(y)))
        y = self.norm()(self.conv(self.width, 1)(y))
        return x + y if x.shape == y.shape else y
