"""Files and folders are whole or absent, and errors name them."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from miue_jax.data import atomic


def _write_and_fail(path, error):
    with atomic.write_file(path) as file:
        file.write(b"half")
        raise error


def test_a_full_disk_is_named_though_numpy_forgets_it(tmp_path):
    path = tmp_path / "delta.npy"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left on device") as raised:
        _write_and_fail(path, OSError("614400 requested and 12 written"))
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["delta.npy"]


_CUT = """
import resource, sys
import numpy as np
from miue_jax.data import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    with atomic.write_file(sys.argv[1]) as file:
        np.lib.format.write_array(file, np.zeros(100000))
except OSError as error:
    print(error)
"""


def test_numpy_says_what_the_test_above_says_it_says(tmp_path):
    path = tmp_path / "delta.npy"
    command = [sys.executable, "-c", _CUT, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written (No space left on device: 100000 requested" in (
        found.stdout
    )
    assert str(path) in found.stdout
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_number_names_the_file_and_keeps_its_reason(tmp_path):
    path = tmp_path / "picture.png"
    with pytest.raises(OSError, match="encoder error") as raised:
        _write_and_fail(path, OSError("encoder error -2"))
    assert raised.value.filename == str(path)
    assert not list(tmp_path.iterdir())


_KILLED = """
import os, pathlib, signal, sys
from miue_jax.data import atomic
root = pathlib.Path(sys.argv[1])
with atomic.write_folder(root / "png") as folder, atomic.write_file(root / "a") as file:
    (folder / "0.png").write_bytes(b"0")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_can_be_removed(tmp_path):
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    below = tmp_path / "seed_0"
    below.mkdir()
    (below / f".metrics.jsonl.{'0f' * 16}.tmp").write_text("")
    kept = [tmp_path / ".lock", tmp_path / ".notes.tmp", tmp_path / "a.tmp"]
    for path in kept:
        path.write_text("")
    assert len(list(tmp_path.iterdir())) == 6, "the writer left nothing"
    atomic.remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, below])
    assert not list(below.iterdir())


def test_what_is_still_being_written_stays(tmp_path):
    with atomic.write_file(tmp_path / "a") as file:
        file.write(b"1")
        for below in (False, True):
            atomic.remove_unfinished(tmp_path, below=below)
        assert len(list(tmp_path.iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"1"


def test_folders_and_what_lies_below_stay_where_others_may_write(tmp_path):
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    (tmp_path / "cell").mkdir()
    left = tmp_path / "cell" / f".a.{'0f' * 16}.tmp"
    left.write_text("")
    atomic.remove_unfinished(tmp_path, below=False)
    assert left.exists()
    assert [path.is_dir() for path in tmp_path.glob(".*.tmp")] == [True]


def test_a_file_that_is_removed_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    removed = []
    real = fcntl.flock

    def flock(file, kind):
        if not removed:
            removed.extend(tmp_path.iterdir())
            atomic.remove_unfinished(tmp_path)
        return real(file, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with atomic.write_file(tmp_path / "a") as file:
        file.write(b"1")
    assert len(removed) == 1
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_folder_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    real = os.replace
    monkeypatch.setattr(os, "sync", lambda: done.append("sync"))
    monkeypatch.setattr(
        os, "replace", lambda *paths: (done.append("rename"), real(*paths))
    )
    with atomic.write_folder(tmp_path / "png") as folder:
        (folder / "0.png").write_bytes(b"0")
    assert done == ["sync", "rename"]


@pytest.mark.parametrize("check", [atomic.check_new_file, atomic.check_new_folder])
def test_a_place_that_cannot_be_written_is_named(tmp_path, check):
    with pytest.raises(ValueError, match="there is no folder"):
        check(tmp_path / "none" / "a")
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ValueError, match="folder"):
        check(tmp_path / "a")
    check(tmp_path / "new")


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    """The rename would put a file in the place of /dev/null."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="pipe: is a device or a pipe, not a file"):
        atomic.check_new_file(path)
    with (
        pytest.raises(ValueError, match="pipe: is a device or a pipe, not a file"),
        atomic.write_file(path),
    ):
        pytest.fail("it must not be written")
    assert path.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
