"""A fitted protector: one forward pass makes a perturbation, also for new pictures."""

import dataclasses
import hashlib
import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax import _json, _settings
from miue_jax._checks import check_number, one_line, shown
from miue_jax.budget import to_unit
from miue_jax.data import atomic, memory
from miue_jax.protector import clusters, full_size
from miue_jax.protector.clusters import Clusters
from miue_jax.protector.network import UNet

# Files are small: what is larger was made by someone else.
_LARGEST = 64 * 2**20
_HEADER = 2**20
_ABOUT = "miue_jax"
# A file of someone else must not ask for more memory than there is.
_BOUNDS = (
    ("num_codes", 1, 2**16),
    ("width", 8, 2**10),
    ("size", full_size.SMALLEST, 2**10),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a protector's arrays mean.

    Attributes:
      strength: largest change of a channel, in gray levels.
      num_codes: K, how many kinds of perturbation it has.
      width: channels of its network.
      size: pixels of the shorter side at which it sees pictures.
      class_names: the classes that it was fitted on, in the order of their codes; none
        if it was fitted on clusters or is for any pictures.
      about: sentences on what it was fitted on.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax import protector
      >>> protector.Settings(size=64).strength
      8.0
    """

    strength: float = 8.0
    num_codes: int = 32
    width: int = 48
    size: int = 96
    class_names: tuple[str, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        check_number("strength", self.strength, "> 0")
        if self.strength > 255:
            raise ValueError(f"strength is {self.strength}; allowed: at most 255")
        check_number("num_codes", self.num_codes, "> 0", whole=True)
        check_number("width", self.width, "> 0", whole=True)
        if self.width % 8:
            raise ValueError(f"width is {self.width}; allowed: multiples of 8")
        check_number("size", self.size, "> 0", whole=True)
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; allowed: {least} to {most}")
        names = self.class_names
        if not all(isinstance(name, str) for name in names) or (
            len(set(names)) < len(names)
        ):
            raise ValueError(f"class_names are {shown(names)}; allowed: distinct texts")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Protector:
    """Protects pictures by one forward pass of a network.

    It is a pytree: pass it through `jax.jit` like an array. A picture's code decides on
    the kind of its perturbation; pictures of one class have one code.

    Attributes:
      params: of `miue_jax.protector.UNet`.
      clusters: what gives a code to a picture without a class.
      settings: what the arrays mean.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import protector
      >>> made = protector.untrained(jax.random.key(0), protector.Settings(width=8))
      >>> images = jnp.full((2, 32, 48, 3), 0.5)
      >>> protected = jax.jit(lambda p, x: p(x))(made, images)
      >>> float(jnp.abs(protected - images).max() * 255) <= 8.001
      True

    References:
      Liu et al., "Game-Theoretic Unlearnable Example Generator", AAAI 2024, for a
      network that makes the perturbation.
    """

    params: Any
    clusters: Clusters
    settings: Settings = dataclasses.field(metadata={"static": True})

    def __call__(self, images: ArrayLike, codes: ArrayLike | None = None) -> jax.Array:
        """Protects pictures at the size that they have.

        Args:
          images: (B, H, W, 3) float in [0, 1] or uint8.
          codes: (B,) integers in [0, K); None for those of the nearest clusters.

        Returns:
          (B, H, W, 3) float32 in [0, 1], not yet rounded to gray levels.

        Raises:
          ValueError: if the images have another shape.
        """
        images = _unit(images)
        return jnp.clip(images + self.delta(images, codes), 0, 1)

    def delta(self, images: ArrayLike, codes: ArrayLike | None = None) -> jax.Array:
        """Makes perturbations.

        Args:
          images: (B, H, W, 3) float in [0, 1] or uint8.
          codes: (B,) integers in [0, K); None for those of the nearest clusters.

        Returns:
          (B, H, W, 3) float32, at most `settings.strength` gray levels.

        Raises:
          ValueError: if the images have another shape.
        """
        images = _unit(images)
        if codes is None:
            codes = self.assign(images)
        codes = _checked(codes, len(images), self.settings.num_codes)
        net = UNet(num_codes=self.settings.num_codes, width=self.settings.width)
        made = jnp.asarray(net.apply({"params": self.params}, images, codes))
        return to_unit(self.settings.strength) * as_gray(made, images)

    def assign(self, images: ArrayLike) -> jax.Array:
        """Gives every picture the code of its nearest cluster.

        Args:
          images: (B, H, W, 3) float in [0, 1] or uint8.

        Returns:
          (B,) int32; 0 where there are no clusters.
        """
        images = _unit(images)
        return clusters.nearest(self.clusters, images) % self.settings.num_codes

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Protector":
        """Reads a protector that `save` wrote; nothing in the file is executed.

        Args:
          path: the file.

        Returns:
          The protector.

        Raises:
          ValueError: naming the file, if it is none, or damaged.
        """
        return load(path)


def as_gray(delta: jax.Array, images: jax.Array) -> jax.Array:
    """Makes perturbations of gray pictures gray.

    Args:
      delta: (B, H, W, 3).
      images: (B, H, W, 3); gray ones have three equal channels.

    Returns:
      (B, H, W, 3), the means over the channels where a picture is gray.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.protector import protector
      >>> delta = jnp.array([[[[3.0, 0.0, 0.0]]]])
      >>> protector.as_gray(delta, jnp.zeros((1, 1, 1, 3))).tolist()
      [[[[1.0, 1.0, 1.0]]]]
    """
    gray = jnp.all(images == images[..., :1], axis=(1, 2, 3), keepdims=True)
    return jnp.where(gray, delta.mean(-1, keepdims=True), delta)


def untrained(key: jax.Array, settings: Settings) -> Protector:
    """Makes a protector with random weights.

    Args:
      key: a PRNG key.
      settings: what it is to be.

    Returns:
      The protector, without clusters.

    Example:
      >>> import jax
      >>> from miue_jax import protector
      >>> made = protector.untrained(jax.random.key(0), protector.Settings(width=8))
      >>> made.settings.num_codes
      32
    """
    net = UNet(num_codes=settings.num_codes, width=settings.width)
    images = jnp.zeros((1, 16, 16, 3))
    params = net.init(key, images, jnp.zeros(1, jnp.int32))["params"]
    return Protector(params, clusters.none(), settings)


def save(path: str | os.PathLike[str], protector: Protector) -> None:
    """Writes a protector as a safetensors file.

    Args:
      path: the file to create or replace.
      protector: the protector.

    Raises:
      ValueError: if the folder does not exist.
      OSError: naming the file, if it cannot be written; nothing is left behind.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from miue_jax import protector
      >>> made = protector.untrained(jax.random.key(0), protector.Settings(width=8))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "mine.safetensors")
      ...     protector.save(path, made)
      ...     protector.load(path).settings == made.settings
      True
    """
    from safetensors.numpy import save as to_bytes

    tensors = _tensors(protector)
    settings = _settings.to_plain(dataclasses.asdict(protector.settings))
    about = {"settings": settings, "sha256": _digest(settings, tensors)}
    data = to_bytes(tensors, metadata={_ABOUT: json.dumps(about, sort_keys=True)})
    with atomic.write_file(path) as file:
        file.write(data)


def load(path: str | os.PathLike[str]) -> Protector:
    """Reads a protector; nothing in the file is executed.

    Args:
      path: the file.

    Returns:
      The protector.

    Raises:
      ValueError: naming the file, if it is none, or damaged.
      OSError: if it cannot be read.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax import protector
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "text")
      ...     _ = path.write_text("This is a text.")
      ...     protector.load(path)
      Traceback (most recent call last):
      ValueError: .../text: is no protector (it is not of the format safetensors)
    """
    path = pathlib.Path(path)
    atomic.check_file(path)
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(
            f"{path}: is no protector (it has {size} bytes; allowed: {_LARGEST})"
        )
    memory.check(4 * size, f"{path}: it")
    try:
        return _parsed(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is no protector ({error})") from error


def shipped() -> Protector:
    """Returns the protector that comes with the package, for any pictures.

    Returns:
      The protector, without clusters.

    Example:
      >>> from miue_jax import protector
      >>> protector.shipped().settings.class_names
      ()
    """
    place = importlib.resources.files("miue_jax.protector") / "shipped.safetensors"
    return _parsed(place.read_bytes())


def digest(protector: Protector) -> str:
    """Identifies a protector: settings and arrays.

    Args:
      protector: the protector.

    Returns:
      64 hexadecimal digits (SHA-256).

    Example:
      >>> import jax
      >>> from miue_jax import protector
      >>> made = protector.untrained(jax.random.key(0), protector.Settings(width=8))
      >>> len(protector.digest(made))
      64
    """
    settings = _settings.to_plain(dataclasses.asdict(protector.settings))
    return _digest(settings, _tensors(protector))


def _unit(images: ArrayLike) -> jax.Array:
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be of shape (B, H, W, 3), given {images.shape}")
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating or uint8, given {images.dtype}")
    return images.astype(jnp.float32)


def _checked(codes: ArrayLike, count: int, num_codes: int) -> jax.Array:
    codes = jnp.asarray(codes)
    if codes.shape != (count,) or not jnp.issubdtype(codes.dtype, jnp.integer):
        raise ValueError(
            f"codes must be {count} integers, given {codes.dtype} of shape "
            f"{codes.shape}"
        )
    # Inside of jax.jit nobody knows them.
    if not isinstance(codes, jax.core.Tracer) and count:
        wrong = (codes < 0) | (codes >= num_codes)
        if wrong.any():
            first = int(codes[wrong.argmax()])
            raise ValueError(f"a code is {first}; allowed: 0 to {num_codes - 1}")
    return codes


def _tensors(protector: Protector) -> dict[str, np.ndarray]:
    tree = {"params": protector.params, "clusters": protector.clusters._asdict()}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(
            leaf, np.float32
        )
        for path, leaf in leaves
    }


def _digest(settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(f"{name} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _parsed(data: bytes) -> Protector:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    # The header is read by itself first: the library gives arrays, not metadata.
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(_HEADER, len(data) - 8):
        raise ValueError("it is not of the format safetensors")
    try:
        header = _json.parse(data[8 : 8 + length].decode())
        tensors = from_bytes(data)
    except UnicodeDecodeError as error:
        raise ValueError("its header is not a text") from error
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: {one_line(str(error))}") from error
    about = header.get("__metadata__") if isinstance(header, dict) else None
    text = about.get(_ABOUT) if isinstance(about, dict) else None
    if not isinstance(text, str):
        raise ValueError("it is of another program")
    about = _json.parse(text)
    if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
        raise ValueError("it holds no settings")
    plain = about["settings"]
    settings = _settings.from_plain(Settings, plain, "settings")
    _check_arrays(settings, tensors)
    if _digest(plain, tensors) != about.get("sha256"):
        raise ValueError("it is damaged: its digest is another")
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *folders, leaf = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = jnp.asarray(array)
    return Protector(tree["params"], Clusters(**tree["clusters"]), settings)


def _check_arrays(settings: Settings, tensors: Mapping[str, np.ndarray]) -> None:
    """Checks names, types and shapes before anything is computed with them."""
    made = jax.eval_shape(lambda key: untrained(key, settings), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path({"params": made.params})
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }
    expected |= clusters.shapes(tensors)
    for name in sorted({*expected, *tensors}):
        if name not in tensors or name not in expected:
            what = "there is no" if name not in tensors else "it holds"
            raise ValueError(f"{what} array {one_line(name, 80)}")
        array = tensors[name]
        if array.dtype != np.float32 or array.shape != expected[name]:
            raise ValueError(
                f"array {one_line(name, 80)} is {array.dtype} of shape {array.shape}, "
                f"not float32 of {expected[name]}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"array {one_line(name, 80)} is not finite")
