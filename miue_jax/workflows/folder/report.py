"""The report on a protected folder: one page with pictures, numbers and limits.

The page is one file that loads nothing from anywhere. It shows the originals, so that
it is for its owner alone, and says so.
"""

import base64
import heapq
import importlib.resources
import io
import json
import math
import os
import statistics
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from miue_jax._checks import check_choice, check_number
from miue_jax.data import atomic
from miue_jax.workflows.folder import histogram, markup

EFFORTS = ("fast", "standard", "strong")

# Longest side of a preview and of the drawing of a difference, in pixels.
_SIDE, _SMALL_SIDE = 512, 384
# At these qualities of JPEG, without subsampling, a preview keeps the change, and a
# page of 120 pictures some 20 MB. WebP takes ten times as long, and keeps less of it.
_QUALITY, _SMALL_QUALITY = 90, 75
# On the page, a tall picture is no higher than this, and a tiny one no smaller.
_TALLEST, _SMALLEST = 460, 240
_MAGNIFY = 16
# Rows of a picture that are subtracted at once hold about this many numbers, which fit
# into the cache of a processor.
_NUMBERS = 2**16
# Names that are listed before the rest is folded, and rows of the table of numbers.
_FEW = 20
_MOST_ROWS, _LOWEST_ROWS = 2000, 200
# Formats that are not spelled as Pillow names them.
_SPELLED = {"WEBP": "WebP", "JPEG2000": "JPEG 2000", "HEIF": "HEIC"}
# Shares of what a network learns from the originals: with less than the one, nothing
# can be said, and with more than the other from the protected ones, they are weak.
_TOO_LITTLE, _WEAK = 0.1, 0.5


