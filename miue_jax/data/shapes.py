"""The default data set: ten procedural shapes, generated in a second.

Each image shows one shape of random position, size, rotation and color, lighter than
the smooth random background. All classes have the same distribution of areas and
colors: they differ in the outline only. The constants set the difficulty: if classes
are too easy, no perturbation hides them; if they are too hard, a clean model fails too.
"""

from collections.abc import Callable

import numpy as np

from miue_jax._checks import check_choice, check_number
from miue_jax.data import memory
from miue_jax.data.dataset import Dataset

SIZE = 32
# Radius in pixels of the disc with the shape's area.
RADIUS = (5.5, 8.5)
# Largest rotation in either direction, in degrees.
ROTATION = 180.0
# Distance in RGB, [0, 1] units, between the shape's and the background's mean color.
CONTRAST = (0.12, 0.3)
# How far the direction of that step may turn from white: at 0, shapes are lighter than
# the background by gray; at infinity, any direction is as likely as its opposite.
COLOR_SPREAD = 0.5
# The range of the background's mean color in each channel.
BASE_COLOR = (0.1, 0.3)
# Standard deviation of the smooth field added to the background, and to the shape.
BACKGROUND_AMPLITUDE = 0.05
TEXTURE_AMPLITUDE = 0.03
# Random values along each side of the image from which the fields are interpolated.
FIELD_CELLS = 5
# Standard deviation of the independent noise of each pixel and channel.
NOISE = 0.01
# Width in pixels of the edge's transition from background to shape.
EDGE = 1.0

# Of the pixels, the labels, and what numbers them.
_BYTES_PER_IMAGE = 3 * SIZE * SIZE + 16

# Images drawn at a time, so that their arrays stay in cache.
_BLOCK = 250
# Separates the streams of the splits for one seed.
_STREAMS = {"train": 0, "test": 1}

_Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def generate(num_images: int, *, seed: int = 0, split: str = "train") -> Dataset:
    """Draws the data set.

    Args:
      num_images: how many images; image i has class ``i % 10``, so that the data set is
        balanced if 10 divides it.
      seed: a non-negative integer. Blocks of images have separate streams: the first
        images of a larger set equal a smaller set.
      split: "train" or "test", whose streams never coincide.

    Returns:
      (num_images, 32, 32, 3) images, their labels and the ten class names in
      alphabetical order.

    Raises:
      ValueError: if `num_images` < 1, `seed` < 0, `split` is unknown, or there is not
        enough memory.

    Example:
      >>> from miue_jax.data import shapes
      >>> clean = shapes.generate(20)
      >>> clean.images.shape, clean.class_names[clean.labels[18]]
      ((20, 32, 32, 3), 'star')
    """
    check_number("num_images", num_images, "> 0", whole=True)
    check_number("seed", seed, ">= 0", whole=True)
    check_choice("split", split, tuple(_STREAMS))
    memory.check(_BYTES_PER_IMAGE * num_images, f"{num_images} images")
    labels = np.arange(num_images, dtype=np.int32) % len(CLASS_NAMES)
    images = np.empty((num_images, SIZE, SIZE, 3), np.uint8)
    for block, start in enumerate(range(0, num_images, _BLOCK)):
        rng = np.random.default_rng([_STREAMS[split], seed, block])
        images[start : start + _BLOCK] = _draw(rng)[: num_images - start]
    return Dataset(images, labels, CLASS_NAMES)


