"""`protect_folder`: any pictures, the budget as decoded again, and what stays."""

import pathlib

import numpy as np
import protected_folders as folders
import pytest
from PIL import Image, ImageCms

import miue_jax as mj
from miue_jax.data import picture_kinds
from miue_jax.workflows.folder import run, threads


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return folders.save_protector(tmp_path_factory.mktemp("mine") / "mine.safetensors")


@pytest.fixture
def protect(tmp_path, mine):
    """Protects `in`, with a small protector that is there already."""

    def call(source="in", output="out", **settings):
        given = {"protector": str(mine), "effort": "fast", "measure": False, **settings}
        return mj.protect_folder(tmp_path / source, tmp_path / output, **given)

    return call


def _exif(orientation: int, *, place: bool = False) -> bytes:
    data = Image.Exif()
    data[0x0110], data[0x0112] = "Model 1", orientation
    if place:
        data.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E"})
    return data.tobytes()


def _every_kind(root: pathlib.Path) -> None:
    folders.photo(root / "color.png")
    with Image.open(root / "color.png") as opened:
        image = opened.copy()
    clear = image.convert("RGBA")
    ramp = np.tile(np.linspace(0, 255, 72).astype(np.uint8), (48, 1))
    ramp[:16] = 0
    clear.putalpha(Image.fromarray(ramp))
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = np.linspace(0, 65535, 48 * 72).reshape(48, 72).astype(np.uint16)
    (root / "trips" / "north").mkdir(parents=True)
    image.save(
        root / "trips" / "turned.jpg", exif=_exif(6, place=True), icc_profile=icc
    )
    image.save(root / "trips" / "UPSIDE.JPG", exif=_exif(3))
    image.convert("L").save(root / "trips" / "gray.jpg")
    image.convert("CMYK").save(root / "print.jpg")
    clear.save(root / "trips" / "north" / "clear.png")
    image.convert("P").save(root / "palette.png")
    image.convert("L").save(root / "gray.png")
    Image.fromarray(deep).save(root / "deep.png")
    image.save(root / "lossless.webp", lossless=True)
    image.save(root / "lossy.webp", quality=90)
    image.save(root / "picture.tif")
    image.save(root / "picture.bmp")
    image.convert("P").save(root / "still.gif")
    if picture_kinds.why_not("AVIF") is None:
        image.save(root / "picture.avif")
    (root / "notes.txt").write_text("no picture")


def test_any_folder_is_protected_within_the_budget(tmp_path, protect):
    _every_kind(tmp_path / "in")
    found = protect(strength=6)
    names = {name for name in folders.files(tmp_path / "in") if name != "notes.txt"}
    assert found.written.keys() == names
    assert set(found.new) == names
    assert not found.left_out
    targets = {name: entry.target for name, entry in found.written.items()}
    moved = {name for name, target in targets.items() if target != name}
    assert moved == {"still.gif"}
    written = set(folders.files(tmp_path / "out"))
    assert written == {*targets.values(), run.REPORT}
    largest = folders.check_budget(tmp_path / "in", tmp_path / "out", targets, 6)
    assert largest == 6
    assert all(entry.audit["max_change"] > 0 for entry in found.written.values())
    # The input is only read.
    assert names | {"notes.txt"} == set(folders.files(tmp_path / "in"))
    assert not folders.remains(tmp_path)


def test_what_the_files_hold_beside_the_pixels_stays(tmp_path, protect):
    _every_kind(tmp_path / "in")
    protect()
    with (
        Image.open(tmp_path / "in" / "trips" / "turned.jpg") as before,
        Image.open(tmp_path / "out" / "trips" / "turned.jpg") as after,
    ):
        assert after.size == before.size
        assert after.info["icc_profile"] == before.info["icc_profile"]
        assert after.getexif()[0x0112] == 6
        assert after.getexif()[0x0110] == "Model 1"
        assert after.getexif().get_ifd(0x8825)[1] == "N"


