"""The convolution against XLA's own: values, both gradients, transformations, loops."""

import functools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from miue_jax.models.convolution import loop_convolution

_NHWC = ("NHWC", "HWIO", "NHWC")

# Image shape, kernel shape, strides, padding. Batches of 5, 6 and 7 images do not
# divide into the blocks of the kernel gradient; 3 channels take the joined taps.
_DENSE = [
    pytest.param((7, 6, 6, 3), (3, 3, 3, 5), (1, 1), "SAME", id="stem"),
    pytest.param((1, 5, 7, 2), (3, 3, 2, 4), (1, 1), "VALID", id="batch-of-one"),
    pytest.param((6, 9, 7, 17), (3, 3, 17, 4), (2, 2), "SAME", id="stride-2"),
    pytest.param((5, 8, 11, 16), (3, 2, 16, 3), (3, 2), "VALID", id="strides-3-2"),
    pytest.param((5, 25, 25, 16), (3, 3, 16, 3), (1, 1), "SAME", id="remainder"),
    pytest.param((4, 8, 8, 16), (1, 1, 16, 8), (2, 2), "SAME", id="1x1-stride-2"),
    pytest.param((4, 5, 5, 2), (4, 4, 2, 3), (1, 1), ((0, 3), (2, 1)), id="asymmetric"),
    pytest.param((3, 8, 8, 2), (3, 3, 2, 2), (2, 2), ((-1, 2), (0, -2)), id="cropping"),
    pytest.param((20, 3, 3, 64), (3, 3, 64, 70), (1, 1), "SAME", id="small-map"),
    pytest.param((150, 4, 4, 64), (3, 3, 64, 65), (1, 1), "SAME", id="winograd"),
    pytest.param((3, 7, 10, 64), (3, 3, 64, 64), (1, 1), "VALID", id="winograd-odd"),
    pytest.param(
        (2, 8, 8, 64), (3, 3, 64, 64), (1, 1), ((-1, 2), (0, 3)), id="winograd-pads"
    ),
    pytest.param((9, 6, 8, 16), (3, 3, 16, 16), (1, 1), "SAME", id="pairs"),
    pytest.param((5, 12, 12, 3), (3, 3, 3, 16), (1, 1), "SAME", id="fours"),
    pytest.param((5, 7, 10, 8), (2, 3, 8, 7), (1, 1), "VALID", id="fours-valid"),
    pytest.param((6, 6, 7, 16), (3, 3, 16, 12), (1, 1), "SAME", id="odd-row"),
    pytest.param((17, 5, 6, 24), (5, 4, 24, 24), (1, 1), "SAME", id="wide-window"),
    pytest.param(
        (5, 8, 8, 12), (3, 3, 12, 16), (1, 1), ((-1, 2), (3, -1)), id="pairs-pads"
    ),
    pytest.param((9, 4, 4, 40), (1, 3, 40, 48), (1, 1), "SAME", id="one-row"),
    pytest.param((5, 9, 9, 64), (3, 3, 64, 64), (2, 2), "VALID", id="small-strided"),
    pytest.param((2, 4, 4, 2), (1, 1, 2, 3), (1, 1), ((2, 5), (3, 4)), id="wide-pads"),
]
_DEPTHWISE = [
    pytest.param((7, 7, 6, 4), (3, 3, 1, 4), (1, 1), "SAME", id="depthwise"),
    pytest.param((5, 25, 25, 3), (3, 3, 1, 3), (2, 2), ((1, 1), (1, 1)), id="dw-2"),
    pytest.param((2, 9, 8, 3), (5, 2, 1, 3), (3, 2), "VALID", id="dw-odd"),
]
_every_case = pytest.mark.parametrize(
    ("image_shape", "kernel_shape", "strides", "padding"), _DENSE + _DEPTHWISE
)


def _pair(strides, padding, groups=1):
    options = {"dimension_numbers": _NHWC, "feature_group_count": groups}
    return [
        lambda x, k, conv=conv: conv(x, k, strides, padding, **options)
        for conv in (loop_convolution, lax.conv_general_dilated)
    ]


def _arrays(image_shape, kernel_shape, dtype="float32"):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in (image_shape, kernel_shape)]


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(conv, x, kernel):
    value, pull = jax.vjp(conv, x, kernel)
    # Not a constant: every position and channel gets another cotangent.
    cotangent = jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)
    return value, *pull(cotangent)


def _assert_close(actual, expected, tolerance):
    for name, a, e in zip(
        ("value", "input gradient", "kernel gradient"), actual, expected, strict=True
    ):
        assert a.dtype == e.dtype, name
        assert a.shape == e.shape, name
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert np.abs(e).max() > 0.1, f"{name} of the reference vanishes"
        np.testing.assert_allclose(
            a, e, atol=tolerance * np.abs(e).max(), rtol=0, err_msg=name
        )


