"""Plasma: the fractal against its definition, point by point, and its two uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.plasma import plasma, plasma_brightness, plasma_contrast

KEY = jax.random.key(0)


def _by_definition(noise, roughness):
    """Diamond-square on a whole grid, from the value that each point draws."""
    side = len(noise)
    half = side // 2
    grid = np.full_like(noise, np.nan)
    grid[::half, ::half] = noise[::half, ::half]
    share = 1.0
    while half > 1:
        share *= roughness
        half //= 2

        def new(row, column, neighbours, share=share):
            inside = [
                grid[r, c] for r, c in neighbours if 0 <= r < side and 0 <= c < side
            ]
            mean = np.mean(inside)
            grid[row, column] = (1 - share) * mean + share * noise[row, column]

        for row in range(half, side, 2 * half):
            for column in range(half, side, 2 * half):
                corners = [
                    (row + i, column + j) for i in (-half, half) for j in (-half, half)
                ]
                new(row, column, corners)
        for row in range(0, side, half):
            for column in range(0, side, half):
                if (row + column) // half % 2:
                    beside = [(row - half, column), (row + half, column)]
                    beside += [(row, column - half), (row, column + half)]
                    new(row, column, beside)
    return grid


@pytest.mark.parametrize(
    ("size", "side"),
    [((3, 3), 3), ((1, 2), 3), ((4, 5), 5), ((6, 4), 9), ((32, 32), 33), ((34, 8), 65)],
)
def test_every_point_is_that_of_the_definition(size, side):
    noise = np.asarray(jax.random.uniform(KEY, (side, side)))
    found = jax.jit(plasma, static_argnums=1)(KEY, size, 0.6)
    expected = _by_definition(noise, 0.6)[: size[0], : size[1]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("roughness", [0.0, 0.5, 1.0])
def test_clouds_stay_in_range_and_get_rougher(roughness):
    keys = jax.random.split(KEY, 200)
    clouds = jax.jit(jax.vmap(lambda key: plasma(key, (16, 16), roughness)))(keys)
    assert clouds.dtype == jnp.float32
    assert float(jnp.min(clouds)) >= 0
    assert float(jnp.max(clouds)) <= 1
    # Neighbours of white noise on [0, 1] differ by a third, of a passage by little.
    step = float(jnp.mean(jnp.abs(jnp.diff(clouds, axis=1))))
    expected = {0.0: 0.035, 0.5: 0.07, 1.0: 1 / 3}[roughness]
    assert step == pytest.approx(expected, rel=0.4)


@pytest.fixture(scope="module")
def channels():
    """An image, the clouds of its channels, and the image brightened and stretched."""

    def draw(key):
        image = jax.random.uniform(key, (8, 8, 3))
        cloud = lambda key: plasma(key, (8, 8), 0.5)  # noqa: E731
        return (
            image,
            jax.vmap(cloud, out_axes=-1)(jax.random.split(key, 3)),
            plasma_brightness(key, image, 0.5, 0.7),
            plasma_contrast(key, image, 0.5),
        )

    return [np.asarray(array) for array in jax.jit(draw)(KEY)]


def test_brightness_adds_a_cloud_of_every_channel(channels):
    image, clouds, brightened, _ = channels
    assert not np.allclose(clouds[..., 0], clouds[..., 1])
    expected = np.clip(image + 0.7 * (2 * clouds - 1), 0, 1)
    np.testing.assert_allclose(brightened, expected, atol=1e-6)


def test_contrast_stretches_from_mid_grey(channels):
    image, clouds, _, stretched = channels
    expected = np.clip(4 * clouds * (image - 0.5) + 0.5, 0, 1)
    np.testing.assert_allclose(stretched, expected, atol=1e-6)


def test_the_type_of_the_image_is_kept():
    image = jnp.full((4, 4, 1), 0.5, jnp.bfloat16)
    with jax.enable_x64(True):
        brightened = jax.eval_shape(plasma_brightness, KEY, image, 0.5, 0.7)
        stretched = jax.eval_shape(plasma_contrast, KEY, image, 0.5)
        cloud = jax.eval_shape(lambda key: plasma(key, (4, 4), 0.5), KEY)
    assert brightened.dtype == stretched.dtype == jnp.bfloat16
    assert cloud.dtype == jnp.float32
