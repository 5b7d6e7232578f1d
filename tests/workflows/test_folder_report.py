"""The report on a folder: what is on the page, and that nothing can break it."""

import base64
import io
import json
import re
import weakref

import numpy as np
import pytest
from PIL import Image
from report_pages import HOSTILE, MEASURED, Page, audit, shown, summary

from miue_jax.workflows.folder import histogram, markup, report


@pytest.fixture
def written(tmp_path):
    def write(pictures=(), given=None) -> tuple[str, Page]:
        path = tmp_path / "report.html"
        report.write(path, pictures, summary() if given is None else given)
        source = path.read_bytes().decode("utf-8")
        return source, Page(source)

    return write


def decoded(uri: str) -> np.ndarray:
    kind, data = uri.split(";base64,")
    assert kind == "data:image/jpeg"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def full_page(written):
    pictures = [shown(name) for name in HOSTILE]
    return written(
        pictures,
        summary(
            [(p.name, p.audit) for p in pictures],
            left_out=[(name, f"because of {name}") for name in HOSTILE],
            measured=MEASURED,
            not_measured=None,
        ),
    )


# The page as a page.


def test_ids_are_unique_and_what_refers_to_them_finds_them(written):
    _, page = full_page(written)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for key in ("for", "aria-labelledby"):
            assert attributes.get(key, ids[0]) in ids
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in ids


def test_every_picture_has_a_text_and_every_input_a_label(written):
    _, page = full_page(written)
    images = list(page.all("img"))
    assert len(images) == 3 * len(HOSTILE)
    assert all(len(image["alt"]) > 10 for image in images)
    assert len({image["alt"] for image in images}) == len(images)
    labels = {label["for"] for label in page.all("label")}
    inputs = list(page.all("input"))
    assert len(inputs) == len(HOSTILE)
    assert {i["id"] for i in inputs} == labels
    assert {i["type"] for i in inputs} == {"range"}
    for drawing in page.all("svg"):
        assert drawing["role"] == "img"
        assert drawing["aria-label"]


def test_the_page_says_what_it_is(written):
    source, page = full_page(written)
    assert source.startswith('<!doctype html>\n<html lang="en">')
    assert page.text("head") == "13 pictures protected"
    metas = list(page.all("meta"))
    assert {"charset": "utf-8"} in metas
    named = {m.get("name") or m.get("http-equiv"): m.get("content") for m in metas}
    assert "width=device-width" in named["viewport"]
    assert named["Content-Security-Policy"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'"
    )
    assert page.text().startswith(
        "Do not publish this page: it shows your pictures unprotected."
    )


def test_nothing_is_loaded_from_anywhere(written):
    source, page = full_page(written)
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            if key in ("src", "href", "srcset", "action", "data", "poster"):
                assert re.match(r"#|data:", value), (tag, value)
            assert not key.startswith("on"), key
    bare = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", source)
    assert not re.search(r"https?:", bare)
    assert not re.search(r"url\(|@import|(src|href)\s*=\s*[\"']?//", bare)
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|localStorage)\b", bare)


# Names.