class Shown(NamedTuple):
    """A picture to show, before and after.

    Attributes:
      name: path of the written file below the output folder, with forward slashes.
      before: (H, W, 3) uint8, the original, upright, at full size.
      after: (H, W, 3) uint8, the same of the written file, as it was read back.
      audit: the fields of `miue_jax.pictures.Audit`.
      label: name of its class or cluster, or None.

    Example:
      >>> import numpy as np
      >>> from miue_jax.workflows.folder import report
      >>> pixels = np.zeros((48, 64, 3), np.uint8)
      >>> report.Shown("sea.png", pixels, pixels, {}, None).name
      'sea.png'
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    audit: Mapping[str, Any]
    label: str | None


class Summary(NamedTuple):
    """What is said about all pictures.

    Attributes:
      audits: name and fields of `miue_jax.pictures.Audit` of every written picture.
      strength: the budget, in gray levels.
      effort: "fast", "standard" or "strong".
      labels: a sentence on where the labels came from.
      left_out: names of files that look like pictures and were not protected, and why.
      measured: what small networks learned. "chance", "classes", "train_images",
        "test_images", "seeds", "victim" (a description), and "rows": for each way in
        which they saw pictures, "seen" (a description) and the accuracies in [0, 1] on
        new, clean pictures for each seed, "clean" and "protected". None if nothing was
        measured.
      not_measured: why nothing was measured, a sentence; None if something was.
      version: of the library.
      settings: plain JSON.

    Example:
      >>> from miue_jax.workflows.folder import report
      >>> labels, why = "Each folder is a class.", "There are too few pictures."
      >>> summary = report.Summary(
      ...     [], 8, "fast", labels, [], None, why, "0.1.0", {}
      ... )
      >>> summary.strength
      8
    """

    audits: Sequence[tuple[str, Mapping[str, Any]]]
    strength: int
    effort: str
    labels: str
    left_out: Sequence[tuple[str, str]]
    measured: Mapping[str, Any] | None
    not_measured: str | None
    version: str
    settings: Mapping[str, Any]


def write(
    path: str | os.PathLike[str], shown: Iterable[Shown], summary: Summary
) -> None:
    """Writes the report, one HTML file.

    Args:
      path: the file to create or replace; its parent folder must exist.
      shown: the pictures to show; each is taken when the one before it is written, and
        not kept.
      summary: what is said about all of them.

    Raises:
      ValueError: if the strength, the effort or what was measured is not as `Summary`
        has it, or a picture not as `Shown` has it; or the file cannot be created.
      OSError: naming the file, if it cannot be written; nothing is left behind.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from miue_jax.workflows.folder import report
      >>> audit = dict(format="PNG", lossless=True, max_change=3, psnr=38.6, ssim=None)
      >>> audit |= dict(kept=1.0, bytes_before=900, bytes_after=950, notes=())
      >>> pixels = np.full((8, 8, 3), 90, np.uint8)
      >>> picture = report.Shown("sea.png", pixels, pixels + np.uint8(3), audit, "sea")
      >>> summary = report.Summary(
      ...     [("sea.png", audit)], 8, "fast", "Each folder is a class.", [],
      ...     None, "There are too few pictures.", "0.1.0", {"strength": 8},
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "report.html")
      ...     report.write(path, iter([picture]), summary)
      ...     "Do not publish this page" in path.read_text(encoding="utf-8")
      True
    """
    _check(summary)
    head, card, tail = _templates()
    # The parts below the pictures are made first: what is wrong is found before hours
    # of work on pictures are lost.
    top, below = head.substitute(_head(summary)), _tail(summary)
    with atomic.write_file(path) as file:
        file.write(top.encode())
        number = 0
        for picture in shown:
            number += 1
            file.write(card.substitute(_card(picture, number)).encode())
            # While the next one is made, this one takes no memory.
            del picture
        below["shown"] = _shown(number, len(summary.audits))
        file.write(tail.substitute(below).encode())


def chosen(names: Sequence[str], most: int = 120) -> list[str]:
    """Chooses the pictures to show.

    Args:
      names: of all pictures, in their order.
      most: how many may be chosen.

    Returns:
      All names, or as many as may be, evenly spaced from the first to the last.

    Raises:
      ValueError: if `most` is no whole number above 0.

    Example:
      >>> from miue_jax.workflows.folder import report
      >>> report.chosen(["a", "b", "c", "d", "e"], most=3)
      ['a', 'c', 'e']
    """
    check_number("most", most, "> 0", whole=True)
    if len(names) <= most:
        return list(names)
    if most == 1:
        return [names[0]]
    return [names[k * (len(names) - 1) // (most - 1)] for k in range(most)]


def _check(summary: Summary) -> None:
    check_number("strength", summary.strength, "> 0", whole=True)
    check_choice("effort", summary.effort, EFFORTS)
    if (summary.measured is None) == (not summary.not_measured):
        raise ValueError(
            "either measured or not_measured must be given, got "
            f"{'neither' if summary.measured is None else 'both'}"
        )
    if summary.measured is not None and not summary.measured["rows"]:
        raise ValueError("measured must have a row, got none")


def _templates() -> tuple[string.Template, string.Template, string.Template]:
    """What stands before the cards, a card, and what stands after them."""
    page = importlib.resources.files("miue_jax.workflows.folder") / "report.html"
    parts = page.read_text(encoding="utf-8").split("<!-- card -->\n")
    head, card, tail = map(string.Template, parts)
    return head, card, tail


# The top of the page.


def _head(summary: Summary) -> dict[str, str]:
    audits = [audit for _, audit in summary.audits]
    pictures = markup.count(len(audits), "picture")
    levels = markup.count(summary.strength, "gray level")
    are = "is" if len(audits) == 1 else "are"
    if audits:
        largest = max(audit["max_change"] for audit in audits)
        lead = (
            f"<strong>{pictures}</strong> {are} protected, at a strength of "
            f"<strong>{levels}</strong> of 255, with {summary.effort} effort. Read "
            "back from the written files, no color of any pixel is off by more than "
            f"{largest}."
        )
    else:
        lead = "<strong>No picture</strong> is protected."
    return {
        "title": markup.text(f"{pictures} protected"),
        "lead": lead,
        "labels": markup.text(summary.labels),
        "left_out": _left_out(summary.left_out),
    }


def _left_out(files: Sequence[tuple[str, str]]) -> str:
    """A section that names files and why they are not protected."""
    if not files:
        return "<p>Nothing that looks like a picture was left out.</p>"

    def items(some: Sequence[tuple[str, str]]) -> str:
        return "".join(
            f"<li>{_name(name)} <span>{markup.text(why)}</span></li>"
            for name, why in some
        )

    shown = f'<ul class="files">{items(files[:_FEW])}</ul>'
    if len(files) > _FEW:
        shown += (
            f"<details><summary>{len(files) - _FEW:,} more</summary>"
            f'<ul class="files">{items(files[_FEW:])}</ul></details>'
        )
    look = "looks like a picture and was" if len(files) == 1 else None
    return (
        '<section class="unprotected" aria-labelledby="left-out"><h2 id="left-out">'
        f"Not protected</h2><p>{markup.count(len(files), 'file')} "
        f"{look or 'look like pictures and were'} left out.</p>{shown}</section>"
    )


def _name(name: str) -> str:
    # Isolated, so that letters from right to left stay within it; a path runs to the
    # right whatever its letters.
    return f'<bdi class="name" dir="ltr">{markup.text(name)}</bdi>'


# The cards.


def _card(picture: Shown, number: int) -> dict[str, str]:
    name, before, after, audit, label = picture
    for pixels in (before, after):
        if (
            pixels.dtype != np.uint8
            or pixels.shape != before.shape
            or pixels.ndim != 3
            or pixels.shape[-1] != 3
            or not pixels.size
        ):
            raise ValueError(
                f"{name}: before and after must be uint8 of one shape (H, W, 3), got "
                f"{before.dtype} {before.shape} and {after.dtype} {after.shape}"
            )
    height, width = before.shape[:2]
    first, (wide, tall) = _preview(before, _SIDE, _QUALITY)
    second, _ = _preview(after, _SIDE, _QUALITY)
    third, (small_wide, small_tall) = _preview(
        _difference(before, after), _SMALL_SIDE, _SMALL_QUALITY
    )
    scale = min(_TALLEST / tall, max(1, _SMALLEST / max(wide, tall)))
    facts = _facts(audit)
    facts["Pixels"] = f"{width:,}\u00a0\u00d7\u00a0{height:,}"
    notes = "".join(f"<li>{markup.text(note)}</li>" for note in audit["notes"])
    return {
        "number": str(number),
        "name": markup.text(name),
        "label": "" if label is None else f'<p class="label">{markup.text(label)}</p>',
        "before": first,
        "after": second,
        "difference": third,
        "wide": str(wide),
        "tall": str(tall),
        "width": str(max(1, round(wide * scale))),
        "small_wide": str(small_wide),
        "small_tall": str(small_tall),
        "pixels": f"{width} by {height} pixels",
        "tiny": " tiny" if scale > 1 else "",
        "facts": "".join(
            f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts.items()
        ),
        "notes": f'<ul class="notes">{notes}</ul>' if notes else "",
    }


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The change, magnified around middle gray."""
    result = np.empty(before.shape, np.uint8)
    step = max(1, _NUMBERS // before[0].size)
    for row in range(0, len(before), step):
        rows = slice(row, row + step)
        change = after[rows].astype(np.int16) - before[rows]
        change *= _MAGNIFY
        change += 128
        result[rows] = change.clip(0, 255, out=change)
    return result


def _preview(
    pixels: np.ndarray, side: int, quality: int
) -> tuple[str, tuple[int, int]]:
    """Returns a picture of a longest side as a data URI, and its width and height."""
    image = Image.fromarray(pixels)
    scale = min(1, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    if (width, height) != image.size:
        # Means over whole pixels come first, which is fast.
        image = image.resize(
            (width, height), Image.Resampling.BILINEAR, reducing_gap=1.0
        )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/jpeg;base64,{data}", (width, height)


def _facts(audit: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a picture as markup, by their names."""
    psnr, ssim = _finite(audit["psnr"]), _finite(audit["ssim"])
    return {
        "PSNR": "unchanged" if psnr is None else f"{psnr:.1f}\u00a0dB",
        "SSIM": "too small" if ssim is None else f"{ssim:.3f}",
        "Largest change": markup.count(audit["max_change"], "level"),
        "Kept": markup.percent(audit["kept"]),
        "Format": _format(audit),
        "Size before": markup.size(audit["bytes_before"]),
        "Size after": markup.size(audit["bytes_after"]),
    }


def _format(audit: Mapping[str, Any]) -> str:
    name = _SPELLED.get(audit["format"], audit["format"])
    # Of this one alone, both kinds are usual.
    exact = audit["format"] == "WEBP" and audit["lossless"]
    return markup.text(f"{name}, lossless" if exact else name)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# What stands below the cards.


def _shown(number: int, total: int) -> str:
    if not number:
        return "No picture is shown."
    if number >= total:
        return f"{markup.count(number, 'picture')}."
    return (
        f"{number:,} of {markup.count(total, 'picture')}, evenly spaced in the order "
        "of their names. The numbers further below are those of all of them."
    )


def _tail(summary: Summary) -> dict[str, str]:
    settings = json.dumps(summary.settings, indent=2, ensure_ascii=False)
    return {
        "histograms": _histograms(summary),
        "numbers": _numbers(summary.audits),
        "measured": _measured(summary.measured)
        if summary.measured is not None
        else f"<p>{markup.text(summary.not_measured)}</p>",
        "settings": markup.text(settings, lines=True),
        "version": markup.text(summary.version),
    }


def _histograms(summary: Summary) -> str:
    if not summary.audits:
        return ""
    found = [_finite(audit["psnr"]) for _, audit in summary.audits]
    psnr = [value for value in found if value is not None]
    changes = [audit["max_change"] for _, audit in summary.audits]
    drawn = histogram.figure(psnr, title="PSNR", unit="decibels")
    drawn += histogram.figure(
        changes,
        title="Largest change",
        unit="gray levels",
        whole=True,
        upto=summary.strength,
    )
    same = len(found) - len(psnr)
    note = ""
    if same:
        is_ = "is" if same == 1 else "are"
        note = (
            f"<p>{markup.count(same, 'picture')} {is_} unchanged: PSNR has no value "
            "there.</p>"
        )
    return f'<div class="histograms">{drawn}</div>{note}'


def _numbers(audits: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The table of all pictures, or of those that changed the most."""
    if not audits:
        return "<p>There are no numbers without pictures.</p>"
    rows, title = list(audits), f"The numbers of {markup.count(len(audits), 'picture')}"
    if len(audits) == 1:
        title = "The numbers of the picture"
    if len(audits) > _MOST_ROWS:

        def quality(row: tuple[str, Mapping[str, Any]]) -> float:
            psnr = _finite(row[1]["psnr"])
            return math.inf if psnr is None else psnr

        rows = heapq.nsmallest(_LOWEST_ROWS, audits, key=quality)
        title = (
            f"The {_LOWEST_ROWS} pictures of lowest PSNR: {len(audits):,} rows would "
            "be too many"
        )
    columns = list(_facts(rows[0][1]))
    cells = ([_name(name), *_facts(audit).values()] for name, audit in rows)
    shown = markup.table(title, ["Picture", *columns], cells, kind="numbers")
    opened = " open" if len(rows) <= _FEW else ""
    return f"<details{opened}><summary>{title}</summary>{shown}</details>"


def _measured(measured: Mapping[str, Any]) -> str:
    chance, rows = measured["chance"], measured["rows"]
    means = [
        (statistics.fmean(row["clean"]), statistics.fmean(row["protected"]))
        for row in rows
    ]
    clean, protected = means[0]
    words = [
        f'<p class="finding">A small network trained on your pictures recognizes '
        f"<strong>{markup.percent(clean)}</strong> of new ones; trained on the "
        f"protected ones, <strong>{markup.percent(protected)}</strong>; guessing gives "
        f"{markup.percent(chance)}.</p>"
    ]
    words += [f"<p>{sentence}</p>" for sentence in _cautions(measured, means)]
    seeds = measured["seeds"]
    cells = [
        [markup.text(row["seen"]), *(_bar(row[key], chance) for key in _LEARNED)]
        for row in rows
    ]
    shown = markup.table(
        "New pictures recognized, for each way in which the network saw the pictures "
        "it was trained on",
        ["Pictures as the network sees them", *_LEARNED.values()],
        cells,
        kind="measured",
    )
    runs = ""
    if len(seeds) > 1:
        listed = ", ".join(markup.text(seed) for seed in seeds)
        runs = (
            f" Large numbers are means of {len(seeds)} trainings, small ones the single"
            f" trainings (seeds {listed})."
        )
    classes = markup.count(measured["classes"], "class", "classes")
    return (
        f"{''.join(words)}{shown}"
        f'<p class="origin">{markup.text(measured["victim"])}, trained from scratch on '
        f"{markup.count(measured['train_images'], 'picture')} of {classes} and tested "
        f"on {markup.count(measured['test_images'], 'other picture')}, which are not "
        f"protected. The line in each bar is guessing, {markup.percent(chance, 1)}."
        f"{runs}</p>"
    )


_LEARNED = {
    "clean": "Trained on your originals",
    "protected": "Trained on the protected",
}


def _cautions(
    measured: Mapping[str, Any], means: Sequence[tuple[float, float]]
) -> Iterator[str]:
    """What must be said beside the first row, so that nobody expects too much."""
    chance, rows = measured["chance"], measured["rows"]
    clean, protected = means[0]
    gained = clean - chance
    if gained < _TOO_LITTLE:
        yield (
            "The network learned next to nothing from the originals either: this "
            "measurement says little."
        )
    elif protected - chance > _WEAK * gained:
        yield (
            "From the protected pictures it learned more than half of what it learned "
            "from the originals: <strong>here, the protection is weak</strong>."
        )
    worst = max(range(len(rows)), key=lambda k: means[k][1])
    if worst:
        yield (
            "The protection is weakest where the network sees the pictures so: "
            f"{markup.text(rows[worst]['seen'])}. Trained on the "
            f"protected ones, it then recognizes {markup.percent(means[worst][1])}."
        )


def _bar(values: Sequence[float], chance: float) -> str:
    """The mean, a bar of it with a line at chance, and each value."""
    mean = statistics.fmean(values)
    each = ""
    if len(values) > 1:
        numbers = " ".join(f"<span>{100 * value:.1f}</span>" for value in values)
        each = f'<span class="each">{numbers}</span>'
    return (
        f'<span class="mean">{markup.percent(mean, 1)}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * mean:.1f}%"></i>'
        f'<b style="left:{100 * chance:.1f}%"></b></span>{each}'
    )
