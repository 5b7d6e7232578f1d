"""What `miue protect IN OUT` refuses: in one line, with nothing written."""

import io
import os
import pathlib
import pickle
import re

import protected_folders as folders
import pytest
from PIL import Image

import miue_jax as mj
from miue_jax.workflows.folder import run


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory with a folder of two pictures and a protector."""
    folders.photo(tmp_path / "in" / "a.png")
    folders.photo(tmp_path / "in" / "b.jpg", seed=1)
    folders.save_protector(tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def protect(miue, site):
    options = ("--effort=fast", "--protector=mine.safetensors", "--no-measure")

    def call(source="in", output="out", *more):
        return miue("protect", source, output, *options, "--quiet", *more)

    return call


def _refused(result: tuple[int, str, str], *messages: str) -> None:
    status, output, errors = result
    assert (status, output) == (2, ""), errors
    assert errors.startswith("miue protect: ")
    assert len(errors.splitlines()) == 1, errors
    for message in messages:
        assert message in errors


def _content(root: pathlib.Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


# Folders.


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("none", "out", "none: no such file or folder"),
        ("empty", "out", "empty: no pictures in it"),
        ("texts", "out", "texts: no pictures in it"),
        ("texts/a.txt", "out", "no pictures in it"),
        ("in", "in", "the pictures must not be the output (in): choose another"),
        ("in", "in/", "must not be the output"),
        ("in", "./in/../in", "must not be the output"),
        ("in", "link", "must not be the output"),
        ("link", "in", "must not be the output"),
        ("in", "in/out", "the output must not lie in the pictures (in)"),
        ("in", "link/out", "the output must not lie in the pictures (in)"),
        ("in", ".", "the pictures must not lie in the output (.)"),
        ("in/a.png", "in", "the pictures must not lie in the output"),
        ("in/a.png", "in/a.png", "must not be the output"),
        ("in", "mine.safetensors", "exists and is not a folder"),
        ("in", "mine.safetensors/out", "mine.safetensors is not a folder"),
        (
            *("in", "texts"),
            "texts: is not empty, and no earlier run wrote into it (there is no record "
            "in texts.miue); choose another",
        ),
        ("in", "/proc/out", "/proc"),
    ],
)
def test_places_that_cannot_be_used(protect, site, source, output, message):
    (site / "empty").mkdir()
    (site / "texts").mkdir()
    (site / "texts" / "a.txt").write_text("no picture")
    (site / "link").symlink_to("in")
    before = _content(site)
    _refused(protect(source, output), message)
    assert _content(site) == before


@pytest.mark.parametrize("name", ["out", "out/run", "in/run", "in", "."])
def test_a_work_folder_is_no_part_of_others(protect, site, name):
    before = _content(site)
    _refused(protect("in", "out", f"--workdir={name}"), "must not ")
    assert _content(site) == before


def test_a_work_folder_of_another_run_is_left_alone(protect, site):
    (site / "run").mkdir()
    (site / "run" / "letter.txt").write_text("mine")
    before = _content(site)
    _refused(protect("in", "out", "--workdir=run"), "run is not empty and holds no run")
    assert _content(site) == before


def test_an_output_that_cannot_be_written_to(protect, site):
    folders.not_root()
    (site / "there").mkdir(mode=0o500)
    _refused(protect("in", "there/out"), "cannot be written to")
    (site / "out").mkdir(mode=0o500)
    _refused(protect("in", "out"), "out cannot be written to")
    assert not (site / "out.miue").exists()


def test_it_is_found_early_that_an_output_cannot_be_written_to(
    protect, site, monkeypatch
):
    # Root may write everywhere.
    monkeypatch.setattr(run.os, "access", lambda path, mode: False)
    before = _content(site)
    _refused(protect("in", "out"), "cannot be written to")
    assert _content(site) == before


def test_links_into_the_output_are_refused(protect, site):
    assert protect()[0] == 0
    (site / "in" / "again").symlink_to(site / "out")
    before = _content(site / "out")
    _refused(protect(), "is reached by a link into out")
    assert _content(site / "out") == before


@pytest.mark.parametrize("name", ["source", "output", "workdir"])
def test_an_empty_path_is_not_the_current_folder(site, name):
    given = {"source": "in", "output": "out", name: ""}
    with pytest.raises(ValueError, match=f"{name} is empty"):
        mj.protect_folder(**given)
    assert set(os.listdir(site)) == {"in", "mine.safetensors"}


# Settings.


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"strength": 0}, "strength is 0; allowed: whole gray levels from 1 to 32"),
        ({"strength": 33}, "strength is 33; allowed"),
        ({"strength": -1}, "strength is -1; allowed"),
        ({"strength": 2.5}, "strength is 2.5; allowed"),
        ({"strength": True}, "strength is True; allowed"),
        ({"strength": "8"}, "strength is '8'; allowed"),
        ({"effort": "fats"}, "did you mean 'fast'"),
        ({"effort": None}, "effort"),
        ({"format": "gif"}, "format"),
        ({"format": "PNG"}, "format is 'PNG'; allowed: png, webp, jpeg"),
        ({"measure": 1}, "measure"),
        ({"skip_unreadable": "no"}, "skip_unreadable"),
        ({"seed": -1}, "seed holds -1"),
        ({"seed": 1.5}, "seed"),
        ({"sed": 1}, "did you mean 'seed'"),
    ],
    ids=str,
)
def test_settings_that_are_not_allowed(site, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mj.protect_folder("in", "out", **setting)
    assert set(os.listdir(site)) == {"in", "mine.safetensors"}


# Protectors.


class _Executes:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def _pickle(path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps(_Executes()))


def _truncated(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flipped(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)


def _foreign(path: pathlib.Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickle, "it is not of the format safetensors"),
        (_truncated, "it is damaged"),
        (_flipped, "it is damaged: its digest is another"),
        (_foreign, "it is of another program"),
        (lambda path: path.write_bytes(b""), "it is not of the format safetensors"),
        (pathlib.Path.unlink, "No such file"),
    ],
)
def test_a_protector_that_is_none(protect, site, damage, message):
    damage(site / "mine.safetensors")
    before = _content(site)
    status, output, errors = protect()
    assert (status, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert errors.startswith("miue protect: mine.safetensors: ")
    assert message.lower() in errors.lower()
    assert _content(site) == before


# Pictures.


def _cut(path: pathlib.Path) -> None:
    file = io.BytesIO()
    folders.photo(path)
    with Image.open(path) as image:
        image.resize((400, 300)).save(file, "JPEG")
    path.write_bytes(file.getvalue()[: len(file.getvalue()) // 2])


def _moving(path: pathlib.Path) -> None:
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


# Files that look like pictures, and what is said of them.
BAD = {
    "cut.jpg": (_cut, "not a readable picture (image file is truncated"),
    "empty.jpg": (pathlib.Path.touch, "not a readable picture (it is empty)"),
    "text.png": (
        lambda path: path.write_text("none"),
        "not a readable picture (its content",
    ),
    "small.png": (
        lambda path: folders.photo(path, size=(1, 1)),
        "is 1x1: only pictures of at least 16 pixels a side can be protected",
    ),
    "narrow.png": (lambda path: folders.photo(path, size=(15, 300)), "is 15x300: only"),
    "moving.gif": (_moving, "is animated (2 frames)"),
    "film.mp4": (
        lambda path: path.write_bytes(b"\0\0\0\x18ftypisom\0\0\0\1isommp42"),
        "is a film, which cannot be protected",
    ),
    "raw.nef": (
        lambda path: path.write_bytes(b"MM\0*" + b"\0" * 40),
        "is a camera's raw file, which cannot be protected",
    ),
    "link.jpg": (lambda path: path.symlink_to("none"), "is a link to nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_left_out_unsaid(protect, site, name):
    make, message = BAD[name]
    (site / "in" / "trips").mkdir()
    make(site / "in" / "trips" / name)
    before = _content(site)
    _refused(
        protect(),
        f"in: 1 file cannot be protected: trips/{name}: {message}",
        "remove it, or go on without it by --skip-unreadable",
    )
    assert _content(site) == before


def test_with_skip_unreadable_all_are_named(protect, site):
    for name, (make, _) in BAD.items():
        make(site / "in" / name)
    status, output, errors = protect("in", "out", "--skip-unreadable")
    assert status == 0
    assert output.startswith("out: 2 pictures are protected, 2 of them new, 9 are not")
    lines = errors.splitlines()
    assert len(lines) == len(BAD)
    page = (site / "out" / run.REPORT).read_text()
    for line, (name, (_, message)) in zip(lines, sorted(BAD.items()), strict=True):
        assert line.startswith(f"miue protect: not protected: {name}: {message}")
        assert name in page
    assert set(folders.files(site / "out")) == {"a.png", "b.jpg", run.REPORT}


def test_what_must_not_be_published_is_said(protect, site):
    status, output, _ = protect()
    assert status == 0
    assert output == (
        "out: 2 pictures are protected, 2 of them new; see protection-report.html. "
        "Publish neither that page, which shows the originals, nor out.miue, which "
        "only a later run needs that adds pictures\n"
    )
    assert "nor kept, which" in protect("in", "other", "--workdir=kept")[1]


def test_a_missing_output_is_said(miue, site):
    status, output, errors = miue("protect", "in")
    assert (status, output) == (2, "")
    assert errors.startswith(
        "miue protect: OUT is missing for a folder of pictures (miue protect IN OUT)"
    )


def test_pictures_that_are_gone_are_named_and_their_files_left(protect, site):
    assert protect()[0] == 0
    before = (site / "out" / "b.jpg").read_bytes()
    (site / "in" / "b.jpg").unlink()
    status, output, errors = protect()
    assert status == 0
    assert output.startswith("out: 1 picture is protected, 0 of them new")
    assert errors == (
        "miue protect: left as it is: out/b.jpg: b.jpg is no longer in in\n"
    )
    assert (site / "out" / "b.jpg").read_bytes() == before
    (site / "out" / "b.jpg").unlink()
    assert protect()[2] == ""


def test_hidden_pictures_are_named(protect, site):
    folders.photo(site / "in" / ".sea.png")
    folders.photo(site / "in" / ".thumbs" / "sky.png")
    status, output, errors = protect()
    assert status == 0
    assert "2 of them new, 2 are not" in output
    why = "is hidden (its name begins with a dot)"
    assert errors.splitlines() == [
        f"miue protect: not protected: {name}: {why}"
        for name in (".sea.png", ".thumbs")
    ]
    assert ".sea.png" in (site / "out" / run.REPORT).read_text()
    for name in ("a.png", "b.jpg"):
        (site / "in" / name).unlink()
    _refused(protect("in", "new"), "in: no pictures in it but hidden ones")


def test_many_files_are_counted(protect, site):
    for number in range(30):
        (site / "in" / f"{number:02}.jpg").touch()
    result = protect()
    _refused(result, "30 files cannot be protected: 00.jpg", "and 25 more; remove them")


def test_where_all_are_unreadable_nothing_is_written(protect, site):
    folder = site / "bad"
    folder.mkdir()
    _cut(folder / "cut.jpg")
    before = _content(site)
    _refused(protect("bad"), "or go on without it by --skip-unreadable")
    _refused(protect("bad", "out", "--skip-unreadable"), "there are no others")
    assert _content(site) == before


def test_a_picture_that_is_damaged_while_others_are_written(protect, site, monkeypatch):
    real, seen = run.pictures.read, []

    def read(path, **options):
        seen.append(path)
        if path.name == "b.jpg" and len(seen) > 2:
            raise ValueError(f"{path}: not a readable picture (gone)")
        return real(path, **options)

    monkeypatch.setattr(run.pictures, "read", read)
    _refused(protect(), "b.jpg: not a readable picture (gone)")
    monkeypatch.undo()
    os.chdir(site)
    assert protect()[0] == 0
    assert set(folders.files(site / "out")) == {"a.png", "b.jpg", run.REPORT}


def test_a_picture_that_was_protected_and_is_damaged_now(protect, site):
    assert protect()[0] == 0
    before = (site / "out" / "b.jpg").read_bytes()
    _cut(site / "in" / "b.jpg")
    _refused(protect(), "b.jpg: not a readable picture")
    status, output, errors = protect("in", "out", "--skip-unreadable")
    assert (status, errors.count("\n")) == (0, 1)
    assert output.startswith("out: 1 picture is protected, 0 of them new, 1 is not")
    # It stays as it was.
    assert (site / "out" / "b.jpg").read_bytes() == before


# Two at once.


def test_one_run_at_a_time(protect, site):
    workdir = site / "out.miue"
    assert protect()[0] == 0
    import fcntl

    with (workdir / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (workdir / "pictures.jsonl").open("a") as record:
            # As the other run may be writing right now.
            record.write('{"name": "c.p')
        before = _content(site)
        _refused(protect(), "another process is working in")
        assert _content(site) == before
