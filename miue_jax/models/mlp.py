"""Networks without convolutions: fully connected ones and the linear classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models._layers import classify, to_input


class MLP(nn.Module):
    """A fully connected ReLU network, the field's n-NN; 2-NN by default.

    As there, n counts the linear layers: one fewer is hidden. The features are the last
    hidden layer. Intermediates: ``hidden1``, ...

    Attributes:
      num_classes: number of logits.
      layers: linear layers, the last of which gives the logits.
      width: size of each hidden layer.
      dtype: compute dtype; parameters stay float32.
    """

    num_classes: int
    layers: int = 2
    width: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, width) and logits."""
        del train
        x = to_input(images, self.dtype)
        x = x.reshape(x.shape[0], -1)
        for layer in range(1, self.layers):
            x = nn.Dense(self.width, dtype=self.dtype, name=f"dense{layer}")(x)
            x = nn.relu(x)
            self.sow("intermediates", f"hidden{layer}", x)
        return classify(x, self.num_classes)


class Linear(nn.Module):
    """Multinomial logistic regression; the features are the flattened pixels.

    Attributes:
      num_classes: number of logits.
      dtype: dtype to which the pixels are rounded.
    """

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, H * W * C) and logits."""
        del train
        x = to_input(images, self.dtype)
        return classify(x.reshape(x.shape[0], -1), self.num_classes)
