"""The pictures of a folder, and what only looks like one."""

import errno
import os
import pathlib
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from miue_jax.data import picture_kinds
from miue_jax.pictures import encode
from miue_jax.pictures.picture import Header, read_header

# Files and folders that systems leave behind, and archives of their forks.
_JUNK = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"),
        *("$recycle.bin", "system volume information"),
    )
)
_SPLITS = frozenset(("train", "test", "val", "validation"))
# Their first bytes are those of many texts.
_WEAK = ("PPM", "BMP")


class Entry(NamedTuple):
    """A picture that can be protected, as far as its beginning tells.

    Attributes:
      name: its path below the folder, with forward slashes.
      path: its path.
      header: its format and size.
      target: the path of the file to write, below the folder for these.
      label: its class, or None.
      notes: sentences on what is unusual about it.

    Example:
      >>> import pathlib
      >>> from miue_jax import pictures
      >>> header = pictures.Header("PNG", 64, 48, False)
      >>> path = pathlib.Path("in/a.png")
      >>> pictures.Entry("a.png", path, header, "a.png", None, ()).name
      'a.png'
    """

    name: str
    path: pathlib.Path
    header: Header
    target: str
    label: int | None
    notes: tuple[str, ...]


class Unreadable(NamedTuple):
    """What looks like a picture and cannot be protected.

    Attributes:
      name: its path below the folder, with forward slashes.
      reason: why, in words.

    Example:
      >>> from miue_jax import pictures
      >>> pictures.Unreadable("a.png", "is empty").reason
      'is empty'
    """

    name: str
    reason: str


class Scan(NamedTuple):
    """What a folder holds; everything in it is in one of the lists.

    Attributes:
      pictures: those that can be protected, sorted by name.
      unreadable: what else looks like a picture or a film, sorted by name.
      others: names of plain other files: texts, sidecars.
      ignored: names of hidden files and of those that systems leave behind; of folders
        of this kind only the name.
      hidden: those of them that are pictures or hold some, and begin with a dot.
      class_names: if every picture lies in one of several folders, their names.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     pathlib.Path(folder, "notes.txt").touch()
      ...     pictures.scan(folder).others
      ('notes.txt',)
    """

    pictures: tuple[Entry, ...]
    unreadable: tuple[Unreadable, ...]
    others: tuple[str, ...]
    ignored: tuple[str, ...]
    hidden: tuple[str, ...]
    class_names: tuple[str, ...] | None


def scan(
    root: str | os.PathLike[str],
    *,
    format: str | None = None,
    targets: Mapping[str, str] | None = None,
) -> Scan:
    """Finds the pictures of a folder and of those below it.

    The content of a file decides on what it is; its suffix, of any case, only whether
    a person would take it for a picture. Links are followed.

    Args:
      root: the folder, or one picture.
      format: the format that is asked for, see `miue_jax.pictures.write`.
      targets: the targets of an earlier scan by name, which stay.

    Returns:
      What was found. The targets differ on every file system, also where it ignores
      case.

    Raises:
      ValueError: if there is no such file or folder, or it cannot be listed, or the
        format is unknown.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax import pictures
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("sea.jpg", "sea.png"):
      ...         Image.new("RGB", (64, 48)).save(pathlib.Path(folder, name))
      ...     _ = pathlib.Path(folder, "sky.heic").write_bytes(b"")
      ...     found = pictures.scan(folder, format="png")
      >>> [entry.target for entry in found.pictures]
      ['sea.jpg.png', 'sea.png']
      >>> found.unreadable
      (Unreadable(name='sky.heic', reason='not a readable picture (it is empty)'),)
    """
    root = pathlib.Path(root)
    encode.target("PNG", False, format)
    pictures: list[tuple[str, pathlib.Path, Header]] = []
    unreadable: list[Unreadable] = []
    others: list[str] = []
    ignored: list[str] = []
    hidden: list[str] = []
    if root.is_dir():
        try:
            os.listdir(root)
        except OSError as error:
            raise ValueError(f"{root}: cannot be listed ({error.strerror})") from error
        files = _walk(root, "", (os.path.realpath(root),), ignored, hidden)
    elif root.exists():
        files = iter([(root.name, root, None)])
    else:
        raise ValueError(f"{root}: no such file or folder")
    for name, path, problem in files:
        named = picture_kinds.looks_like_picture(path.suffix)
        found = problem or _look(path, named)
        if isinstance(found, Header):
            pictures.append((name, path, found))
        elif found is None or (problem and not named and path.suffix):
            others.append(name)
        else:
            unreadable.append(Unreadable(name, found))
    pictures.sort()
    classes = _classes([name for name, _, _ in pictures])
    names = tuple(sorted(set(classes))) if classes else None
    chosen = _targets([(n, h) for n, _, h in pictures], format, targets or {})
    entries = []
    for index, (name, path, header) in enumerate(pictures):
        label = names.index(classes[index]) if names and classes else None
        target, notes = chosen[name]
        notes = (*_misnamed(path.suffix, header.format), *notes)
        entries.append(Entry(name, path, header, target, label, notes))
    return Scan(
        tuple(entries),
        tuple(sorted(unreadable)),
        tuple(sorted(others)),
        tuple(sorted(ignored)),
        tuple(sorted(hidden)),
        names,
    )


