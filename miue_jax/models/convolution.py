"""A convolution whose gradients stay fast inside loops on the CPU.

XLA's CPU backend rewrites the oddly laid out convolutions of a backward pass into its
fast form only outside loops (jax-ml/jax#12868): in the body of ``scan``, ``fori_loop``
or ``cond`` the same gradient runs 50 to 250 times slower. Here both gradients are
written in a fast form from the start, on the CPU only, and so are the convolutions that
XLA is slow at there: depthwise ones, 3x3 ones of many channels (by Winograd's minimal
filtering), others of many channels on small maps, and those of few channels (by groups
of pixels). Other backends keep XLA's own.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from miue_jax.models import pixel_groups, winograd

_NHWC = ("NHWC", "HWIO", "NHWC")
# A block of images: at least this many and, where maps are small, as many as make this
# many rows of a matrix product. Larger blocks fall out of the cache, smaller ones make
# thin products. Measured with 64 to 512 channels.
_IMAGES = 4
_ROWS = 512
# Channels below which the taps of a kernel share one matrix product.
_NARROW = 16
# Pixels up to which, and channels from which, products beat XLA's convolution.
_SMALL_MAP = 256
_WIDE = 64
# Channels from which, and rows and columns from which, Winograd's filtering beats both.
_WINOGRAD_CHANNELS = 64
_WINOGRAD_SIZE = 4
# Channels up to which groups of pixels beat XLA's convolution, and up to which four of
# them do rather than two.
_GROUPED, _GROUPED_BY_FOUR = 16, 8
# Channels below which the gradient to a kernel is a convolution rather than products,
# outputs up to which that has groups, and outputs that are too few for it.
_CONVOLVED, _GROUPED_OUTPUTS, _TOO_FEW = 128, 24, 4

_Pads = tuple[tuple[int, int], tuple[int, int]]


def loop_convolution(
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

    Pass it as ``models.create(..., convolution=models.loop_convolution)``, or to
    ``flax.linen.Conv(conv_general_dilated=...)``, where gradients are taken inside
    ``scan``, ``fori_loop`` or ``cond`` on the CPU; on other backends it computes what
    `lax.conv_general_dilated` does. Undilated two-dimensional NHWC/HWIO convolutions
    that are ungrouped or depthwise get the custom gradient; all others are handed to
    XLA unchanged. The custom gradient has no forward mode: `jax.jvp` and `jax.jacfwd`
    raise a TypeError.

    Args:
      lhs: images, (B, H, W, C) float.
      rhs: kernel, (h, w, C / groups, O) float.
      window_strides: two strides.
      padding: "SAME", "VALID" or two (low, high) pairs.
      lhs_dilation: as in `lax.conv_general_dilated`.
      rhs_dilation: as in `lax.conv_general_dilated`.
      dimension_numbers: as in `lax.conv_general_dilated`.
      feature_group_count: groups, as in `lax.conv_general_dilated`.
      **options: precision and element type, as in `lax.conv_general_dilated`.

    Returns:
      (B, H', W', O) float.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import models
      >>> images, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> models.loop_convolution(
      ...     images, kernel, (1, 1), "SAME", dimension_numbers=layout
      ... ).shape
      (1, 4, 4, 2)
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    canonical = lhs.ndim == 4 and numbers == lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, _NHWC
    )
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    plain = all(value is None for value in options.values())
    depthwise = 1 < feature_group_count == lhs.shape[-1] == rhs.shape[-1]
    ungrouped = feature_group_count == 1 and canonical and lhs.shape[3] == rhs.shape[2]
    strides, pads = tuple(window_strides), ()
    fits = canonical and not dilated and plain and (depthwise or ungrouped)
    if fits:
        if isinstance(padding, str):
            pads = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
        else:
            pads = tuple((int(low), int(high)) for low, high in padding)
    # No images, or a kernel that is larger than they are: there is nothing to compute.
    empty = fits and not (lhs.size and min(_output_size(lhs, rhs, strides, pads)) > 0)
    if not fits or empty:
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
    return _conv(lhs, rhs, strides, pads, depthwise)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    pads: _Pads,
    depthwise: bool,
) -> jax.Array:
    on_cpu = _depthwise if depthwise else _fastest(x, kernel, strides, pads)
    if on_cpu is _xla_conv:
        return _xla_conv(x, kernel, strides=strides, pads=pads)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(on_cpu, strides=strides, pads=pads),
        default=functools.partial(_xla_conv, strides=strides, pads=pads),
    )


def _conv_forward(x, kernel, strides, pads, depthwise):
    return _conv(x, kernel, strides, pads, depthwise), (x, kernel)


def _conv_backward(strides, pads, depthwise, residuals, cotangent):
    x, kernel = residuals
    # One choice each, so that the gradient nobody uses is not computed.
    return (
        _to_input(kernel, cotangent, x.shape, strides, pads, depthwise),
        _to_kernel(x, cotangent, kernel.shape, strides, pads, depthwise),
    )


_conv.defvjp(_conv_forward, _conv_backward)


# A convolution is linear in images and in kernel, and so is each gradient in what it is
# computed of: their own gradients are the other two. Derivatives of any order so come
# in the fast forms, and none is taken of their loops.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _to_input(
    kernel: jax.Array,
    cotangent: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pads: _Pads,
    depthwise: bool,
) -> jax.Array:
    """The gradient to images (of the shape)."""
    arguments = {"shape": shape, "strides": strides, "pads": pads}
    on_cpu = _depthwise_input_gradient if depthwise else _input_gradient
    return lax.platform_dependent(
        kernel,
        cotangent,
        cpu=functools.partial(on_cpu, **arguments),
        default=functools.partial(_xla_input_gradient, **arguments),
    )


def _to_input_forward(kernel, cotangent, shape, strides, pads, depthwise):
    made = _to_input(kernel, cotangent, shape, strides, pads, depthwise)
    return made, (kernel, cotangent)


def _to_input_backward(shape, strides, pads, depthwise, residuals, images):
    kernel, cotangent = residuals
    return (
        _to_kernel(images, cotangent, kernel.shape, strides, pads, depthwise),
        _conv(images, kernel, strides, pads, depthwise),
    )


_to_input.defvjp(_to_input_forward, _to_input_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _to_kernel(
    x: jax.Array,
    cotangent: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pads: _Pads,
    depthwise: bool,
) -> jax.Array:
    """The gradient to a kernel (of the shape)."""
    arguments = {"shape": shape, "strides": strides, "pads": pads}
    return lax.platform_dependent(
        x,
        cotangent,
        cpu=functools.partial(_kernel_gradient, depthwise=depthwise, **arguments),
        default=functools.partial(_xla_kernel_gradient, **arguments),
    )


def _to_kernel_forward(x, cotangent, shape, strides, pads, depthwise):
    made = _to_kernel(x, cotangent, shape, strides, pads, depthwise)
    return made, (x, cotangent)


def _to_kernel_backward(shape, strides, pads, depthwise, residuals, kernel):
    x, cotangent = residuals
    return (
        _to_input(kernel, cotangent, x.shape, strides, pads, depthwise),
        _conv(x, kernel, strides, pads, depthwise),
    )


_to_kernel.defvjp(_to_kernel_forward, _to_kernel_backward)


def _xla_conv(x, kernel, *, strides, pads):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=_NHWC,
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _xla_input_gradient(kernel, cotangent, *, shape, **arguments):
    x = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    convolve = functools.partial(_xla_conv, kernel=kernel, **arguments)
    return jax.linear_transpose(convolve, x)(cotangent)[0]


def _xla_kernel_gradient(x, cotangent, *, shape, **arguments):
    kernel = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    convolve = functools.partial(_xla_conv, x, **arguments)
    return jax.linear_transpose(convolve, kernel)(cotangent)[0]


def _input_gradient(kernel, cotangent, *, shape, strides, pads):
    """One convolution of the dilated cotangent with the flipped kernel."""
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    widths = _transposed_pads(shape, kernel, cotangent, strides, pads)
    if strides == (1, 1):
        convolve = _fastest(cotangent, flipped, strides, widths)
        return convolve(cotangent, flipped, strides=strides, pads=widths)
    return lax.conv_general_dilated(
        cotangent,
        flipped,
        (1, 1),
        widths,
        lhs_dilation=strides,
        dimension_numbers=_NHWC,
    )


def _depthwise_input_gradient(kernel, cotangent, *, shape, strides, pads):
    widths = _transposed_pads(shape, kernel, cotangent, strides, pads)
    flipped = jnp.flip(kernel, (0, 1))
    return _depthwise(cotangent, flipped, strides=(1, 1), pads=widths, dilation=strides)


def _transposed_pads(shape, kernel, cotangent, strides, pads):
    """Pads of the dilated cotangent for which the output has the size of the input."""
    widths = []
    for axis, stride in enumerate(strides):
        window = kernel.shape[axis]
        before = window - 1 - pads[axis][0]
        dilated = (cotangent.shape[axis + 1] - 1) * stride + 1
        widths.append((before, shape[axis + 1] + window - 1 - before - dilated))
    return tuple(widths)


def _depthwise(x, kernel, *, strides, pads, dilation=(1, 1)):
    """One product a kernel tap: XLA's grouped convolution is 10 to 40 times slower."""
    padded = _pad(x, pads, dilation)
    output = _output_size(padded, kernel, strides, ((0, 0), (0, 0)))
    weights = kernel.reshape(-1, x.shape[-1])
    taps = _taps(padded.astype(_accumulator(x)), kernel.shape[:2], output, strides)
    products = [tap * weights[index] for index, tap in enumerate(taps)]
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _fastest(x, kernel, strides, pads):
    """The form in which an ungrouped convolution is fastest on the CPU."""
    *window, channels, outputs = kernel.shape
    output = _output_size(x, kernel, strides, pads)
    narrowest = min(channels, outputs)
    if (
        (window, strides, x.dtype) == ([3, 3], (1, 1), jnp.float32)
        and narrowest >= _WINOGRAD_CHANNELS
        and min(output) >= _WINOGRAD_SIZE
    ):
        return _winograd
    group = _group(window, channels, outputs, output[1])
    if strides == (1, 1) and x.dtype == jnp.float32 and group > 1:
        return functools.partial(_grouped, group=group)
    small = 0 < math.prod(output) <= _SMALL_MAP
    if math.prod(window) > 1 and narrowest >= _WIDE and small:
        return _blockwise
    return _xla_conv


