"""Shards of WebDataset: ``.tar`` files in which a sample's files share a name."""

import io
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from miue_jax._checks import one_line
from miue_jax._rows import RandomRows
from miue_jax.data import aligned, folder, memory, picture_kinds, records
from miue_jax.data.dataset import Dataset, of_rows, validate

SUFFIX = ".tar"
SPLITS = ("train", "test")

# Names of the folder of test shards if none is called "test".
_VALIDATION = ("val", "validation")
# One name a line, beside the shards or above the folders of the splits.
_NAMES = "classnames.txt"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class _Index(NamedTuple):
    """Where pictures lie.

    Attributes:
      shards: the files.
      names: of the pictures in them.
      places: (N, 3) int64: the number of the shard, the first byte, the bytes.
      labels: (N,) int32.
    """

    shards: list[pathlib.Path]
    names: list[str]
    places: np.ndarray
    labels: np.ndarray


def is_folder(root: pathlib.Path) -> bool:
    """Tells whether a folder holds shards, perhaps in folders of splits.

    An archive that lies in a folder of pictures is not a shard.

    Args:
      root: the folder.

    Returns:
      Whether it does.

    Example:
      >>> import pathlib
      >>> from miue_jax.data import webdataset
      >>> webdataset.is_folder(pathlib.Path("no-such-folder"))
      False
    """
    inside = (root, *(root / name for name in (*SPLITS, *_VALIDATION)))
    return any(_archives(path) for path in inside) and not any(
        path.suffix.lower() in folder.SUFFIXES
        for depth in ("*/*", "*/*/*")
        for path in root.glob(depth)
    )


