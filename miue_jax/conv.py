"""A convolution whose gradients stay fast inside loops on the CPU.

XLA's CPU backend rewrites the oddly laid out convolutions of a backward pass into its
fast form only outside loops (jax-ml/jax#12868): in the body of ``scan``, ``fori_loop``
or ``cond`` the same gradient runs 50 to 250 times slower. Here both gradients are
written in the fast form from the start, on the CPU only.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")
# Images a block of the weight gradient: small enough for its patches to stay in cache.
_BLOCK = 4

_Pads = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """Convolves as `lax.conv_general_dilated` does, with gradients fast in CPU loops.

    A drop-in for ``flax.linen.Conv(conv_general_dilated=...)``. Undilated, ungrouped
    two-dimensional NHWC/HWIO convolutions get the custom gradient; all others are
    handed to XLA unchanged. The custom gradient has no forward mode: for `jax.jvp` or
    `jax.jacfwd` build the model with ``convolution=lax.conv_general_dilated``.

    Args:
      lhs: images, (B, H, W, C) float.
      rhs: kernel, (h, w, C, O) float.
      window_strides: two strides.
      padding: "SAME", "VALID" or two (low, high) pairs.
      lhs_dilation: as in `lax.conv_general_dilated`.
      rhs_dilation: as in `lax.conv_general_dilated`.
      dimension_numbers: as in `lax.conv_general_dilated`.
      feature_group_count: as in `lax.conv_general_dilated`.
      **options: precision and element type, as in `lax.conv_general_dilated`.

    Returns:
      (B, H', W', O) float.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    canonical = lhs.ndim == 4 and numbers == lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, _NHWC
    )
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    plain = all(value is None for value in options.values())
    if not canonical or dilated or feature_group_count != 1 or not plain:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            **options,
        )
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _conv(lhs, rhs, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: _Pads
) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_NHWC)


def _conv_forward(x, kernel, strides, pads):
    return _conv(x, kernel, strides, pads), (x, kernel)


def _conv_backward(strides, pads, residuals, cotangent):
    x, kernel = residuals
    arguments = {"strides": strides, "pads": pads}
    return lax.platform_dependent(
        x,
        kernel,
        cotangent,
        cpu=functools.partial(_cpu_gradients, **arguments),
        default=functools.partial(_xla_gradients, **arguments),
    )


_conv.defvjp(_conv_forward, _conv_backward)


def _xla_gradients(x, kernel, cotangent, *, strides, pads):
    def conv(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=_NHWC
        )

    return jax.vjp(conv, x, kernel)[1](cotangent)


def _cpu_gradients(x, kernel, cotangent, *, strides, pads):
    return (
        _input_gradient(x.shape, kernel, cotangent, strides, pads),
        _kernel_gradient(x, kernel.shape, cotangent, strides, pads),
    )


def _input_gradient(shape, kernel, cotangent, strides, pads):
    """One convolution of the dilated cotangent with the flipped kernel."""
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    sizes = zip(shape[1:3], kernel.shape, cotangent.shape[1:3], strides, pads)
    widths = []
    for size, window, output, stride, (low, _) in sizes:
        before = window - 1 - low
        dilated = (output - 1) * stride + 1
        widths.append((before, size + window - 1 - before - dilated))
    return lax.conv_general_dilated(
        cotangent,
        flipped,
        (1, 1),
        widths,
        lhs_dilation=strides,
        dimension_numbers=_NHWC,
    )


def _kernel_gradient(x, shape, cotangent, strides, pads):
    """One matrix product a kernel tap, summed over blocks of images."""
    height, width, channels, outputs = shape
    batch, out_height, out_width, _ = cotangent.shape
    # Negative pads crop, which jnp.pad does not.
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0))
    )
    block = next(size for size in range(min(_BLOCK, batch), 0, -1) if batch % size == 0)

    def add_block(total, inputs):
        images, grads = inputs
        rows = grads.reshape(-1, outputs)
        taps = []
        for i in range(height):
            for j in range(width):
                patch = lax.slice(
                    images,
                    (0, i, j, 0),
                    (
                        block,
                        i + (out_height - 1) * strides[0] + 1,
                        j + (out_width - 1) * strides[1] + 1,
                        channels,
                    ),
                    (1, *strides, 1),
                )
                taps.append(
                    jnp.matmul(
                        patch.reshape(-1, channels).T,
                        rows,
                        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
                    )
                )
        return total + jnp.stack(taps), None

    start = jnp.zeros(
        (height * width, channels, outputs), jnp.promote_types(x.dtype, jnp.float32)
    )
    blocks = (
        padded.reshape(batch // block, block, *padded.shape[1:]),
        cotangent.reshape(batch // block, block, *cotangent.shape[1:]),
    )
    total, _ = lax.scan(add_block, start, blocks)
    return total.reshape(shape).astype(x.dtype)