def test_hostile_names_are_only_text(written):
    source, page = full_page(written)
    assert len(list(page.all("script"))) == source.count("<script") == 2
    # No more elements than with harmless names.
    harmless = [shown(f"{k}.jpg") for k in range(len(HOSTILE))]
    names = [p.name for p in harmless]
    _, other = written(
        harmless,
        summary(
            [(p.name, p.audit) for p in harmless],
            left_out=[(name, "why") for name in names],
            measured=MEASURED,
            not_measured=None,
        ),
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in other.elements]
    assert [sorted(a) for _, a in page.elements] == [
        sorted(a) for _, a in other.elements
    ]
    # What turns a line around, ends it or cannot be seen is not in the page.
    assert not re.search(
        "[\0\r\x1b\x7f\u2028\u2029\u200f\u202e\u2066\ufffe\ufdd0]", source
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is_but_for_what_cannot_be_seen(written, name):
    _, page = written([shown(name)])
    heading = "".join(t for above, t in page.texts if "h3" in above)
    expected = re.sub(
        "[\0\n\r\x1b\x7f\u2028\u2029\u200f\u202e\u2066\ufffe\ufdd0\udcff\udc80\U000e0001]",
        lambda match: json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f",
        name,
    )
    expected = re.sub(r"\\n", r"\\u000a", re.sub(r"\\r", r"\\u000d", expected))
    assert heading == expected
    (first, *_) = page.all("img")
    assert first["alt"] == f"Original of {expected}, 90 by 60 pixels"


def test_settings_stay_json_whatever_they_hold(written):
    settings = {"names": [*HOSTILE, "\ud800"], "rate": 0.5, "none": None, "\u2029": {}}
    _, page = written((), summary(settings=settings))
    text = "".join(t for above, t in page.texts if "pre" in above)
    assert json.loads(text) == settings


def test_labels_notes_and_descriptions_are_escaped(written):
    bad = "<i>&\"\u202e'"
    measured = {**MEASURED, "victim": bad}
    measured["rows"] = [{**MEASURED["rows"][0], "seen": bad}] * 2
    picture = shown(notes=(bad,), format=bad)._replace(label=bad)
    given = summary(
        [("a", picture.audit)],
        labels=bad,
        measured=measured,
        not_measured=None,
        version=bad,
    )
    source, page = written([picture], given)
    assert "<i>&" not in source
    assert "\u202e" not in source
    # The labels' sentence, label, note, two formats, victim, two rows, version.
    assert page.text().count("<i>&\"\\u202e'") == 9
    _, page = written((), summary(not_measured=bad))
    assert page.text().count("<i>&\"\\u202e'") == 1


# Writing.


def test_a_failure_within_leaves_nothing(tmp_path):
    def pictures():
        yield shown("a.jpg")
        raise RuntimeError("gone")

    path = tmp_path / "report.html"
    with pytest.raises(RuntimeError, match="gone"):
        report.write(path, pictures(), summary())
    assert list(tmp_path.iterdir()) == []
    path.write_text("earlier")
    with pytest.raises(RuntimeError, match="gone"):
        report.write(path, pictures(), summary())
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_one_picture_at_a_time_is_held(tmp_path):
    alive = []

    def pictures():
        for k in range(5):
            assert [ref() for ref in alive] == [None] * k
            picture = shown(f"{k}.jpg")
            alive.append(weakref.ref(picture.before))
            yield picture
            del picture

    report.write(tmp_path / "report.html", pictures(), summary())
    assert len(alive) == 5


def test_what_is_wrong_is_said_before_any_picture_is_made(tmp_path):
    def pictures():
        raise AssertionError("a picture was asked for")
        yield

    path = tmp_path / "report.html"
    for changes, message in (
        ({"strength": 0}, "strength is 0"),
        ({"effort": "much"}, "effort"),
        ({"measured": None, "not_measured": None}, "got neither"),
        ({"measured": MEASURED}, "got both"),
        ({"measured": {**MEASURED, "rows": []}, "not_measured": None}, "got none"),
    ):
        with pytest.raises(ValueError, match=message):
            report.write(path, pictures(), summary(**changes))
    with pytest.raises(ValueError, match="there is no folder"):
        report.write(tmp_path / "none" / "report.html", pictures(), summary())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.int16)),
        (np.zeros((4, 5, 1), np.uint8), np.zeros((4, 5, 1), np.uint8)),
        (np.zeros((0, 5, 3), np.uint8), np.zeros((0, 5, 3), np.uint8)),
    ],
)
def test_pictures_that_do_not_match_are_refused(tmp_path, before, after):
    picture = shown()._replace(before=before, after=after)
    with pytest.raises(ValueError, match=r"a\.jpg: before and after must be uint8"):
        report.write(tmp_path / "report.html", [picture], summary())
    assert list(tmp_path.iterdir()) == []


def test_the_same_is_written_again_to_the_byte(written):
    assert full_page(written)[0] == full_page(written)[0]


# What is on the page.


def test_no_picture(written):
    _, page = written()
    text = page.text()
    assert "No picture is protected." in text
    assert "No picture is shown." in text
    assert "There are no numbers without pictures." in text
    assert "Nothing that looks like a picture was left out." in text
    assert "There are too few pictures to measure anything." in text
    assert not list(page.all("article"))
    assert not list(page.all("svg"))


def test_one_picture(written):
    picture = shown("sea/a.jpg")
    _, page = written([picture], summary([("sea/a.jpg", picture.audit)], strength=9))
    text = page.text()
    assert (
        "1 picture is protected, at a strength of 9 gray levels of 255, with standard "
        "effort. Read back from the written files, no color of any pixel is off by "
        "more than 8." in text
    )
    assert page.text("article") == (
        "Original Protected Line between the original and the protected version of "
        "sea/a.jpg sea/a.jpg a class Difference, 16 times stronger "
        "PSNR34.6 dBSSIM0.912Largest change8 levelsKept83 %FormatJPEG"
        "Size before2.1 MBSize after3.3 MBPixels90 \u00d7 60 a note"
    )
    assert "1 picture." in text
    assert "The numbers of the picture" in text
    assert "All at 34.6 decibels." in text