def _draw(rng: np.random.Generator) -> np.ndarray:
    """Draws one block of _BLOCK images, its labels running through all classes."""
    count = _BLOCK

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (count, *shape)).astype(np.float32)

    radius = uniform(*RADIUS)
    angle = np.deg2rad(uniform(-ROTATION, ROTATION))
    # The disc of equal area lies inside the image; a star's tips may leave it.
    center = SIZE / 2 + uniform(-1, 1, 2) * (SIZE / 2 - radius[:, None])
    mask = _masks(np.arange(count) % len(CLASS_NAMES), center, radius, angle)

    base = uniform(*BASE_COLOR, 3)
    direction = 1 + COLOR_SPREAD * rng.standard_normal((count, 3), np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # Kept off the ends of the range, so that a perturbation has room.
    color = np.clip(base + uniform(*CONTRAST, 1) * direction, 0.05, 0.95)

    # Planes, channels before rows: the order in which NumPy is fastest here.
    images = base[:, :, None, None] + BACKGROUND_AMPLITUDE * _fields(rng)
    shape = color[:, :, None, None] + TEXTURE_AMPLITUDE * _fields(rng)
    images += mask[:, None] * (shape - images)
    images += NOISE * rng.standard_normal(images.shape, dtype=np.float32)
    images = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
    return images.transpose(0, 2, 3, 1)


def _masks(
    labels: np.ndarray, center: np.ndarray, radius: np.ndarray, angle: np.ndarray
) -> np.ndarray:
    """Returns how much of each pixel the shape covers, in [0, 1]: (B, SIZE, SIZE)."""
    pixels = np.arange(SIZE, dtype=np.float32) + 0.5
    x = (pixels[None, None, :] - center[:, 0, None, None]) / radius[:, None, None]
    y = (pixels[None, :, None] - center[:, 1, None, None]) / radius[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x, y = cos * x + sin * y, cos * y - sin * x
    distance = np.empty_like(x)
    for label, shape in enumerate(_SHAPES.values()):
        index = np.flatnonzero(labels == label)
        distance[index] = shape(x[index], y[index])
    return np.clip(0.5 - distance * radius[:, None, None] / EDGE, 0, 1)


def _fields(rng: np.random.Generator) -> np.ndarray:
    """Draws smooth Gaussian fields of unit variance: (_BLOCK, 3, SIZE, SIZE)."""
    values = rng.standard_normal((_BLOCK, 3, FIELD_CELLS, FIELD_CELLS), np.float32)
    return _INTERPOLATION @ values @ _INTERPOLATION.T


def _interpolation() -> np.ndarray:
    """Returns Gaussian weights from cells to pixels; each row's squares sum to one."""
    pixels = (np.arange(SIZE) + 0.5) / SIZE * (FIELD_CELLS - 1)
    weights = np.exp(-((pixels[:, None] - np.arange(FIELD_CELLS)) ** 2) / 0.6)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights.astype(np.float32)


def _polygon(*vertices: tuple[float, float]) -> _Distance:
    """Returns the signed distance to a polygon, centered, with the unit disc's area."""
    corners = np.asarray(vertices, np.float64)
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    area = cross.sum() / 2
    corners -= ((corners + following) * cross[:, None]).sum(axis=0) / (6 * area)
    corners *= np.sqrt(np.pi / abs(area))
    ends = np.roll(corners, -1, axis=0)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(corners.tolist(), ends.tolist(), strict=True):
            ex, ey = bx - ax, by - ay
            dx, dy = x - ax, y - ay
            along = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0, 1)
            np.minimum(
                nearest, (dx - along * ex) ** 2 + (dy - along * ey) ** 2, out=nearest
            )
            # Even-odd rule: does a ray to the right of the point cross this edge?
            if ey:
                inside ^= ((ay > y) != (by > y)) & (dx < ex * dy / ey)
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _regular(corners: int, *radii: float) -> _Distance:
    turns = np.arange(corners * len(radii)) * 2 * np.pi / (corners * len(radii))
    lengths = np.tile(radii, corners)
    return _polygon(
        *zip(lengths * np.sin(turns), -lengths * np.cos(turns), strict=True)
    )


def _heart() -> _Distance:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _polygon(*zip(x, -y, strict=True))


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Radii 1.3 and 0.83: their squares differ by one.
    return np.abs(np.sqrt(x * x + y * y) - 1.065) - 0.235


def _crescent() -> _Distance:
    """Returns a unit disc minus a disc of radius 0.85 beside it, as a polygon."""
    cut, shift = 0.85, 0.55
    # The circles meet at x = meet; the arcs run between their meeting points.
    meet = (1 - cut**2 + shift**2) / (2 * shift)
    outer = np.linspace(np.arccos(meet), 2 * np.pi - np.arccos(meet), 17)
    inner_end = np.arccos((meet - shift) / cut)
    inner = np.linspace(2 * np.pi - inner_end, inner_end, 13)[1:-1]
    x = np.concatenate([np.cos(outer), shift + cut * np.cos(inner)])
    y = np.concatenate([np.sin(outer), cut * np.sin(inner)])
    return _polygon(*zip(x, y, strict=True))


def _semicircle() -> _Distance:
    t = np.linspace(0, np.pi, 13)
    return _polygon(*zip(np.cos(t), np.sin(t), strict=True))


_SHAPES: dict[str, _Distance] = {
    "circle": _circle,
    "crescent": _crescent(),
    "cross": _polygon(
        *[(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)],
        *[(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)],
    ),
    "ell": _polygon((0, 0), (1, 0), (1, 2), (2.2, 2), (2.2, 3), (0, 3)),
    "heart": _heart(),
    "ring": _ring,
    "semicircle": _semicircle(),
    "square": _regular(4, 1.0),
    "star": _regular(5, 1.0, 0.45),
    "triangle": _regular(3, 1.0),
}
CLASS_NAMES = tuple(_SHAPES)
_INTERPOLATION = _interpolation()
