"""Run directories: one configuration, one process, metrics that can be resumed."""

import concurrent.futures
import errno
import json
import os
import pathlib
import threading
import time

import pytest

from miue_jax.data import atomic, npz
from miue_jax.train import run_directory


def test_a_directory_belongs_to_one_configuration(tmp_path):
    workdir = tmp_path / "run"
    config = {"method": {"radius": 8.0}, "classes": (1, 2)}
    with run_directory.open_directory(workdir, config, resume=False):
        pass
    with run_directory.open_directory(workdir, config, resume=True):
        pass
    with (
        pytest.raises(ValueError, match=r"method.radius is 8.0 there and 4.0 here"),
        run_directory.open_directory(
            workdir, {**config, "method": {"radius": 4.0}}, resume=True
        ),
    ):
        pass
    with (
        pytest.raises(ValueError, match="holds a run already; pass --resume"),
        run_directory.open_directory(workdir, config, resume=False),
    ):
        pass


def test_foreign_files_and_a_second_process_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with (
        pytest.raises(ValueError, match="is not empty and holds no run"),
        run_directory.open_directory(tmp_path, {}, resume=True),
    ):
        pass
    workdir = tmp_path / "run"
    with (
        run_directory.open_directory(workdir, {}, resume=True),
        pytest.raises(ValueError, match="another process is working in"),
        run_directory.open_directory(workdir, {}, resume=True),
    ):
        pass


def test_processes_that_share_a_directory_keep_out_the_others(tmp_path):
    workdir = tmp_path / "run"
    with (
        run_directory.open_directory(workdir, {}, resume=True, shared=True),
        run_directory.open_directory(workdir, {}, resume=True, shared=True),
        pytest.raises(run_directory.Busy, match="another process is working in"),
        run_directory.open_directory(workdir, {}, resume=True),
    ):
        pass


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, shared):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_directory.fcntl, "flock", flock)
    workdir = tmp_path / "run"
    with (
        pytest.raises(ValueError, match=r"without locks \(No locks available\)"),
        run_directory.open_directory(workdir, {}, resume=True, shared=shared),
    ):
        pytest.fail("it was claimed without a lock")
    assert not workdir.exists()


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"method": ')
    with (
        pytest.raises(ValueError, match=r"config.json is not readable JSON"),
        run_directory.open_directory(tmp_path, {}, resume=True),
    ):
        pass


