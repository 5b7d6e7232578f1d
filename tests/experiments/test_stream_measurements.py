"""The measurement of streaming, and the plan: what they write and what they refuse."""

import json
import sys

import pytest
import stream_plan
import streaming

from miue_jax import _command_line


@pytest.fixture
def start(monkeypatch, capfd, one_device):
    """Runs a script in this process; status, output and errors."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script.__file__, *arguments])
        status = _command_line.run(script.main, script.PROG)
        return status, *capfd.readouterr()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_both_modes_take_turns(tmp_path, start, kind):
    if kind == "folder":
        pytest.importorskip("grain", reason="needs Grain")
    path = tmp_path / "streaming.json"
    status, printed, errors = start(
        *(streaming, "--kind", kind, "--images", "40", "--side", "8"),
        *("--model", "linear", "--width", "None", "--batch-size", "8"),
        *("--steps", "3", "--turns", "2", "--json", str(path)),
    )
    assert status == 0, errors
    assert printed.count("turn ") == 4
    found = json.loads(path.read_text())
    assert [len(turns) for turns in found["turns"].values()] == [2, 2]
    seconds = found["seconds_a_step"]
    assert found["rate"]["cpu"] == pytest.approx(
        seconds["memory"]["cpu"] / seconds["stream"]["cpu"], abs=1e-3
    )


def test_the_plan_is_the_arithmetic_of_its_options(tmp_path, start):
    path = tmp_path / "plan.json"
    status, printed, errors = start(stream_plan, "--rate", "1000", "--json", str(path))
    assert status == 0, errors
    assert "64 devices: " in printed
    found = json.loads(path.read_text())
    one, eight, many = (found["devices"][key] for key in ("1", "8", "64"))
    # 1,281,167 images of 224x224 in three channels, and as many codes.
    assert found["images_decoded"] == 192_851_506_176
    assert found["rows_on_disk"] == [192_851_506_176, 3 * 192_851_506_176]
    assert one["in_memory_a_device"] > 2 * found["images_decoded"]
    # 256 images twice and codes thrice, 13 bytes an image, and ResNet-18 thrice.
    assert one["bytes_a_device"] == 256 * 5 * 150_528 + 13 * 1_281_167 + 140_274_144
    assert many["bytes_a_device"] < eight["bytes_a_device"] < one["bytes_a_device"]
    # 15 passes at 1000 images a second.
    assert one["hours"] == pytest.approx(15 * 1_281_167 / 1000 / 3600, abs=0.01)
    assert eight["hours"] == pytest.approx(one["hours"] / 8, abs=0.01)
    assert one["steps"] == 15 * 5005


def test_no_rate_is_assumed(start):
    _, printed, _ = start(stream_plan)
    assert "hours" not in printed


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        (stream_plan, ["--rate", "0"], "rate is 0"),
        (stream_plan, ["--devices", "3"], "batch_size is 256; allowed with 3 devices"),
        (stream_plan, ["--storage", "int4"], "storage is 'int4'; did you mean 'int8'"),
        (streaming, ["--steps", "0"], "steps is 0"),
        (streaming, ["--json", "nowhere/streaming.json"], "there is no folder nowhere"),
    ],
)
def test_bad_options_are_refused_in_one_line(script, arguments, said, start):
    status, _, errors = start(script, *arguments)
    assert status == 2
    assert said in errors
    assert errors.count("\n") == 1
