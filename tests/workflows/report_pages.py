"""Pictures, numbers and hostile names for the report on a folder."""

import html.parser
from collections.abc import Iterator

import numpy as np

from miue_jax.workflows.folder import report

# What names of files may hold: all but "/" and NUL, and bytes that are not UTF-8.
HOSTILE = (
    "<script>alert(1)</script>.jpg",
    "a\"b'c&amp;d<!-- </pre></script> -->.jpg",
    'x" onerror="alert(1)" alt=\'',
    "line\u2028paragraph\u2029feed\nreturn\r.jpg",
    "\u202egnp.exe\u2066\u200f.jpg",
    "not utf-8 \udcff\udc80.jpg",
    "\x00\x1b[31m\x7f\ufffe\U000e0001.jpg",
    "${name} $after $$ {{x}} %s \\u0041.jpg",
    "שלום/عكس.jpg",
    "  Bild 1\u202fPM \u00fc\u0308 \U0001f468\u200d\U0001f469.jpg",
    "long" * 60 + ".jpg",
    "]]>&#0;&lt;.jpg",
    # Of Unicode 16, and at a place that has no character in any version.
    "\U0001fae9\ufdd0.jpg",
)

MEASURED = {
    "chance": 0.25,
    "classes": 4,
    "train_images": 400,
    "test_images": 160,
    "seeds": [3, 7],
    "victim": "ResNet-10, 20 epochs, 64x64",
    "rows": [
        {"seen": "as they are", "clean": [0.8, 0.7], "protected": [0.3, 0.26]},
        {
            "seen": "resized, JPEG of quality 75",
            "clean": [0.75, 0.65],
            "protected": [0.4, 0.34],
        },
    ],
}


def audit(**changes) -> dict:
    return {
        "format": "JPEG",
        "lossless": False,
        "max_change": 8,
        "psnr": 34.56,
        "ssim": 0.9123,
        "kept": 0.834,
        "bytes_before": 2_149_000,
        "bytes_after": 3_260_000,
        "notes": ("a note",),
        **changes,
    }


def summary(audits=(), **changes) -> report.Summary:
    base = report.Summary(
        audits=audits,
        strength=8,
        effort="standard",
        labels="Each folder is a class.",
        left_out=[],
        measured=None,
        not_measured="There are too few pictures to measure anything.",
        version="1.2.3",
        settings={"strength": 8},
    )
    return base._replace(**changes)


def shown(name="a.jpg", height=60, width=90, before=60, after=200, **changes):
    """Dark before, bright after: a browser shows which is which."""
    shape = (height, width, 3)
    return report.Shown(
        name,
        np.full(shape, before, np.uint8),
        np.full(shape, after, np.uint8),
        audit(**changes),
        "a class",
    )


class Page(html.parser.HTMLParser):
    """A page, checked while it is read: each element is closed where it must be."""

    VOID = ("meta", "link", "img", "input", "line", "rect", "br")

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), "an attribute is given twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID or (tag == "rect"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self._open), data))

    def all(self, tag: str, kind: str | None = None) -> Iterator[dict]:
        for name, attributes in self.elements:
            if name == tag and (
                kind is None or kind in (attributes.get("class") or "").split()
            ):
                yield attributes

    def text(self, inside: str = "body") -> str:
        """Texts of elements, with their white space as one space."""
        skipped = ("script", "style")
        found = (
            data
            for above, data in self.texts
            if inside in above and above[-1] not in skipped
        )
        return " ".join("".join(found).split())
