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

from miue_jax.losses import mi_ue_loss
from miue_jax.projected_gradient import clip_to_images, pgd, pgd_with_losses, project

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


# Bad input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "radius must be > 0, got 0"),
        ({"radius": -0.1}, "radius must be > 0"),
        ({"radius": float("nan")}, "radius must be > 0"),
        ({"radius": 8}, r"\[0, 1\] units .*8/255.*got 8"),
        ({"radius": np.ones(3)}, r"scalar.*\(3,\)"),
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
    far = np.full(SHAPE, 9.0, np.float32)
    np.testing.assert_allclose(norms(project(far, radius=8, norm="l2"), "l2"), 8, 1e-6)
