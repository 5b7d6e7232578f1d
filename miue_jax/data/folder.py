"""Image folders: files in one folder per class."""

import concurrent.futures
import contextlib
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from miue_jax._checks import one_line
from miue_jax._rows import RandomRows
from miue_jax.data import aligned, color_profile, memory, picture_kinds, records
from miue_jax.data.dataset import Dataset, of_rows, validate, with_names

SUFFIXES = (".png", ".jpg", ".jpeg")
SPLITS = ("train", "test")

# Whatever the suffix says. Pillow would start another program for some others. MPO is
# read as JPEG; by name it is known to no version of Pillow.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# Copies of an image that are alive while it is decoded and converted.
_COPIES = 5

# Names of the folder of test images if none is called "test".
_VALIDATION = ("val", "validation")


def load(root: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Reads ``root/class/*.png|jpg|jpeg`` or ``root/train|test/class/...``.

    If there is no ``test`` folder, ``val`` or ``validation`` is the split "test".
    Classes and files are sorted. With split folders, the classes of ``train`` give the
    labels of both. Gray images become RGB unless all are gray (then C is 1). The EXIF
    orientation of photographs is applied, and their color profile: pixels are those of
    sRGB, so that what is published shows what was seen. A damaged profile is ignored,
    as viewers do.

    Args:
      root: the folder.
      split: "train" or "test"; a tree without split folders counts as "train".

    Returns:
      The data set, with the names of the files.

    Raises:
      ValueError: naming the folder or file, if there are no images or only one class, a
        class is empty, an image cannot be read, sizes differ, the split is missing,
        images lie beside or below the class folders, pictures or films of other
        formats lie anywhere, an image has more than 8 bits per channel, a link is
        broken, what is named like an image is no file, or there is not enough memory.

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
    paths, labels, names, top = _listed(pathlib.Path(root), split)
    dataset = validate(Dataset(_decode(paths), labels, names))
    return with_names(dataset, [path.relative_to(top).as_posix() for path in paths])


def stream(root: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Opens a folder, as `load` reads it, whose images are decoded when needed.

    Their sizes are read from the files' headers.

    Args:
      root: the folder.
      split: "train" or "test".

    Returns:
      The data set, with the names of the files.

    Raises:
      ValueError: as `load`, reading images, too; or if Grain is not installed.

    Example:
      >>> from miue_jax.data import folder
      >>> folder.stream("photos")  # doctest: +SKIP
    """
    records.check_installed(f"{root}: pictures")
    paths, labels, names, top = _listed(pathlib.Path(root), split)
    images = streamed(len(paths), lambda number: (str(paths[number]), paths[number]))
    dataset = validate(of_rows(images, labels, names))
    return with_names(dataset, [path.relative_to(top).as_posix() for path in paths])


def streamed(count: int, file: Callable[[int], tuple[str, Any]]) -> RandomRows:
    """Opens pictures of one size that are decoded when they are needed.

    Args:
      count: N, how many there are.
      file: number -> the name for messages, and the path or a binary file.

    Returns:
      Rows (N, H, W, C) of uint8; C is 1 if all are gray, else 3.

    Raises:
      ValueError: naming a picture that cannot be read, or has another size.
    """

    def look(number: int) -> tuple[tuple[int, int], bool]:
        with _opened(*file(number)) as image:
            return image.size, image.getbands()[0] in ("1", "L")

    first, _ = _read(*file(0))
    size, all_gray = first.shape[1::-1], True
    with warnings.catch_warnings():
        # The sizes are compared.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        looked = records.ordered(np.arange(count), look)
        for number, (found, gray) in enumerate(looked):
            # Which way it is turned is known when it is decoded.
            if sorted(found) != sorted(size):
                _refuse_size(file(number)[0], found, file(0)[0], size)
            all_gray = all_gray and gray

    def read(number: int) -> np.ndarray:
        name, source = file(number)
        image, _ = _read(name, source)
        if image.shape[1::-1] != size:
            _refuse_size(name, image.shape[1::-1], file(0)[0], size)
        return image[..., :1] if all_gray else image

    channels = 1 if all_gray else 3
    return records.rows(count, (*first.shape[:2], channels), read)


def _refuse_size(
    name: str, found: tuple[int, ...], first: str, size: tuple[int, ...]
) -> NoReturn:
    raise ValueError(
        f"{name}: is {_size(found)}, but {first} is {_size(size)}; all images must "
        "have one size"
    )


def _listed(
    root: pathlib.Path, split: str
) -> tuple[list[pathlib.Path], np.ndarray, tuple[str, ...], pathlib.Path]:
    """The files, their labels, the classes, and the folder of the class folders."""
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
    return paths, np.asarray(labels, np.int32), names, top


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
        # Skipping an image silently would change the data set.
        if not entry.is_file() and entry.suffix.lower() in SUFFIXES:
            what = "a folder" if entry.is_dir() else "no regular file"
            raise ValueError(f"{entry}: is {what} with the name of an image")
    return entries


def _check_no_images(folder: pathlib.Path, where: str) -> None:
    for entry in _entries(folder):
        if not entry.is_file():
            continue
        if entry.suffix.lower() in SUFFIXES:
            raise ValueError(f"{entry}: lies {where}, where no image is read")
        _check_other_kind(entry)


def _check_other_kind(file: pathlib.Path) -> None:
    """Refuses images in other formats: skipped, they would be thought protected."""
    if not picture_kinds.looks_like_picture(file.suffix):
        return
    what = picture_kinds.unsupported(file.suffix)
    raise ValueError(
        f"{file}: {f'is {what}; ' if what else ''}only {', '.join(SUFFIXES)} files can "
        "be read"
    )


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    inside = _folders(folder)
    while inside:
        deeper = inside.pop()
        _check_no_images(deeper, f"deeper than in {folder}")
        inside += _folders(deeper)
    files = [entry for entry in _entries(folder) if entry.is_file()]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            _check_other_kind(file)
    if not images:
        raise ValueError(f"{folder}: holds no {', '.join(SUFFIXES)} files")
    return images


def _decode(paths: list[pathlib.Path]) -> np.ndarray:
    with warnings.catch_warnings():
        # The sizes are compared with the memory there is.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _decode_all(paths)


def _decode_all(paths: list[pathlib.Path]) -> np.ndarray:
    threads = min(os.cpu_count() or 1, len(paths))
    with _opened(str(paths[0]), paths[0]) as image:
        stored = image.size
    memory.check(
        3 * math.prod(stored) * (len(paths) + _COPIES * threads),
        f"{paths[0].parent.parent}: {len(paths)} images of {_size(stored)}",
    )
    first, _ = _read(str(paths[0]), paths[0])
    images = aligned.empty((len(paths), *first.shape))
    size = first.shape[1::-1]
    all_gray = True

    def read(path: pathlib.Path) -> tuple[np.ndarray, bool]:
        with _opened(str(path), path) as opened:
            found = opened.size
        # Before it is decoded: a small file may hold a huge picture. Which way it is
        # turned is not known yet.
        if sorted(found) == sorted(size):
            image, gray = _read(str(path), path)
            found = image.shape[1::-1]
            if found == size:
                return image, gray
        _refuse_size(str(path), found, str(paths[0]), size)

    # Pillow releases the interpreter lock while it decodes; more threads than cores
    # would only compete for it.
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for index, (image, gray) in enumerate(pool.map(read, paths)):
            images[index] = image
            all_gray = all_gray and gray
    finally:
        pool.shutdown(cancel_futures=True)
    return np.ascontiguousarray(images[..., :1]) if all_gray else images


def _size(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


@contextlib.contextmanager
def _opened(name: str, file: Any) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        # Its message has the address of a file in memory, or the name once more.
        raise ValueError(f"{name}: not a readable image") from error
    except Exception as error:  # damaged files provoke any
        reason = one_line(str(error)) or type(error).__name__
        raise ValueError(f"{name}: not a readable image ({reason})") from error


def _read(path: str, file: Any) -> tuple[np.ndarray, bool]:
    with _opened(path, file) as opened:
        # Pillow cuts many to 8, after which nothing tells.
        bits = picture_kinds.bits_per_channel(opened)
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if bits > 8 or image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{path}: has more than 8 bits per channel (mode {image.mode})"
        )
    bands = image.getbands()
    if "A" in bands or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise ValueError(f"{path}: is partly transparent; give it a background")
    gray = bands[0] in ("1", "L")
    plain = image
    if image.mode != "CMYK":
        plain = image.convert("L" if gray else "RGB")
    profile = image.info.get("icc_profile")
    if profile and not color_profile.is_srgb(profile):
        plain = color_profile.to_srgb(plain, profile) or plain
    pixels = np.asarray(plain.convert("RGB"))
    # Converted, channels of a gray picture may differ by one.
    return (pixels[..., 1:2].repeat(3, -1) if gray else pixels), gray
