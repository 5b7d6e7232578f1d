"""Texts and numbers as they may stand in a page, whatever they hold."""

import html
import unicodedata
from collections.abc import Iterable, Sequence

# Spaces of every width stay: names have them. So do the joiners of letters and emoji,
# of which Unicode says that they only format, like the marks that turn a line around.
_JOINERS = "\u200c\u200d"
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def text(value: object, *, lines: bool = False) -> str:
    r"""Makes a text fit for an element or a quoted attribute of a page.

    What is invisible, turns the direction of writing, or cannot be encoded is written
    as an escape of JSON.

    Args:
      value: anything; its `str` is taken.
      lines: whether line feeds may stay.

    Returns:
      The text, escaped.

    Example:
      >>> from miue_jax.workflows.folder import markup
      >>> print(markup.text('<b> "\u202e" \udcff'))
      &lt;b&gt; &quot;\u202e&quot; \udcff
    """
    shown = str(value)
    if not shown.isprintable():
        shown = "".join(
            _escape(c) if _is_invisible(c) and not (lines and c == "\n") else c
            for c in shown
        )
    return html.escape(shown)


def _is_invisible(character: str) -> bool:
    kind, code = unicodedata.category(character), ord(character)
    if kind == "Cn":
        # A later Unicode may have a letter or an emoji there, but not in these places.
        return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF or code >> 16 == 0xE
    return kind in _INVISIBLE and character not in _JOINERS


def _escape(character: str) -> str:
    data = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{data[i : i + 4]}" for i in range(0, len(data), 4))


def count(number: int, one: str, many: str | None = None) -> str:
    """Writes a number of things.

    Args:
      number: how many there are.
      one: the word for one of them.
      many: the word for any other number; None for `one` and an "s".

    Returns:
      The number and the word.

    Example:
      >>> from miue_jax.workflows.folder import markup
      >>> markup.count(1, "picture"), markup.count(5000, "picture")
      ('1 picture', '5,000 pictures')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """Writes the size of a file.

    Args:
      number: bytes.

    Returns:
      It with a unit, powers of 1000; the space between them does not break.

    Example:
      >>> from miue_jax.workflows.folder import markup
      >>> [markup.size(n).replace(chr(160), " ") for n in (999, 81_400, 3_250_000)]
      ['999 B', '81 kB', '3.2 MB']
    """
    if number < 1000:
        return f"{number}\u00a0B"
    if number < 999_500:
        return f"{number / 1e3:.0f}\u00a0kB"
    return f"{number / 1e6:,.1f}\u00a0MB"


def percent(share: float, digits: int = 0) -> str:
    """Writes a share in percent.

    Args:
      share: 1 for all of it.
      digits: places after the point.

    Returns:
      It with its sign; the space between them does not break.

    Example:
      >>> from miue_jax.workflows.folder import markup
      >>> markup.percent(0.7125, 1).replace(chr(160), " ")
      '71.2 %'
    """
    return f"{100 * share:.{digits}f}\u00a0%"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """Makes a table that scrolls by itself where it is wider than the page.

    Args:
      caption: what it is about, read out before it.
      columns: heads of the columns; the first is that of the names.
      rows: of each column's cell its markup, already escaped; numbers after the first.
      kind: a class of the style sheet.

    Returns:
      The markup.

    Example:
      >>> from miue_jax.workflows.folder import markup
      >>> "<td>1" in markup.table("Counts", ["name", "count"], [["a", "1"]])
      True
    """
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{x}</td>" for x in rest)}</tr>'
        for first, *rest in rows
    )
    # With a focus, it also scrolls by the keyboard.
    return (
        f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0">'
        f'<table class="{text(kind)}"><caption class="quiet">{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
