"""D-VAE: an autoencoder that tells what classes share from what images show."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models._layers import conv_and_norm, to_input
from miue_jax.models.convolution import loop_convolution
from miue_jax.models.resnet import BasicBlock

# Uniform in +-1 / sqrt(fan in), for kernels that no batch normalization follows.
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Disentangled(NamedTuple):
    """What the autoencoder makes of a batch.

    Attributes:
      reconstruction: (B, H, W, C) in [0, 1].
      perturbation: (B, H, W, C), what the labels explain, in [0, 1] units.
      mean: (B, H / 2, W / 2, D), of the latent Gaussian.
      log_variance: (B, H / 2, W / 2, D), of the latent Gaussian.
    """

    reconstruction: jax.Array
    perturbation: jax.Array
    mean: jax.Array
    log_variance: jax.Array


class DisentanglingVAE(nn.Module):
    """A variational autoencoder with a second decoder for the perturbation.

    The first blocks of a ResNet-18 encode images to a map of half their size, on which
    a Gaussian latent of ``4 * width`` channels is drawn. One decoder gives the images;
    the other, of the same shape but for the last sigmoid, sees the decoder's input with
    a learned map of the image's class added to it and gives the perturbation.

    Attributes:
      num_classes: classes, each with its own map.
      width: channels of the stem.
      dtype: compute dtype; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are shared.
      convolution: stands in for `lax.conv_general_dilated`.

    References:
      Yu et al., Purify Unlearnable Examples via Rate-Constrained Variational
      Autoencoders, ICML 2024.
    """

    num_classes: int
    width: int = 64
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: Callable[..., jax.Array] = loop_convolution

    @nn.compact
    def __call__(
        self, key: jax.Array, images: jax.Array, labels: jax.Array, *, train: bool
    ) -> Disentangled:
        """Separates images and perturbations.

        Args:
          key: of the latent noise.
          images: (B, H, W, C) in [0, 1], H and W even.
          labels: (B,) int32.
          train: whether to normalize with the statistics of the batch.

        Returns:
          Both parts, and the latent Gaussian.
        """
        conv, norm = conv_and_norm(self, train=train)
        x = to_input(images, self.dtype)
        x = nn.relu(norm(name="stem_norm")(conv(self.width, name="stem_conv")(x)))
        for name, width, strides in (
            ("stage1_block1", self.width, 1),
            ("stage1_block2", self.width, 1),
            ("stage2_block1", 2 * self.width, 2),
        ):
            x = BasicBlock(width, strides, conv, norm, name=name)(x)

        pointwise = functools.partial(
            nn.Conv,
            kernel_size=(1, 1),
            dtype=self.dtype,
            kernel_init=_KERNEL_INIT,
            conv_general_dilated=self.convolution,
        )
        mean = pointwise(4 * self.width, name="mean")(x).astype(jnp.float32)
        log_variance = pointwise(4 * self.width, name="log_variance")(x)
        log_variance = log_variance.astype(jnp.float32)
        noise = jax.random.normal(key, mean.shape, jnp.float32)
        latent = mean + jnp.exp(log_variance / 2) * noise
        features = pointwise(2 * self.width, name="from_latent")(latent)

        maps = self.param(
            "class_maps",
            nn.initializers.normal(1.0),
            (self.num_classes, *features.shape[1:]),
        )
        decoder = functools.partial(
            _Decoder,
            width=self.width,
            channels=images.shape[-1],
            dtype=self.dtype,
            convolution=self.convolution,
        )
        reconstruction = nn.sigmoid(decoder(name="image_decoder")(features))
        perturbation = decoder(name="perturbation_decoder")(features + maps[labels])
        return Disentangled(reconstruction, perturbation, mean, log_variance)


class Upsampling(nn.Module):
    """A transposed convolution with kernel 4, stride 2 and padding 1.

    Every output pixel is a sum over 2x2 input pixels, in one of four ways by the parity
    of its row and column: one ordinary convolution computes all four, whose gradients
    `miue_jax.models.convolution` has fast inside loops.

    Attributes:
      features: channels of the output.
      dtype: compute dtype.
      convolution: stands in for `lax.conv_general_dilated`.
    """

    features: int
    dtype: Any = jnp.float32
    convolution: Callable[..., jax.Array] = loop_convolution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, 2 H, 2 W, features)."""
        batch, height, width, _ = x.shape
        sums = nn.Conv(
            4 * self.features,
            (2, 2),
            padding=1,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_KERNEL_INIT,
            conv_general_dilated=self.convolution,
            name="conv",
        )(x).reshape(batch, height + 1, width + 1, 2, 2, self.features)
        rows = [
            jnp.stack(
                [sums[:, i : i + height, j : j + width, i, j] for j in (0, 1)], axis=3
            )
            for i in (0, 1)
        ]
        pixels = jnp.stack(rows, axis=2)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        pixels = pixels.reshape(batch, 2 * height, 2 * width, self.features)
        return pixels + bias.astype(self.dtype)


class _Decoder(nn.Module):
    width: int
    channels: int
    dtype: Any
    convolution: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # At stride one a transposed convolution is a convolution.
        conv = functools.partial(
            nn.Conv,
            kernel_size=(3, 3),
            padding=1,
            dtype=self.dtype,
            kernel_init=_KERNEL_INIT,
            conv_general_dilated=self.convolution,
        )
        x = Upsampling(self.width, self.dtype, self.convolution)(x)
        for width in (self.width, max(1, self.width // 2)):
            x = conv(width, use_bias=False)(x)
            x = nn.InstanceNorm(
                use_bias=False, use_scale=False, epsilon=1e-5, dtype=self.dtype
            )(x)
            x = nn.relu(x)
        return conv(self.channels)(x).astype(jnp.float32)
