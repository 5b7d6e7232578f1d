"""Export of a protected data set, and import of perturbations made elsewhere."""

import concurrent.futures
import json
import os
import pathlib
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from miue_jax import _json
from miue_jax._checks import listed, one_line
from miue_jax.budget import to_unit
from miue_jax.data import artifact, atomic, bucket, memory, npz, public, torch_file
from miue_jax.data.artifact import Protected
from miue_jax.data.dataset import Dataset, validate

_SUFFIXES = (".npy", ".npz", ".pt", ".pth")

# Names that Windows reserves, with any suffix, and the name of the metadata.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|metadata\.json", re.IGNORECASE
)
_LONGEST = 200  # bytes of a folder's name; file systems allow 255


def export_png_folder(protected: Protected, root: str | os.PathLike[str]) -> None:
    """Writes ``root/<class>/<name>.png`` and ``root/metadata.json``.

    The name is that of the file in the source, if the images were read from files, and
    otherwise the index: the image's position in the source. ``exported`` in the
    metadata lists the files in the order of the source, and ``files`` those that they
    were made of. A class whose name is not a safe folder name goes into a folder with a
    similar name, see `class_folders`; ``class_folders`` in the metadata maps folders to
    classes. Paths in the metadata are reduced to their last part. The folder appears
    when it is complete.

    Args:
      protected: the protected data set.
      root: a folder that does not exist yet, or is empty.

    Raises:
      ValueError: if `root` is not empty or its parent folder does not exist.
      OSError: naming `root`, if something cannot be written; nothing is left behind.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, exchange, shapes
      >>> clean = shapes.generate(2)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     exchange.export_png_folder(protected, f"{folder}/png")
      ...     sorted(path.name for path in pathlib.Path(folder).rglob("*.png"))
      ['00000.png', '00001.png']
    """
    images, _, class_names = protected.dataset
    atomic.check_new_folder(root)
    folders = class_folders(class_names)
    exported = _exported(protected, folders)
    with atomic.write_folder(root) as folder:
        for name in folders:
            (folder / name).mkdir()

        def write(index: int) -> None:
            image = images[index]
            path = folder / exported[index]
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)

        _parallel(write, range(len(images)))
        named = {"exported": exported} if "files" in protected.metadata else {}
        text = json.dumps(
            {
                **public.without_folders(protected.metadata),
                "class_names": class_names,
                "class_folders": dict(zip(folders, class_names, strict=True)),
                **named,
            },
            indent=2,
            allow_nan=False,
        )
        (folder / "metadata.json").write_text(text + "\n", encoding="utf-8")


def _exported(protected: Protected, folders: list[str]) -> list[str]:
    """Returns the files of an export, below its folder."""
    labels = protected.dataset.labels
    files = protected.metadata.get("files")
    if files is None:
        digits = max(5, len(str(len(labels) - 1)))
        stems = [f"{index:0{digits}d}" for index in range(len(labels))]
    elif len(files) != len(labels):
        raise ValueError(
            f"the metadata name {len(files)} files for {len(labels)} images"
        )
    else:
        stems = [""] * len(labels)
        for label in range(len(folders)):
            members = np.flatnonzero(labels == label)
            # Two files of a folder may differ in their suffix or case only.
            given = [pathlib.PurePosixPath(files[i]).stem for i in members]
            for index, stem in zip(members, class_folders(given), strict=True):
                stems[index] = stem
    return [f"{folders[label]}/{stems[i]}.png" for i, label in enumerate(labels)]


