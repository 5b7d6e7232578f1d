"""Structural similarity of pictures."""

import numpy as np

from miue_jax.workflows.benchmark._work import Work


def _pair(pictures: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth pictures (N, H, W, 3) and their copies with noise, uint8."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    phase = rng.random((pictures, 1, 1, 3))
    waves = np.sin(6 * (rows + 2 * columns)[None, :, :, None] + 6 * phase)
    clean = (128 + 80 * waves).astype(np.uint8)
    noise = rng.integers(-8, 9, clean.shape)
    return clean, np.clip(clean + noise, 0, 255).astype(np.uint8)


def ours(pictures: int, side: int) -> Work:
    """`miue_jax.image.quality.ssim`."""
    from miue_jax.image import quality

    pair = _pair(pictures, side)
    return Work(lambda: quality.ssim(*pair), float)


def scikit_image(pictures: int, side: int) -> Work:
    """scikit-image's, with the window of the paper."""
    from skimage.metrics import structural_similarity  # pyrefly: ignore

    clean, images = _pair(pictures, side)

    def run() -> float:
        found = [
            structural_similarity(
                *pair,
                gaussian_weights=True,
                use_sample_covariance=False,
                sigma=1.5,
                data_range=255,
                channel_axis=2,
            )
            for pair in zip(clean, images, strict=True)
        ]
        return float(np.mean(found))

    return Work(run, float)
