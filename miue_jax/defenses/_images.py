"""What the purifications ask of the images that they are given."""

import numpy as np


def check_images(images: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Checks the images of a purification.

    Args:
      images: (N, H, W, C) uint8.
      image_shape: (H, W, C), those that the defense was made for.

    Returns:
      The images as a NumPy array.

    Raises:
      ValueError: if they are of another type or shape.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape):
        size = ", ".join(map(str, image_shape))
        raise ValueError(
            f"the defense was made for uint8 images (N, {size}), got {images.dtype} "
            f"{images.shape}"
        )
    return images
