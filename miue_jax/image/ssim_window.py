"""The window of the structural similarity, as a matrix for each side of an image."""

import numpy as np

# Of Wang, Bovik, Sheikh and Simoncelli, 2004; images must be at least this large.
SIZE, SIGMA = 11, 1.5


def blur_matrix(size: int) -> np.ndarray:
    """The weighted means of all windows that fit along an axis.

    Args:
      size: pixels along the axis, at least 11.

    Returns:
      (size - 10, size) float32, of rows that sum to 1.

    Example:
      >>> from miue_jax.image import ssim_window
      >>> ssim_window.blur_matrix(12).shape
      (2, 12)
    """
    offsets = np.arange(SIZE) - SIZE // 2
    window = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    window /= window.sum()
    matrix = np.zeros((size - SIZE + 1, size), np.float32)
    for row in range(len(matrix)):
        matrix[row, row : row + SIZE] = window
    return matrix
