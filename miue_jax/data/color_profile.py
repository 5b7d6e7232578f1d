"""ICC color profiles: what a picture's numbers mean as colors."""

import functools
import io

from PIL import Image, ImageCms

# Names that the makers of sRGB profiles give them.
_SRGB = ("srgb", "iec61966", "c2", "facebook")


@functools.lru_cache(maxsize=16)
def is_srgb(profile: bytes) -> bool:
    """Tells whether a profile is that of sRGB, by the name that it gives itself.

    Args:
      profile: the bytes of the ICC profile.

    Returns:
      Whether pixels may be shown as they are.

    Example:
      >>> from PIL import ImageCms
      >>> from miue_jax.data import color_profile
      >>> profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
      >>> color_profile.is_srgb(profile.tobytes())
      True
    """
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(read).strip().lower()
    except (ImageCms.PyCMSError, OSError):
        return False
    return name.startswith(_SRGB)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """Converts a picture to the colors that a viewer shows on an sRGB screen.

    Args:
      image: of mode RGB, L, CMYK or LAB.
      profile: the bytes of its ICC profile.

    Returns:
      The picture as RGB; None if the profile is missing, damaged, or of another kind
      of picture: viewers ignore such a profile.

    Example:
      >>> from PIL import Image, ImageCms
      >>> from miue_jax.data import color_profile
      >>> profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
      >>> red = Image.new("RGB", (1, 1), (200, 60, 50))
      >>> color_profile.to_srgb(red, profile).getpixel((0, 0))
      (200, 60, 50)
    """
    if not profile:
        return None
    try:
        # Prints are shown on their paper's black and white; relative colorimetric.
        transform = _transform(profile, image.mode)
        return ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(source, srgb, mode, "RGB", intent)
