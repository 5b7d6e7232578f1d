"""LeNet-5 as it is trained on CIFAR-10 today: ReLU and maximum pooling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.models._layers import classify, to_input

_SMALLEST = 16


class LeNet5(nn.Module):
    """Two unpadded 5x5 convolutions and three linear layers.

    With ``width`` 6 the layers have 6, 16, 120 and 84 outputs; other widths keep these
    proportions. Intermediates: ``stage1``, ``stage2``, ``hidden1``.

    Attributes:
      num_classes: number of logits.
      width: channels of the first convolution.
      dtype: compute dtype; parameters stay float32.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """

    num_classes: int
    width: int = 6
    dtype: Any = jnp.float32
    convolution: Callable[..., jax.Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, 84) and logits.

        Raises:
          ValueError: for images smaller than 16x16.
        """
        del train
        x = to_input(images, self.dtype)
        if min(x.shape[1:3]) < _SMALLEST:
            raise ValueError(
                f"LeNet-5 needs images of at least {_SMALLEST}x{_SMALLEST}; "
                f"given {x.shape[1]}x{x.shape[2]}"
            )
        for stage, channels in enumerate((self.width, 8 * self.width // 3), start=1):
            x = nn.Conv(
                channels,
                (5, 5),
                padding="VALID",
                dtype=self.dtype,
                conv_general_dilated=self.convolution,
                name=f"conv{stage}",
            )(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
            self.sow("intermediates", f"stage{stage}", x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(20 * self.width, dtype=self.dtype, name="dense1")(x))
        self.sow("intermediates", "hidden1", x)
        x = nn.relu(nn.Dense(14 * self.width, dtype=self.dtype, name="dense2")(x))
        return classify(x, self.num_classes)
