"""Histograms as drawings within a page, and the same in words and as a table."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from miue_jax.workflows.folder import markup

_MOST_BINS = 17
_FEWEST_BINS = 5
# Of the drawing, in its own units: those of the letters.
_WIDTH, _HEIGHT = 440, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 12, 42


class Bin(NamedTuple):
    """An interval, and how many values lie in it.

    Attributes:
      low: its start.
      high: its end, which belongs to the next one; of whole numbers, the last in it.
      count: the values in it.

    Example:
      >>> from miue_jax.workflows.folder import histogram
      >>> histogram.Bin(35, 36, 2).count
      2
    """

    low: float
    high: float
    count: int


def bins(
    values: Sequence[float], *, whole: bool = False, upto: int | None = None
) -> list[Bin]:
    """Counts values in intervals of one round width, 17 of them at most.

    Args:
      values: finite numbers.
      whole: whether they are whole numbers from 0 on.
      upto: a whole number that has a bin, even where no value is.

    Returns:
      Neighboring bins that hold all values; none if there are no values.

    Example:
      >>> from miue_jax.workflows.folder import histogram
      >>> [b.count for b in histogram.bins([8, 8, 2], whole=True, upto=8)]
      [0, 0, 1, 0, 0, 0, 0, 0, 2]
    """
    if not values:
        return []
    low, high = min(values), max(values)
    if whole:
        low, high = 0, max(high, upto or 0)
    # Whole numbers and halves are exact: no value falls between two bins.
    step = next(
        size
        for power in range(40)
        for size in (10**power * k for k in ((1, 2, 5) if whole else (0.5, 1, 2)))
        if math.floor(high / size) - math.floor(low / size) < _MOST_BINS
    )
    counts = Counter(math.floor(value / step) for value in values)
    first, last = math.floor(low / step), math.floor(high / step)
    while last - first + 1 < _FEWEST_BINS and not whole:
        first, last = first - 1, last + 1
    width = step - 1 if whole else step
    return [Bin(k * step, k * step + width, counts[k]) for k in range(first, last + 1)]


def figure(
    values: Sequence[float],
    *,
    title: str,
    unit: str,
    whole: bool = False,
    upto: int | None = None,
) -> str:
    """Draws a histogram of one number per picture.

    Args:
      values: the numbers.
      title: what they are.
      unit: their unit, in the plural.
      whole: see `bins`.
      upto: see `bins`.

    Returns:
      A figure: drawing, what it shows in words, and a folded table of its counts.

    Example:
      >>> from miue_jax.workflows.folder import histogram
      >>> "<svg" in histogram.figure([38.5, 40], title="PSNR", unit="decibels")
      True
    """
    counted = bins(values, whole=whole, upto=upto)
    if not counted:
        return f"<p>{markup.text(title)}: no picture has a value.</p>"
    digits = 0 if whole else 1
    low, high = min(values), max(values)
    middle = statistics.median(values)
    words = (
        f"{title} of {markup.count(len(values), 'picture')}, in {unit}: from "
        f"{low:.{digits}f} to {high:.{digits}f}, in the middle "
        f"{middle:.{0 if middle == int(middle) else 1}f}"
    )
    rows = [[_range(b, whole), f"{b.count:,}"] for b in counted]
    shown = markup.table(
        f"{title}, counts", [unit, "pictures"], rows, kind="narrow counts"
    )
    return (
        f'<figure class="histogram"><figcaption>{markup.text(title)}, {unit}'
        f"</figcaption>\n{_drawing(counted, words, whole)}\n"
        f"<p>{_words(low, high, middle, digits, unit)}</p>\n"
        f"<details><summary>The counts</summary>{shown}</details></figure>"
    )


def _words(low: float, high: float, middle: float, digits: int, unit: str) -> str:
    if low == high:
        return f"All at {low:.{digits}f} {unit}."
    return (
        f"From {low:.{digits}f} to {high:.{digits}f}; half of the pictures have "
        f"{middle:.{0 if middle == int(middle) else 1}f} or more."
    )


def _range(interval: Bin, whole: bool) -> str:
    low, high = f"{interval.low:g}", f"{interval.high:g}"
    return low if whole and low == high else f"{low} to {high}"


def _drawing(counted: Sequence[Bin], words: str, whole: bool) -> str:
    most = max(b.count for b in counted)
    step = _tick(most)
    top = step * math.ceil(most / step)
    width = (_WIDTH - _LEFT - _RIGHT) / len(counted)
    floor = _HEIGHT - _BOTTOM
    scale = (floor - _TOP) / top
    parts = []
    for value in range(0, top + 1, step):
        y = floor - value * scale
        parts.append(
            f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text class="count" x="{_LEFT - 8}" y="{y + 4:.1f}">'
            f"{value:,}</text>"
        )
    for k, interval in enumerate(counted):
        x, height = _LEFT + k * width, interval.count * scale
        if interval.count:
            # One picture among thousands is still seen.
            height = max(height, 1.5)
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{floor - height:.1f}" '
                f'width="{width - 2:.1f}" height="{height:.1f}"><title>'
                f"{_range(interval, whole)}: "
                f"{markup.count(interval.count, 'picture')}</title></rect>"
            )
    # Whole numbers stand below their bars, bounds between them.
    every = math.ceil(len(counted) / 9)
    size = counted[1].low - counted[0].low if len(counted) > 1 else 1
    wide = whole and any(b.high > b.low for b in counted)
    ticks = [b.low for b in counted] + ([] if whole else [counted[-1].high])
    for k, value in enumerate(ticks):
        # At round numbers, wherever the first bin is.
        if round(value / size) % every == 0:
            x = _LEFT + (k + (0.5 if whole and not wide else 0)) * width
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{floor + 17}">{value:g}</text>'
            )
    return (
        f'<svg role="img" aria-label="{markup.text(words)}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT - 16}">{"".join(parts)}</svg>'
    )


def _tick(most: int) -> int:
    """A round step with at most four of them up to the largest count."""
    return next(
        10**power * k
        for power in range(12)
        for k in (1, 2, 5)
        if math.ceil(most / (10**power * k)) <= 4
    )
