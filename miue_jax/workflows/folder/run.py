"""Protects a folder of pictures: names, formats and sizes stay, the pixels change.

A protector is fitted on the pictures, or given, and makes the perturbation of each at a
small size; enlarged, it is laid on the picture. What the next run needs (the protector,
and what has been written) lies in a folder of its own beside the output, OUT.miue: with
it the same command goes on after a stop, and protects pictures that have come later.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import __version__, _json, _settings, pictures, protector
from miue_jax._checks import check_choice, check_flag, check_seeds, one_line
from miue_jax.data import atomic, public
from miue_jax.pictures import Entry, encode
from miue_jax.protector import FitConfig, Protector, Settings, clusters, full_size
from miue_jax.train import loop, run_directory
from miue_jax.workflows.folder import (
    measured,
    record,
    report,
    resumable_fit,
    squares,
)
from miue_jax.workflows.folder.fit_protector import find_clusters, tiny
from miue_jax.workflows.folder.record import Record, Written
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

# Pixels of all pictures that are held at once. One that is larger is alone.
_PIXELS = 12_000_000

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
        if not isinstance(strength, int) or not 1 <= strength <= 32:
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
    """
    _check_places(source, output, workdir)
    given = None if config.protector is None else protector.load(config.protector)
    kept = Record(workdir / _RECORD)
    targets = {name: entry.target for name, entry in kept.entries.items()}
    found = pictures.scan(source, format=config.format, targets=targets)
    entries, left_out = _protectable(found)
    if not entries and not left_out:
        raise ValueError(f"{source}: no pictures in it")
    _check_output(output, kept)
    todo = [entry for entry in entries if not _is_done(entry, output, kept)]
    if not config.skip_unreadable:
        left_out += _undecodable(todo, progress=progress)
        if left_out:
            raise ValueError(_named(source, left_out))
    if not entries:
        raise ValueError(_named(source, left_out))
    with run_directory.open_directory(workdir, _identity(config, given), resume=True):
        used = _protector(config, given, entries, found.class_names, workdir, progress)
        codes = _codes(used, found.class_names, workdir)
        output.mkdir(parents=True, exist_ok=True)
        atomic.remove_unfinished(output)
        failed = _write_all(
            todo,
            *(used, codes, config, output, kept),
            progress=progress,
        )
        left_out = sorted({**dict(left_out), **dict(failed)}.items())
        for name, reason in left_out:
            _LOGGER.warning("not protected: %s", one_line(f"{name}: {reason}", 500))
        names = {entry.name for entry in entries}
        written = {
            name: entry
            for name, entry in kept.entries.items()
            if entry.done and name in names
        }
        if not written:
            raise ValueError(_named(source, left_out))
        shown = [entry for entry in entries if entry.name in written]
        found_out, why = _measured(config, shown, written, output, workdir, progress)
        summary = Summary(
            audits=[(w.target, w.audit or {}) for w in written.values()],
            strength=config.strength,
            effort=config.effort,
            labels=_about_labels(used, found.class_names, written),
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
        pages = report.chosen([entry.name for entry in shown])
        report.write(output / REPORT, _shown(shown, pages, written, output), summary)
        new = tuple(entry.name for entry in todo if entry.name in written)
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
    if not os.fspath(source) or not source.exists():
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
            left_out.append((entry.name, _too_small(header.width, header.height)))
        else:
            entries.append(entry)
    return entries, left_out


def _too_small(width: int, height: int) -> str:
    return (
        f"is {width}x{height}: only pictures of at least {full_size.SMALLEST} pixels a "
        "side can be protected"
    )


def _named(source: pathlib.Path, left_out: Sequence[tuple[str, str]]) -> str:
    """The line that refuses a folder."""
    count = len(left_out)
    shown = "; ".join(f"{name}: {reason}" for name, reason in left_out[:_NAMED])
    more = f"; and {count - _NAMED} more" if count > _NAMED else ""
    files, them = ("file", "it") if count == 1 else ("files", "them")
    shown = one_line(shown, 1000)
    return (
        f"{source}: {count} {files} cannot be protected: {shown}{more}; remove {them}, "
        f"or pass skip_unreadable to go on without {them}"
    )


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
        for result in _in_threads(one, entries):
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
    """How pictures get codes: those of their classes, or None for clusters."""

    classes: list[int] | None
    names: tuple[str, ...]


def _codes(
    used: Protector, class_names: tuple[str, ...] | None, workdir: pathlib.Path
) -> _Codes:
    """Codes of the classes, which stay the same when others come later."""
    if class_names is None:
        return _Codes(None, ())
    file = workdir / "codes.json"
    known = {name: code for code, name in enumerate(used.settings.class_names)}
    if file.exists():
        known = run_directory.read_json(file)
    for name in class_names:
        known.setdefault(name, len(known))
    run_directory.write_json(file, known)
    number = used.settings.num_codes
    if len(known) > number:
        _LOGGER.warning(
            "there are %s classes, and %s kinds of perturbation: some share one",
            *(len(known), number),
        )
    return _Codes([known[name] % number for name in class_names], class_names)


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
    room = _Room(_PIXELS)

    def one(entry: Entry) -> tuple[str, str] | None:
        header = entry.header
        with room.take(header.width * header.height):
            source = record.stamp(entry.path)
            try:
                picture = pictures.read(entry.path, kind=header.format)
            except ValueError as error:
                return entry.name, _reason(error, entry.path)
            pixels = pictures.upright(picture.pixels, picture.orientation)
            pixels = np.ascontiguousarray(pixels)
            if codes.classes is None or entry.label is None:
                thumb = full_size.thumbnail(pixels, used.settings.size)
                seen = tiny(full_size.square(thumb, 0.5))
                code = int(assign(used, seen[None])[0])
                label = f"group {code + 1}"
            else:
                code = codes.classes[entry.label]
                label = codes.names[entry.label]
            wanted = full_size.lay(
                pixels,
                lambda images: delta(used, images, jnp.array([code], jnp.int32)),
                size=used.settings.size,
            )
            wanted = pictures.upright(wanted, picture.orientation, back=True)
            kept.add(Written(entry.name, entry.target, None, None, label, None))
            path = output / entry.target
            path.parent.mkdir(parents=True, exist_ok=True)
            audit = pictures.write(
                path,
                picture,
                np.ascontiguousarray(wanted),
                radius=config.strength,
                format=config.format,
                strip_location=config.strip_location,
                thorough=config.effort == "strong",
            )
            notes = [*entry.notes, *audit.notes]
            plain = {**audit._asdict(), "notes": notes}
            stamp = record.stamp(path)
            kept.add(Written(entry.name, entry.target, source, stamp, label, plain))
        return None

    failed = []
    with (
        loop.stop_signals() as received,
        loop.progress(len(todo), 0, label="protecting", quiet=not progress) as bar,
    ):
        for result in _in_threads(one, todo, stop=received):
            bar.update()
            failed += [result] if result else []
        if received:
            loop.stop_now(received.pop())
    return failed


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
    found = measured.run(
        entries,
        labels,
        lambda entry: output / written[entry.name].target,
        folder,
        progress=progress,
    )
    run_directory.write_json(file, {"of": made_of, "measured": found})
    shutil.rmtree(folder, ignore_errors=True)
    return found, None


def _about_labels(
    used: Protector,
    class_names: tuple[str, ...] | None,
    written: Mapping[str, Written],
) -> str:
    count = len({entry.label for entry in written.values()})
    if class_names is not None:
        return f"Each of the {count} folders is a class: its pictures go together."
    if len(used.clusters.centers) < 2:
        return (
            "There are no class folders, and too few pictures for groups: all go "
            "together."
        )
    return (
        f"There are no class folders: the pictures are in {count} groups by their "
        "colors and edges, and those of a group go together."
    )


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


def _in_threads(
    function: Callable[[Entry], Any],
    entries: Sequence[Entry],
    stop: Sequence[object] = (),
) -> Iterator[Any]:
    """Yields results as they come; few are begun before they are needed."""
    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        left = iter(entries)
        waiting: set[concurrent.futures.Future[Any]] = set()
        while True:
            while len(waiting) < 2 * workers and not stop:
                entry = next(left, None)
                if entry is None:
                    break
                waiting.add(pool.submit(function, entry))
            if not waiting:
                return
            done, waiting = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                yield future.result()


class _Room:
    """Lets pictures in while their pixels together are few enough."""

    def __init__(self, pixels: int):
        self._pixels = pixels
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Waits for room; one that is larger than all of it waits to be alone."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken or self._taken + pixels <= self._pixels
            )
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()