def class_folders(class_names: Sequence[str]) -> list[str]:
    """Returns folder names for classes that are safe and unique on every file system.

    Characters that a folder name cannot have become underscores, reserved names get a
    leading underscore, long names are cut, and names that are equal but for case get a
    number.

    Args:
      class_names: one name per class.

    Returns:
      One folder name per class.

    Example:
      >>> from miue_jax.data import exchange
      >>> exchange.class_folders(["cat", "Cat", "a/b", "con"])
      ['cat', 'Cat_2', 'a_b', '_con']
    """
    folders: list[str] = []
    taken: set[str] = set()
    for name in class_names:
        stem = re.sub(r'[/\\:"*?<>|\x00-\x1f\x7f]', "_", name).lstrip(".").rstrip(". ")
        stem = stem.encode()[:_LONGEST].decode(errors="ignore").rstrip(". ") or "_"
        stem = f"_{stem}" if _RESERVED.fullmatch(stem) else stem
        folder, number = stem, 2
        while _key(folder) in taken:
            folder, number = f"{stem}_{number}", number + 1
        taken.add(_key(folder))
        folders.append(folder)
    return folders


def _key(name: str) -> str:
    # What file systems compare that ignore case and the composition of accents.
    return unicodedata.normalize("NFC", name.casefold())


def read_delta(
    path: str | os.PathLike[str] | bucket.Address, protected: Protected
) -> np.ndarray:
    """Reads the float perturbation next to an artifact.

    Args:
      path: the artifact.
      protected: the artifact, loaded.

    Returns:
      (N, H, W, C) float32 in [0, 1] units.

    Raises:
      ValueError: naming the file, if it is missing, damaged, or of another artifact.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.budget import Budget
      >>> from miue_jax.data import artifact, exchange, shapes
      >>> clean = shapes.generate(2)
      >>> delta = np.full(clean.images.shape, 2 / 255, np.float32)
      >>> protected = artifact.build(clean, delta, budget=Budget(), metadata={})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     artifact.save(f"{folder}/a.npz", protected, delta=delta)
      ...     exchange.read_delta(f"{folder}/a.npz", protected).shape
      (2, 32, 32, 3)
    """
    file = artifact.delta_path(bucket.place(path))
    with bucket.local(file) as copy:
        if not copy.is_file():
            raise ValueError(f"{copy} is missing: it holds the float perturbation")
        delta = npz.read_npy(copy)
    try:
        if delta.dtype != np.float32:
            raise ValueError(f"the perturbation must be float32, got {delta.dtype}")
        artifact.check_delta(protected, delta)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return delta


def export_delta_nchw(path: str | os.PathLike[str], delta: ArrayLike) -> None:
    """Writes a perturbation for ``torch.from_numpy(numpy.load(path))``.

    Args:
      path: the ``.npy`` file; written atomically.
      delta: (N, H, W, C) float, in [0, 1] units. Written as (N, C, H, W) float32.

    Raises:
      ValueError: if the name, the shape or the dtype differ from the above.
      OSError: naming the file, if it cannot be written; nothing is left behind.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import exchange
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     exchange.export_delta_nchw(f"{folder}/d.npy", np.zeros((2, 8, 9, 3)))
      ...     np.load(f"{folder}/d.npy").shape
      (2, 3, 8, 9)
    """
    delta = np.asarray(delta)
    check_delta_file(path)
    if (
        delta.ndim != 4
        or delta.shape[-1] not in (1, 3)
        or not (jnp.issubdtype(delta.dtype, jnp.floating))
    ):
        raise ValueError(
            "the perturbation must be float and of shape (N, H, W, 1 or 3), got "
            f"{delta.dtype} and {delta.shape}"
        )
    values = np.ascontiguousarray(delta.transpose(0, 3, 1, 2), dtype="<f4")
    with atomic.write_file(path) as file:
        np.lib.format.write_array(file, values, allow_pickle=False)


def check_delta_file(path: str | os.PathLike[str]) -> None:
    """Checks that `export_delta_nchw` may write a file.

    Args:
      path: the ``.npy`` file.

    Raises:
      ValueError: if the name does not end in ``.npy`` or is that of a folder, or its
        parent folder does not exist.

    Example:
      >>> from miue_jax.data import exchange
      >>> exchange.check_delta_file("delta.npy")
    """
    if pathlib.Path(path).suffix != ".npy":
        raise ValueError(f"{path}: the name must end in .npy")
    atomic.check_new_file(path)