def _group(window, channels, outputs, width):
    """Pixels in a row that are fastest computed at once."""
    if max(channels, outputs) > _GROUPED or window[1] == 1:
        return 1
    group = 4 if min(channels, outputs) <= _GROUPED_BY_FOUR else 2
    return group if width % group == 0 else 1


def _grouped(x, kernel, *, strides, pads, group):
    del strides  # they are 1
    return pixel_groups.convolve(x, kernel, pads, group)


def _winograd(x, kernel, *, strides, pads):
    del strides  # they are 1
    return winograd.convolve(x, kernel, pads)


def _blockwise(x, kernel, *, strides, pads):
    """One matrix product a kernel tap, by blocks of images."""
    output = _output_size(x, kernel, strides, pads)
    weights = kernel.reshape(-1, *kernel.shape[2:])

    def convolve(images):
        taps = _taps(_pad(images, pads), kernel.shape[:2], output, strides)
        products = [
            jnp.matmul(
                tap.reshape(-1, tap.shape[-1]),
                weights[index],
                preferred_element_type=_accumulator(x),
            )
            for index, tap in enumerate(taps)
        ]
        total = functools.reduce(jnp.add, products).astype(x.dtype)
        return total.reshape(len(images), *output, -1)

    (blocks,), (rest,) = _blocks(output, x)
    results = lax.map(convolve, blocks)
    result = results.reshape(-1, *results.shape[2:])
    return jnp.concatenate([result, convolve(rest)]) if len(rest) else result


