"""What there is to do in a folder of pictures, found before anything is written."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from miue_jax import pictures
from miue_jax._checks import one_line
from miue_jax.pictures import Entry
from miue_jax.protector import full_size
from miue_jax.train import loop, run_directory
from miue_jax.workflows.folder import record, threads
from miue_jax.workflows.folder.record import Record, Written

# Pictures that a refusal names.
_NAMED = 5


class Plan(NamedTuple):
    """What there is to do, found without writing anything.

    Attributes:
      entries: the pictures that can be protected, sorted by name.
      todo: those of them that are new or have changed.
      left_out: names of the others, and why.
      hidden: names of hidden pictures and of hidden folders of pictures.
      gone: names of pictures that are no longer there, and the files written of them.
      class_names: if every picture lies in one of several folders, their names.
      known: what the record held.

    Example:
      >>> from miue_jax.workflows.folder import plan
      >>> plan.Plan([], [], [], (), [], None, {}).todo
      []
    """

    entries: list[Entry]
    todo: list[Entry]
    left_out: list[tuple[str, str]]
    hidden: tuple[str, ...]
    gone: list[tuple[str, str]]
    class_names: tuple[str, ...] | None
    known: dict[str, Written]


def check_places(
    source: pathlib.Path, output: pathlib.Path, workdir: pathlib.Path
) -> None:
    """Checks that no folder lies in another, and that two can be written.

    Pictures would be read that were just written.

    Args:
      source: the folder of pictures, or one picture.
      output: the folder to write.
      workdir: the folder of what the next run needs.

    Raises:
      ValueError: naming the folder.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import plan
      >>> plan.check_places(*map(pathlib.Path, ("none", "out", "out.miue")))
      Traceback (most recent call last):
      ValueError: none: no such file or folder
    """
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    places = {"the pictures": source, "the output": output, "the work folder": workdir}
    real = {name: pathlib.Path(os.path.realpath(p)) for name, p in places.items()}
    for name, path in real.items():
        for other, outer in real.items():
            if name != other and (path == outer or outer in path.parents):
                if source.is_file() and other == "the pictures":
                    continue
                relation = "be" if path == outer else "lie in"
                raise ValueError(
                    f"{places[name]}: {name} must not {relation} {other} "
                    f"({places[other]}): choose another output folder"
                )
    for name in ("the output", "the work folder"):
        if real[name].exists() and not real[name].is_dir():
            raise ValueError(f"{places[name]}: exists and is not a folder")
        there = next(x for x in (real[name], *real[name].parents) if x.exists())
        if not there.is_dir():
            raise ValueError(f"{places[name]}: {there} is not a folder")
        # Found before the work is done that could not be written.
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{places[name]}: {there} cannot be written to")


def check_earlier(workdir: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Checks that all pictures of a folder are protected alike.

    Args:
      workdir: the folder of what the next run needs.
      identity: what they must have in common.

    Raises:
      ValueError: naming what differs from an earlier run.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import plan
      >>> plan.check_earlier(pathlib.Path("none"), {"strength": 8})
    """
    file = workdir / "config.json"
    if not file.exists():
        return
    before = run_directory.read_json(file)
    for name in {**identity, **before}:
        if before.get(name) != identity.get(name):
            raise ValueError(
                f"{workdir}: is of a run of another configuration "
                f"({run_directory.difference(name, before, identity)}): choose another "
                "output folder"
            )


def find(
    source: pathlib.Path,
    output: pathlib.Path,
    kept: Record,
    *,
    format: str | None,
    skip_unreadable: bool,
    reserved: str,
    written: Sequence[pathlib.Path],
    progress: bool,
) -> Plan:
    """Looks at all pictures; refuses what must not or cannot be done.

    Args:
      source: the folder, or one picture.
      output: the folder to write.
      kept: what earlier runs wrote.
      format: see `miue_jax.pictures.write`.
      skip_unreadable: whether to go on where pictures cannot be read.
      reserved: a name that no picture may have in the output.
      written: folders that are written to; no link may lead into them.
      progress: whether to show a progress bar.

    Returns:
      The plan.

    Raises:
      ValueError: naming what is wrong.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from miue_jax.workflows.folder import plan, record
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     source, output, workdir = (pathlib.Path(folder, x) for x in "abc")
      ...     source.mkdir()
      ...     Image.new("RGB", (64, 48)).save(source / "sea.png")
      ...     found = plan.find(
      ...         *(source, output, record.Record(workdir)),
      ...         format="jpeg",
      ...         skip_unreadable=False,
      ...         reserved="report.html",
      ...         written=(output, workdir),
      ...         progress=False,
      ...     )
      >>> [entry.target for entry in found.todo]
      ['sea.jpg']
    """
    targets = {name: entry.target for name, entry in kept.entries.items()}
    # A picture may have that name: its content decides what it is.
    found = pictures.scan(source, format=format, targets={**targets, "\0": reserved})
    entries, left_out = protectable(found)
    if not entries and not left_out:
        but = " but hidden ones" if found.hidden else ""
        raise ValueError(f"{source}: no pictures in it{but}")
    _check_links(entries, written)
    _check_output(output, kept)
    names = {entry.name for entry in found.pictures}
    gone = [
        (name, entry.target)
        for name, entry in kept.entries.items()
        if name not in names and (output / entry.target).exists()
    ]
    todo = [entry for entry in entries if not _is_done(entry, output, kept)]
    _check_free(todo, output, kept)
    damaged = _undecodable(todo, progress=progress)
    left_out = sorted([*left_out, *damaged])
    entries, todo = (
        [entry for entry in some if entry.name not in dict(damaged)]
        for some in (entries, todo)
    )
    if left_out and not (entries and skip_unreadable):
        raise ValueError(refusal(source, left_out, skipped=skip_unreadable))
    known = dict(kept.entries)
    return Plan(entries, todo, left_out, found.hidden, gone, found.class_names, known)