def test_the_place_is_removed_where_it_is_asked_for(tmp_path, protect):
    _every_kind(tmp_path / "in")
    protect(strip_location=True)
    with Image.open(tmp_path / "out" / "trips" / "turned.jpg") as after:
        assert not after.getexif().get_ifd(0x8825)
        assert after.getexif()[0x0112] == 6


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_all_files_are_of_the_format_that_is_asked_for(tmp_path, protect, format):
    _every_kind(tmp_path / "in")
    found = protect(format=format, strength=8)
    targets = {name: entry.target for name, entry in found.written.items()}
    folders.check_budget(tmp_path / "in", tmp_path / "out", targets, 8)
    assert len(set(targets.values())) == len(targets)
    for name, target in targets.items():
        with Image.open(tmp_path / "out" / target) as image:
            wanted = "PNG" if format == "jpeg" and "clear" in name else format.upper()
            assert image.format == wanted, name


@pytest.mark.parametrize("strength", [1, 2, 32])
def test_every_strength_is_kept_by_every_format(tmp_path, protect, strength):
    _every_kind(tmp_path / "in")
    found = protect(strength=strength)
    targets = {name: entry.target for name, entry in found.written.items()}
    assert not found.left_out
    folders.check_budget(tmp_path / "in", tmp_path / "out", targets, strength)
    # A format that cannot keep a small budget is replaced, and that is said.
    for name, entry in found.written.items():
        assert (entry.target == name) or any(
            "written as PNG" in note for note in entry.audit["notes"]
        )


def test_a_picture_that_its_format_cannot_hold_gets_a_name_of_its_own(
    tmp_path, protect, monkeypatch
):
    folders.photo(tmp_path / "in" / "a.jpg")
    folders.photo(tmp_path / "in" / "a.jpg.png", seed=1)
    real = run.pictures.write

    def refuse(path, picture, wanted, *, format, **options):
        if format is None and picture.format == "JPEG":
            raise ValueError(f"{path}: JPEG cannot keep 8: write it as PNG")
        return real(path, picture, wanted, format=format, **options)

    monkeypatch.setattr(run.pictures, "write", refuse)
    found = protect()
    targets = {name: entry.target for name, entry in found.written.items()}
    assert targets == {"a.jpg": "a.jpg_2.png", "a.jpg.png": "a.jpg.png"}
    notes = found.written["a.jpg"].audit["notes"]
    assert "JPEG cannot keep 8: written as PNG" in notes
    assert not protect().new


def test_one_picture_is_protected(tmp_path, protect):
    folders.photo(tmp_path / "sea.jpg")
    found = protect("sea.jpg")
    assert set(folders.files(tmp_path / "out")) == {"sea.jpg", run.REPORT}
    assert found.written["sea.jpg"].label == "group 1"


@pytest.mark.parametrize("size", [(16, 16), (17, 400), (400, 16), (31, 33), (1000, 23)])
def test_pictures_of_all_proportions(tmp_path, protect, size):
    folders.photo(tmp_path / "in" / "a.png", size=size)
    found = protect()
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == size
    folders.check_budget(tmp_path / "in", tmp_path / "out", {"a.png": "a.png"}, 8)
    assert found.written["a.png"].audit["max_change"] > 0


@pytest.mark.slow
def test_a_large_picture(tmp_path, protect):
    Image.radial_gradient("L").resize((8000, 6000)).convert("RGB").save(
        tmp_path / "large.jpg"
    )
    found = protect("large.jpg")
    targets = {"large.jpg": "large.jpg"}
    folders.check_budget(tmp_path, tmp_path / "out", targets, 8)
    assert found.written["large.jpg"].audit["max_change"] > 0


def test_names_of_all_kinds_stay(tmp_path, protect):
    names = ["ä b/日本 1.png", "it's \"<b>&.png", "-x.png", "a\nb.png", "no suffix"]
    names += [f"{'long' * 50}.png", "run..png", ".png.png"]
    for name in names[:4] + names[5:]:
        folders.photo(tmp_path / "in" / name)
    folders.photo(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "x.png").rename(tmp_path / "in" / "no suffix")
    raw = bytes(tmp_path / "in") + b"/\xff.png"
    (tmp_path / "in" / "-x.png").rename(raw.decode(errors="surrogateescape"))
    found = protect()
    there = set(folders.files(tmp_path / "in")) - {".png.png"}
    assert set(found.written) == there
    assert set(folders.files(tmp_path / "out")) == there | {run.REPORT}
    assert not protect().new


def test_a_picture_never_takes_the_place_of_the_report(tmp_path, protect):
    folders.photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / run.REPORT)
    found = protect()
    target = found.written[run.REPORT].target
    assert target == f"{run.REPORT}.png"
    assert not protect().new
    assert b"<html" in (tmp_path / "out" / run.REPORT).read_bytes()