def _kernel_gradient(x, cotangent, *, shape, strides, pads, depthwise):
    """One matrix product (or one sum) a kernel tap, summed over blocks of images."""
    *window, _, outputs = shape
    channels = x.shape[-1]
    if (
        (strides, x.dtype, depthwise) == ((1, 1), jnp.float32, False)
        and math.prod(window) > 1
        and max(channels, outputs) < _CONVOLVED
        and outputs >= _TOO_FEW
    ):
        group = 1
        if outputs <= _GROUPED_OUTPUTS:
            group = 4 if outputs <= _GROUPED_BY_FOUR else 2
            group = group if cotangent.shape[2] % group == 0 else 1
        return pixel_groups.kernel_gradient(x, cotangent, tuple(window), pads, group)
    # Narrow taps side by side make one product that is wide enough to be efficient.
    joined = not depthwise and channels < _NARROW

    def add_block(totals, images, grads):
        taps = _taps(_pad(images, pads), window, cotangent.shape[1:3], strides)
        if depthwise:
            wide = grads.astype(_accumulator(x))
            terms = [jnp.sum(tap * wide, (0, 1, 2)) for tap in taps]
        else:
            if joined:
                taps = [jnp.concatenate(list(taps), axis=-1)]
            # The barrier keeps XLA from folding the transpose into a slower product.
            rows = lax.optimization_barrier(grads.reshape(-1, outputs).T)
            terms = [
                jnp.matmul(
                    rows,
                    tap.reshape(-1, tap.shape[-1]),
                    preferred_element_type=_accumulator(x),
                )
                for tap in taps
            ]
        return jax.tree.map(jnp.add, totals, terms)

    count = math.prod(window)
    if depthwise:
        totals = [jnp.zeros(channels, _accumulator(x))] * count
    elif joined:
        totals = [jnp.zeros((outputs, count * channels), _accumulator(x))]
    else:
        totals = [jnp.zeros((outputs, channels), _accumulator(x))] * count
    blocks, rest = _blocks(cotangent.shape[1:3], x, cotangent)
    totals, _ = lax.scan(
        lambda totals, block: (add_block(totals, *block), None), totals, blocks
    )
    if len(rest[0]):
        totals = add_block(totals, *rest)
    # (outputs, taps * channels), or (taps, channels) of a depthwise kernel.
    gradient = jnp.stack(totals) if depthwise else jnp.concatenate(totals, -1).T
    return gradient.reshape(shape).astype(cotangent.dtype)