def _check_links(entries: Sequence[Entry], places: Sequence[pathlib.Path]) -> None:
    """No link may lead to what is written."""
    real = [pathlib.Path(os.path.realpath(place)) for place in places]
    for entry in entries:
        path = pathlib.Path(os.path.realpath(entry.path))
        for place, outer in zip(places, real, strict=True):
            if outer in path.parents:
                raise ValueError(f"{entry.path}: is reached by a link into {place}")


def _check_free(todo: Sequence[Entry], output: pathlib.Path, kept: Record) -> None:
    """What somebody else has put into the output is not replaced."""
    for entry in todo:
        path = output / entry.target
        if entry.name not in kept.entries and os.path.lexists(path):
            raise ValueError(
                f"{path}: exists, and no earlier run wrote it; move it away to have "
                f"{entry.name} protected"
            )


def _check_output(output: pathlib.Path, kept: Record) -> None:
    """Nothing is replaced that was not written by an earlier run."""
    if not output.exists():
        return
    known = {entry.target for entry in kept.entries.values()}
    if not known and any(output.iterdir()):
        raise ValueError(
            f"{output}: is not empty, and no earlier run wrote into it (there is no "
            f"record in {kept.path.parent.name}); choose another"
        )
    for name, entry in kept.entries.items():
        path = output / entry.target
        if entry.result is None or not path.exists():
            continue
        if not record.is_same(path, entry.result):
            raise ValueError(
                f"{path}: was changed since it was written; move it away to have "
                f"{name} protected again"
            )


def protectable(found: pictures.Scan) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Tells which pictures can be protected, as far as their beginnings tell.

    Args:
      found: what a folder holds.

    Returns:
      The pictures, and names of what else looks like one, and why it cannot.

    Example:
      >>> from miue_jax import pictures
      >>> from miue_jax.workflows.folder import plan
      >>> bad = pictures.Unreadable("a.nef", "is raw")
      >>> plan.protectable(pictures.Scan((), (bad,), (), (), (), None))
      ([], [('a.nef', 'is raw')])
    """
    entries, left_out = [], [(bad.name, bad.reason) for bad in found.unreadable]
    for entry in found.pictures:
        header = entry.header
        if min(header.width, header.height) < full_size.SMALLEST:
            reason = full_size.too_small(header.width, header.height)
            left_out.append((entry.name, reason))
        else:
            entries.append(entry)
    return entries, left_out


def refusal(
    source: pathlib.Path,
    left_out: Sequence[tuple[str, str]],
    *,
    skipped: bool = False,
) -> str:
    """The line that refuses a folder.

    Args:
      source: the folder.
      left_out: names of pictures that cannot be protected, and why.
      skipped: whether it was asked to go on without them.

    Returns:
      The line.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import plan
      >>> plan.refusal(pathlib.Path("in"), [("a.nef", "is raw")], skipped=True)
      'in: 1 file cannot be protected: a.nef: is raw; there are no others'
    """
    count = len(left_out)
    shown = "; ".join(f"{name}: {reason}" for name, reason in left_out[:_NAMED])
    more = f"; and {count - _NAMED} more" if count > _NAMED else ""
    files, them = ("file", "it") if count == 1 else ("files", "them")
    shown = one_line(shown, 1000)
    line = f"{source}: {count} {files} cannot be protected: {shown}{more}"
    if skipped:
        return f"{line}; there are no others"
    return (
        f"{line}; remove {them}, or go on without {them} by --skip-unreadable (from "
        "Python skip_unreadable=True)"
    )


def _is_done(entry: Entry, output: pathlib.Path, kept: Record) -> bool:
    known = kept.entries.get(entry.name)
    if known is None or known.source is None or known.result is None:
        return False
    path = output / known.target
    return path.exists() and record.is_same(entry.path, known.source)


def _undecodable(entries: Sequence[Entry], *, progress: bool) -> list[tuple[str, str]]:
    """Reads pictures to their ends, and tells which are damaged."""

    def one(entry: Entry) -> tuple[str, str] | None:
        try:
            pictures.check(entry.path, kind=entry.header.format)
        except ValueError as error:
            return entry.name, reason_of(error, entry.path)
        return None

    bar = loop.progress(len(entries), 0, label="checking", quiet=not progress, delay=2)
    found = []
    with bar:
        for result in threads.unordered(one, entries):
            bar.update()
            found += [result] if result else []
    return sorted(found)


def reason_of(error: Exception, path: pathlib.Path) -> str:
    """What is wrong with a file, without its path.

    Args:
      error: whose message may begin with the path.
      path: of the file.

    Returns:
      The reason.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import plan
      >>> plan.reason_of(ValueError("a.png: is empty"), pathlib.Path("a.png"))
      'is empty'
    """
    return str(error).removeprefix(f"{path}: ")
