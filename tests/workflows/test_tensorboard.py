"""TensorBoard shows the steps of the JSON lines, each once, also of resumed runs."""

import importlib.util
import json
import math
import os
import pathlib
import struct
import time

import pytest
from tensorboardX.proto import event_pb2

from miue_jax.workflows import tensorboard


def _events(file: pathlib.Path):
    """Records of a TFRecord file: length, checksum, content, checksum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def _scalars(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: at a restart it forgets the steps from there on."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(file):
            if event.session_log.status == event_pb2.SessionLog.START:
                found = {
                    tag: kept
                    for tag, values in found.items()
                    if (kept := [value for value in values if value[0] < event.step])
                }
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def _write(path: pathlib.Path, *lines: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_lines_are_shown_as_they_come_and_each_once(tmp_path):
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    update, close = tensorboard.mirror(tmp_path)
    update()
    assert not folder.exists(), "there was nothing to show"
    lines = [{"step": 5 * n, "loss": 0.5 / n, "accuracy": None} for n in (1, 2, 3)]
    _write(path, *lines[:1])
    update()
    # Another process is writing the last line.
    path.write_text(path.read_text() + json.dumps(lines[1])[:9])
    update()
    _write(path, *lines)
    for _ in range(2):
        update()
    close()
    found = _scalars(folder)
    assert found.pop("loss") == [
        (5, 0.5),
        (10, 0.25),
        (15, pytest.approx(0.5 / 3, rel=1e-6)),
    ]
    (name, values) = found.popitem()
    assert (name, [step for step, _ in values]) == ("accuracy", [5, 10, 15])
    assert all(math.isnan(value) for _, value in values)
    assert not found, "a step is no metric"


def test_a_resumed_run_shows_no_step_twice_and_none_that_it_dropped(tmp_path):
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    before = [{"step": step, "loss": float(step)} for step in (1, 2, 3, 4)]
    # From the checkpoint at step 2 on, otherwise than before.
    after = [*before[:2], {"step": 3, "loss": 30.0}]
    for resumed_within_one_command in (True, False):
        update, close = tensorboard.mirror(tmp_path)
        _write(path, *before)
        update()
        if not resumed_within_one_command:
            close()
            update, close = tensorboard.mirror(tmp_path)
        _write(path, *after)
        update()
        close()
        assert _scalars(folder) == {"loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_a_run_that_went_on_after_a_pause_is_shown_whole(tmp_path):
    path = tmp_path / "cells" / "a" / "seed_0" / "metrics.jsonl"
    folder = tmp_path / "tensorboard" / "cells" / "a" / "seed_0"
    update, close = tensorboard.mirror(tmp_path)
    _write(path, {"step": 1, "loss": 1.0})
    os.utime(path, (time.time() - 3600,) * 2)
    update()
    _write(path, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0})
    update()
    close()
    assert _scalars(folder) == {"loss": [(1, 1.0), (2, 2.0)]}


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="TensorBoard is not installed (pip install tensorboard)",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_itself_forgets_the_steps_that_were_dropped(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    update, close = tensorboard.mirror(tmp_path)
    _write(path, *({"step": step, "loss": float(step)} for step in range(1, 5)))
    update()
    looking = event_accumulator.EventAccumulator(str(folder)).Reload()
    assert [x.step for x in looking.Scalars("loss")] == [1, 2, 3, 4]
    _write(path, {"step": 1, "loss": 1.0}, {"step": 3, "loss": 30.0})
    update()
    close()
    for reader in (looking, event_accumulator.EventAccumulator(str(folder))):
        found = reader.Reload().Scalars("loss")
        assert [(x.step, x.value) for x in found] == [(1, 1.0), (3, 30.0)]


def test_the_commands_write_event_files(tmp_path, miue):
    run, victims = tmp_path / "run", tmp_path / "victims"
    data = ("--data.per-class=4", "--generator=random_noise")
    options = ("--quiet", "--tensorboard")
    assert miue("protect", "shapes", *data, f"--workdir={run}", *options)[0] == 0
    assert miue(
        *("evaluate", "shapes", "shapes", "--train.per-class=4", "--test.per-class=2"),
        *("--victim.model=linear", "--victim.epochs=2", "--seeds", "0", "1"),
        *(f"--workdir={victims}", *options),
    )[0] == 0  # fmt: skip
    assert (run / "tensorboard").is_dir()
    for seed in ("seed_0", "seed_1"):
        text = (victims / seed / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        found = _scalars(victims / "tensorboard" / seed)
        assert found["test_accuracy"] == [
            (line["step"], pytest.approx(line["test_accuracy"], rel=1e-6))
            for line in lines
        ]


def test_a_writer_that_is_not_installed_is_one_line(tmp_path, miue, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboardX" else find(name, *rest),
    )
    status, output, errors = miue(
        *("protect", "shapes", "--data.per-class=4", "--generator=random_noise"),
        *(f"--workdir={tmp_path / 'run'}", "--tensorboard"),
    )
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "pip install miue_jax[tensorboard]" in errors
    assert not (tmp_path / "run").exists()
