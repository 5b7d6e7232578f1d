"""Run directories: one configuration, one process, metrics that can be resumed."""

import json
import os
import signal

import pytest
import runs


def test_a_directory_belongs_to_one_configuration(tmp_path):
    workdir = tmp_path / "run"
    config = {"method": {"radius": 8.0}, "classes": (1, 2)}
    with runs.open_directory(workdir, config, resume=False):
        pass
    with runs.open_directory(workdir, config, resume=True):
        pass
    with (
        pytest.raises(ValueError, match=r"method.radius is 8.0 there and 4.0 here"),
        runs.open_directory(
            workdir, {**config, "method": {"radius": 4.0}}, resume=True
        ),
    ):
        pass
    with (
        pytest.raises(ValueError, match="holds a run already; pass --resume"),
        runs.open_directory(workdir, config, resume=False),
    ):
        pass


def test_foreign_files_and_a_second_process_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with (
        pytest.raises(ValueError, match="is not empty and holds no run"),
        runs.open_directory(tmp_path, {}, resume=True),
    ):
        pass
    workdir = tmp_path / "run"
    with (
        runs.open_directory(workdir, {}, resume=True),
        pytest.raises(ValueError, match="another process is working in"),
        runs.open_directory(workdir, {}, resume=True),
    ):
        pass


def test_processes_that_share_a_directory_keep_out_the_others(tmp_path):
    workdir = tmp_path / "run"
    with (
        runs.open_directory(workdir, {}, resume=True, shared=True),
        runs.open_directory(workdir, {}, resume=True, shared=True),
        pytest.raises(runs.Busy, match="another process is working in"),
        runs.open_directory(workdir, {}, resume=True),
    ):
        pass


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"method": ')
    with (
        pytest.raises(ValueError, match=r"config.json is not readable JSON"),
        runs.open_directory(tmp_path, {}, resume=True),
    ):
        pass


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = runs.MetricsFile(path, keep_until=0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # the kill came here
    again = runs.MetricsFile(path, keep_until=2)
    assert [line["step"] for line in again.read()] == [1, 2]
    again.write(3, {"loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    with pytest.raises(ValueError, match="loss is nan at step 4: training diverged"):
        again.write(4, {"loss": float("nan")})


def test_signals_are_collected_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM)

    def receive():
        with runs.stop_signals() as received:
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM]

    with pytest.raises(runs.Stopped) as stopped:
        receive()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "results.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(path, {"a": float("nan")})
    assert runs.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
