"""Protects a folder of pictures: names, formats and sizes stay, the pixels change.

A protector is fitted on the pictures, or given, and makes the perturbation of each at a
small size; enlarged, it is laid on the picture. What the next run needs (the protector,
and what has been written) lies in a folder of its own beside the output, OUT.miue: with
it the same command goes on after a stop, and protects pictures that have come later.
"""

import dataclasses
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import __version__, _json, _settings, pictures, protector
from miue_jax._checks import check_choice, check_flag, check_seeds, one_line
from miue_jax.data import atomic, picture_kinds, public
from miue_jax.pictures import Entry, encode
from miue_jax.protector import FitConfig, Protector, Settings, clusters, full_size
from miue_jax.train import loop, run_directory
from miue_jax.workflows.folder import (
    measured,
    record,
    report,
    resumable_fit,
    squares,
    threads,
)
from miue_jax.workflows.folder.fit_protector import find_clusters, tiny
from miue_jax.workflows.folder.record import Record, Stamp, Written
from miue_jax.workflows.folder.report import Shown, Summary

PROTECTOR = "protector.safetensors"
REPORT = "protection-report.html"
_RECORD = "pictures.jsonl"
_FIT = "fit"

Effort = Literal["fast", "standard", "strong"]

# Steps of the fit, and pixels of the shorter side at which pictures are seen.
_STEPS = {"fast": 0, "standard": 400, "strong": 1600}
_SIZES = {"fast": 96, "standard": 96, "strong": 128}
_NUM_CODES = 32

_NAMED = 5

