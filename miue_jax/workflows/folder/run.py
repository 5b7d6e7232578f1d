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

import numpy as np

from miue_jax import __version__, _json, _settings, pictures, protector
from miue_jax._checks import check_choice, check_flag, check_seeds, one_line
from miue_jax.data import atomic, public
from miue_jax.pictures import Entry, encode
from miue_jax.protector import FitConfig, Protector, Settings, clusters
from miue_jax.train import loop, run_directory
from miue_jax.workflows.folder import (
    measured,
    plan,
    record,
    report,
    resumable_fit,
    squares,
    writing,
)
from miue_jax.workflows.folder.codes import Codes, assign
from miue_jax.workflows.folder.fit_protector import find_clusters
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
      workdir: the folder of what the next run needs.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import run
      >>> paths = pathlib.Path("report.html"), pathlib.Path("out.miue")
      >>> run.FolderResult({}, (), (), *paths).new
      ()
    """

    written: dict[str, Written]
    new: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    report: pathlib.Path
    workdir: pathlib.Path


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
    plan.check_places(source, output, workdir)
    given = None if config.protector is None else protector.load(config.protector)
    identity = _identity(config, given)
    plan.check_earlier(workdir, identity)
    todo = _plan(config, source, output, workdir, progress)
    with run_directory.open_directory(workdir, identity, resume=True):
        kept = Record(workdir / _RECORD, repair=True)
        if kept.entries != todo.known:
            # Another process was at work meanwhile.
            todo = _plan(config, source, output, workdir, progress)
        entries, left_out = todo.entries, todo.left_out
        used = _protector(config, given, entries, todo.class_names, workdir, progress)
        codes = assign(used, todo.class_names, workdir)
        output.mkdir(parents=True, exist_ok=True)
        atomic.remove_unfinished(output)
        failed = writing.write(
            *(todo.todo, used, codes, output, kept),
            radius=config.strength,
            format=config.format,
            strip_location=config.strip_location,
            thorough=config.effort == "strong",
            progress=progress,
        )
        if failed and not config.skip_unreadable:
            raise ValueError(plan.refusal(source, failed))
        why = "is hidden (its name begins with a dot)"
        left_out = sorted([*left_out, *failed, *((x, why) for x in todo.hidden)])
        for name, reason in left_out:
            _LOGGER.warning("not protected: %s", one_line(f"{name}: {reason}", 500))
        for name, target in sorted(todo.gone):
            _LOGGER.warning(
                "left as it is: %s",
                one_line(f"{output / target}: {name} is no longer in {source}", 500),
            )
        shown = [x for x in entries if x.name not in dict(failed)]
        if not shown:
            raise ValueError(plan.refusal(source, left_out, skipped=True))
        written = {entry.name: kept.entries[entry.name] for entry in shown}
        found_out, why = _measured(config, shown, written, output, workdir, progress)
        summary = Summary(
            audits=[(w.target, w.audit or {}) for w in written.values()],
            strength=config.strength,
            effort=config.effort,
            labels=_about_labels(used, codes, written),
            left_out=left_out,
            measured=found_out,
            not_measured=why,
            version=__version__,
            settings={
                **public.without_folders(_settings.to_plain(config)),
                "fitted protector": protector.digest(used),
            },
        )
        _report(summary, shown, written, output, workdir)
        new = tuple(entry.name for entry in todo.todo if entry.name in written)
        return FolderResult(written, new, tuple(left_out), output / REPORT, workdir)


def describe(result: FolderResult) -> str:
    """Says in two sentences what became of a folder, and what not to publish of it.

    Args:
      result: of a run.

    Returns:
      The sentences.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import run
      >>> paths = pathlib.Path("report.html"), pathlib.Path("out.miue")
      >>> said = run.describe(run.FolderResult({}, (), (("a.nef", "is raw"),), *paths))
      >>> said.partition(". ")[0]
      '0 pictures are protected, 0 of them new, 1 is not; see report.html'
      >>> said.partition(". ")[2][:47]
      'Publish neither that page, which shows the orig'
    """
    left = len(result.left_out)
    verb = "is" if left == 1 else "are"
    without = f", {left} {verb} not" if left else ""
    noun = "picture is" if len(result.written) == 1 else "pictures are"
    return (
        f"{len(result.written)} {noun} protected, {len(result.new)} of them new"
        f"{without}; see {result.report.name}. Publish neither that page, which shows "
        f"the originals, nor {result.workdir.name}, which only a later run needs that "
        "adds pictures"
    )


def _plan(
    config: FolderConfig,
    source: pathlib.Path,
    output: pathlib.Path,
    workdir: pathlib.Path,
    progress: bool,
) -> plan.Plan:
    return plan.find(
        *(source, output, Record(workdir / _RECORD)),
        format=config.format,
        skip_unreadable=config.skip_unreadable,
        reserved=REPORT,
        written=(output, workdir),
        progress=progress,
    )


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
        # They are named when they would be written.
        seen = squares.read(
            chosen, size, skipped=lambda entry, error: None, done=bar.update
        )
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


def _about_labels(used: Protector, codes: Codes, written: Mapping[str, Written]) -> str:
    labels = {entry.label for entry in written.values()}
    classes = labels & codes.known.keys()
    others = len(labels) - len(classes)
    if classes and not others:
        return (
            f"Each of the {len(classes)} folders is a class: its pictures go together."
        )
    few = len(used.clusters.centers) < 2
    if not classes:
        inside = sum("/" in name for name in written)
        why = "There are no class folders"
        if 0 < inside < len(written):
            outside = len(written) - inside
            is_ = "picture lies" if outside == 1 else "pictures lie"
            why = f"Folders are no classes here, as {outside} {is_} outside of them"
        if few:
            return f"{why}, and there are too few pictures for groups: all go together."
        return (
            f"{why}: the pictures are in {others} groups by their colors and edges, "
            "and those of a group go together."
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
