"""Projected gradient and its balls."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from miue_jax import Budget
from miue_jax.losses import mi_ue_loss
from miue_jax.projected_gradient import (
    NonFiniteGradientWarning,
    clip_to_images,
    count_nonfinite_gradients,
    pgd,
    pgd_with_losses,
    project,
)

ORACLE = pathlib.Path(__file__).parents[2] / "shared" / "oracle" / "perturbation.npz"
SHAPE = (3, 4, 4, 3)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None, derandomize=True)


def images_and_delta(seed=0, scale=0.1, shape=SHAPE):
    rng = np.random.default_rng(seed)
    # A third of the values at the ends of the range, where the box matters.
    images = np.clip(rng.uniform(-0.5, 1.5, shape), 0, 1).astype(np.float32)
    return images, (scale * rng.standard_normal(shape)).astype(np.float32)


def norms(delta, norm):
    flat = np.abs(np.asarray(delta, np.float64)).reshape(len(delta), -1)
    return flat.max(1) if norm == "linf" else np.sqrt(np.square(flat).sum(1))


# Projected gradient -----------------------------------------------------------------


def test_ten_steps_equal_published_code():
    if not ORACLE.exists():
        pytest.skip(f"the published figures are not here: {ORACLE}")
    with np.load(ORACLE) as file:
        oracle = dict(file)

    def features(images):
        hidden = images
        for layer, stride in (("conv1", 1), ("conv2", 2)):
            hidden = lax.conv_general_dilated(
                hidden,
                oracle[f"{layer}_kernel_oihw"].transpose(2, 3, 1, 0),
                window_strides=(stride, stride),
                padding=((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            hidden = jax.nn.relu(hidden + oracle[f"{layer}_bias"])
        return hidden.mean(axis=(1, 2))

    def loss(images):
        return mi_ue_loss(
            features(images),
            oracle["labels"],
            temperature=float(oracle["temperature"]),
            distance_weight=float(oracle["zeta"]),
        )

    @jax.jit
    def step(images, delta, step_size):
        return pgd_with_losses(
            loss,
            images,
            delta,
            radius=float(oracle["epsilon"]),
            step_size=step_size,
            num_steps=1,
        )

    with jax.enable_x64(True):
        images = jnp.asarray(oracle["images_nchw"].transpose(0, 2, 3, 1))
        delta = jnp.zeros_like(images)
        assert len(oracle["step_sizes"]) == 10
        for i, step_size in enumerate(oracle["step_sizes"]):
            delta, losses = step(images, delta, step_size)
            np.testing.assert_allclose(losses, oracle["losses_before"][i], rtol=1e-9)
            want = oracle["deltas_nchw"][i].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(
                delta, want, rtol=0, atol=1e-9, err_msg=f"step {i}"
            )


@pytest.mark.parametrize("ascend", [False, True])
def test_a_signed_step_moves_then_projects_then_clips(ascend):
    images, delta = images_and_delta()
    target, _ = images_and_delta(seed=1)
    result = pgd(
        lambda x: jnp.sum((x - target) ** 2),
        images,
        delta,
        radius=0.05,
        step_size=0.02,
        num_steps=1,
        ascend=ascend,
    )
    sign = np.sign(images + delta - target)
    want = np.clip(delta + 0.02 * (sign if ascend else -sign), -0.05, 0.05)
    want = np.clip(images + want, 0, 1) - images
    np.testing.assert_allclose(result, want, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_a_normalized_step_has_the_given_length_in_every_image(scale):
    weights = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    images = np.full(SHAPE, 0.5, np.float32)
    lengths = np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1, 1)
    result = pgd(
        lambda x: jnp.sum(x * weights * scale),
        images,
        np.zeros_like(images),
        radius=1.0,
        step_size=lengths,
        num_steps=1,
        norm="l2",
        step="normalized",
    )
    np.testing.assert_allclose(norms(result, "l2"), lengths.ravel(), rtol=1e-6)
    cosine = np.sum(np.asarray(result) * weights, axis=(1, 2, 3)) / (
        norms(result, "l2") * norms(weights, "l2")
    )
    np.testing.assert_allclose(cosine, -1, rtol=1e-5)


@pytest.mark.parametrize("step", ["sign", "normalized"])
def test_nothing_moves_where_the_gradient_is_zero(step):
    images, delta = images_and_delta(scale=0.01)
    delta = np.asarray(clip_to_images(images, delta))
    result = pgd(
        lambda x: jnp.sum(x[1]),
        images,
        delta,
        radius=0.5,
        step_size=0.1,
        num_steps=3,
        step=step,
    )
    np.testing.assert_allclose(result[::2], delta[::2], atol=1e-6)
    assert np.any(np.abs(result[1] - delta[1]) > 0.01)


@pytest.mark.parametrize(("norm", "step"), [("linf", "sign"), ("l2", "normalized")])
def test_many_steps_are_single_steps_repeated_and_descend(norm, step):
    images, delta = images_and_delta(scale=0.01)

    @functools.partial(jax.jit, static_argnames=("num_steps", "ascend"))
    def run(delta, radius, step_size, *, num_steps, ascend=False):
        return pgd_with_losses(
            loss,
            images,
            delta,
            radius=radius,
            step_size=step_size,
            num_steps=num_steps,
            ascend=ascend,
            norm=norm,
            step=step,
        )

    @jax.jit
    def loss(images):
        return jnp.sum(jnp.sin(5 * images) * jnp.cos(3 * images[..., ::-1]))

    at_once, losses = run(delta, 0.1, 0.02, num_steps=4)
    one_by_one = delta
    for before in losses:
        np.testing.assert_allclose(before, loss(images + one_by_one), rtol=1e-4)
        one_by_one, _ = run(one_by_one, 0.1, 0.02, num_steps=1)
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-6)
    ascended, _ = run(delta, 0.1, 0.02, num_steps=4, ascend=True)
    assert loss(images + at_once) < loss(images + delta) < loss(images + ascended)
    unmoved, losses = run(delta, 0.1, 0.02, num_steps=0)
    np.testing.assert_array_equal(unmoved, delta)
    assert losses.shape == (0,)


def test_the_type_of_delta_is_kept():
    images, delta = images_and_delta()
    for dtype in (jnp.float32, jnp.bfloat16):
        result = pgd(
            lambda x: jnp.sum(x**2),
            images,
            jnp.asarray(delta, dtype),
            radius=0.1,
            step_size=np.float64(0.1),
            num_steps=2,
        )
        assert result.dtype == dtype


# Budgets ----------------------------------------------------------------------------

project_jit = jax.jit(project, static_argnames="norm")
pgd_jit = jax.jit(
    lambda images, delta, weights, radius, step_size, norm, step: pgd(
        lambda x: jnp.sum(weights * x**2),
        images,
        delta,
        radius=radius,
        step_size=step_size,
        num_steps=3,
        norm=norm,
        step=step,
    ),
    static_argnames=("norm", "step"),
)


@given(
    seed=seeds,
    scale=st.floats(1e-3, 10),
    radius=st.floats(1e-3, 1),
    norm=st.sampled_from(["linf", "l2"]),
)
@few
def test_projection_reaches_the_nearest_point_of_the_ball(seed, scale, radius, norm):
    _, delta = images_and_delta(seed, scale)
    result = np.asarray(project_jit(delta, radius=radius, norm=norm))
    assert np.all(norms(result, norm) <= radius * (1 + 1e-6))
    again = project_jit(result, radius=radius, norm=norm)
    np.testing.assert_allclose(again, result, rtol=1e-6)
    inside = norms(delta, norm) <= radius
    np.testing.assert_allclose(result[inside], delta[inside], rtol=1e-6)
    if norm == "l2":
        shrink = np.minimum(1, radius / norms(delta, norm))
        np.testing.assert_allclose(
            result, delta * shrink[:, None, None, None], rtol=1e-5
        )
    else:
        np.testing.assert_array_equal(
            result, np.clip(delta, -np.float32(radius), np.float32(radius))
        )


@given(
    seed=seeds,
    scale=st.floats(0, 2),
    radius=st.floats(1e-3, 1),
    step_size=st.floats(0, 2),
    kind=st.sampled_from([("linf", "sign"), ("l2", "normalized")]),
)
@few
def test_pgd_stays_in_the_ball_and_in_the_image_box(
    seed, scale, radius, step_size, kind
):
    images, delta = images_and_delta(seed, scale)
    weights, _ = images_and_delta(seed + 1)
    result = pgd_jit(images, delta, weights - 0.5, radius, step_size, *kind)
    assert np.all(norms(result, kind[0]) <= radius * (1 + 1e-5) + 1e-7)
    perturbed = images + np.asarray(result)
    assert perturbed.min() >= -1e-6
    assert perturbed.max() <= 1 + 1e-6


# Narrow types: the stored values, measured exactly ----------------------------------

HALF = ("bfloat16", "float16")
RADII = (0.03, 8 / 255, 3 / 255, 0.0117, 0.5, 1.0)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(4, 16, 16, 3), (3, 7), (5,)])
@pytest.mark.parametrize("traced", [False, True])
def test_narrow_projections_lie_in_the_ball(dtype, norm, shape, traced):
    rng = np.random.default_rng(0)
    delta = jnp.asarray(rng.standard_normal(shape), dtype)
    function = functools.partial(project, norm=norm)
    function = jax.jit(function) if traced else function
    for radius in RADII:
        result = function(delta, radius=radius)
        assert result.dtype == delta.dtype
        stored = np.asarray(result, np.float64).reshape(len(delta), -1)
        assert np.all(norms(stored, norm) <= radius)
        # The nearest point: what moved lost no more than two of its last digits.
        exact = np.asarray(delta, np.float64).reshape(stored.shape)
        if norm == "linf":
            exact = np.clip(exact, -radius, radius)
        else:
            exact *= np.minimum(1, radius / norms(exact, norm))[:, None]
        step = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(stored, exact, rtol=2 * step, atol=1e-7)
        np.testing.assert_array_equal(function(result, radius=radius), result)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("norm", "step", "radius"),
    [("linf", "sign", 0.03), ("linf", "sign", 8 / 255), ("l2", "normalized", 0.3)],
)
@pytest.mark.parametrize("images_dtype", ["same", "float32"])
def test_narrow_pgd_stays_in_the_ball_and_in_the_box(
    dtype, norm, step, radius, images_dtype
):
    images, _ = images_and_delta(shape=(4, 8, 8, 3))
    images = jnp.asarray(images, dtype if images_dtype == "same" else images_dtype)
    result = pgd(
        lambda x: -jnp.sum((x - 0.5).astype("float32") ** 2),
        images,
        jnp.zeros(images.shape, dtype),
        radius=radius,
        step_size=radius / 3,
        num_steps=5,
        norm=norm,
        step=step,
    )
    stored = np.asarray(result, np.float64)
    assert result.dtype == dtype
    assert np.all(norms(stored, norm) <= radius)
    assert np.all(norms(stored, norm) > 0.7 * radius)
    exact = np.asarray(images, np.float64) + stored
    assert exact.min() >= 0
    assert exact.max() <= 1
    perturbed = np.asarray(images + result, np.float64)
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1


@pytest.mark.parametrize("dtype", HALF)
def test_clipping_in_a_narrow_type_moves_toward_zero_only(dtype):
    images = np.random.default_rng(0).uniform(0, 1, (50, 1000))
    images = jnp.asarray(np.concatenate([images, images < 0.5, 1e-4 * images]), dtype)
    for level in (-0.5, 0.5, 3, -8):
        delta = jnp.full(images.shape, level / 255, dtype)
        kept = clip_to_images(images, delta)
        assert kept.dtype == dtype
        before, after = (np.asarray(z, np.float64) for z in (delta, kept))
        assert np.all(np.abs(after) <= np.abs(before))
        assert np.all(after * before >= 0)
        total = np.asarray(images, np.float64) + after
        assert total.min() >= 0
        assert total.max() <= 1
        room = np.asarray(images, np.float64) + before
        inside = (room >= 0) & (room <= 1)
        np.testing.assert_array_equal(after[inside], before[inside])


# Extreme scales ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "radius"),
    [
        ("float16", (1, 512, 512, 3), 1.0, 1.0),
        ("float16", (1, 512, 512, 3), 6e4, 8.0),
        ("bfloat16", (2, 64, 64, 3), 1e30, 1.0),
        ("float32", (2, 8, 8, 3), 1e20, 1.0),
        ("float32", (2, 8, 8, 3), 3e38, 1.0),
        ("float32", (2, 8, 8, 3), 1e-25, 1e-26),
        ("float32", (2, 8, 8, 3), 1e-3, 1e30),
    ],
)
def test_l2_projection_at_scales_whose_squares_do_not_exist(
    dtype, shape, value, radius
):
    delta = jnp.full(shape, value, dtype).at[..., 0].mul(-0.5)
    result = project(delta, radius=radius, norm="l2")
    exact = np.asarray(delta, np.float64)
    exact *= min(1, radius / norms(exact, "l2")[0])
    np.testing.assert_allclose(
        np.asarray(result, np.float64),
        exact,
        rtol=2 * max(float(jnp.finfo(dtype).eps), 1e-6),
        atol=1e-7 if dtype == "float16" else 0,
    )


def test_a_normalized_step_in_float16_moves_a_large_image():
    images = jnp.full((1, 512, 512, 3), 0.5, jnp.float16)
    result = pgd(
        lambda x: jnp.sum(x.astype("float32")),
        images,
        radius=8.0,
        step_size=4.0,
        num_steps=1,
        norm="l2",
        step="normalized",
    )
    np.testing.assert_allclose(norms(result, "l2"), 4, rtol=2e-3)


# Gradients that are not finite ------------------------------------------------------


def distance_to(images):
    """Sum of Euclidean distances to the images: its gradient at 0 is NaN."""
    return lambda x: jnp.sum(jnp.linalg.norm((x - images).reshape(len(x), -1), axis=1))


@pytest.mark.parametrize(("norm", "step"), [("linf", "sign"), ("l2", "normalized")])
def test_values_without_a_finite_gradient_stay(norm, step):
    images = jnp.full(SHAPE, 0.5)
    start = jnp.zeros(SHAPE).at[1].set(0.01)
    options = {"radius": 0.1, "step_size": 0.01, "norm": norm, "step": step}
    options |= {"num_steps": 2, "ascend": True}
    with pytest.warns(
        NonFiniteGradientWarning, match=r"^96 of 144 values .* step 1 of"
    ):
        result = pgd(distance_to(images), images, start, **options)
    np.testing.assert_array_equal(result[::2], 0)
    # The second image moves as it would alone.
    alone = pgd(distance_to(images[1:2]), images[1:2], start[1:2], **options)
    np.testing.assert_allclose(result[1:2], alone, atol=1e-7)
    assert float(jnp.min(alone)) > 0.01
    jitted = jax.jit(lambda d: pgd(distance_to(images), images, d, **options))(start)
    np.testing.assert_allclose(jitted, result, atol=1e-7)


@pytest.mark.parametrize("step", ["sign", "normalized"])
@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf])
def test_one_bad_gradient_does_not_stop_the_others(step, slope):
    images = jnp.full((2, 1, 2, 2), 0.5)
    slopes = jnp.array([[3.0, 4.0, 0.0, slope], [1.0, 1.0, 1.0, 1.0]])

    def loss(x):
        return jnp.sum(x * slopes.reshape(x.shape))

    with pytest.warns(NonFiniteGradientWarning, match="^1 of 8 values"):
        delta, _ = pgd_with_losses(
            loss, images, radius=0.5, step_size=0.1, num_steps=1, step=step
        )
    want = {"sign": [-0.1, -0.1, 0, 0], "normalized": [-0.06, -0.08, 0, 0]}[step]
    np.testing.assert_allclose(delta[0].ravel(), want, atol=1e-6)
    counts = jax.jit(lambda x: count_nonfinite_gradients(loss, x))(images)
    assert counts.tolist() == [1, 0]


# Images that miss [0, 1] by rounding ------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_images_a_rounding_step_outside_are_clipped(dtype):
    step = max(float(jnp.finfo(dtype).eps), 2e-7)
    images, _ = images_and_delta()
    images = jnp.asarray(images + step * (2.0 * images - 1), dtype)
    assert float(images.min()) < 0
    assert float(images.max()) > 1
    delta = pgd(lambda x: -jnp.sum(x), images, budget=Budget("linf", 8), num_steps=3)
    perturbed = np.asarray(jnp.clip(images, 0, 1) + delta, np.float64)
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert float(delta.min()) >= -1e-7  # upward, where there is room
    assert float(delta.max()) > 7.9 / 255


def test_normalized_and_restored_images_are_taken():
    mean, std = np.array([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]], "f4")
    pixels = np.arange(256, dtype=np.float32)[:, None, None, None] / np.float32(255)
    images = (pixels - mean) / std * std + mean
    assert images.min() < 0
    delta = pgd(lambda x: -jnp.sum(x), images, budget=Budget("linf", 8), num_steps=3)
    assert np.all(np.isfinite(delta))


@pytest.mark.parametrize("miss", [1e-5, -1e-5, 0.5 / 255, -1 / 255])
def test_images_that_miss_by_more_are_refused(miss):
    images = np.full(SHAPE, 0.5, np.float32)
    images[1, 2, 3, 1] = miss if miss < 0 else 1 + miss
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        pgd(jnp.sum, images, budget=Budget("linf", 8), num_steps=1)


# Bad input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "radius must be > 0, got 0"),
        ({"radius": -0.1}, "radius must be > 0"),
        ({"radius": float("nan")}, "radius must be > 0"),
        ({"radius": 8}, r"\[0, 1\] units .*8/255.*got 8"),
        ({"radius": np.ones(3)}, r"radius has shape \(3,\); it must be a scalar"),
        ({"radius": np.ones((2, 1, 1, 1))}, r"1 or all in each axis of \(3, 4, 4, 3\)"),
        ({"radius": np.ones(SHAPE), "norm": "l2"}, "radius must be a scalar"),
        ({"radius": np.zeros((3, 1, 1, 1))}, "radius must be > 0, got 0"),
        ({"radius": np.full((3, 1, 1, 1), 8.0)}, "8 gray levels are 8/255"),
        ({"norm": "l_2"}, r"unknown norm 'l_2'; did you mean 'l2'\?.*linf, l2"),
        ({"norm": "Manhattan"}, r"unknown norm 'Manhattan'; allowed: linf, l2"),
        ({"step": "signed"}, r"unknown step 'signed'; did you mean 'sign'\?"),
        ({"step_size": -0.1}, "step_size must be finite and >= 0, .* -0.1"),
        ({"step_size": float("nan")}, "step_size must be finite .* nan"),
        ({"step_size": float("inf")}, "step_size must be finite .* inf"),
        ({"step_size": np.array([[[[0.1]]], [[[-1]]], [[[0.1]]]])}, "from -1 to 0.1"),
        ({"num_steps": 2.5}, "num_steps must be an integer, got 2.5"),
        ({"num_steps": 2.0}, "num_steps must be an integer, got 2.0"),
        ({"images": np.full(SHAPE, 1.5, np.float32)}, r"images must lie in \[0, 1\]"),
        ({"images": np.full(SHAPE, -0.1, np.float32)}, "images .* from -0.1 to -0.1"),
        ({"images": np.full(SHAPE, np.nan, np.float32)}, "images must lie .* nan"),
        ({"delta": np.full(SHAPE, np.nan, np.float32)}, "delta must be finite"),
        ({"num_steps": -1}, "num_steps must be >= 0, got -1"),
        ({"delta": np.zeros((1, 4, 4, 3), np.float32)}, r"\(3, 4, 4, 3\).*\(1, 4"),
        ({"delta": np.zeros(SHAPE, int)}, "delta must be floating"),
        ({"images": np.zeros(SHAPE, np.uint8)}, "images must be floating.*uint8"),
    ],
)
def test_bad_settings_of_pgd_are_refused(options, message):
    images, delta = images_and_delta()
    arguments = {"images": images, "delta": delta, "radius": 0.1, "step_size": 0.1}
    with pytest.raises(ValueError, match=message):
        pgd(jnp.sum, **{**arguments, "num_steps": 1, **options})


def test_bad_settings_of_project_are_refused():
    with pytest.raises(ValueError, match="unknown norm"):
        project(np.zeros(SHAPE), radius=0.1, norm="l3")
    with pytest.raises(ValueError, match="radius"):
        project(np.zeros(SHAPE), radius=0)
    with pytest.raises(ValueError, match="floating"):
        project(np.zeros(SHAPE, int), radius=0.1)
    with pytest.raises(ValueError, match="image axis"):
        project(0.1, radius=0.1)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 1\) and \(2, 2\)"):
        count_nonfinite_gradients(jnp.sum, np.zeros((2, 1)), np.zeros((2, 2)))
    far = np.full(SHAPE, 9.0, np.float32)
    np.testing.assert_allclose(norms(project(far, radius=8, norm="l2"), "l2"), 8, 1e-6)
