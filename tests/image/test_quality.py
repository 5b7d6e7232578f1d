"""PSNR and SSIM against their definitions in NumPy."""

import numpy as np
import pytest
from scipy import ndimage

from miue_jax.image import quality


def _images(count=3, size=16, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def _noisy(images, radius=8, seed=1):
    noise = np.random.default_rng(seed).integers(-radius, radius + 1, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def _reference_ssim(a, b):
    """SSIM of one channel pair from the paper's formula, window by window."""
    offsets = np.arange(11) - 5
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(window, window)
    window /= window.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = (z[top : top + 11, left : left + 11] / 255.0 for z in (a, b))
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p = (window * (p - mean_p) ** 2).sum()
            var_q = (window * (q - mean_q) ** 2).sum()
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + 1e-4)
                * (2 * cov + 9e-4)
                / ((mean_p**2 + mean_q**2 + 1e-4) * (var_p + var_q + 9e-4))
            )
    return np.mean(values)


def test_psnr_of_a_constant_shift():
    clean = np.full((2, 4, 4, 3), 100, np.uint8)
    # 20 log10(255 / 8)
    assert quality.psnr(clean, clean + np.uint8(8)) == pytest.approx(30.0686, abs=1e-3)


def test_psnr_is_the_mean_over_images():
    clean = np.full((2, 4, 4, 1), 100, np.uint8)
    images = clean.copy()
    images[0] += 8
    images[1] += 2
    expected = np.mean(20 * np.log10(255 / np.array([8, 2])))
    assert quality.psnr(clean, images) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (11, 14), (14, 11)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_matches_the_formula(shape, channels):
    height, width = shape
    clean = _images(2, 16, channels)[:, :height, :width]
    images = _noisy(clean, radius=60)
    expected = np.mean(
        [
            _reference_ssim(clean[n, ..., c], images[n, ..., c])
            for n in range(2)
            for c in range(channels)
        ]
    )
    assert 0.2 < expected < 0.99
    assert quality.ssim(clean, images) == pytest.approx(expected, abs=1e-4)


def test_unchanged_images_do_not_count():
    clean = _images(4)
    images = _noisy(clean)
    half = images.copy()
    half[::2] = clean[::2]
    for metric in (quality.psnr, quality.ssim):
        assert metric(clean, half) == pytest.approx(
            metric(clean[1::2], images[1::2]), abs=1e-5
        ), metric.__name__


def test_identical_images():
    clean = _images()
    assert quality.psnr(clean, clean) == np.inf
    assert quality.ssim(clean, clean) == 1.0


def test_chunks_give_the_value_of_the_whole(monkeypatch):
    clean = _images(7)
    images = _noisy(clean)
    whole = quality.psnr(clean, images), quality.ssim(clean, images)
    for chunk in (3 * clean[0].size, 1):  # never less than an image
        monkeypatch.setattr(quality, "_CHUNK", chunk)
        chunks = quality.psnr(clean, images), quality.ssim(clean, images)
        np.testing.assert_allclose(chunks, whole, rtol=1e-5)


def _filtered_ssim(a, b):
    """SSIM of one channel pair by SciPy's filters, in float64."""
    window = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window /= window.sum()

    def blur(z):
        for axis in (0, 1):
            z = ndimage.correlate1d(z, window, axis)
        return z[5:-5, 5:-5]

    a, b = a / 255.0, b / 255.0
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
    return np.mean(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))


# A tile has 22 windows a side at most: one, two that overlap or not, and many.
@pytest.mark.parametrize("shape", [(32, 33), (54, 53), (55, 11), (257, 120)])
@pytest.mark.parametrize("channels", [1, 4])
def test_tiles_give_the_value_of_the_whole(shape, channels, monkeypatch):
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (3, *shape, channels), dtype=np.uint8)
    # Far more noise on one side, which a window counted twice would show.
    noise = rng.normal(0, np.linspace(1, 90, shape[1])[:, None], clean.shape)
    images = np.clip(clean + noise, 0, 255).astype(np.uint8)
    expected = np.mean(
        [
            _filtered_ssim(clean[n, ..., c], images[n, ..., c])
            for n in range(3)
            for c in range(channels)
        ]
    )
    assert 0.3 < expected < 0.95
    assert quality.ssim(clean, images) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(quality, "_TILES", 64)
    assert quality.ssim(clean, images) == pytest.approx(expected, abs=1e-6)


def test_chunks_hold_few_large_images_and_many_small_ones(monkeypatch):
    counts = []
    compiled = quality._psnr

    def counting(clean, images):
        counts.append(len(clean))
        return compiled(clean, images)

    monkeypatch.setattr(quality, "_psnr", counting)
    for count, size, most in ((3, 512, 1), (6, 128, 4), (100, 32, 64), (20, 11, 20)):
        counts.clear()
        clean = _images(count, size)
        quality.psnr(clean, 255 - clean)
        assert sum(counts) >= count
        assert max(counts) == most


@pytest.mark.parametrize("metric", [quality.psnr, quality.ssim])
def test_bad_input(metric):
    clean = _images()
    with pytest.raises(ValueError, match=r"\(3, 16, 16, 3\) and \(2, 16, 16, 3\)"):
        metric(clean, clean[:2])
    with pytest.raises(ValueError, match="uint8, got uint8 and float32"):
        metric(clean, clean.astype(np.float32))
    with pytest.raises(ValueError, match="N, H, W, C"):
        metric(clean[0], clean[0])


def test_ssim_refuses_images_below_its_window():
    clean = _images(size=10)
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 10x10"):
        quality.ssim(clean, _noisy(clean))