def test_numbers_that_do_not_exist_are_words(written):
    same = audit(psnr=None, ssim=None, max_change=0, notes=(), format="WEBP")
    some = audit(psnr=float("inf"), lossless=True, format="WEBP")
    picture = shown(after=60)._replace(audit=same, label=None)
    _, page = written(
        [picture], summary([("a", same), ("b", some), ("c", audit(max_change=1))])
    )
    text = page.text()
    assert "PSNRunchangedSSIMtoo smallLargest change0 levels" in page.text("article")
    assert "2 pictures are unchanged: PSNR has no value there." in text
    assert "WebP, lossless" in text
    assert "1 level" in text
    assert not list(page.all("ul", "notes"))
    assert not list(page.all("p", "label"))
    _, page = written((), summary([("a", same)]))
    assert "PSNR: no picture has a value." in page.text()


def test_previews_keep_before_after_and_the_difference(written):
    random = np.random.default_rng(0)
    before = np.full((1000, 1500, 3), 100, np.uint8)
    after = before.copy()
    after[:, :750, 0] += 4
    after[:, 750:, 2] -= 8
    after[:100, :100] += random.integers(0, 5, (100, 100, 3), np.uint8)
    picture = shown()._replace(before=before, after=after)
    _, page = written([picture])
    first, second, third = (decoded(image["src"]) for image in page.all("img"))
    assert first.shape == second.shape == (341, 512, 3)
    assert third.shape == (256, 384, 3)
    for image, pixels in zip(page.all("img"), (first, second, third), strict=True):
        assert (int(image["height"]), int(image["width"])) == pixels.shape[:2]
    np.testing.assert_allclose(first.mean((0, 1)), 100, atol=1)
    np.testing.assert_allclose(second[160:, 20:240].mean((0, 1)), [104, 100, 100], 0, 2)
    np.testing.assert_allclose(second[160:, 272:].mean((0, 1)), [100, 100, 92], 0, 2)
    left, right = third[120:, 20:176], third[120:, 208:]
    np.testing.assert_allclose(left.mean((0, 1)), [192, 128, 128], atol=6)
    np.testing.assert_allclose(right.mean((0, 1)), [128, 128, 0], atol=6)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (1, 1, (1, 1)),
        (1, 5000, (512, 1)),
        (5000, 1, (1, 512)),
        (512, 384, (384, 512)),
        (513, 300, (299, 512)),
    ],
)
def test_pictures_of_any_shape_have_previews(written, height, width, size):
    _, page = written([shown(height=height, width=width)])
    first = next(page.all("img"))
    assert (int(first["width"]), int(first["height"])) == size
    style = next(page.all("div", "compare"))["style"]
    assert 1 <= int(style.removeprefix("width:").removesuffix("px")) <= 640


def test_the_difference_of_extremes_does_not_wrap(written):
    _, page = written([shown(before=0, after=255)])
    assert decoded(list(page.all("img"))[2]["src"]).min() > 250
    _, page = written([shown(before=255, after=0)])
    assert decoded(list(page.all("img"))[2]["src"]).max() < 5


def test_all_that_is_left_out_is_named(written):
    files = [(f"folder/{k}.nef", f"reason {k}") for k in range(25)]
    _, page = written((), summary(left_out=files))
    text = page.text()
    assert all(f"{name} {why}" in text for name, why in files)
    assert "25 files look like pictures and were left out." in text
    assert "5 more" in text
    folded = page.text("details")
    found = [f"{name} {why}" in folded for name, why in files]
    assert found == [False] * 20 + [True] * 5
    _, page = written((), summary(left_out=files[:20]))
    assert "reason 19" not in page.text("details")


def test_two_thousand_rows_are_listed_and_of_more_the_lowest(written):
    values = np.random.default_rng(0).permutation(5000)
    audits = [(f"{k}.jpg", audit(psnr=30 + v / 1000)) for k, v in enumerate(values)]
    audits[7] = ("7.jpg", audit(psnr=None))
    source, page = written((), summary(audits))
    assert len(source) < 200_000
    names = [t for above, t in page.texts if "bdi" in above]
    lowest = sorted((audit["psnr"] or 99, name) for name, audit in audits)[:200]
    assert names == [name for _, name in lowest]
    text = page.text()
    assert "The 200 pictures of lowest PSNR: 5,000 rows would be too many" in text
    assert "5,000 pictures are protected" in text
    _, page = written((), summary(audits[:2000]))
    names = [t for above, t in page.texts if "bdi" in above]
    assert names == [f"{k}.jpg" for k in range(2000)]


def test_few_of_many_pictures_are_said_to_be_few(written):
    audits = [(f"{k}.jpg", audit()) for k in range(300)]
    _, page = written([shown("0.jpg"), shown("299.jpg")], summary(audits))
    assert "2 of 300 pictures, evenly spaced" in page.text()