def _blocks(output, *arrays):
    """Splits arrays along the batch into stacked blocks and what is left over."""
    batch = len(arrays[0])
    images = max(_IMAGES, _ROWS // max(1, math.prod(output)))
    size = max(1, min(batch, images))
    count = batch // size
    whole = [a[: count * size].reshape(count, size, *a.shape[1:]) for a in arrays]
    return whole, [a[count * size :] for a in arrays]


def _output_size(x, kernel, strides, pads):
    return [
        (x.shape[axis + 1] + sum(pads[axis]) - kernel.shape[axis]) // stride + 1
        for axis, stride in enumerate(strides)
    ]


def _taps(padded, window, output, strides):
    """The images as each tap of the kernel sees them, (B, H', W', C)."""
    spans = [(output[axis] - 1) * stride + 1 for axis, stride in enumerate(strides)]
    for i, j in np.ndindex(*window):
        limits = (padded.shape[0], i + spans[0], j + spans[1], padded.shape[3])
        yield lax.slice(padded, (0, i, j, 0), limits, (1, *strides, 1))


def _pad(x, pads, dilation=(1, 1)):
    # Negative pads crop, which jnp.pad does not.
    widths = [(*pads[axis], step - 1) for axis, step in enumerate(dilation)]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *widths, (0, 0, 0)))


def _accumulator(x):
    return jnp.promote_types(x.dtype, jnp.float32)
