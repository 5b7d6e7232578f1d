"""Folders of pictures: what is found, what only looks like a picture, and the names."""

import os
import pathlib

import picture_files
import pytest

from miue_jax import pictures


def put(root: pathlib.Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture_files.image().save(path)


def names(found: pictures.Scan) -> list[str]:
    return [entry.name for entry in found.pictures]


def targets(found: pictures.Scan) -> dict[str, str]:
    return {entry.name: entry.target for entry in found.pictures}


def test_pictures_are_found_at_any_depth_in_order(tmp_path):
    put(tmp_path, "b.JPG", "a/z/1.png", "a/2.webp", "a.tiff")
    found = pictures.scan(tmp_path)
    assert names(found) == ["a.tiff", "a/2.webp", "a/z/1.png", "b.JPG"]
    assert targets(found) == {name: name for name in names(found)}
    assert [e.path for e in found.pictures] == [tmp_path / n for n in names(found)]
    assert found.pictures[0].header == pictures.Header("TIFF", 72, 48, False)
    assert found.class_names is None
    assert not any(entry.notes for entry in found.pictures)


def test_every_file_is_in_one_list(tmp_path):
    for name, make in picture_files.FILES.items():
        make(tmp_path / name)
    for name, (make, _) in picture_files.UNREADABLE.items():
        make(tmp_path / name)
    plain = ("notes.txt", "a.xmp", "a.json", "sound.mp3", "paper.pdf", "README")
    for name in plain:
        (tmp_path / name).write_text("P2 is no picture here")
    junk = (".DS_Store", "Thumbs.db", "desktop.ini", "._a.jpg", ".hidden.jpg")
    for name in junk:
        (tmp_path / name).write_text("no picture")
    put(tmp_path, "__MACOSX/._a.png", ".git/a.png")
    found = pictures.scan(tmp_path)
    # Damage after the beginning is found when the pixels are read.
    late = {f"cut.{s}" for s in ("jpg", "png", "webp", "tif", "bmp")}
    unreadable = {entry.name for entry in found.unreadable}
    assert set(names(found)) - late == set(picture_files.FILES)
    assert unreadable | late == set(picture_files.UNREADABLE)
    assert set(found.others) == set(plain)
    assert set(found.ignored) == {*junk, "__MACOSX", ".git"}
    assert all(entry.reason and "\n" not in entry.reason for entry in found.unreadable)
    assert not any(str(tmp_path) in entry.reason for entry in found.unreadable)


def test_hidden_pictures_are_told_from_what_systems_leave_behind(tmp_path):
    put(tmp_path, ".a.png", "trip/.thumbs/1/a.png", "trip/b.png", "__MACOSX/.c.png")
    (tmp_path / ".d.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "._b.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "notes.txt").touch()
    found = pictures.scan(tmp_path)
    assert names(found) == ["trip/b.png"]
    assert found.hidden == (".a.png", ".d.jpg", "trip/.thumbs")
    others = ("._b.png", ".config", "__MACOSX")
    assert found.ignored == tuple(sorted((*found.hidden, *others)))


def test_the_content_decides_not_the_suffix(tmp_path):
    picture_files.image().save(tmp_path / "a.jpg", "PNG")
    picture_files.image().save(tmp_path / "b", "JPEG")
    picture_files.image().save(tmp_path / "c.dng", "JPEG")
    found = pictures.scan(tmp_path)
    assert [e.header.format for e in found.pictures] == ["PNG", "JPEG", "JPEG"]
    assert targets(found) == {"a.jpg": "a.jpg", "b": "b", "c.dng": "c.dng"}
    assert found.pictures[0].notes == (
        "its content is PNG, named like JPEG: read as PNG",
    )
    before = pictures.read(tmp_path / "a.jpg")
    assert pictures.write(tmp_path / "a.jpg", before, before.pixels).format == "PNG"
    # Asked for as JPEG, the name fits already.
    assert targets(pictures.scan(tmp_path, format="jpeg"))["a.jpg"] == "a.jpg"


def test_class_folders_are_labels(tmp_path):
    put(tmp_path, "dog/1.png", "dog/deep/2.png", "cat/1.png")
    found = pictures.scan(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert [entry.label for entry in found.pictures] == [0, 1, 1]
    put(tmp_path, "loose.png")
    found = pictures.scan(tmp_path)
    assert found.class_names is None
    assert {entry.label for entry in found.pictures} == {None}


def test_one_folder_is_no_class_and_splits_are_none(tmp_path):
    put(tmp_path, "train/cat/1.png", "test/dog/1.png")
    assert pictures.scan(tmp_path).class_names == ("cat", "dog")
    put(tmp_path, "other/a/1.png")
    assert pictures.scan(tmp_path).class_names == ("other", "test", "train")
    put(tmp_path / "flat", "all/1.png", "all/2.png")
    assert pictures.scan(tmp_path / "flat").class_names is None


def test_names_stay_apart_in_another_format(tmp_path):
    put(tmp_path, "a.jpg", "a.png", "A.webp", "a.jpg.png", "b.tif", "B.JPEG", "c.png")
    found = pictures.scan(tmp_path, format="png")
    chosen = targets(found)
    assert len({name.lower() for name in chosen.values()}) == len(chosen)
    assert chosen["a.png"] == "a.png"
    assert chosen["a.jpg.png"] == "a.jpg.png"
    assert chosen["a.jpg"] == "a.jpg_2.png"
    assert chosen["A.webp"] == "A.webp.png"
    assert {chosen["b.tif"], chosen["B.JPEG"]} == {"b.tif.png", "B.png"}
    notes = {entry.name: entry.notes for entry in found.pictures}
    assert notes["A.webp"] == ("written as A.webp.png: A.png is another picture",)
    assert notes["c.png"] == ()


def test_names_of_an_earlier_run_stay(tmp_path):
    put(tmp_path, "a.jpg")
    first = targets(pictures.scan(tmp_path, format="png"))
    assert first == {"a.jpg": "a.png"}
    put(tmp_path, "a.png")
    second = targets(pictures.scan(tmp_path, format="png", targets=first))
    assert second == {"a.jpg": "a.png", "a.png": "a.png.png"}
    third = targets(pictures.scan(tmp_path, format="png", targets=second))
    assert third == second


def test_what_a_format_cannot_hold_goes_to_png(tmp_path):
    for name in ("still.gif", "clear.png", "clear.webp", "color.jpg"):
        picture_files.FILES[name](tmp_path / name)
    found = pictures.scan(tmp_path)
    assert targets(found)["still.gif"] == "still.png"
    chosen = targets(pictures.scan(tmp_path, format="jpeg"))
    assert chosen["clear.webp"] == "clear.webp.png"
    assert chosen["clear.png"] == "clear.png"
    for entry in pictures.scan(tmp_path, format="jpeg").pictures:
        before = pictures.read(entry.path)
        out = tmp_path / "out"
        audit = pictures.write(out, before, before.pixels, format="jpeg")
        suffix = pathlib.Path(entry.target).suffix
        assert {".png": "PNG", ".jpg": "JPEG"}[suffix] == audit.format


def test_links_pipes_and_folders_are_followed_or_named(tmp_path):
    put(tmp_path, "in/a.png", "in/album.png/b.png", "elsewhere/c.png", "d.png")
    root = tmp_path / "in"
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "e.png").symlink_to(tmp_path / "d.png")
    (root / "up").symlink_to(root)
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "gone.txt").symlink_to(tmp_path / "nowhere")
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.txt")
    found = pictures.scan(root)
    assert names(found) == ["a.png", "album.png/b.png", "e.png", "link/c.png"]
    reasons = dict(found.unreadable)
    assert reasons == {
        "gone": "is a link to nothing",
        "gone.jpg": "is a link to nothing",
        "pipe.png": "is a pipe or a device, not a file",
        "self.png": "is a link to itself",
        "up": "is a link to a folder that it lies in",
    }
    assert found.others == ("gone.txt", "pipe.txt")


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "secret.png", "locked/b.png")
    (tmp_path / "secret.txt").touch()
    real_open, real_access = pathlib.Path.open, os.access

    def guarded(path, *arguments, **options):
        if path.stem == "secret":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments, **options)

    # The tests may run as root, who may read everything.
    monkeypatch.setattr(pathlib.Path, "open", guarded)
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: path.name != "locked" and real_access(path, mode),
    )
    found = pictures.scan(tmp_path)
    assert names(found) == ["a.png"]
    assert dict(found.unreadable) == {
        "locked": "is a folder that cannot be listed",
        "secret.png": "cannot be read (Permission denied)",
    }
    assert found.others == ("secret.txt",)


