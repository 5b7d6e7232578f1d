"""Gaussian blur of every image, by a random width."""

import jax
import jax.numpy as jnp

from miue_jax._checks import check_number
from miue_jax.defenses.base import Defense
from miue_jax.image import blur


def gaussian_blur(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    kernel_size: int = 3,
    min_sigma: float = 0.1,
    max_sigma: float = 2.0,
) -> Defense:
    r"""Blurs every training image, anew in every step.

    .. math:: k_d \propto \exp(-d^2 / 2 \sigma^2), \quad
       \sigma \sim U(\sigma_{\min}, \sigma_{\max})

    along both axes, with weights that sum to 1 and images reflected at the border
    without repeating the outermost pixels. Each image has a width of its own. The
    defaults are the evaluation of MI-UE, which blurs before it crops and mirrors; here
    that comes first, and the black of a crop's border is blurred too. Two benchmarks of
    the field fix kernel_size 3 and sigma 0.1, which is the identity: the neighbors'
    weights are exp(-50), 2e-22.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: unused.
      kernel_size: pixels of the kernel along an axis, odd.
      min_sigma: smallest standard deviation in pixels.
      max_sigma: largest; the same as the smallest for a fixed one.

    Returns:
      A defense whose `augment` leaves the labels alone.

    Raises:
      ValueError: if `kernel_size` is even, not above 0 or too large to reflect the
        images, if `min_sigma` is not above 0, or `max_sigma` below it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import defenses
      >>> defense = defenses.gaussian_blur((16, 16, 3), 2)
      >>> images, labels = jnp.ones((2, 16, 16, 3)), jnp.arange(2)
      >>> changed, targets = defense.augment(jax.random.key(0), images, labels)
      >>> changed.shape
      (2, 16, 16, 3)
    """
    del num_classes
    check_number("gaussian_blur kernel_size", kernel_size, "> 0", whole=True)
    check_number("gaussian_blur min_sigma", min_sigma, "> 0")
    check_number("gaussian_blur max_sigma", max_sigma, "> 0")
    largest = 2 * min(image_shape[:2]) - 1
    if kernel_size % 2 == 0 or kernel_size > largest:
        raise ValueError(
            f"gaussian_blur kernel_size is {kernel_size}; allowed: odd numbers up to "
            f"{largest} for {image_shape[1]}x{image_shape[0]} images"
        )
    if max_sigma < min_sigma:
        raise ValueError(
            f"gaussian_blur max_sigma is {max_sigma}; allowed: at least min_sigma, "
            f"{min_sigma}"
        )

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        sigma = jax.random.uniform(
            key, (len(images), 1), jnp.float32, float(min_sigma), float(max_sigma)
        )
        return blur.gaussian_blur(images, sigma, kernel_size=kernel_size), labels

    return Defense(augment=augment)