@_every_case
def test_value_and_gradients_equal_xlas(image_shape, kernel_shape, strides, padding):
    groups = image_shape[3] // kernel_shape[2]
    ours, xlas = _pair(strides, padding, groups)
    arrays = _arrays(image_shape, kernel_shape)
    results = _value_and_gradients(ours, *arrays)
    _assert_close(results, _value_and_gradients(xlas, *arrays), 2e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("bfloat16", 1.5e-2)]
)
@pytest.mark.parametrize("groups", [1, 4])
def test_other_precisions(dtype, tolerance, groups):
    with jax.enable_x64(dtype == "float64"):
        ours, xlas = _pair((2, 2), "SAME", groups)
        arrays = _arrays((5, 7, 7, 4), (3, 3, 4 // groups, 4), dtype)
        assert arrays[0].dtype == dtype
        results = _value_and_gradients(ours, *arrays)
        _assert_close(results, _value_and_gradients(xlas, *arrays), tolerance)


def test_bfloat16_kernel_gradient_is_summed_in_float32():
    x = jnp.ones((64, 16, 16, 1), jnp.bfloat16)
    kernel = jnp.zeros((1, 1, 1, 1), jnp.bfloat16)
    ours, _ = _pair((1, 1), "VALID")
    gradient = jax.grad(lambda k: ours(x, k).astype(jnp.float32).sum())(kernel)
    # A sum of ones in bfloat16 stays at 256.
    assert float(gradient.squeeze()) == 64 * 16 * 16


@pytest.mark.parametrize("channels", [3, 16, 32])
def test_an_empty_batch_has_an_empty_result(channels):
    ours, _ = _pair((1, 1), "SAME")
    x, kernel = _arrays((0, 8, 8, channels), (3, 3, channels, channels))
    assert ours(x, kernel).shape == (0, 8, 8, channels)
    assert not jax.grad(lambda k: ours(x, k).sum())(kernel).any()


@pytest.mark.parametrize("strides", [(1, 1), (1, 2)])
def test_a_kernel_larger_than_the_images_has_an_empty_result(strides):
    arrays = _arrays((2, 4, 1, 3), (2, 5, 3, 8))
    ours, xlas = (_value_and_gradients(f, *arrays) for f in _pair(strides, "VALID"))
    assert xlas[0].shape[2] == 0
    for actual, expected in zip(ours, xlas, strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)


def test_wide_3x3_convolutions_take_winograds_products():
    ours, _ = _pair((1, 1), "SAME")
    arrays = _arrays((2, 8, 8, 64), (3, 3, 64, 64))
    text = jax.jit(ours).lower(*arrays).compile().as_text()
    assert len(re.findall(r" dot\(", text)) == 16
    assert not re.findall(r" convolution\(", text)


@pytest.mark.parametrize(("channels", "group"), [(16, 2), (8, 4)])
def test_narrow_convolutions_compute_pixels_side_by_side(channels, group):
    ours, _ = _pair((1, 1), "SAME")
    arrays = _arrays((2, 8, 8, channels), (3, 3, channels, channels))
    text = jax.jit(ours).lower(*arrays).compile().as_text()
    (window,) = re.findall(r" convolution\(.*window=\{size=(\S+) stride=(\S+) ", text)
    assert window == (f"3x{2 + group}", f"1x{group}")


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_vmap_over_images_and_over_kernels(axes, groups):
    ours, xlas = _pair((2, 2), "SAME", groups)
    image_shape, kernel_shape = (3, 5, 5, 3), (3, 3, 3 // groups, 3)
    x, kernel = _arrays(
        (2, *image_shape) if axes[0] == 0 else image_shape,
        (2, *kernel_shape) if axes[1] == 0 else kernel_shape,
    )
    results, reference = (
        jax.vmap(functools.partial(_value_and_gradients, conv), axes)(x, kernel)
        for conv in (ours, xlas)
    )
    _assert_close(results, reference, 2e-6)


@pytest.mark.parametrize("groups", [1, 3])
def test_second_order_by_reverse_over_reverse(groups):
    x, kernel = _arrays((3, 5, 5, 3), (3, 3, 3 // groups, 3))

    def gradient_norm(conv, x, kernel):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel)))

        to_x, to_kernel = jax.grad(loss, (0, 1))(x, kernel)
        return jnp.sum(to_x**2) + jnp.sum(to_kernel**2)

    def results(conv):
        norm = functools.partial(gradient_norm, conv)
        value, gradients = jax.jit(jax.value_and_grad(norm, (0, 1)))(x, kernel)
        return value, *gradients

    ours, xlas = _pair((2, 2), ((1, 1), (1, 1)), groups)
    _assert_close(results(ours), results(xlas), 5e-6)


def test_gradients_under_shard_map_equal_those_of_the_whole_batch():
    x, kernel = _arrays((8, 6, 6, 3), (3, 3, 3, 4))
    ours, xlas = _pair((1, 1), "SAME")

    def per_device(x, kernel):
        value, to_x, to_kernel = _value_and_gradients(
            lambda x, k: jnp.sin(ours(x, k)).sum(keepdims=True), x, kernel
        )
        return lax.psum(value, "data"), to_x, lax.psum(to_kernel, "data")

    mapped = jax.shard_map(
        per_device,
        mesh=Mesh(np.asarray(jax.devices()[:4]), ("data",)),
        in_specs=(P("data"), P()),
        out_specs=(P(), P("data"), P()),
        check_vma=False,
    )
    reference = _value_and_gradients(
        lambda x, k: jnp.sin(xlas(x, k)).sum(keepdims=True), x, kernel
    )
    _assert_close(jax.jit(mapped)(x, kernel), reference, 2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 1)},
        {"feature_group_count": 2},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
        {"precision": lax.Precision.HIGHEST},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_it_has_no_gradient_for_is_left_to_xla(options):
    x, kernel = _arrays((4, 4, 4, 4), (4, 4, 4, 4))
    if "feature_group_count" in options:
        kernel = kernel[:, :, :2]
    options = {"dimension_numbers": _NHWC, "padding": ((1, 1), (2, 1)), **options}
    # XLA's own has forward mode, the custom gradient has none.
    _, tangent = jax.jvp(
        lambda x: loop_convolution(x, kernel, (1, 1), **options), (x,), (x,)
    )
    expected = lax.conv_general_dilated(x, kernel, (1, 1), **options)
    np.testing.assert_allclose(tangent, expected, rtol=1e-5, atol=1e-5)


def test_mismatched_channels_are_refused():
    x, kernel = _arrays((1, 4, 4, 4), (3, 3, 2, 4))
    with pytest.raises(ValueError, match="feature"):
        loop_convolution(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


def test_as_the_convolution_of_a_flax_layer():
    def through(conv):
        layer = nn.Conv(4, (3, 3), 2, use_bias=False, conv_general_dilated=conv)
        return lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x)

    arrays = _arrays((2, 6, 6, 4), (3, 3, 4, 4))
    results = _value_and_gradients(through(loop_convolution), *arrays)
    reference = _value_and_gradients(through(lax.conv_general_dilated), *arrays)
    _assert_close(results, reference, 2e-6)
    assert results[0].shape == (2, 3, 3, 4)


def _in_a_loop(gradient, steps=3):
    """Sums a gradient over the steps of a loop that cannot be hoisted out of it."""

    def run(x, kernel):
        def body(_, carry):
            return carry + gradient(x + carry.ravel()[0] * 1e-9, kernel)

        start = jnp.zeros(jax.eval_shape(gradient, x, kernel).shape)
        return lax.fori_loop(0, steps, body, start)

    return run


def _gradient_of(conv, argument):
    return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel))), argument)