def import_perturbation(
    path: str | os.PathLike[str], clean: Dataset, *, class_wise: bool | None = None
) -> np.ndarray:
    """Reads a perturbation that was made elsewhere.

    - ``.npy``; ``.npz`` or ``.pt`` with one array of four axes; or a protected data
      set. The axes are (N, H, W, C) or (N, C, H, W). Signed integers are gray levels.
      Floats are in [0, 1] units if no value exceeds 1, and gray levels otherwise.
    - a folder of protected images ``<class>/<index>.png`` or ``<index>.png``, or with
      the names that `export_png_folder` gave them: the differences from the clean
      images of these indices.

    No pickled code is executed.

    Args:
      path: the file or folder.
      clean: the data set that it perturbs, in the order of the perturbation.
      class_wise: whether the first axis counts classes rather than images; None to
        decide by its length.

    Returns:
      (N, H, W, C) float32 in [0, 1] units.

    Raises:
      ValueError: naming the path, if it cannot be read or does not fit the data set.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import exchange, shapes
      >>> clean = shapes.generate(20)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.save(f"{folder}/delta.npy", np.full((10, 3, 32, 32), -8, np.int16))
      ...     delta = exchange.import_perturbation(f"{folder}/delta.npy", clean)
      >>> delta.shape, round(float(delta.min()), 4)
      ((20, 32, 32, 3), -0.0314)
    """
    validate(clean)
    path = pathlib.Path(path)
    if path.is_dir():
        images = _read_png_folder(path, clean)
        return _difference(images, clean.images)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    if path.suffix == ".npy":
        delta = npz.read_npy(path)
    elif path.suffix == ".npz":
        if artifact.is_artifact(path):
            protected = artifact.load(path)
            try:
                artifact.check_source(protected, clean)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            return _difference(protected.dataset.images, clean.images)
        delta = _only_one(path, npz.read(path))
    elif path.suffix in (".pt", ".pth"):
        delta = _only_one(path, torch_file.read_tensors(path))
    else:
        raise ValueError(
            f"{path}: only folders of PNG files and {', '.join(_SUFFIXES)} files can "
            "be read; pickles are never opened: convert them with np.save"
        )
    try:
        return _fit(delta, clean, class_wise)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _difference(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return to_unit(np.subtract(images, clean, dtype=np.float32))


def _fit(delta: np.ndarray, clean: Dataset, class_wise: bool | None) -> np.ndarray:
    """Scales to [0, 1] units, orders the axes and expands by class."""
    shape, classes = clean.images.shape, len(clean.class_names)
    allowed = {False: shape[0], True: classes}
    if class_wise is not None:
        allowed = {class_wise: allowed[class_wise]}
    nhwc, nchw = shape[1:], (shape[3], shape[1], shape[2])
    if delta.ndim != 4 or delta.shape[1:] not in (nhwc, nchw):
        raise ValueError(
            f"the perturbation must have shape (N, {', '.join(map(str, nhwc))}) or "
            f"(N, {', '.join(map(str, nchw))}), got {delta.shape}"
        )
    kinds = [kind for kind, count in allowed.items() if count == len(delta)]
    if not kinds:
        wanted = {False: f"{shape[0]} images", True: f"{classes} classes"}
        raise ValueError(
            f"the perturbation is of {len(delta)}, the data set has "
            f"{' and '.join(wanted[kind] for kind in allowed)}"
        )
    if len(kinds) > 1:
        raise ValueError(
            f"the data set has as many images as classes ({classes}): set class_wise"
        )
    if nhwc == nchw:
        raise ValueError(f"shape {delta.shape} does not tell which axis is the channel")
    delta = _scaled(delta)
    if delta.shape[1:] == nchw:
        delta = delta.transpose(0, 2, 3, 1)
    return delta[clean.labels] if kinds[0] else np.ascontiguousarray(delta)


def _scaled(delta: np.ndarray) -> np.ndarray:
    if delta.dtype == np.uint8:
        raise ValueError(
            "uint8 holds images or has lost the negative values; a perturbation is "
            "float, or a signed integer in gray levels"
        )
    integer = delta.dtype.kind == "i"  # which spans of time are not
    if not integer and not jnp.issubdtype(delta.dtype, jnp.floating):
        raise ValueError(f"a perturbation is float or a signed integer: {delta.dtype}")
    delta = delta.astype(np.float32)
    finite = np.asarray(np.isfinite(delta).all(axis=(1, 2, 3)))
    if not finite.all():
        raise ValueError(
            f"row {np.argmin(finite)} holds NaN or infinity "
            f"({np.count_nonzero(~finite)} of {len(finite)} rows do)"
        )
    largest = max(delta.max(), -delta.min())
    if largest > 255:
        raise ValueError(f"a change of {largest:g} exceeds 255 gray levels")
    return to_unit(delta) if integer or largest > 1 else delta


def _only_one(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    images = [array for array in arrays.values() if array.ndim == 4]
    if len(images) == 1:
        return images[0]
    found = listed(
        f"{one_line(name, 40) or 'tensor'} {array.shape}"
        for name, array in arrays.items()
    )
    raise ValueError(
        f"{path}: must hold exactly one array of four axes, found {found or 'none'}"
    )


def _read_png_folder(root: pathlib.Path, clean: Dataset) -> np.ndarray:
    paths: dict[int, pathlib.Path] = {}
    exported = _read_exported(root)
    named = class_folders(clean.class_names)
    for path in sorted(root.rglob("*.png")):
        if not path.is_file():
            raise ValueError(f"{path}: is no file, with the name of an image")
        index = exported.get(path.relative_to(root).as_posix())
        if index is None:
            if not (path.stem.isascii() and path.stem.isdigit()):
                raise ValueError(f"{path}: the name must be the index of the image")
            index = int(path.stem)
        if index in paths:
            raise ValueError(f"{path}: has the same index as {paths[index]}")
        if index >= len(clean.labels):
            raise ValueError(
                f"{path}: the data set has only {len(clean.labels)} images"
            )
        label = clean.labels[index]
        folders = ((), (clean.class_names[label],), (named[label],), (str(label),))
        if path.parent.relative_to(root).parts not in folders:
            raise ValueError(
                f"{path}: image {index} of the data set belongs to class "
                f"{clean.class_names[label]!r}"
            )
        paths[index] = path
    missing = sorted(set(range(len(clean.labels))) - paths.keys())
    if missing:
        raise ValueError(
            f"{root}: there is no PNG file for image {missing[0]} ({len(missing)} of "
            f"{len(clean.labels)} are missing)"
        )
    images = np.empty_like(clean.images)

    def read(index: int) -> None:
        images[index] = _read_png(paths[index], images.shape[1:])

    with warnings.catch_warnings():
        # The size is that of the clean images, or it is refused.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        _parallel(read, range(len(images)))
    return images


def _read_exported(root: pathlib.Path) -> dict[str, int]:
    """Reads which file of an export is which image, if its metadata tell."""
    file = root / "metadata.json"
    if not file.is_file():
        return {}
    try:
        memory.check(file.stat().st_size, str(file))
        found = _json.parse(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: cannot be read ({one_line(str(error))})") from error
    names = found.get("exported", []) if isinstance(found, dict) else []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{file}: exported is not a list of names")
    return {name: index for index, name in enumerate(names)}


def _read_png(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if (image.mode, image.size) != (mode, (width, height)):
                raise ValueError(
                    f"must be {width}x{height} {mode}, is "
                    f"{image.width}x{image.height} {image.mode}"
                )
            return np.asarray(image).reshape(shape)
    except Exception as error:  # damaged files provoke any
        reason = one_line(str(error)) or type(error).__name__
        raise ValueError(f"{path}: {reason}") from error


def _parallel(function: Callable[[int], None], indices: range) -> None:
    # Pillow releases the interpreter lock while it encodes and decodes.
    pool = concurrent.futures.ThreadPoolExecutor()
    try:
        for _ in pool.map(function, indices):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
