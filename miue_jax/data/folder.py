"""Image folders: files in one folder per class."""

import concurrent.futures
import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

from miue_jax.data.dataset import Dataset, validate

SUFFIXES = (".png", ".jpg", ".jpeg")
SPLITS = ("train", "test")

# Names of the folder of test images if none is called "test".
_VALIDATION = ("val", "validation")


def load(root: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Reads ``root/class/*.png|jpg|jpeg`` or ``root/train|test/class/...``.

    If there is no ``test`` folder, ``val`` or ``validation`` is the split "test".
    Classes and files are sorted. With split folders, the classes of ``train`` give the
    labels of both. Gray images become RGB unless all are gray (then C is 1). The EXIF
    orientation of photographs is applied.

    Args:
      root: the folder.
      split: "train" or "test"; a tree without split folders counts as "train".

    Returns:
      The data set.

    Raises:
      ValueError: naming the folder or file, if there are no images or only one class, a
        class is empty, an image cannot be read, sizes differ, the split is missing,
        images lie beside or below the class folders, or a link is broken.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax.data import folder
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name in ("cat", "dog"):
      ...         pathlib.Path(root, name).mkdir()
      ...         Image.new("RGB", (8, 8)).save(pathlib.Path(root, name, "0.png"))
      ...     folder.load(root).class_names
      ('cat', 'dog')
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    folders = {name: root / name for name in SPLITS}
    for name in _VALIDATION:
        if not _folders(folders["test"]) and _folders(root / "train"):
            folders["test"] = root / name
    splits = [name for name in SPLITS if _folders(folders[name])]
    inside = [folder.name for folder in _folders(root)]
    if inside and not splits and set(inside) <= {*SPLITS, *_VALIDATION}:
        raise ValueError(
            f"{root}: holds only {' and '.join(inside)}, without class folders: it "
            "must hold train/<class>/ and test/<class>/"
        )
    if splits and split not in splits:
        raise ValueError(
            f"{root}: has no {split!r} folder with class folders in it, only "
            f"{', '.join(folder.name for folder in _folders(root))}"
        )
    if not splits and split != "train":
        raise ValueError(
            f"{root}: has no {split!r} split: it must hold train/<class>/ and "
            "test/<class>/; all of a folder without them is the split 'train'"
        )
    top = folders[split] if splits else root
    for folder in (root, top):
        _check_no_images(folder, "beside the class folders")
    classes = tuple(folder.name for folder in _folders(top))
    if "train" in splits:
        names = tuple(folder.name for folder in _folders(root / "train"))
    else:
        names = classes
    unknown = sorted(set(classes) - set(names))
    if unknown:
        raise ValueError(f"{top}: class {unknown[0]!r} is not in {root / 'train'}")
    if not classes:
        raise ValueError(f"{top}: holds no class folders (expected <class>/*.png|jpg)")
    paths, labels = [], []
    for name in classes:
        files = _image_files(top / name)
        paths += files
        labels += [names.index(name)] * len(files)
    if len(names) < 2:
        raise ValueError(
            f"{top}: at least two class folders are needed, got only {names[0]!r}"
        )
    return validate(Dataset(_decode(paths), np.asarray(labels, np.int32), names))


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        return []
    return [entry for entry in _entries(path) if entry.is_dir()]


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists what is in a folder, sorted, without hidden entries."""
    entries = [e for e in sorted(folder.iterdir()) if not e.name.startswith(".")]
    for entry in entries:
        if not entry.exists():
            raise ValueError(f"{entry}: is a link to nothing")
    return entries


def _check_no_images(folder: pathlib.Path, where: str) -> None:
    for entry in _entries(folder):
        # Skipping an image silently would change the data set.
        if entry.is_file() and entry.suffix.lower() in SUFFIXES:
            raise ValueError(f"{entry}: lies {where}, where no image is read")


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    inside = _folders(folder)
    while inside:
        deeper = inside.pop()
        _check_no_images(deeper, f"deeper than in {folder}")
        inside += _folders(deeper)
    files = [entry for entry in _entries(folder) if entry.is_file()]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    for file in files:
        # Nor may images in another format be skipped.
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES and suffix in Image.registered_extensions():
            raise ValueError(f"{file}: only {', '.join(SUFFIXES)} files can be read")
    if not images:
        raise ValueError(f"{folder}: holds no {', '.join(SUFFIXES)} files")
    return images


def _decode(paths: list[pathlib.Path]) -> np.ndarray:
    first, _ = _read(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    all_gray = True
    # Pillow releases the interpreter lock while it decodes; more threads than cores
    # would only compete for it.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        for index, (image, gray) in enumerate(pool.map(_read, paths)):
            if image.shape != first.shape:
                raise ValueError(
                    f"{paths[index]}: is {_size(image)}, but {paths[0]} is "
                    f"{_size(first)}; all images must have one size"
                )
            images[index] = image
            all_gray = all_gray and gray
    finally:
        pool.shutdown(cancel_futures=True)
    return np.ascontiguousarray(images[..., :1]) if all_gray else images


def _read(path: pathlib.Path) -> tuple[np.ndarray, bool]:
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{path}: has more than 8 bits per channel (mode {image.mode})"
        )
    bands = image.getbands()
    if "A" in bands or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise ValueError(f"{path}: is partly transparent; give it a background")
    return np.asarray(image.convert("RGB")), bands[0] in ("1", "L")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