@pytest.mark.parametrize("argument", [0, 1], ids=["input", "kernel"])
def test_loops_hold_only_fast_convolutions_and_no_unused_gradient(argument):
    ours, _ = _pair((1, 1), "SAME")
    arrays = _arrays((8, 8, 8, 16), (3, 3, 16, 16))
    run = jax.jit(_in_a_loop(_gradient_of(ours, argument)))
    text = run.lower(*arrays).compile().as_text()
    layouts = re.findall(r"convolution\(.*dim_labels=(\S+?)(?:,|$)", text, re.MULTILINE)
    # The forward convolution, and one for the gradient.
    assert layouts == ["b01f_01io->b01f"] * 2
    assert not re.findall(r" dot\(", text)


@pytest.mark.parametrize("groups", [1, 64])
def test_kernel_gradients_in_loops_are_much_faster_than_xlas(groups):
    arrays = _arrays((4, 16, 16, 64), (3, 3, 64 // groups, 64))
    seconds = []
    for conv in _pair((1, 1), "SAME", groups):
        run = jax.jit(_in_a_loop(_gradient_of(conv, 1)))
        jax.block_until_ready(run(*arrays))
        # CPU time: other processes must not decide.
        start = time.process_time()
        jax.block_until_ready(run(*arrays))
        seconds.append(time.process_time() - start)
    ours, xlas = seconds
    assert 4 * ours < xlas, f"{ours:.4f} s against {xlas:.4f} s"