def test_json_that_is_no_object_or_lacks_something_is_named(tmp_path):
    (tmp_path / "config.json").write_text("3")
    with (
        pytest.raises(ValueError, match=r"config.json is damaged: it holds no JSON ob"),
        run_directory.open_directory(tmp_path, {}, resume=True),
    ):
        pass
    (tmp_path / "results.json").write_text('{"best": 1}')
    with pytest.raises(ValueError, match=r"results.json is damaged: it has no final"):
        run_directory.read_json(tmp_path / "results.json", needed=("best", "final"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_settings_that_are_not_finite_are_named_before_anything_is_written(
    tmp_path, value
):
    with (
        pytest.raises(ValueError, match=r"method.radius is .*; it must be finite"),
        run_directory.open_directory(
            tmp_path / "run", {"method": {"radius": value}}, resume=True
        ),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_of_two_first_starters_with_other_configurations_one_is_refused(
    tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    write = run_directory.write_json
    together = threading.Barrier(2)

    def slowly(path, value):
        time.sleep(0.1)  # the other one looks meanwhile
        write(path, value)

    monkeypatch.setattr(run_directory, "write_json", slowly)

    def start(seed: int) -> bool:
        together.wait()
        try:
            with run_directory.open_directory(
                workdir, {"seed": seed}, resume=True, shared=True
            ):
                return True
        except ValueError:
            return False

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(start, (0, 1))) == [False, True]


def test_what_a_killed_run_left_is_removed_by_the_one_that_goes_on(tmp_path):
    left = tmp_path / "seed_0" / f".metrics.jsonl.{'0' * 32}.tmp"
    run_directory.write_json(tmp_path / "config.json", {})
    left.parent.mkdir()
    left.write_text("")
    with run_directory.open_directory(tmp_path, {}, resume=True, shared=True):
        assert left.exists(), "another process may be writing it"
    with run_directory.open_directory(tmp_path, {}, resume=True):
        assert not left.exists()


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = run_directory.MetricsFile(path, keep_until=0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # the kill came here
    again = run_directory.MetricsFile(path, keep_until=2)
    assert [line["step"] for line in again.read()] == [1, 2]
    again.write(3, {"loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    with pytest.raises(ValueError, match="loss is nan at step 4: training diverged"):
        again.write(4, {"loss": float("nan"), "accuracy": 0.5})
    # The line that the message sends the reader to is there.
    last = json.loads(path.read_text().splitlines()[-1])
    assert last == {"step": 4, "loss": None, "accuracy": 0.5}


def test_a_damaged_line_of_metrics_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for damaged in ("12", '{"epoch": 1}', "[1]", '{"step": 1, "lo'):
        path.write_text(f'{{"step": 1}}\n{damaged}\n{{"step": 3}}\n')
        with pytest.raises(ValueError, match=r"metrics.jsonl is damaged: line 2 holds"):
            run_directory.MetricsFile(path, keep_until=3)


def test_a_full_disk_for_metrics_names_the_file(tmp_path, monkeypatch):
    metrics = run_directory.MetricsFile(tmp_path / "metrics.jsonl", keep_until=0)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "open", full)
    with pytest.raises(OSError, match=r"No space .*metrics\.jsonl"):
        metrics.write(1, {"loss": 1.0})


def test_a_directory_that_others_do_not_see_is_refused(tmp_path, monkeypatch):
    # This process is not the first, and the first one writes elsewhere.
    monkeypatch.setattr(run_directory.jax, "process_index", lambda: 1)
    with (
        pytest.raises(ValueError, match="not one and the same for all processes"),
        run_directory.open_directory(tmp_path / "run", {"a": 1}, resume=True),
    ):
        pass


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "results.json"
    run_directory.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        run_directory.write_json(path, {"a": float("nan")})
    assert run_directory.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_json_that_was_changed_in_any_place_is_refused(tmp_path):
    path = tmp_path / "results.json"
    value = {"final": {"mean": 0.125, "std": None}, "seeds": (0, 1), "names": {1: "a"}}
    run_directory.write_json(path, value)
    whole = path.read_bytes()
    expected = run_directory.read_json(path)
    assert expected["seeds"] == [0, 1]
    assert expected["names"] == {"1": "a"}
    for place in range(len(whole)):
        for bit in (0, 1, 5):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = run_directory.read_json(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:  # white space
                assert found == expected


def test_results_of_others_are_read_without_a_digest(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"a": 1}')
    assert run_directory.read_json(path, own=False) == {"a": 1}
    with pytest.raises(ValueError, match="damaged: it has no sha256"):
        run_directory.read_json(path)
    run_directory.write_json(path, {"a": 1})
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ValueError, match="changed since it was written"):
        run_directory.read_json(path, own=False)


def test_processes_with_other_settings_are_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    other = json.dumps({"seed": 1, "data": {"per_class": 5}})
    monkeypatch.setattr(run_directory.parallel, "gather_text", lambda own: [own, other])
    message = "processes of this run differ: seed is 0 in process 0 and 1 in process 1"
    with (
        pytest.raises(ValueError, match=message),
        run_directory.open_directory(
            tmp_path / "run", {"seed": 0, "data": {"per_class": 5}}, resume=True
        ),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_what_a_killed_process_left_in_a_shared_directory_is_removed(tmp_path):
    with run_directory.open_directory(tmp_path, {}, resume=True, shared=True):
        pass
    left = tmp_path / f".results.json.{'0f' * 16}.tmp"
    left.write_text("")
    with run_directory.open_directory(tmp_path, {}, resume=True, shared=True):
        assert not left.exists()
        with atomic.write_file(tmp_path / "results.json") as file:
            file.write(b"{}")
            with run_directory.open_directory(tmp_path, {}, resume=True, shared=True):
                pass
        assert (tmp_path / "results.json").read_bytes() == b"{}"


def _fail(workdir: pathlib.Path, error: Exception, *, made: str = "") -> None:
    def run() -> None:
        with run_directory.open_directory(workdir, {}, resume=True):
            if made:
                (workdir / made).write_text("")
            raise error

    with pytest.raises(type(error)):
        run()


def test_a_directory_in_which_nothing_was_made_is_removed(tmp_path):
    workdir = tmp_path / "run"
    _fail(workdir, ValueError("bad"))
    assert not workdir.exists()
    _fail(workdir, OSError(errno.ENOSPC, "full"), made="metrics.jsonl")
    assert (workdir / "config.json").exists()


def test_a_directory_that_was_there_before_or_holds_a_result_stays(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    _fail(empty, ValueError("bad"))
    assert (empty / "config.json").exists()
    _fail(tmp_path / "run", run_directory.Diverged("loss is nan"))
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, make):
    path = tmp_path / "config.json"
    make(path)
    for read in (
        lambda: run_directory.read_json(path),
        lambda: run_directory.MetricsFile(path, keep_until=0),
        lambda: npz.read_npy(path),
    ):
        with pytest.raises(ValueError, match=r"config\.json: is no file"):
            read()


def test_metrics_that_are_nested_without_end_are_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("[" * 10**5 + "\n{}\n")
    with pytest.raises(ValueError, match="is damaged: line 1 holds no metrics"):
        run_directory.MetricsFile(path, keep_until=0)


def test_a_lock_is_gone_with_a_folder_in_which_nothing_was_made(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir()
    for folder in (new, old):
        with pytest.raises(ZeroDivisionError), run_directory.locked(folder):
            raise ZeroDivisionError
    assert not new.exists()
    assert old.exists()

    def make():
        with run_directory.locked(new):
            (new / "1").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make()
    assert (new / "1").exists()