def test_what_was_measured_is_said_in_words_and_as_a_table(written):
    _, page = written((), summary(measured=MEASURED, not_measured=None))
    text = page.text().replace("\u00a0", " ")
    assert (
        "A small network trained on your pictures recognizes 75 % of new ones; trained "
        "on the protected ones, 28 %; guessing gives 25 %." in text
    )
    assert (
        "The protection is weakest where the network sees the pictures so: resized, "
        "JPEG of quality 75. Trained on the protected ones, it then recognizes 37 %."
        in text
    )
    for number in ("75.0 %80.0 70.0", "28.0 %30.0 26.0", "70.0 %", "37.0 %40.0 34.0"):
        assert number in text
    assert (
        "ResNet-10, 20 epochs, 64x64, trained from scratch on 400 pictures of 4 classes"
        in text
    )
    assert "160 other pictures" in text
    assert "seeds 3, 7" in text
    assert "weak</strong>" not in text


def test_weak_or_empty_measurements_are_called_so(written):
    def said(clean, protected):
        row = {"seen": "as they are", "clean": [clean], "protected": [protected]}
        measured = {**MEASURED, "seeds": [0], "rows": [row]}
        _, page = written((), summary(measured=measured, not_measured=None))
        text = page.text()
        assert "seeds" not in text
        assert "weakest" not in text
        return (
            "this measurement says little" in text,
            "the protection is weak" in text,
        )

    assert said(0.9, 0.3) == (False, False)
    assert said(0.9, 0.8) == (False, True)
    assert said(0.3, 0.3) == (True, False)


def test_limits_are_named_whatever_was_measured(written):
    for changes in ({}, {"measured": MEASURED, "not_measured": None}):
        _, page = written((), summary(**changes))
        text = page.text()
        for words in (
            "fine-tuning of large pretrained models was not measured",
            "Making a new picture from one of yours, or imitating your style, was not",
            "diffusion models",
            "A photograph of a screen",
            "the original",
            "Adversarial training",
            "Many unprotected pictures",
            "small networks trained from scratch",
        ):
            assert words in text


# Which pictures are shown.


def test_all_of_few_are_chosen():
    assert report.chosen([]) == []
    assert report.chosen(["a"]) == ["a"]
    names = [str(k) for k in range(120)]
    assert report.chosen(names) == names


@pytest.mark.parametrize(("count", "most"), [(121, 120), (5000, 120), (10, 3), (3, 2)])
def test_of_many_some_are_chosen_evenly(count, most):
    names = list(range(count))
    found = report.chosen(names, most)
    assert len(found) == most
    assert (found[0], found[-1]) == (names[0], names[-1])
    steps = np.diff(found)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def test_one_of_many_is_the_first():
    assert report.chosen(["a", "b"], most=1) == ["a"]
    with pytest.raises(ValueError, match="most is 0"):
        report.chosen(["a"], most=0)


# Histograms.


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("spread", [0, 0.3, 3, 40, 4000])
@pytest.mark.parametrize("count", [1, 2, 5000])
def test_every_value_is_in_one_bin(whole, spread, count):
    random = np.random.default_rng(count)
    values = (35 + spread * random.random(count)).tolist()
    values = [int(v) for v in values] if whole else values
    found = histogram.bins(values, whole=whole, upto=8 if whole else None)
    assert sum(b.count for b in found) == count
    assert 1 < len(found) <= 17
    for interval in found:
        inside = (
            interval.low <= v and (v <= interval.high if whole else v < interval.high)
            for v in values
        )
        assert sum(inside) == interval.count
    ends = [b.high + whole for b in found[:-1]]
    assert ends == [b.low for b in found[1:]]


def test_bounds_belong_to_the_bin_above():
    found = histogram.bins([35.0, 35.5, 35.5, 36.0])
    counts = {b.low: b.count for b in found}
    assert counts == {34.5: 0, 35: 1, 35.5: 2, 36: 1, 36.5: 0}
    assert histogram.bins([]) == []


def test_a_drawing_says_what_it_shows(written):
    audits = [(str(k), audit(max_change=k % 3)) for k in range(9)]
    _, page = written((), summary(audits))
    _, second = page.all("svg")
    assert second["aria-label"] == (
        "Largest change of 9 pictures, in gray levels: from 0 to 2, in the middle 1"
    )
    titles = [t for above, t in page.texts if above[-2:] == ("rect", "title")]
    assert titles == ["34.5 to 35: 9 pictures", *(f"{k}: 3 pictures" for k in range(3))]


# Words and numbers.


def test_sizes_are_rounded_to_the_right_unit():
    found = [markup.size(n) for n in (0, 999, 1000, 999_499, 999_500, 12_345_678_901)]
    assert [x.replace("\u00a0", " ") for x in found] == [
        *("0 B", "999 B", "1 kB", "999 kB", "1.0 MB", "12,345.7 MB")
    ]