def load(root: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Reads ``root/*.tar`` or ``root/train|test/*.tar``.

    A sample is what shares a name up to the first dot: a picture (.png, .jpg, .jpeg)
    and its label, a whole number in a ``.cls`` file, or "label" in a ``.json`` file.
    The order is that of the shards' names, and of the pictures in them. If there is no
    ``test`` folder, ``val`` or ``validation`` is the split "test". The classes are the
    lines of ``classnames.txt`` beside the shards or above the splits; without it they
    are called "0", "1", ... and none may be missing.

    Args:
      root: the folder.
      split: "train" or "test"; a folder without splits counts as "train".

    Returns:
      The data set.

    Raises:
      ValueError: naming the shard and the file in it, if one cannot be read, was cut or
        is compressed, a picture has no label, two labels, another format or another
        size, the split is missing, or there is not enough memory.

    Example:
      >>> from miue_jax.data import webdataset
      >>> webdataset.load("shards")  # doctest: +SKIP
    """
    index, names = _opened(pathlib.Path(root), split)
    rows = _images(index)
    memory.check(rows.size, f"{root}: {len(rows)} images")
    images = aligned.empty(rows.shape)
    rows.gather(np.arange(len(rows)), images)
    return validate(Dataset(images, index.labels, names))


def stream(root: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Opens shards, as `load` reads them, whose images are decoded when needed.

    Args:
      root: the folder.
      split: "train" or "test".

    Returns:
      The data set.

    Raises:
      ValueError: as `load`, reading images, too; or if Grain is not installed.

    Example:
      >>> from miue_jax.data import webdataset
      >>> webdataset.stream("shards")  # doctest: +SKIP
    """
    index, names = _opened(pathlib.Path(root), split)
    return validate(of_rows(_images(index), index.labels, names))


def _archives(path: pathlib.Path) -> list[pathlib.Path]:
    """The shards in a folder, also those that cannot be read as they are compressed."""
    if not path.is_dir():
        return []
    found = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
    return [file for file in found if file.name.endswith((SUFFIX, *_COMPRESSED))]


def _shards(path: pathlib.Path) -> list[pathlib.Path]:
    found = _archives(path)
    for shard in found:
        # Skipping one silently would change the data set.
        if shard.suffix != SUFFIX:
            raise ValueError(
                f"{shard}: is compressed; pictures are read where they lie in a shard: "
                f"decompress it to a {SUFFIX} file"
            )
    return found


def _opened(root: pathlib.Path, split: str) -> tuple[_Index, tuple[str, ...]]:
    """The pictures of a split, and the names of the classes."""
    records.check_installed(f"{root}: shards")
    tests = ("test", *_VALIDATION)
    test = next((root / name for name in tests if _shards(root / name)), root / "test")
    folders = {"train": root / "train", "test": test}
    splits = [name for name in SPLITS if _shards(folders[name])]
    if split not in (splits or ["train"]):
        raise ValueError(
            f"{root}: has no {split!r} split: it must hold train/*{SUFFIX} and "
            f"test/*{SUFFIX}; all of a folder without them is the split 'train'"
        )
    index = _index(_shards(folders[split] if splits else root))
    labels = [index.labels]
    if split == "test" and "train" in splits and not (root / _NAMES).exists():
        # The test labels may lack a class.
        labels.append(_index(_shards(folders["train"])).labels)
    return index, _class_names(root, np.concatenate(labels))


def _class_names(root: pathlib.Path, labels: np.ndarray) -> tuple[str, ...]:
    file = root / _NAMES
    if file.is_file():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: cannot be read ({one_line(str(error))})") from (
                error
            )
        names = tuple(line.strip() for line in lines if line.strip())
        if labels.max() >= len(names):
            raise ValueError(
                f"{file}: names {len(names)} classes, but there is a label "
                f"{labels.max()}"
            )
        return names
    present = np.unique(labels)
    missing = np.flatnonzero(present != np.arange(present.size))
    if missing.size:
        raise ValueError(
            f"{root}: labels must run through 0, 1, 2, ... without a gap, but have "
            f"{present[missing[0]]} and no {missing[0]}; if that is intended, name the "
            f"classes in {_NAMES}"
        )
    return tuple(map(str, range(present.size)))


def _index(shards: list[pathlib.Path]) -> _Index:
    names, places, labels = [], [], []
    for number, shard in enumerate(shards):
        for name, place, label in _samples(shard):
            names.append(name)
            places.append((number, *place))
            labels.append(label)
    if not names:
        raise ValueError(f"{shards[0].parent}: the shards hold no pictures")
    found = np.asarray(places, np.int64), np.asarray(labels, np.int32)
    return _Index(shards, names, *found)


def _samples(shard: pathlib.Path) -> Iterator[tuple[str, tuple[int, int], int]]:
    """The pictures of a shard: name, first byte and bytes, and label."""
    pictures: dict[str, tuple[str, tuple[int, int]]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    if picture_kinds.looks_like_picture(
                        pathlib.PurePosixPath(member.name).suffix
                    ):
                        raise ValueError(f"{member.name}: is no regular file")
                    continue
                parent, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key, suffix = f"{parent}/{stem}", suffix.lower()
                if f".{suffix}" in folder.SUFFIXES:
                    if key in pictures:
                        raise ValueError(f"{member.name}: its name is there twice")
                    place = member.offset_data, member.size
                    pictures[key] = member.name, place
                elif suffix in ("cls", "json"):
                    file = archive.extractfile(member)
                    assert file is not None  # it is a file
                    label = _label(member.name, suffix, file.read())
                    if label is not None and labels.setdefault(key, label) != label:
                        raise ValueError(
                            f"{member.name}: says {label}, and another file of this "
                            f"name says {labels[key]}"
                        )
                elif picture_kinds.looks_like_picture(f".{suffix.rpartition('.')[2]}"):
                    # Skipping it silently would change the data set.
                    raise ValueError(
                        f"{member.name}: only {', '.join(folder.SUFFIXES)} files that "
                        "are named so behind the first dot can be read"
                    )
            _check_end(archive, shard)
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise ValueError(f"{shard}: not a readable shard ({reason})") from error
    except ValueError as error:
        raise ValueError(f"{shard}: {error}") from error
    for key, (name, place) in pictures.items():
        if key not in labels:
            raise ValueError(
                f"{shard}: {name} has no label: a .cls file, or a .json file with "
                "'label', must share its name"
            )
        yield name, place, labels[key]


def _check_end(archive: tarfile.TarFile, shard: pathlib.Path) -> None:
    """Refuses a shard that was cut, or is damaged: tarfile takes either as its end."""
    with shard.open("rb") as file:
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it was cut or damaged: what ends a tar file is not there")


def _label(name: str, suffix: str, data: bytes) -> int | None:
    """The label in a file; None if it is one of other things."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if suffix == "json":
        if not isinstance(value, dict):
            raise ValueError(f"{name}: is not readable JSON")
        if "label" not in value:
            return None
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{name}: holds no label, a whole number from 0 on")
    return value


def _images(index: _Index) -> RandomRows:
    def file(number: int) -> tuple[str, Any]:
        shard, first, size = index.places[number].tolist()
        path = index.shards[shard]
        with path.open("rb") as opened:
            data = os.pread(opened.fileno(), size, first)
        return f"{path}: {index.names[number]}", io.BytesIO(data)

    return folder.streamed(len(index.names), file)
