"""The artifact: a protected data set as it is published, in one ``.npz`` file."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple, cast, overload

import jax
import numpy as np
from jax.typing import ArrayLike

from miue_jax import _json
from miue_jax._checks import shown
from miue_jax._rows import RandomRows, Rows, as_rows, blocks
from miue_jax.budget import Budget, audit, check_within, quantize
from miue_jax.data import atomic, bucket, npz, public
from miue_jax.data.bucket import Address, Place
from miue_jax.data.dataset import (
    Dataset,
    file_names,
    fingerprint,
    of_rows,
    validate,
)
from miue_jax.image import quality, ssim_window

FORMAT = 1
_ARRAYS = ("images", "labels", "class_names", "metadata")
_REQUIRED = ("format", "fingerprint", "source_fingerprint", "radius")


class Protected(NamedTuple):
    """A protected data set and its provenance.

    Attributes:
      dataset: the protected images in the order of the source, with its labels.
      metadata: a JSON object: the entries given to `build` (method, settings, seed) and
        ``format``; ``norm`` and ``radius`` (see `Budget`; "linf" if ``norm`` is
        missing); ``source_fingerprint`` and ``fingerprint`` of the clean and the
        protected data set; ``export`` (see `quantize`; "round" if missing); ``audit``
        (see `audit`); ``psnr`` (decibels) and ``ssim`` of the images that changed (null
        if none did, ``ssim`` also for images below 11 pixels); ``perturbed`` (how many
        images changed, in all and per class); ``files``, the paths of the images below
        the folder of their class folders, if they were read from one;
        ``delta_sha256`` of the float perturbation as its file holds it; and
        ``versions``.

    Example:
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> protected.metadata["audit"]["max_change"]
      2
    """

    dataset: Dataset
    metadata: dict[str, Any]


def build(
    clean: Dataset,
    delta: "ArrayLike | Rows",
    *,
    budget: Budget,
    metadata: Mapping[str, Any],
    export: str = "round",
    source_fingerprint: str | None = None,
    scratch: pathlib.Path | None = None,
) -> Protected:
    """Adds a perturbation in whole gray levels, checks its budget and measures it.

    Args:
      clean: the source.
      delta: (N, H, W, C) float, in [0, 1] units.
      budget: the budget of every image's perturbation. Rounding to 8 bits moves a value
        by up to half a gray level, another export by up to a whole one; "l2" allows
        that on top of the radius.
      metadata: how the perturbation was made: JSON values, NumPy scalars included.
        Paths are reduced to their last part: an artifact is made to be published.
      export: how it becomes whole gray levels, see `quantize`.
      source_fingerprint: the fingerprint of `clean`, if it is known already.
      scratch: a ``.npy`` file to create for the protected images, which are then read
        from it when they are needed; None to have them in memory.

    Returns:
      The protected data set.

    Raises:
      ValueError: if the perturbation has another shape or dtype or is not finite, if it
        exceeds the budget by more than rounding removes, if the export is unknown, or
        if `metadata` is not JSON or sets an entry that is measured here.

    Example:
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> change = protected.dataset.images.astype(int) - clean.images
      >>> int(change.max())
      2
    """
    validate(clean)
    delta = as_rows(delta)
    norm, radius = budget.norm, budget.radius
    if norm == "linf" and radius is not None:
        # In float32, 255 * (8 / 255) may fall just short of 8, and `quantize` cuts off
        # fractions.
        nearest = float(np.rint(radius))
        radius = nearest if abs(radius - nearest) <= 1e-4 else float(radius)
    levels = radius if norm == "linf" and radius is not None else 255

    def quantized(start: int, stop: int) -> np.ndarray:
        part = clean.images[start:stop], delta[start:stop]
        return quantize(*part, radius=levels, export=export)

    images: np.ndarray | Rows
    if scratch is None:
        images = quantize(clean.images, delta, radius=levels, export=export)
    else:
        made = Rows(clean.images.shape, np.dtype(np.uint8), quantized)
        with atomic.write_file(scratch) as file:
            npz.write_npy(file, made, "|u1")
        images = npz.rows_of_whole(scratch)
    budget = Budget(norm, radius)
    check_within(clean.images, delta, images, budget, export=export)
    as_array: Any = cast("Any", images)
    dataset = Dataset(as_array, clean.labels, clean.class_names)
    measured: dict[str, Any] = {
        "format": FORMAT,
        "norm": norm,
        "radius": radius,
        "export": export,
        "source_fingerprint": source_fingerprint or fingerprint(clean),
        "fingerprint": fingerprint(dataset),
        "audit": audit(clean.images, images)._asdict(),
        **_quality(clean.images, images),
        "perturbed": _perturbed(clean, images),
        "delta_sha256": delta_digest(delta),
        "versions": _versions(),
    }
    if files := file_names(clean):
        measured["files"] = list(files)
    taken = sorted(measured.keys() & metadata.keys())
    if taken:
        raise ValueError(f"metadata: {', '.join(taken)} cannot be given: measured here")
    given = public.without_folders(metadata)
    return Protected(dataset, _plain({**given, **measured}, "metadata"))


def save(
    path: str | os.PathLike[str],
    protected: Protected,
    *,
    delta: "ArrayLike | Rows | None" = None,
    verify: bool = True,
) -> None:
    """Writes an artifact atomically; the same content gives the same bytes.

    The float perturbation, if given, goes to `delta_path(path)`. Otherwise a file of
    that name is removed, since it would belong to another artifact.

    Args:
      path: a name that ends in ``.npz``, in a folder that exists.
      protected: what `build` or `load` returned.
      delta: (N, H, W, C) float, in [0, 1] units, before rounding.
      verify: whether to check the images and `delta` against the metadata, which hashes
        them; superfluous right after `build`.

    Raises:
      ValueError: if the name or the metadata are wrong, or the images or `delta` are
        not those that the metadata describe.
      OSError: naming the file that cannot be written. An artifact that was there before
        stays as it was, though perhaps without its float perturbation.

    Example:
      >>> import os, tempfile
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     artifact.save(f"{folder}/protected.npz", protected, delta=delta)
      ...     sorted(os.listdir(folder))
      ['protected.delta.npy', 'protected.npz']
    """
    path = pathlib.Path(path)
    check_name(path)
    dataset, metadata = protected.dataset, _plain(protected.metadata, "metadata")
    delta = None if delta is None else as_rows(delta)
    if verify:
        _check_metadata(metadata, validate(dataset))
        if delta is not None:
            check_delta(protected, delta)
    with contextlib.ExitStack() as stack:
        if delta is not None:
            delta_file = stack.enter_context(atomic.write_file(delta_path(path)))
            npz.write_npy(delta_file, delta, "<f4")
        with atomic.write_file(path) as file:
            _write(file, dataset, metadata)
            # The old perturbation must never lie beside the new images.
            delta_path(path).unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str] | Address, *, stream: bool = False, verify: bool = True
) -> Protected:
    """Reads an artifact and checks that it is complete; nothing in it is executed.

    Args:
      path: the ``.npz`` file, also in a bucket.
      stream: whether to read its images when they are needed; of a file in a bucket,
        from a local copy.
      verify: whether to check the images against the metadata, which reads and hashes
        them; superfluous where another process has.

    Returns:
      The protected data set.

    Raises:
      ValueError: naming the file, if it is missing, truncated, changed since it was
        written, or not an artifact.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     artifact.save(f"{folder}/protected.npz", protected)
      ...     artifact.load(f"{folder}/protected.npz").metadata["radius"]
      8.0
    """
    where = bucket.place(path)
    if stream and isinstance(where, Address):
        copy = bucket.Copy(where)
        with copy.naming():
            if not copy.path.exists():
                raise ValueError(f"{copy.path}: no such file")
            found = load(copy.path, stream=True, verify=verify)
        images = copy.rows(cast("RandomRows", found.dataset.images))
        return found._replace(dataset=of_rows(images, *found.dataset[1:]))
    if stream:
        local = os.fspath(cast("str", path))
        arrays: dict[str, Any] = dict(npz.read(local, except_for=("images",)))
        if "images" in npz.names(local):
            arrays["images"] = npz.rows_of_member(local, "images")
    else:
        with bucket.local(path) as file:
            arrays = dict(npz.read(file))
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: not a protected data set: it has no {', '.join(missing)}"
        )
    images, labels, class_names, text = (arrays[name] for name in _ARRAYS)
    try:
        if class_names.dtype.kind != "U" or class_names.ndim != 1:
            raise ValueError("class_names must be a list of strings")
        if text.dtype.kind != "U" or text.ndim != 0:
            raise ValueError("metadata must be one string")
        dataset = validate(Dataset(images, labels, tuple(class_names.tolist())))
        metadata = _parse_json(text.item())
        _check_metadata(metadata, dataset, images=verify)
    except ValueError as error:
        raise ValueError(f"{path}: not a protected data set: {error}") from error
    return Protected(dataset, metadata)


def in_file(
    path: pathlib.Path, protected: Protected, address: Address | None = None
) -> Protected:
    """Takes the images of an artifact from its file, when they are needed.

    Args:
      path: where it was saved.
      protected: what was saved.
      address: of the same file in a bucket, if `path` is a copy that will be removed;
        then another one lasts as long as the images.

    Returns:
      The same artifact.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "protected.npz"
      ...     artifact.save(path, protected)
      ...     artifact.in_file(path, protected).dataset.images[1:3].shape
      (2, 32, 32, 3)
    """
    if address is None:
        images = npz.rows_of_member(path, "images")
    else:
        copy = bucket.Copy(address, path)
        images = copy.rows(npz.rows_of_member(copy.path, "images"))
    dataset = of_rows(images, *protected.dataset[1:])
    return protected._replace(dataset=dataset)


def check_name(path: str | os.PathLike[str]) -> None:
    """Checks the name of an artifact.

    Args:
      path: the file to write.

    Raises:
      ValueError: if the name does not end in ``.npz``.

    Example:
      >>> from miue_jax.data import artifact
      >>> artifact.check_name("protected.npz")
    """
    if pathlib.Path(path).suffix != ".npz":
        raise ValueError(f"{path}: the name of an artifact must end in .npz")


def check_delta(protected: Protected, delta: np.ndarray | Rows) -> None:
    """Checks that a data set was protected with this float perturbation.

    Args:
      protected: the protected data set. If its metadata lack the digest of the
        perturbation, only the shape is compared.
      delta: (N, H, W, C) float, in [0, 1] units.

    Raises:
      ValueError: if the perturbation has another shape or other values.

    Example:
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> artifact.check_delta(protected, delta)
    """
    if delta.shape != protected.dataset.images.shape:
        raise ValueError(
            f"the perturbation must have shape {protected.dataset.images.shape}, got "
            f"{delta.shape}"
        )
    expected = protected.metadata.get("delta_sha256")
    if expected is not None and expected != delta_digest(delta):
        raise ValueError("the perturbation is not the one of this protected data set")


def delta_digest(delta: np.ndarray | Rows) -> str:
    """Returns the digest of a perturbation as `save` writes it.

    Args:
      delta: (N, H, W, C) float, in [0, 1] units.

    Returns:
      64 hexadecimal digits (SHA-256).

    Example:
      >>> import numpy as np
      >>> from miue_jax.data import artifact
      >>> len(artifact.delta_digest(np.zeros((4, 8, 8, 3))))
      64
    """
    digest = hashlib.sha256()
    for block in blocks(delta.shape):
        digest.update(np.ascontiguousarray(delta[block], dtype="<f4").data)
    return digest.hexdigest()


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file is an artifact, without reading the images.

    Args:
      path: the file.

    Returns:
      Whether it has the arrays of one.

    Example:
      >>> from miue_jax.data import artifact
      >>> artifact.is_artifact("missing.npz")
      False
    """
    with bucket.local(path) as file:
        return {"images", "metadata"} <= npz.names(file)


