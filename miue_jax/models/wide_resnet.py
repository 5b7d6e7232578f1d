"""Wide residual networks: few, wide blocks that normalize before they convolve."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.models._layers import Layer, classify, conv_and_norm, to_input

_STEM = 16


class WideResNet(nn.Module):
    """A WRN-d-k without dropout; WRN-28-10 by default.

    Intermediates, before the final normalization: ``stem``, ``stage1`` to ``stage3``.

    Attributes:
      num_classes: number of logits.
      depth: layers in all, 6n + 4 for n blocks a stage.
      width: channels of the first stage, 16 times the widening factor; the others have
        2 and 4 times that.
      dtype: compute dtype; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are shared.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016.
    """

    num_classes: int
    depth: int = 28
    width: int = 160
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: Callable[..., jax.Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, 4 * width) and logits.

        Raises:
          ValueError: for a depth that is not 6n + 4, n >= 1.
        """
        blocks, remainder = divmod(self.depth - 4, 6)
        if remainder or blocks < 1:
            raise ValueError(
                f"the depth of a WideResNet is 10, 16, 22, 28, ...; given {self.depth}"
            )
        conv, norm = conv_and_norm(self, train=train)
        x = conv(_STEM, name="stem_conv")(to_input(images, self.dtype))
        self.sow("intermediates", "stem", x)
        for stage in (1, 2, 3):
            for index in range(blocks):
                x = _PreactivationBlock(
                    width=self.width * 2 ** (stage - 1),
                    strides=2 if stage > 1 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage}_block{index + 1}",
                )(x)
            self.sow("intermediates", f"stage{stage}", x)
        x = nn.relu(norm(name="final_norm")(x))
        return classify(x, self.num_classes)


class _PreactivationBlock(nn.Module):
    width: int
    strides: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm()(x))
        # A projected shortcut sees the activated input, an identity the raw one.
        if x.shape[-1] != self.width or self.strides != 1:
            x = self.conv(self.width, 1, self.strides, name="shortcut")(y)
        y = nn.relu(self.norm()(self.conv(self.width, 3, self.strides)(y)))
        return x + self.conv(self.width, 3)(y)
