"""A second run protects what is new or has changed, and leaves all else alone."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import protected_folders as folders
import pytest

import miue_jax as mj
from miue_jax import protector
from miue_jax.protector import clusters
from miue_jax.workflows.folder import codes, record, run


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return folders.save_protector(tmp_path_factory.mktemp("mine") / "mine.safetensors")


@pytest.fixture
def protect(tmp_path, mine):
    """Protects `in`; `in` holds three pictures of two classes."""
    for number, name in enumerate(("cats/a.png", "dogs/b.jpg", "cats/c.webp")):
        folders.photo(tmp_path / "in" / name, seed=number)

    def call(output="out", **settings):
        given = {"protector": str(mine), "effort": "fast", "measure": False, **settings}
        return mj.protect_folder(tmp_path / "in", tmp_path / output, **given)

    return call


def test_with_nothing_new_nothing_is_written(tmp_path, protect, monkeypatch):
    assert len(protect().new) == 3
    content, written = folders.files(tmp_path / "out"), folders.times(tmp_path / "out")
    monkeypatch.setattr(run.pictures, "read", None)
    found = protect()
    assert not found.new
    assert len(found.written) == 3
    assert folders.files(tmp_path / "out") == content
    assert folders.times(tmp_path / "out") == written


def test_new_pictures_are_protected_and_others_stay(tmp_path, protect):
    protect()
    content, written = folders.files(tmp_path / "out"), folders.times(tmp_path / "out")
    folders.photo(tmp_path / "in" / "dogs" / "d.png", seed=7)
    found = protect()
    assert found.new == ("dogs/d.png",)
    assert len(found.written) == 4
    after, now = folders.files(tmp_path / "out"), folders.times(tmp_path / "out")
    assert after.keys() == content.keys() | {"dogs/d.png"}
    for name in content.keys() - {run.REPORT}:
        assert (after[name], now[name]) == (content[name], written[name])
    assert "dogs/d.png" in after[run.REPORT].decode()
    # As if all had been there at once.
    protect(output="whole")
    assert folders.files(tmp_path / "whole") == after


def test_a_picture_that_changed_is_protected_again(tmp_path, protect):
    protect()
    content = folders.files(tmp_path / "out")
    folders.photo(tmp_path / "in" / "cats" / "a.png", seed=9)
    found = protect()
    assert found.new == ("cats/a.png",)
    after = folders.files(tmp_path / "out")
    assert after["cats/a.png"] != content["cats/a.png"]
    assert after["dogs/b.jpg"] == content["dogs/b.jpg"]
    folders.check_budget(
        tmp_path / "in", tmp_path / "out", {"cats/a.png": "cats/a.png"}, 8
    )


def test_a_picture_that_was_only_touched_is_not(tmp_path, protect):
    protect()
    os.utime(tmp_path / "in" / "cats" / "a.png")
    assert not protect().new


def test_what_is_removed_from_the_input_stays_in_the_output(tmp_path, protect):
    protect()
    before = (tmp_path / "out" / "cats" / "a.png").read_bytes()
    (tmp_path / "in" / "cats" / "a.png").unlink()
    found = protect()
    assert set(found.written) == {"cats/c.webp", "dogs/b.jpg"}
    assert (tmp_path / "out" / "cats" / "a.png").read_bytes() == before
    page = (tmp_path / "out" / run.REPORT).read_text()
    assert "cats/a.png" not in page
    # And nothing else takes its place.
    (tmp_path / "in" / "cats" / "A.png").write_bytes(
        (tmp_path / "in" / "dogs" / "b.jpg").read_bytes()
    )
    found = protect()
    assert found.written["cats/A.png"].target != "cats/A.png"
    assert (tmp_path / "out" / "cats" / "a.png").read_bytes() == before


def test_what_is_removed_from_the_output_is_written_again(tmp_path, protect):
    protect()
    content = folders.files(tmp_path / "out")
    (tmp_path / "out" / "cats" / "a.png").unlink()
    (tmp_path / "out" / run.REPORT).unlink()
    assert protect().new == ("cats/a.png",)
    assert folders.files(tmp_path / "out") == content


def test_a_report_that_was_changed_is_written_again(tmp_path, protect):
    protect()
    content = folders.files(tmp_path / "out")
    (tmp_path / "out" / run.REPORT).write_text("mine")
    assert not protect().new
    assert folders.files(tmp_path / "out") == content


def test_a_file_that_was_changed_by_hand_is_not_overwritten(tmp_path, protect):
    protect()
    path = tmp_path / "out" / "cats" / "a.png"
    path.write_bytes(b"mine")
    folders.photo(tmp_path / "in" / "new.png")
    before = folders.files(tmp_path / "out")
    with pytest.raises(ValueError, match="was changed since it was written") as caught:
        protect()
    assert str(path) in str(caught.value)
    assert folders.files(tmp_path / "out") == before
    path.unlink()
    assert set(protect().new) == {"cats/a.png", "new.png"}


def test_files_of_others_in_the_output_stay(tmp_path, protect):
    protect()
    mine = tmp_path / "out" / "cats" / "d.png"
    mine.write_bytes(b"mine")
    assert not protect().new
    folders.photo(tmp_path / "in" / "cats" / "d.png")
    with pytest.raises(
        ValueError, match="exists, and no earlier run wrote it"
    ) as found:
        protect()
    assert str(mine) in str(found.value)
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    mine.symlink_to(tmp_path / "in" / "cats" / "a.png")
    with pytest.raises(ValueError, match="exists, and no earlier run wrote it"):
        protect()
    mine.unlink()
    assert protect().new == ("cats/d.png",)


def test_an_output_of_somebody_else_stays_as_it_is(tmp_path, protect):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="no earlier run wrote into it"):
        protect()
    assert set(os.listdir(tmp_path)) == {"in", "out"}
    # One that is empty does no harm.
    (tmp_path / "out" / "letter.txt").unlink()
    assert len(protect().new) == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"strength": 4}, r"strength is 8 there and 4 here"),
        ({"format": "png"}, r"format is not set there and 'png' here"),
        ({"seed": 1}, r"seed is 0 there and 1 here"),
        ({"strip_location": True}, r"strip_location is False there and True here"),
        ({"effort": "strong"}, r"effort is 'fast' there and 'strong' here"),
        ({"protector": None}, r"protector is '\w+' there and not set here"),
    ],
    ids=str,
)
def test_all_pictures_are_protected_alike(tmp_path, protect, setting, message):
    protect()
    folders.photo(tmp_path / "in" / "new.png")
    content, kept = (folders.files(tmp_path / name) for name in ("out", "out.miue"))
    with pytest.raises(ValueError, match=message) as caught:
        protect(**setting)
    assert "choose another output folder" in str(caught.value)
    assert folders.files(tmp_path / "out") == content
    assert folders.files(tmp_path / "out.miue") == kept


def test_what_does_not_change_files_may_differ(tmp_path, protect):
    protect()
    assert not protect(skip_unreadable=True, measure=True).new


def test_old_classes_keep_their_codes(tmp_path, protect):
    protect()
    content = folders.files(tmp_path / "out")
    before = json.loads((tmp_path / "out.miue" / "codes.json").read_text())
    folders.photo(tmp_path / "in" / "apes" / "e.png", seed=8)
    folders.photo(tmp_path / "in" / "cats" / "f.png", seed=9)
    found = protect()
    assert set(found.new) == {"apes/e.png", "cats/f.png"}
    later = json.loads((tmp_path / "out.miue" / "codes.json").read_text())
    assert {name: later[name] for name in ("cats", "dogs")} == {
        name: before[name] for name in ("cats", "dogs")
    }
    assert later["apes"] == 2
    after = folders.files(tmp_path / "out")
    assert all(after[x] == content[x] for x in content.keys() - {run.REPORT})
    assert found.written["cats/f.png"].label == "cats"


def test_classes_stay_when_a_picture_comes_that_has_none(tmp_path, protect):
    protect()
    folders.photo(tmp_path / "in" / "stray.png", seed=8)
    folders.photo(tmp_path / "in" / "dogs" / "f.png", seed=9)
    found = protect()
    labels = {name: entry.label for name, entry in found.written.items()}
    assert labels["dogs/f.png"] == "dogs"
    assert labels["stray.png"] == "group 1"
    page = (tmp_path / "out" / run.REPORT).read_text()
    assert "2 folders are classes" in page
    # As if it had not come.
    (tmp_path / "in" / "stray.png").unlink()
    protect(output="other")
    written = (tmp_path / "out" / "dogs" / "f.png").read_bytes()
    assert (tmp_path / "other" / "dogs" / "f.png").read_bytes() == written


def test_the_report_says_why_folders_are_no_classes(tmp_path, protect):
    folders.photo(tmp_path / "in" / "stray.png", seed=8)
    protect()
    page = (tmp_path / "out" / run.REPORT).read_text()
    why = (
        "Folders are no classes here, as 1 picture lies outside of them, and there are"
    )
    assert f"{why} too few pictures for groups: all go together." in page
    for name in ("cats", "dogs"):
        shutil.rmtree(tmp_path / "in" / name)
    protect(output="flat")
    page = (tmp_path / "flat" / run.REPORT).read_text()
    assert "There are no class folders, and there are too few pictures for" in page


def test_a_picture_outside_all_classes_shares_no_code_with_them(tmp_path, protect):
    protect()
    one = tmp_path / "in" / "dogs" / "one.png"
    folders.photo(one, seed=9)
    for place in ("in/cats/one.png", "in/one.png"):
        shutil.copy(one, tmp_path / place)
    protect()
    made = {
        (tmp_path / "out" / name).read_bytes()
        for name in ("cats/one.png", "dogs/one.png", "one.png")
    }
    assert len(made) == 3


def test_classes_that_come_later_share_no_code_with_groups(tmp_path):
    made = protector.untrained(
        jax.random.key(0), protector.Settings(width=8, num_codes=5)
    )
    groups = clusters.none()._replace(centers=jnp.zeros((3, clusters.SIZE)))
    made = dataclasses.replace(made, clusters=groups)
    found = codes.assign(made, ("cats", "dogs"), tmp_path)
    assert found.known == {"cats": 3, "dogs": 4}
    assert found.outside is None
    assert codes.assign(made, ("apes", "cats"), tmp_path).known["cats"] == 3


def test_a_folder_and_what_it_needs_may_be_moved(tmp_path, protect):
    protect()
    (tmp_path / "out").rename(tmp_path / "there")
    (tmp_path / "out.miue").rename(tmp_path / "there.miue")
    folders.photo(tmp_path / "in" / "new.png")
    assert protect(output="there").new == ("new.png",)


def test_a_work_folder_may_lie_elsewhere(tmp_path, protect):
    protect(workdir=tmp_path / "kept" / "run")
    assert not (tmp_path / "out.miue").exists()
    assert not protect(workdir=tmp_path / "kept" / "run").new
    with pytest.raises(ValueError, match="no earlier run wrote into it"):
        protect()


def test_the_work_folder_is_not_published(tmp_path, protect):
    protect()
    assert set(folders.files(tmp_path / "out")) == {
        *("cats/a.png", "dogs/b.jpg", "cats/c.webp", run.REPORT)
    }
    digest = hashlib.sha256((tmp_path / "out.miue" / run.PROTECTOR).read_bytes())
    assert digest.hexdigest() not in (tmp_path / "out" / run.REPORT).read_text()
    for path in (tmp_path / "out").rglob("*"):
        assert str(tmp_path).encode() not in (
            path.read_bytes() if path.is_file() else b""
        )


def test_what_changed_while_it_waited_is_seen(tmp_path, protect, monkeypatch):
    """Another process may end between the look at the folder and the lock."""
    real, calls = run._plan, []

    def plan(*arguments):
        made = real(*arguments)
        calls.append(made)
        if len(calls) == 1:
            protect()
        return made

    monkeypatch.setattr(run, "_plan", plan)
    found = protect()
    assert not found.new
    assert len(found.written) == 3


# The record.


def _written(name: str) -> record.Written:
    stamp = record.Stamp(1, 2, "ab")
    return record.Written(name, name, stamp, stamp, "cats", {"notes": []})


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "pictures.jsonl"
    kept = record.Record(path)
    names = ["a.png", "\udcff.png", "a\nb.png", "日本.png"]
    for name in names:
        kept.add(record.Written(name, name, None, None, None, None))
        kept.add(_written(name))
    assert record.Record(path).entries == kept.entries
    assert list(kept.entries) == names


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_a_kill_cut_short_is_forgotten(tmp_path, cut):
    path = tmp_path / "pictures.jsonl"
    kept = record.Record(path)
    kept.add(_written("a.png"))
    kept.add(_written("b.png"))
    path.write_bytes(path.read_bytes()[:-cut])
    before = path.read_bytes()
    # Somebody else may be writing right now.
    assert list(record.Record(path).entries) == ["a.png"]
    assert path.read_bytes() == before
    again = record.Record(path, repair=True)
    assert list(again.entries) == ["a.png"]
    again.add(_written("c.png"))
    assert list(record.Record(path).entries) == ["a.png", "c.png"]


@pytest.mark.parametrize("line", [b"{}", b"[]", b"1", b"\xff", b'{"name": 3}', b""])
def test_a_damaged_record_is_refused(tmp_path, line):
    path = tmp_path / "pictures.jsonl"
    record.Record(path).add(_written("a.png"))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match="is damaged: line 2"):
        record.Record(path)


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    path = tmp_path / "pictures.jsonl"
    kept = record.Record(path)
    kept.add(_written("a.png"))
    before = path.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(OSError, match="cannot be written") as caught:
        kept.add(_written("b.png"))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before


def test_a_stamp_tells_whether_a_file_changed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    known = record.stamp(path)
    assert record.is_same(path, known)
    later = time.time_ns() + 10**9
    os.utime(path, ns=(later, later))
    assert record.is_same(path, known)
    path.write_bytes(b"abd")
    os.utime(path, ns=(later, later))
    assert not record.is_same(path, known)
    path.write_bytes(b"abcd")
    assert not record.is_same(path, known)
    path.unlink()
    assert not record.is_same(path, known)
    assert isinstance(path, pathlib.Path)