def check_source(
    protected: Protected, clean: Dataset, *, source_fingerprint: str | None = None
) -> None:
    """Checks that a protected data set was made from these clean images.

    Args:
      protected: the protected data set.
      clean: the clean data set.
      source_fingerprint: the fingerprint of `clean`, if it is known already.

    Raises:
      ValueError: if the source has another fingerprint.

    Example:
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> artifact.check_source(protected, clean)
    """
    expected = protected.metadata["source_fingerprint"]
    given = source_fingerprint or fingerprint(clean)
    if expected != given:
        raise ValueError(
            "the protected data set was made from another source: its fingerprint is "
            f"{expected[:12]}..., that of the clean data set {given[:12]}... "
            f"({len(protected.dataset.labels)} and {len(clean.labels)} images)"
        )


def describe(protected: Protected) -> str:
    """Describes a protected data set in one line.

    Args:
      protected: what `build` or `load` returned.

    Returns:
      Its size, the number of protected images if not all are, the largest change, and
      PSNR and SSIM if they are defined.

    Example:
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, shapes
      >>> clean = shapes.generate(4)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> artifact.describe(protected).partition(", SSIM")[0]
      '4 images, largest change 2 gray levels, PSNR 42.11 dB'
    """
    meta = protected.metadata
    size = len(protected.dataset.labels)
    text = f"{size} images"
    if (chosen := meta.get("protected_images", size)) != size:
        text += f", {chosen} of them protected"
    if "max_change" in (audit := meta.get("audit", {})):
        largest = audit["max_change"]
        text += f", largest change {largest} gray level{'s' * (largest != 1)}"
    budget = Budget(meta.get("norm", "linf"), meta["radius"])
    if budget.norm != "linf":
        text += f" (budget: {budget})"
    if meta.get("export", "round") != "round":
        text += f", export {meta['export']}"
    if meta.get("psnr") is not None:
        text += f", PSNR {meta['psnr']:.2f} dB"
    if meta.get("ssim") is not None:
        text += f", SSIM {meta['ssim']:.4f}"
    return text