def test_a_file_never_takes_the_name_of_a_folder(tmp_path, protect):
    folders.photo(tmp_path / "in" / "a.bmp")
    folders.photo(tmp_path / "in" / "a.png" / "b.png")
    found = protect(format="png")
    targets = {name: entry.target for name, entry in found.written.items()}
    assert targets == {"a.bmp": "a.bmp.png", "a.png/b.png": "a.png/b.png"}


def test_pictures_of_one_folder_have_one_code(tmp_path, protect):
    for number, name in enumerate(("cats/1", "dogs/1", "cats/2")):
        folders.photo(tmp_path / "in" / f"{name}.png", seed=number)
    found = protect()
    labels = {name: entry.label for name, entry in found.written.items()}
    assert labels == {"cats/1.png": "cats", "cats/2.png": "cats", "dogs/1.png": "dogs"}
    assert "Each of the 2 folders is a class" in found.report.read_text()


def test_more_classes_than_kinds_of_perturbation_is_said(tmp_path, protect, caplog):
    for number in range(6):
        folders.photo(tmp_path / "in" / f"class{number}" / "a.png", seed=number)
    found = protect()
    assert len(found.written) == 6
    assert "there are 6 classes, and 4 kinds of perturbation" in caplog.text


# Seeds, threads.


def test_the_same_seed_gives_the_same_bytes_with_any_threads(
    tmp_path, monkeypatch, protect
):
    for number in range(12):
        folders.photo(tmp_path / "in" / f"{number}.jpg", seed=number)
    found = {}
    for count in (1, 2, 7):
        monkeypatch.setattr(threads.os, "cpu_count", lambda count=count: count)
        protect(output=f"out{count}")
        found[count] = folders.files(tmp_path / f"out{count}")
    assert found[1] == found[2] == found[7]
    monkeypatch.setattr(threads, "PIXELS", 1)
    protect(output="alone")
    assert folders.files(tmp_path / "alone") == found[1]


@pytest.mark.slow
def test_another_seed_gives_another_protector(tmp_path, monkeypatch):
    folders.fit_quickly(monkeypatch.setattr)
    for number in range(4):
        folders.photo(tmp_path / "in" / f"{number}.png", seed=number)
    found = []
    for output, seed in (("a", 0), ("b", 0), ("c", 1)):
        mj.protect_folder(tmp_path / "in", tmp_path / output, seed=seed, measure=False)
        found.append(folders.files(tmp_path / output))
    assert found[0] == found[1]
    assert found[0]["0.png"] != found[2]["0.png"]


@pytest.mark.slow
def test_a_folder_of_the_smallest_pictures_can_be_fitted_on(tmp_path, monkeypatch):
    folders.fit_quickly(monkeypatch.setattr)
    for number in range(3):
        folders.photo(tmp_path / "in" / f"{number}.png", seed=number, size=(16, 16))
    found = mj.protect_folder(tmp_path / "in", tmp_path / "out")
    assert len(found.written) == 3
    assert "too few pictures" in found.report.read_text() or (
        "of one class" in found.report.read_text()
    )


def test_what_cannot_be_measured_is_said_and_the_report_written(
    tmp_path, monkeypatch, protect
):
    folders.photo(tmp_path / "in" / "a.png")

    def diverge(*_, **__):
        raise run.run_directory.Diverged("loss is nan at step 3: training diverged")

    monkeypatch.setattr(run.measured, "why_not", lambda labels: None)
    monkeypatch.setattr(run.measured, "run", diverge)
    found = protect(measure=True)
    assert "could not be measured: loss is nan" in found.report.read_text()


# Memory.


def test_few_pictures_are_held_at_once(tmp_path, monkeypatch, protect):
    for number in range(8):
        folders.photo(tmp_path / "in" / f"{number}.png", seed=number)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "PIXELS", 2 * 72 * 48)
    held, most, real = [0], [0], threads.Room.take

    def count(room, pixels):
        class Counted:
            def __enter__(self):
                self.inner = real(room, pixels)
                self.inner.__enter__()
                held[0] += 1
                most[0] = max(most[0], held[0])

            def __exit__(self, *error):
                held[0] -= 1
                self.inner.__exit__(*error)

        return Counted()

    monkeypatch.setattr(threads.Room, "take", count)
    protect()
    assert most[0] <= 2