def _walk(
    folder: pathlib.Path,
    prefix: str,
    above: tuple[str, ...],
    ignored: list[str],
    hidden: list[str],
) -> Iterator[tuple[str, pathlib.Path, str | None]]:
    """Yields names, paths, and what is wrong with what is no regular file."""
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.name.startswith(".") or path.name.lower() in _JUNK:
            ignored.append(name)
            if path.name.startswith(".") and _holds_pictures(path):
                hidden.append(name)
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            missing = error.errno == errno.ENOENT
            loop = "is a link to itself" if error.errno == errno.ELOOP else None
            reason = "is a link to nothing" if missing else loop
            yield name, path, reason or f"cannot be read ({error.strerror})"
            continue
        if stat.S_ISDIR(mode):
            real = os.path.realpath(path)
            if real in above:
                yield name, path, "is a link to a folder that it lies in"
            elif not os.access(path, os.R_OK | os.X_OK):
                yield name, path, "is a folder that cannot be listed"
            else:
                yield from _walk(path, f"{name}/", (*above, real), ignored, hidden)
        elif stat.S_ISREG(mode):
            yield name, path, None
        else:
            yield name, path, "is a pipe or a device, not a file"


def _holds_pictures(path: pathlib.Path) -> bool:
    """Whether a hidden file is a picture, or a hidden folder holds a file named so."""
    if path.is_file():
        return _look(path, named=False) is not None
    suffixes = (
        os.path.splitext(name)[1] for _, _, names in os.walk(path) for name in names
    )
    return any(picture_kinds.looks_like_picture(suffix) for suffix in suffixes)


def _look(path: pathlib.Path, named: bool) -> Header | str | None:
    """Returns the header of a picture, why it cannot be read, or None for others."""
    try:
        with path.open("rb") as file:
            head = file.read(picture_kinds.HEAD)
    except OSError as error:
        return f"cannot be read ({error.strerror})" if named else None
    kind, what = picture_kinds.of_content(head)
    if not named and kind is None and what is None:
        return None
    try:
        return read_header(path)
    except ValueError as error:
        if not named and kind in _WEAK:
            return None
        return str(error).removeprefix(f"{path}: ")


def _classes(names: list[str]) -> list[str] | None:
    """Returns the class folder of every picture, or None if there are no classes."""
    parts = [name.split("/") for name in names]
    # What holds train and test holds the classes in these.
    if all(len(part) > 2 and part[0].lower() in _SPLITS for part in parts):
        parts = [part[1:] for part in parts]
    if not all(len(part) > 1 for part in parts):
        return None
    first = [part[0] for part in parts]
    return first if len(set(first)) > 1 else None


def _misnamed(suffix: str, kind: str) -> tuple[str, ...]:
    named = picture_kinds.of_suffix(suffix)
    if named == kind:
        return ()
    called = f"named like {named}" if named else f"its name ends in {suffix!r}"
    return (f"its content is {kind}, {called}: read as {kind}",)


def _targets(
    pictures: list[tuple[str, Header]], asked: str | None, earlier: Mapping[str, str]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    taken = {_key(target) for target in earlier.values()}
    # A file cannot have the name of a folder.
    for name, _ in pictures:
        taken |= {_key(str(x)) for x in pathlib.PurePosixPath(name).parents}
    chosen: dict[str, tuple[str, tuple[str, ...]]] = {}
    later = []
    for name, header in pictures:
        kind, note = encode.target(header.format, header.transparent, asked)
        notes = (note,) if note else ()
        wanted = _renamed(name, header.format, kind)
        if name in earlier:
            chosen[name] = earlier[name], notes
        elif wanted == name and _key(name) not in taken:
            # The names of those that keep theirs are given first.
            taken.add(_key(name))
            chosen[name] = name, notes
        else:
            later.append((name, wanted, encode.suffix(kind), notes))
    for name, wanted, suffix, notes in later:
        target, number = wanted, 1
        while _key(target) in taken:
            target = f"{name}{suffix}" if number == 1 else f"{name}_{number}{suffix}"
            number += 1
        taken.add(_key(target))
        if target != wanted:
            notes = (*notes, f"written as {target}: {wanted} is another picture")
        chosen[name] = target, notes
    return chosen


def _renamed(name: str, kind: str, target: str) -> str:
    path = pathlib.PurePosixPath(name)
    if kind == target or picture_kinds.of_suffix(path.suffix) == target:
        return name
    known = picture_kinds.looks_like_picture(path.suffix)
    stem = name[: -len(path.suffix)] if known else name
    return stem + encode.suffix(target)


def _key(name: str) -> str:
    # What file systems compare that ignore case and the composition of accents.
    return unicodedata.normalize("NFC", name.casefold())