@overload
def delta_path(path: str | os.PathLike[str]) -> pathlib.Path: ...
@overload
def delta_path(path: Place) -> Place: ...
def delta_path(path: str | os.PathLike[str] | Address) -> Place:
    """Returns the path of an artifact's float perturbation, ``<stem>.delta.npy``.

    Args:
      path: the artifact.

    Returns:
      The path, in the same folder.

    Example:
      >>> from miue_jax.data import artifact
      >>> artifact.delta_path("protected.npz").name
      'protected.delta.npy'
    """
    return bucket.place(path).with_suffix(".delta.npy")


def _write(file: BinaryIO, dataset: Dataset, metadata: dict[str, Any]) -> None:
    text = json.dumps(metadata, allow_nan=False, sort_keys=True, ensure_ascii=False)
    arrays = (
        dataset.images,
        dataset.labels.astype("<i4", copy=False),
        np.asarray(dataset.class_names, dtype=np.str_),
        np.asarray(text),
    )
    npz.write(file, dict(zip(_ARRAYS, arrays, strict=True)))


def _parse_json(text: str) -> dict[str, Any]:
    try:
        metadata = _json.parse(text)
    except ValueError as error:
        raise ValueError(f"metadata: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError("metadata is not a JSON object")
    return metadata


def _check_metadata(
    metadata: dict[str, Any], dataset: Dataset, *, images: bool = True
) -> None:
    missing = [name for name in _REQUIRED if name not in metadata]
    if missing:
        raise ValueError(f"metadata has no {', '.join(missing)}")
    if metadata["format"] != FORMAT:
        raise ValueError(
            f"format {shown(metadata['format'])} is unknown; this version reads "
            f"{FORMAT}"
        )
    # Raises if they are not a budget.
    Budget(metadata.get("norm", "linf"), metadata["radius"])
    if not isinstance(metadata["source_fingerprint"], str):
        raise ValueError("source_fingerprint in the metadata is not a string")
    _check_measured(metadata)
    if images and metadata["fingerprint"] != fingerprint(dataset):
        raise ValueError("the images or labels are not those that were protected")


def _check_measured(metadata: Mapping[str, Any]) -> None:
    """Checks the entries that others read, where there are any."""
    kinds: dict[str, tuple[type, ...]] = {
        "audit": (dict,),
        "psnr": (int, float, type(None)),
        "ssim": (int, float, type(None)),
        "export": (str,),
        "protected_images": (int,),
        "generator": (dict,),
        "files": (list,),
    }
    for name, allowed in kinds.items():
        value = metadata.get(name)
        if name in metadata and (
            not isinstance(value, allowed) or isinstance(value, bool)
        ):
            raise ValueError(f"{name} in the metadata is {shown(value)}")
    if not all(isinstance(file, str) for file in metadata.get("files", [])):
        raise ValueError("files in the metadata are not all names")
    audit = metadata.get("audit", {})
    if not all(isinstance(value, int | float) for value in audit.values()):
        raise ValueError(f"audit in the metadata is {shown(audit)}")


def _quality(
    clean: np.ndarray | Rows, images: np.ndarray | Rows
) -> dict[str, float | None]:
    psnr = quality.psnr(clean, images)
    if not math.isfinite(psnr):
        return {"psnr": None, "ssim": None}
    if min(clean.shape[1:3]) < ssim_window.SIZE:
        return {"psnr": psnr, "ssim": None}
    return {"psnr": psnr, "ssim": quality.ssim(clean, images)}


def _perturbed(clean: Dataset, images: np.ndarray | Rows) -> dict[str, Any]:
    changed = quality.changed(clean.images, images)
    counts = np.bincount(clean.labels[changed], minlength=len(clean.class_names))
    return {
        "images": np.count_nonzero(changed),
        "of": len(changed),
        "by_class": dict(zip(clean.class_names, counts.tolist(), strict=True)),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    for name in ("flax", "miue_jax"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _plain(value: Any, where: str) -> Any:
    """Copies a value as plain JSON, or names the entry that JSON cannot hold."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{where}: the key {name!r} is not a string")
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{where} is a {type(value).__name__}, which JSON cannot hold")
