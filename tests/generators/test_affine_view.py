"""Views are shifted by fractions of a pixel, mirrored, and 0 where nothing was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators.affine_view import shift_and_flip

SIZE, HEIGHT, WIDTH = 128, 9, 17


def _images() -> jax.Array:
    """Three channels: ones, the column's number, noise."""
    images = np.ones((SIZE, HEIGHT, WIDTH, 3), np.float32)
    images[..., 1] = np.arange(WIDTH)
    images[..., 2] = np.random.default_rng(0).uniform(size=images.shape[:3])
    return jnp.asarray(images)


def _bilinear(image: np.ndarray, row: float, column: float) -> float:
    """One value between the pixels, as one says it: four neighbors, 0 outside."""
    total = 0.0
    for r in (int(np.floor(row)), int(np.floor(row)) + 1):
        for c in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * image[r, c]
    return total


def _shifts(shift: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Finds what was drawn, (rows, columns, mirrored), from the views of ramps."""
    ramps = np.zeros((SIZE, HEIGHT, WIDTH, 2), np.float32)
    ramps[..., 0] = np.arange(HEIGHT)[:, None]
    ramps[..., 1] = np.arange(WIDTH)
    seen = np.asarray(
        shift_and_flip(jax.random.key(seed), jnp.asarray(ramps), shift=shift)
    )
    middle = seen[:, HEIGHT // 2, WIDTH // 2]
    step = seen[:, HEIGHT // 2, WIDTH // 2 + 1, 1] - middle[:, 1]
    return middle[:, 0] - HEIGHT // 2, middle[:, 1] - WIDTH // 2, step < 0


def test_a_view_is_the_image_read_between_its_pixels():
    seen = np.asarray(shift_and_flip(jax.random.key(0), _images(), shift=0.5))
    images = np.asarray(_images())
    rows, columns, mirrored = _shifts(0.5)
    assert len(set(mirrored[:12])) == 2
    for i in range(12):
        for h in range(HEIGHT):
            for w in range(WIDTH):
                away = (WIDTH // 2 - w) if mirrored[i] else (w - WIDTH // 2)
                row, column = h + rows[i], WIDTH // 2 + columns[i] + away
                want = [_bilinear(images[i, :, :, c], row, column) for c in range(3)]
                np.testing.assert_allclose(seen[i, h, w], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [0.25, 0.5])
def test_shifts_are_uniform_in_the_images_coordinates_and_independent(shift):
    rows, columns, mirrored = _shifts(shift)
    assert 0.35 < mirrored.mean() < 0.65
    for drawn, length in ((rows, HEIGHT), (columns, WIDTH)):
        drawn = drawn / (shift * (length - 1) / 2)
        assert np.abs(drawn).max() <= 1 + 1e-4
        assert drawn.max() > 0.9
        assert drawn.min() < -0.9
        assert drawn.std() == pytest.approx(1 / np.sqrt(3), rel=0.15)
    drawn = np.stack([rows, columns, mirrored])
    assert np.abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]).max() < 0.3
    other, _, _ = _shifts(shift, seed=1)
    assert not np.allclose(rows, other)


def test_the_published_shift_is_four_of_thirty_two_pixels():
    ramp = np.broadcast_to(np.arange(32.0)[:, None, None], (512, 32, 32, 1))
    seen = shift_and_flip(jax.random.key(0), jnp.float32(ramp), shift=8 / 31)
    drawn = np.asarray(seen)[:, 16, 16, 0] - 16
    assert 3.9 < np.abs(drawn).max() <= 4 + 1e-4


def test_without_a_shift_images_are_as_they_are_or_mirrored():
    images = _images()
    seen = np.asarray(shift_and_flip(jax.random.key(3), images, shift=0.0))
    kept = (np.abs(seen - images) < 1e-6).all((1, 2, 3))
    turned = (np.abs(seen - images[:, :, ::-1]) < 1e-6).all((1, 2, 3))
    assert (kept ^ turned).all()
    assert 0.35 < kept.mean() < 0.65


def test_gradients_reach_exactly_the_pixels_that_are_seen():
    images = _images()
    key = jax.random.key(0)
    gradient = jax.grad(lambda x: shift_and_flip(key, x, shift=0.5).sum())(images)
    rows, _, _ = _shifts(0.5)
    # Of a view shifted down by s pixels the first s rows of the image are not seen.
    unseen = rows >= 1
    assert unseen.sum() > 10
    np.testing.assert_array_equal(gradient[unseen, 0], 0)
    assert (np.abs(gradient[:, HEIGHT // 2, WIDTH // 2]) > 0.9).all()
