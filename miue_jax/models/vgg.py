"""VGG with batch normalization and one linear layer, as CIFAR work uses it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.models._layers import classify, conv_and_norm, to_input

_MULTIPLES = (1, 2, 4, 8, 8)


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by 2x2 maximum pooling; VGG-11.

    A stage does not pool once the map is a single pixel high or wide, so 8x8 images
    pass too. Intermediates, after pooling: ``stage1`` to ``stage5``.

    Attributes:
      num_classes: number of logits.
      stage_sizes: convolutions in each stage.
      width: channels of the first stage; the others have 2, 4, 8 and 8 times that.
      dtype: compute dtype; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are shared.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
      Recognition, ICLR 2015, configurations A (11) and E (19).
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2)
    width: int = 64
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: Callable[..., jax.Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, 8 * width) and logits."""
        conv, norm = conv_and_norm(self, train=train)
        x = to_input(images, self.dtype)
        for stage, size in enumerate(self.stage_sizes, start=1):
            for _ in range(size):
                x = nn.relu(norm()(conv(self.width * _MULTIPLES[stage - 1])(x)))
            if min(x.shape[1:3]) > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            self.sow("intermediates", f"stage{stage}", x)
        return classify(x, self.num_classes)
