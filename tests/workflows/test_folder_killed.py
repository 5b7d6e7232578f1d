"""Kills and signals: the same command goes on, and ends in the same bytes."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import protected_folders as folders
import pytest

from miue_jax.workflows.folder import run

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# A fit of a few seconds, with a checkpoint every five steps.
_PROGRAM = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
import protected_folders
from miue_jax import cli
protected_folders.fit_quickly(setattr, steps=40)
sys.exit(cli.main(["protect", "in", "out", "--no-measure", "--quiet"]))
"""


def _start(root: pathlib.Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def _pictures(root: pathlib.Path, count: int) -> None:
    for number in range(count):
        suffix = ("jpg", "png", "webp", "jpg")[number % 4]
        name = f"{'ab'[number % 2]}/{number:03}.{suffix}"
        folders.photo(root / "in" / name, seed=number, size=(320, 240))


def _done(root: pathlib.Path) -> dict[str, int]:
    """Times of the files that are whole, as far as the record tells."""
    path, found = root / "out.miue" / "pictures.jsonl", {}
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in lines:
        entry = json.loads(line)
        if entry["result"] is not None:
            target = root / "out" / entry["target"]
            found[entry["target"]] = target.stat().st_mtime_ns
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run writes, and how long it takes."""
    root = tmp_path_factory.mktemp("whole")
    _pictures(root, 40)
    # Once to compile what later runs find in the cache.
    assert _end(_start(root))[0] == 0
    again = tmp_path_factory.mktemp("again")
    _pictures(again, 40)
    began = time.monotonic()
    status, output, errors = _end(_start(again))
    seconds = time.monotonic() - began
    assert (status, errors) == (0, "")
    assert output.startswith("out: 40 pictures are protected, 40 of them new")
    content = folders.files(root / "out")
    assert folders.files(again / "out") == content
    return content, seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments(tmp_path, whole, seed):
    content, seconds = whole
    _pictures(tmp_path, 40)
    rng = random.Random(seed)
    written: dict[str, int] = {}
    fitted = None
    for _ in range(3):
        process = _start(tmp_path)
        aims = ("out.miue/fit/*", "out.miue/*.safetensors", "out/*/*", "out/*/.*.tmp")
        if rng.random() < 0.5:
            aim, until = rng.choice(aims), time.monotonic() + seconds
            known = set(tmp_path.glob(aim))
            while time.monotonic() < until and process.poll() is None:
                if set(tmp_path.glob(aim)) - known:
                    break
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
        else:
            time.sleep(rng.uniform(0.3 * seconds, seconds))
        process.kill()
        _end(process)
        # What was whole before this run is what it was.
        now = _done(tmp_path)
        assert {name: now[name] for name in written} == written
        written = now
        protector = tmp_path / "out.miue" / run.PROTECTOR
        if protector.exists():
            assert fitted in (None, protector.stat().st_mtime_ns)
            fitted = protector.stat().st_mtime_ns
    status, _, errors = _end(_start(tmp_path))
    assert (status, errors) == (0, "")
    now = _done(tmp_path)
    assert {name: now[name] for name in written} == written
    assert folders.files(tmp_path / "out") == content
    assert not folders.remains(tmp_path)
    assert not (tmp_path / "out.miue" / "fit").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["out.miue/fit/*", "out/*/*"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, whole, moment, number):
    content, _ = whole
    _pictures(tmp_path, 40)
    process = _start(tmp_path)
    while process.poll() is None and not any(tmp_path.glob(moment)):
        time.sleep(0.005)
    os.kill(process.pid, number)
    status, output, errors = _end(process)
    assert (status, output) == (128 + number, "")
    assert "rerun the same command" in errors or "resume" in errors
    assert "Traceback" not in errors
    assert not folders.remains(tmp_path)
    written = _done(tmp_path)
    assert len(written) < 40
    assert _end(_start(tmp_path))[0] == 0
    now = _done(tmp_path)
    assert {name: now[name] for name in written} == written
    assert folders.files(tmp_path / "out") == content


def test_begun_and_not_ended_is_written_again(tmp_path, miue, monkeypatch):
    """As a kill leaves it between the rename and the second line of the record."""
    monkeypatch.chdir(tmp_path)
    folders.photo(tmp_path / "in" / "a.png")
    folders.photo(tmp_path / "in" / "b.png", seed=1)
    folders.save_protector(tmp_path / "mine")
    command = ("protect", "in", "out", "--effort=fast", "--protector=mine", "--quiet")
    assert miue(*command, "--no-measure")[0] == 0
    content = folders.files(tmp_path / "out")
    record = tmp_path / "out.miue" / "pictures.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])
    record.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    (tmp_path / "out" / f".{last['target']}.{'0' * 32}.tmp").write_bytes(b"half")
    status, output, errors = miue(*command, "--no-measure")
    assert (status, errors) == (0, "")
    assert output.startswith("out: 2 pictures are protected, 1 of them new")
    assert folders.files(tmp_path / "out") == content
