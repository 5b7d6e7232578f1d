"""A small vision transformer whose patches fit the images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models._layers import classify, to_input

_PATCHES = (4, 8, 16, 32)
_MOST_PATCHES = 256
_HEAD = 64


class VisionTransformer(nn.Module):
    """ViT-Tiny: a class token, learned positions, layer normalization first.

    The patch is the smallest of 4, 8, 16 and 32 pixels that divides both sides into at
    most 256 patches: 4 up to 64x64, 8 up to 128x128, 16 for 224x224. The position
    embedding has the size of the images seen at initialization. Intermediates, (B,
    1 + patches, width): ``stem``, ``stage1``, ... (one a layer).

    Attributes:
      num_classes: number of logits.
      depth: transformer layers.
      width: size of a token; heads are 64 wide, or there is a single one.
      dtype: compute dtype; parameters stay float32.

    References:
      Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Touvron et al.,
      Training data-efficient image transformers, ICML 2021, table 1 (the Tiny size).
    """

    num_classes: int
    depth: int = 12
    width: int = 192
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps images (B, H, W, C) in [0, 1] to features (B, width) and logits.

        Raises:
          ValueError: for image sizes that no patch divides, or a width of several heads
            that do not divide it.
        """
        del train
        x = _patches(to_input(images, self.dtype))
        heads = max(1, self.width // _HEAD)
        if self.width % heads:
            raise ValueError(
                f"{heads} attention heads do not divide the width {self.width}; "
                f"use a multiple of {_HEAD}, or less than {2 * _HEAD}"
            )
        x = nn.Dense(self.width, dtype=self.dtype, name="patch_embedding")(x)
        normal = nn.initializers.normal(0.02)
        token = self.param("class_token", normal, (1, 1, self.width))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(x.dtype)
        x = jnp.concatenate((token, x), axis=1)
        position = self.param("position", normal, (1, *x.shape[1:]))
        x = x + position.astype(x.dtype)
        self.sow("intermediates", "stem", x)
        for layer in range(1, self.depth + 1):
            x = _Layer(heads=heads, dtype=self.dtype, name=f"layer{layer}")(x)
            self.sow("intermediates", f"stage{layer}", x)
        x = nn.LayerNorm(dtype=self.dtype, name="final_norm")(x[:, 0])
        return classify(x, self.num_classes)


class _Layer(nn.Module):
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = nn.LayerNorm(dtype=self.dtype)(x)
        attended: Any = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            dtype=self.dtype,
            deterministic=True,
            force_fp32_for_softmax=True,
        )(y)
        x = x + attended
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype)(y), approximate=False)
        return x + nn.Dense(width, dtype=self.dtype)(y)


def _patches(x: jax.Array) -> jax.Array:
    """Cuts images (B, H, W, C) into flattened patches (B, N, P * P * C)."""
    batch, height, width, channels = x.shape
    for size in _PATCHES:
        rows, columns = height // size, width // size
        fits = (rows * size, columns * size) == (height, width)
        if fits and 0 < rows * columns <= _MOST_PATCHES:
            x = x.reshape(batch, rows, size, columns, size, channels)
            x = x.transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(batch, rows * columns, size * size * channels)
    raise ValueError(
        f"ViT cannot cut {height}x{width} images into at most {_MOST_PATCHES} square "
        f"patches of {', '.join(map(str, _PATCHES))} pixels"
    )
