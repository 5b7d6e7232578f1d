"""Plasma: the fractal against its definition and its statistics, and its two uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.plasma import plasma, plasma_brightness, plasma_contrast

KEY = jax.random.key(0)


def _by_definition(noise, roughness):
    """Kornia's diamond-square on a whole grid, from the value that each point draws."""
    height, width = noise.shape
    half = (min(height, width) - 1) // 2
    grid = np.full_like(noise, np.nan)
    grid[::half, ::half] = noise[::half, ::half] / 3
    upright = width == 2 * half + 1
    for row in range(half, height, 2 * half):
        for column in range(half, width, 2 * half):
            corners = [
                noise[row + i, column + j] for i in (-half, half) for j in (-half, half)
            ]
            grid[row, column] = np.mean(corners) / 3
            for i, j in ((-half, 0), (half, 0), (0, -half), (0, half)):
                middle = row + i, column + j
                if 0 < middle[0] < height - 1 and 0 < middle[1] < width - 1:
                    continue
                ends = [
                    (middle[0] + sign * j, middle[1] + sign * i) for sign in (-1, 1)
                ]
                if upright and middle[0] == height - 1:
                    ends[0] = 0, width - 1
                elif not upright and middle[1] == width - 1:
                    ends[0] = height - 1, 0
                    ends[1] = height - 1, width - 1
                ends = sum(noise[end] for end in ends) / 3
                grid[middle] = ends + grid[row, column]
    share = 1.0
    while half > 1:
        share *= roughness
        half //= 2

        def new(row, column, neighbors, weight, share=share):
            mean = weight * sum(
                # Mirrored at the border.
                grid[height - 1 - abs(height - 1 - abs(r))][
                    width - 1 - abs(width - 1 - abs(c))
                ]
                for r, c in neighbors
            )
            grid[row, column] = (1 - share) * mean + share * noise[row, column]

        for row in range(half, height, 2 * half):
            for column in range(half, width, 2 * half):
                corners = [
                    (row + i, column + j) for i in (-half, half) for j in (-half, half)
                ]
                new(row, column, corners, 1 / 4)
        for row in range(0, height, half):
            for column in range(0, width, half):
                if (row + column) // half % 2:
                    beside = [(row - half, column), (row + half, column)]
                    beside += [(row, column - half), (row, column + half)]
                    inside = 0 < row < height - 1 and 0 < column < width - 1
                    new(row, column, beside, 1 / 4 if inside else 1 / 3)
    return grid


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((3, 3), (3, 3)),
        ((1, 2), (3, 3)),
        ((4, 5), (5, 5)),
        ((3, 9), (3, 9)),
        ((9, 4), (9, 5)),
        ((7, 20), (9, 33)),
        ((32, 32), (33, 33)),
    ],
)
def test_every_point_is_that_of_the_definition(size, grid):
    noise = np.asarray(jax.random.uniform(KEY, grid))
    found = jax.jit(plasma, static_argnums=1)(KEY, size, 0.6)
    expected = _by_definition(noise, 0.6)[: size[0], : size[1]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def clouds():
    """2000 clouds of 32x32 for each of several roughnesses."""
    keys = jax.random.split(KEY, 2000)
    draw = jax.jit(
        jax.vmap(lambda key, roughness: plasma(key, (32, 32), roughness), (0, None))
    )
    return {r: np.asarray(draw(keys, r)) for r in (0.0, 0.3, 0.5, 0.7, 1.0)}


# The means are exact: the procedure of kornia 0.6.12 is linear in its draws, so the
# mean map is the one whose draws are all 1/2. The standard errors of 2000 clouds are
# about a quarter of `error` for the mean and at most 0.003 for the 2x2 corner. The
# largest value was measured of 400 maps; other 400 differ by up to 0.1. Without the
# division of the first grid the corner has a mean of about 0.5, without the weights of
# the border no value exceeds 1, and without both the mean is 0.5.
@pytest.mark.parametrize(
    ("roughness", "mean", "error", "corner", "largest"),
    [
        (0.3, 0.4424, 0.007, 0.366, 1.35),
        (0.5, 0.4753, 0.004, 0.386, 1.26),
        (0.7, 0.4960, 0.002, 0.405, 1.14),
    ],
)
def test_statistics_are_those_of_kornia(
    clouds, roughness, mean, error, corner, largest
):
    found = clouds[roughness]
    assert found.min() >= 0
    assert found.mean() == pytest.approx(mean, abs=error), "mean"
    assert found[:, :2, :2].mean() == pytest.approx(corner, abs=0.01), "corner"
    assert found[:, 0, 0].mean() == pytest.approx(1 / 6, abs=0.01), "first point"
    assert found[:400].max() == pytest.approx(largest, abs=0.1), "largest value"
    assert found[:, 8:24, 8:24].max() < 1, "only the border exceeds 1"


def test_neighbors_are_the_less_alike_the_rougher(clouds):
    def correlation(found):
        inner = found[:, 1::2, 1:-1]
        inner = inner - inner.mean(0)
        return np.mean(inner[..., 1:] * inner[..., :-1]) / np.mean(inner**2)

    # Expected of 3000 maps of kornia 0.6.12's procedure in NumPy.
    found = [correlation(clouds[roughness]) for roughness in sorted(clouds)]
    assert found == sorted(found, reverse=True)
    np.testing.assert_allclose(found, [0.979, 0.974, 0.925, 0.539, 0], atol=0.02)


def test_a_key_decides_on_a_cloud():
    draw = jax.jit(lambda key: plasma(key, (9, 6), 0.5))
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda key: plasma(key, (9, 6), 0.5)))(keys)
    np.testing.assert_array_equal(draw(keys[1]), draw(keys[1]))
    np.testing.assert_allclose(together[1], draw(keys[1]), atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.1, "keys do not matter"


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
    expected = np.clip(image + 0.7 * (2 * clouds - 1), 0, 1)
    np.testing.assert_allclose(brightened, expected, atol=1e-6)


def test_contrast_stretches_from_mid_gray(channels):
    image, clouds, _, stretched = channels
    expected = np.clip(4 * clouds * (image - 0.5) + 0.5, 0, 1)
    np.testing.assert_allclose(stretched, expected, atol=1e-6)


@pytest.mark.parametrize("use", ["brightness", "contrast"])
def test_channels_are_independent(use):
    def cloud(key):
        # Small changes of images near mid-gray, so that nothing is clipped.
        if use == "brightness":
            return plasma_brightness(key, jnp.full((4, 4, 3), 0.5), 0.5, 0.1)
        return plasma_contrast(key, jnp.full((4, 4, 3), 0.55), 0.5)

    found = np.asarray(jax.jit(jax.vmap(cloud))(jax.random.split(KEY, 500)))
    found = (found - found.mean(0)).reshape(500, -1, 3)
    alike = np.einsum("npi,npj->ij", found, found) / np.sum(found[..., 0] ** 2)
    np.testing.assert_allclose(alike, np.eye(3), atol=0.1)


@pytest.mark.parametrize("size", [(3, 3), (5, 11)])
def test_images_stay_in_range(size):
    def draw(key):
        image = jax.random.bernoulli(key, 0.5, (*size, 3)).astype(jnp.float32)
        return plasma_brightness(key, image, 0.3, 1.0), plasma_contrast(key, image, 0.3)

    for changed in jax.jit(jax.vmap(draw))(jax.random.split(KEY, 50)):
        assert changed.shape == (50, *size, 3)
        assert float(jnp.min(changed)) == 0
        assert float(jnp.max(changed)) == 1


def test_the_type_of_the_image_is_kept():
    image = jnp.full((4, 4, 1), 0.5, jnp.bfloat16)
    with jax.enable_x64(True):
        brightened = jax.eval_shape(plasma_brightness, KEY, image, 0.5, 0.7)
        stretched = jax.eval_shape(plasma_contrast, KEY, image, 0.5)
        cloud = jax.eval_shape(lambda key: plasma(key, (4, 4), 0.5), KEY)
    assert brightened.dtype == stretched.dtype == jnp.bfloat16
    assert cloud.dtype == jnp.float32