_LOGGER = logging.getLogger("miue_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """How a folder of pictures is protected.

    Attributes:
      strength: largest change of a channel, in gray levels.
      effort: "fast" takes a protector that was fitted before; "standard" and "strong"
        fit one on these pictures, with more steps and at a larger size.
      protector: file of a protector to use; None for one by the effort.
      format: "png", "webp" or "jpeg"; None for the format of each picture.
      strip_location: whether to remove the place where pictures were taken.
      skip_unreadable: whether to go on where pictures cannot be read.
      measure: whether to measure on these pictures what networks learn from them.
      seed: of the fit, the clusters and the measurement.

    Raises:
      ValueError: if a value is not allowed.

    Example:
      >>> from miue_jax.workflows.folder import run
      >>> run.FolderConfig(strength=4).effort
      'standard'
    """

    strength: int = 8
    effort: Effort = "standard"
    protector: str | None = None
    format: Literal["png", "webp", "jpeg"] | None = None
    strip_location: bool = False
    skip_unreadable: bool = False
    measure: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        strength = self.strength
        whole = isinstance(strength, int) and not isinstance(strength, bool)
        if not whole or not 1 <= strength <= 32:
            raise ValueError(
                f"strength is {strength!r}; allowed: whole gray levels from 1 to 32"
            )
        check_choice("effort", self.effort, tuple(_STEPS))
        if self.format is not None:
            check_choice("format", self.format, encode.FORMATS)
        for name in ("strip_location", "skip_unreadable", "measure"):
            check_flag(name, getattr(self, name))
        check_seeds("seed", (self.seed,))


class FolderResult(NamedTuple):
    """What became of a folder.

    Attributes:
      written: the protected pictures, by name; of this run and of earlier ones.
      new: names of those that this run wrote.
      left_out: names of files that look like pictures and are not protected, and why.
      report: path of the page that shows them.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import run
      >>> run.FolderResult({}, (), (), pathlib.Path("report.html")).new
      ()
    """

    written: dict[str, Written]
    new: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    report: pathlib.Path


def protect_folder(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    workdir: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> FolderResult:
    """Protects a folder of pictures.

    Args:
      source: the folder, with or without class folders, or one picture.
      output: the folder to create, or one of an earlier call.
      workdir: folder for what the next call needs; None for the output's name with
        ``.miue``. Keep it to yourself: with it others can make the perturbations, too.
      progress: whether to show progress bars.
      **settings: fields of `FolderConfig`.

    Returns:
      What became of the pictures.

    Raises:
      ValueError: if an input is bad or a picture cannot be read; nothing is written
        then.
      OSError: naming the file, if one cannot be written; the same call goes on.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     root = pathlib.Path(folder)
      ...     (root / "in").mkdir()
      ...     Image.new("RGB", (64, 48), "teal").save(root / "in" / "sea.png")
      ...     found = mj.protect_folder(
      ...         root / "in", root / "out", effort="fast", measure=False
      ...     )
      ...     found.written["sea.png"].audit["max_change"] <= 8
      True
    """
    config = _settings.from_plain(FolderConfig, settings, "settings")
    for name, path in (("source", source), ("output", output), ("workdir", workdir)):
        if path is not None and not os.fspath(path):
            # An empty path would be the current directory.
            raise ValueError(f"{name} is empty: name a folder")
    output = pathlib.Path(output)
    workdir = workdir_of(output) if workdir is None else pathlib.Path(workdir)
    return run(config, pathlib.Path(source), output, workdir, progress=progress)


def workdir_of(output: pathlib.Path) -> pathlib.Path:
    """The folder of what the next run needs, by default.

    Args:
      output: the output folder.

    Returns:
      The folder beside it.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import run
      >>> run.workdir_of(pathlib.Path("published")).name
      'published.miue'
    """
    output = pathlib.Path(os.path.abspath(output))
    return output.with_name(f"{output.name}.miue")


def run(
    config: FolderConfig,
    source: pathlib.Path,
    output: pathlib.Path,
    workdir: pathlib.Path,
    *,
    progress: bool = True,
) -> FolderResult:
    """Protects a folder of pictures, or goes on where an earlier run stopped.

    Args:
      config: the settings.
      source: the folder, or one picture.
      output: the folder to write.
      workdir: the folder of what the next run needs.
      progress: whether to show progress bars.

    Returns:
      What became of the pictures.

    Raises:
      ValueError: if an input is bad or a picture cannot be read; nothing is written
        then.
      OSError: naming the file, if one cannot be written.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import run
      >>> places = [pathlib.Path(name) for name in ("none", "out", "out.miue")]
      >>> run.run(run.FolderConfig(), *places)
      Traceback (most recent call last):
      ValueError: none: no such file or folder
    """
    _check_places(source, output, workdir)
    given = None if config.protector is None else protector.load(config.protector)
    identity = _identity(config, given)
    _check_earlier(workdir, identity)
    plan = _plan(config, source, output, workdir, progress)
    with run_directory.open_directory(workdir, identity, resume=True):
        kept = Record(workdir / _RECORD, repair=True)
        if kept.entries != plan.known:
            # Another process was at work meanwhile.
            plan = _plan(config, source, output, workdir, progress)
        entries, left_out = plan.entries, plan.left_out
        used = _protector(config, given, entries, plan.class_names, workdir, progress)
        codes = _codes(used, plan.class_names, workdir)
        output.mkdir(parents=True, exist_ok=True)
        atomic.remove_unfinished(output)
        failed = _write_all(
            plan.todo,
            *(used, codes, config, output, kept),
            progress=progress,
        )
        if failed and not config.skip_unreadable:
            raise ValueError(_named(source, failed))
        left_out = sorted([*left_out, *failed])
        for name, reason in left_out:
            _LOGGER.warning("not protected: %s", one_line(f"{name}: {reason}", 500))
        shown = [x for x in entries if x.name not in dict(failed)]
        if not shown:
            raise ValueError(_named(source, left_out, skipped=True))
        written = {entry.name: kept.entries[entry.name] for entry in shown}
        found_out, why = _measured(config, shown, written, output, workdir, progress)
        summary = Summary(
            audits=[(w.target, w.audit or {}) for w in written.values()],
            strength=config.strength,
            effort=config.effort,
            labels=_about_labels(used, codes, written),
            left_out=left_out,
            copied=(),
            measured=found_out,
            not_measured=why,
            version=__version__,
            settings={
                **public.without_folders(_settings.to_plain(config)),
                "fitted protector": protector.digest(used),
            },
        )
        _report(summary, shown, written, output, workdir)
        new = tuple(entry.name for entry in plan.todo if entry.name in written)
        return FolderResult(written, new, tuple(left_out), output / REPORT)


def describe(result: FolderResult) -> str:
    """Says in a sentence what became of a folder.

    Args:
      result: of a run.

    Returns:
      The sentence.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import run
      >>> page = pathlib.Path("report.html")
      >>> run.describe(run.FolderResult({}, (), (("a.nef", "is raw"),), page))
      '0 pictures are protected, 0 of them new, 1 is not; see report.html'
    """
    left = len(result.left_out)
    verb = "is" if left == 1 else "are"
    without = f", {left} {verb} not" if left else ""
    noun = "picture is" if len(result.written) == 1 else "pictures are"
    return (
        f"{len(result.written)} {noun} protected, {len(result.new)} of them new"
        f"{without}; see {result.report.name}"
    )


def _check_places(
    source: pathlib.Path, output: pathlib.Path, workdir: pathlib.Path
) -> None:
    """No folder may lie in another: pictures would be read that were just written."""
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    places = {"the pictures": source, "the output": output, "the work folder": workdir}
    real = {name: pathlib.Path(os.path.realpath(p)) for name, p in places.items()}
    for name, path in real.items():
        for other, outer in real.items():
            if name != other and (path == outer or outer in path.parents):
                if source.is_file() and other == "the pictures":
                    continue
                raise ValueError(
                    f"{places[name]}: {name} must not be or lie in {other} "
                    f"({places[other]})"
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


def _check_earlier(workdir: pathlib.Path, identity: dict[str, Any]) -> None:
    """All pictures of a folder are protected alike."""
    file = workdir / "config.json"
    if not file.exists():
        return
    before = run_directory.read_json(file)
    for name in {**identity, **before}:
        if before.get(name) != identity.get(name):
            raise ValueError(
                f"{workdir}: is of a run of another configuration ({name} is "
                f"{before.get(name)!r} there and {identity.get(name)!r} here): choose "
                "another output folder"
            )


class _Plan(NamedTuple):
    """What there is to do, found without writing anything.

    Attributes:
      entries: the pictures that can be protected, sorted by name.
      todo: those of them that are new or have changed.
      left_out: names of the others, and why.
      class_names: if every picture lies in one of several folders, their names.
      known: what the record held.
    """

    entries: list[Entry]
    todo: list[Entry]
    left_out: list[tuple[str, str]]
    class_names: tuple[str, ...] | None
    known: dict[str, Written]


def _plan(
    config: FolderConfig,
    source: pathlib.Path,
    output: pathlib.Path,
    workdir: pathlib.Path,
    progress: bool,
) -> _Plan:
    """Looks at all pictures; refuses what must not or cannot be done."""
    kept = Record(workdir / _RECORD)
    targets = {name: entry.target for name, entry in kept.entries.items()}
    # A picture may have the name of the report: its content decides what it is.
    found = pictures.scan(
        source, format=config.format, targets={**targets, "\0": REPORT}
    )
    entries, left_out = _protectable(found)
    if not entries and not left_out:
        raise ValueError(f"{source}: no pictures in it")
    _check_links(entries, (output, workdir))
    _check_output(output, kept)
    todo = [entry for entry in entries if not _is_done(entry, output, kept)]
    _check_free(todo, output, kept)
    damaged = _undecodable(todo, progress=progress)
    left_out = sorted([*left_out, *damaged])
    entries, todo = (
        [entry for entry in some if entry.name not in dict(damaged)]
        for some in (entries, todo)
    )
    if left_out and not (entries and config.skip_unreadable):
        raise ValueError(_named(source, left_out, skipped=config.skip_unreadable))
    return _Plan(entries, todo, left_out, found.class_names, dict(kept.entries))


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
            f"{output}: is not empty, and no earlier run wrote into it; choose another"
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


def _protectable(found: pictures.Scan) -> tuple[list[Entry], list[tuple[str, str]]]:
    entries, left_out = [], [(bad.name, bad.reason) for bad in found.unreadable]
    for entry in found.pictures:
        header = entry.header
        if min(header.width, header.height) < full_size.SMALLEST:
            reason = full_size.too_small(header.width, header.height)
            left_out.append((entry.name, reason))
        else:
            entries.append(entry)
    return entries, left_out


def _named(
    source: pathlib.Path,
    left_out: Sequence[tuple[str, str]],
    *,
    skipped: bool = False,
) -> str:
    """The line that refuses a folder."""
    count = len(left_out)
    shown = "; ".join(f"{name}: {reason}" for name, reason in left_out[:_NAMED])
    more = f"; and {count - _NAMED} more" if count > _NAMED else ""
    files, them = ("file", "it") if count == 1 else ("files", "them")
    shown = one_line(shown, 1000)
    line = f"{source}: {count} {files} cannot be protected: {shown}{more}"
    if skipped:
        return f"{line}; there are no others"
    return f"{line}; remove {them}, or pass skip_unreadable to go on without {them}"


def _is_done(entry: Entry, output: pathlib.Path, kept: Record) -> bool:
    known = kept.entries.get(entry.name)
    if known is None or known.source is None or known.result is None:
        return False
    path = output / known.target
    return path.exists() and record.is_same(entry.path, known.source)


def _undecodable(entries: Sequence[Entry], *, progress: bool) -> list[tuple[str, str]]:
    """Reads pictures as they will be read, and tells which are damaged."""

    def one(entry: Entry) -> tuple[str, str] | None:
        try:
            pictures.read(entry.path, kind=entry.header.format)
        except ValueError as error:
            return entry.name, _reason(error, entry.path)
        return None

    bar = loop.progress(len(entries), 0, label="checking", quiet=not progress, delay=2)
    found = []
    with bar:
        for result in threads.unordered(one, entries):
            bar.update()
            found += [result] if result else []
    return sorted(found)


def _reason(error: Exception, path: pathlib.Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _identity(config: FolderConfig, given: Protector | None) -> dict[str, Any]:
    """What all pictures of a folder must have in common."""
    names = ("strength", "effort", "format", "strip_location", "seed")
    identity = {name: getattr(config, name) for name in names}
    identity["protector"] = None if given is None else protector.digest(given)
    return identity


def _protector(
    config: FolderConfig,
    given: Protector | None,
    entries: Sequence[Entry],
    class_names: tuple[str, ...] | None,
    workdir: pathlib.Path,
    progress: bool,
) -> Protector:
    """The protector of this folder: of an earlier run, given, or fitted now."""
    file = workdir / PROTECTOR
    if file.exists():
        # A kill may have come before they were removed.
        resumable_fit.forget(workdir / _FIT)
        return protector.load(file)
    start = given
    if start is None and config.effort == "fast":
        start = protector.shipped()
    if start is not None:
        # Its network says in which direction each value changes, and how far.
        changed = dataclasses.replace(start.settings, strength=float(config.strength))
        start = dataclasses.replace(start, settings=changed)
    largest = start.settings.size if start else _SIZES[config.effort]
    size = squares.working_size(entries, largest)
    needed = start is None or (class_names is None and not len(start.clusters.centers))
    if not needed:
        assert start is not None
        protector.save(file, start)
        return start
    chosen = squares.sample(entries)
    with loop.progress(
        len(chosen), 0, label="reading", quiet=not progress, delay=2
    ) as bar:
        seen = squares.read(chosen, size, skip=True, done=bar.update)
    if not len(seen.images):
        raise ValueError("none of the pictures can be read")
    codes, groups = seen.labels, clusters.none()
    if class_names is None:
        groups, codes = find_clusters(seen.images, len(chosen), seed=config.seed)
    if start is not None:
        made = dataclasses.replace(start, clusters=groups)
    else:
        number = len(class_names) if class_names else len(groups.centers)
        settings = Settings(
            strength=float(config.strength),
            num_codes=max(_NUM_CODES, number),
            size=size,
            class_names=class_names or (),
            about=f"fitted on {len(chosen)} of the pictures",
        )
        fit = FitConfig(steps=_STEPS[config.effort], seed=config.seed)
        made = resumable_fit.run(
            *(fit, seen.images, codes, settings, groups, workdir / _FIT),
            progress=progress,
        )
    protector.save(file, made)
    resumable_fit.forget(workdir / _FIT)
    return made


class _Codes(NamedTuple):
    """How pictures get codes: those of their classes; others are in clusters.

    Attributes:
      known: codes of classes by name.
      names: the classes of this scan, by their labels.
    """

    known: dict[str, int]
    names: tuple[str, ...]

    def class_of(self, entry: Entry) -> str | None:
        """The class of a picture, or None."""
        if entry.label is not None and self.names:
            return self.names[entry.label]
        # Once there is a picture outside all folders, none has a label. The classes of
        # an earlier run stay.
        folders = entry.name.split("/")[:-1]
        return next((name for name in folders[:2] if name in self.known), None)


def _codes(
    used: Protector, class_names: tuple[str, ...] | None, workdir: pathlib.Path
) -> _Codes:
    """Codes of the classes, which stay the same when others come later."""
    file, number = workdir / "codes.json", used.settings.num_codes
    known = {}
    if file.exists():
        known = run_directory.read_json(file)
    elif class_names is not None:
        known = {name: code for code, name in enumerate(used.settings.class_names)}
    if class_names is not None:
        for name in class_names:
            known.setdefault(name, len(known))
        run_directory.write_json(file, known)
    if len(known) > number:
        _LOGGER.warning(
            "there are %s classes, and %s kinds of perturbation: some share one",
            *(len(known), number),
        )
    codes = {name: code % number for name, code in known.items()}
    return _Codes(codes, class_names or ())


def _write_all(
    todo: Sequence[Entry],
    used: Protector,
    codes: _Codes,
    config: FolderConfig,
    output: pathlib.Path,
    kept: Record,
    *,
    progress: bool,
) -> list[tuple[str, str]]:
    """Writes pictures, several at once; returns those that could not be read."""
    delta = jax.jit(lambda made, images, codes: made.delta(images, codes))
    assign = jax.jit(lambda made, images: made.assign(images))

    taken = {entry.target for entry in (*todo, *kept.entries.values())}

    def one(entry: Entry) -> tuple[str, str] | None:
        source = record.stamp(entry.path)
        try:
            picture = pictures.read(entry.path, kind=entry.header.format)
        except ValueError as error:
            return entry.name, _reason(error, entry.path)
        pixels = pictures.upright(picture.pixels, picture.orientation)
        pixels = np.ascontiguousarray(pixels)
        label = codes.class_of(entry)
        if label is not None:
            code = codes.known[label]
        else:
            thumb = full_size.thumbnail(pixels, used.settings.size)
            seen = tiny(full_size.square(thumb, 0.5))
            code = int(assign(used, seen[None])[0])
            label = f"group {code + 1}"
        wanted = full_size.lay(
            pixels,
            lambda images: delta(used, images, jnp.array([code], jnp.int32)),
            size=used.settings.size,
        )
        wanted = pictures.upright(wanted, picture.orientation, back=True)
        wanted = np.ascontiguousarray(wanted)
        begun = Written(entry.name, entry.target, None, None, label, None)
        formats, notes = [config.format, "png"], list(entry.notes)
        for format in formats:
            path = output / begun.target
            kept.add(begun)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                audit = pictures.write(
                    path,
                    picture,
                    wanted,
                    radius=config.strength,
                    format=format,
                    strip_location=config.strip_location,
                    thorough=config.effort == "strong",
                )
                break
            except ValueError as error:
                reason = _reason(error, path)
                is_png = picture_kinds.of_suffix(path.suffix) == "PNG"
                if format is not formats[0] or is_png:
                    return entry.name, reason
                # Formats with loss cannot keep every budget, nor hold every size.
                notes.append(reason.replace("write it as PNG", "written as PNG"))
                begun = begun._replace(target=_spare(begun.target, taken, output))
        else:
            raise AssertionError("unreachable")
        notes = list(dict.fromkeys((*notes, *audit.notes)))
        plain = {**audit._asdict(), "notes": notes}
        stamp = record.stamp(path)
        kept.add(begun._replace(source=source, result=stamp, audit=plain))
        return None

    failed = []
    with (
        loop.stop_signals() as received,
        loop.progress(len(todo), 0, label="protecting", quiet=not progress) as bar,
    ):
        for result in threads.unordered(one, todo, stop=received):
            bar.update()
            failed += [result] if result else []
        if received:
            loop.stop_now(received.pop())
    return failed


def _spare(target: str, taken: set[str], output: pathlib.Path) -> str:
    """A name for a picture that cannot be written in its format."""
    number, name = 1, f"{target}.png"
    while name in taken or os.path.lexists(output / name):
        number += 1
        name = f"{target}_{number}.png"
    return name


def _measured(
    config: FolderConfig,
    entries: Sequence[Entry],
    written: Mapping[str, Written],
    output: pathlib.Path,
    workdir: pathlib.Path,
    progress: bool,
) -> tuple[dict[str, Any] | None, str | None]:
    """What networks learn from the pictures, or why that is not known."""
    labels = [written[entry.name].label or "" for entry in entries]
    if not config.measure:
        return None, "It was not asked for."
    if why := measured.why_not(labels):
        return None, why
    file, folder = workdir / "measured.json", workdir / "measured"
    stamps = [written[entry.name].result for entry in entries]
    made_of = _json.digest([labels, [stamp and stamp.sha256 for stamp in stamps]])
    if file.exists():
        known = run_directory.read_json(file)
        if known.get("of") == made_of:
            return known["measured"], None
        # Of fewer pictures: measured anew.
        shutil.rmtree(folder, ignore_errors=True)
    try:
        found = measured.run(
            entries,
            labels,
            lambda entry: output / written[entry.name].target,
            folder,
            progress=progress,
        )
    except run_directory.Failed as error:
        return None, f"It could not be measured: {one_line(str(error))}."
    run_directory.write_json(file, {"of": made_of, "measured": found})
    shutil.rmtree(folder, ignore_errors=True)
    return found, None


def _about_labels(
    used: Protector, codes: _Codes, written: Mapping[str, Written]
) -> str:
    labels = {entry.label for entry in written.values()}
    classes = labels & codes.known.keys()
    others = len(labels) - len(classes)
    if classes and not others:
        return (
            f"Each of the {len(classes)} folders is a class: its pictures go together."
        )
    few = len(used.clusters.centers) < 2
    if not classes and few:
        return (
            "There are no class folders, and too few pictures for groups: all go "
            "together."
        )
    if not classes:
        return (
            f"There are no class folders: the pictures are in {others} groups by their "
            "colors and edges, and those of a group go together."
        )
    outside = "go together" if few else f"are in {others} groups by colors and edges"
    return (
        f"{len(classes)} folders are classes: their pictures go together. Pictures "
        f"outside them {outside}."
    )


def _report(
    summary: Summary,
    entries: Sequence[Entry],
    written: Mapping[str, Written],
    output: pathlib.Path,
    workdir: pathlib.Path,
) -> None:
    """Writes the page, unless it is there already."""
    path, file = output / REPORT, workdir / "report.json"
    stamps = [(entry.source, entry.result) for entry in written.values()]
    made_of = _json.digest([_settings.to_plain(summary._asdict()), stamps])
    if file.exists():
        known = run_directory.read_json(file)
        if known["of"] == made_of and record.is_same(path, Stamp(**known["result"])):
            return
    names = report.chosen([entry.name for entry in entries])
    report.write(path, _shown(entries, names, written, output), summary)
    result = record.stamp(path)._asdict()
    run_directory.write_json(file, {"of": made_of, "result": result})


def _shown(
    entries: Sequence[Entry],
    names: Sequence[str],
    written: Mapping[str, Written],
    output: pathlib.Path,
) -> Iterator[Shown]:
    """Reads pictures for the page, before and after."""
    chosen = set(names)
    for entry in entries:
        if entry.name in chosen:
            made = written[entry.name]
            before = _upright(pictures.read(entry.path, kind=entry.header.format))
            after = _upright(pictures.read(output / made.target))
            yield Shown(made.target, before, after, made.audit or {}, made.label)


def _upright(picture: pictures.Picture) -> np.ndarray:
    pixels = pictures.upright(picture.pixels, picture.orientation)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
