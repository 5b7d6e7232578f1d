"""Residual networks with the stem of small images: 3x3, stride one, no pooling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.models._layers import Layer, classify, conv_and_norm, to_input


class ResNet(nn.Module):
    """A CIFAR residual network; ResNet-18 by default.

    Stage i has ``width * 2**(i - 1)`` channels, four times that with bottlenecks, and
    each stage but the first halves the map. Intermediates: ``stem``, ``stage1``, ...

    Attributes:
      num_classes: number of logits.
      stage_sizes: residual blocks in each stage.
      bottleneck: 1x1, 3x3, 1x1 blocks (ResNet-50) in place of two 3x3 ones.
      width: channels of the stem.
      dtype: compute dtype; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are shared.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: Callable[..., jax.Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, D) and logits."""
        conv, norm = conv_and_norm(self, train=train)
        block = _Bottleneck if self.bottleneck else BasicBlock
        x = to_input(images, self.dtype)
        x = nn.relu(norm(name="stem_norm")(conv(self.width, name="stem_conv")(x)))
        self.sow("intermediates", "stem", x)
        for stage, size in enumerate(self.stage_sizes, start=1):
            for index in range(size):
                x = block(
                    width=self.width * 2 ** (stage - 1),
                    strides=2 if stage > 1 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
            self.sow("intermediates", f"stage{stage}", x)
        return classify(x, self.num_classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, H, W, D) to (B, h, w, width).

    Attributes:
      width: channels.
      strides: of the first convolution.
      conv: (channels, kernel size, strides) -> layer.
      norm: () -> layer.
    """

    width: int
    strides: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a (B, H, W, D) to the block's own map."""
        y = nn.relu(self.norm()(self.conv(self.width, 3, self.strides)(x)))
        y = self.norm()(self.conv(self.width, 3)(y))
        return nn.relu(y + _shortcut(x, y, self))


class _Bottleneck(nn.Module):
    width: int
    strides: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm()(self.conv(self.width, 1)(x)))
        y = nn.relu(self.norm()(self.conv(self.width, 3, self.strides)(y)))
        y = self.norm()(self.conv(4 * self.width, 1)(y))
        return nn.relu(y + _shortcut(x, y, self))


def _shortcut(x: jax.Array, y: jax.Array, block: BasicBlock | _Bottleneck) -> jax.Array:
    """The block's input, projected where its output has another shape."""
    if x.shape[-1] == y.shape[-1] and block.strides == 1:
        return x
    x = block.conv(y.shape[-1], 1, block.strides, name="shortcut")(x)
    return block.norm(name="shortcut_norm")(x)