def test_one_file_is_scanned_alone(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    assert targets(pictures.scan(tmp_path / "a.jpg", format="png")) == {
        "a.jpg": "a.png"
    }
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        pictures.scan(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="format is 'gif'; allowed"):
        pictures.scan(tmp_path, format="gif")


def test_heic_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
    for name in ("a.heic", "b.HEIC", "c.jpg"):
        (tmp_path / name).write_bytes(head)
    found = pictures.scan(tmp_path)
    assert [entry.name for entry in found.unreadable] == ["a.heic", "b.HEIC", "c.jpg"]
    for entry in found.unreadable:
        assert "pip install 'miue_jax[heic]'" in entry.reason


def test_heic_is_protected_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = picture_files.exif(6, place=True)
    picture_files.image(64, 96).save(tmp_path / "a.heic", quality=90, exif=data)
    entry = pictures.scan(tmp_path).pictures[0]
    assert entry.header.format == "HEIF"
    before = pictures.read(entry.path)
    wanted = before.pixels ^ 7
    audit = pictures.write(tmp_path / entry.target, before, wanted)
    after = pictures.read(tmp_path / entry.target)
    difference = abs(after.pixels.astype(int) - before.pixels)
    assert difference.max() == audit.max_change <= 8
    assert after.orientation == before.orientation
