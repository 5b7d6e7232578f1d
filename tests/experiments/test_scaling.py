"""Weak scaling and cells a minute: what they measure, write and refuse."""

import json
import pathlib
import subprocess
import sys

import launchers
import pytest
import scaling

from miue_jax import _command_line

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


def _run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_scaling_relates_the_time_per_image_to_that_of_the_fewest_devices(tmp_path):
    file = tmp_path / "scaling.json"
    sizes = ("--model=linear", "--width=None", "--batch-size=4")
    sizes += ("--examples=8", "--repeats=3")
    _run("scaling.py", *sizes, "--devices", "2", "4", "--json", str(file))
    measured = json.loads(file.read_text())
    assert measured["command"].endswith("--json scaling.json")
    for step in ("protect", "train"):
        two, four = (measured["results"][step][count] for count in ("2", "4"))
        assert two["ratio"] == {"median": 1, "min": 1, "max": 1}
        seconds = [x["cpu_seconds_per_step"] for x in (two, four)]
        # Twice the images.
        assert four["ratio"]["min"] >= seconds[1]["min"] / seconds[0]["max"] / 2 - 1e-9
        assert four["ratio"]["max"] <= seconds[1]["max"] / seconds[0]["min"] / 2 + 1e-9


@pytest.mark.slow
def test_cells_a_minute_are_those_of_the_whole_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run("launchers.py", "--launchers", "local", "--cells=2", "--json", "cells.json")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.json"]
    found = json.loads((tmp_path / "cells.json").read_text())["results"]["local"]
    assert found["cells_per_minute"] == pytest.approx(120 / found["seconds"], rel=0.1)
    assert 0 < found["seconds_to_first_cell"] <= found["seconds"]


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (scaling, ["--devices", "2", "1"], "they must ascend"),
        (scaling, ["--devices", "0"], "devices is 0"),
        (scaling, ["--repeats", "0"], "repeats is 0"),
        (scaling, ["--model", "resnet19"], "resnet18"),
        (scaling, ["--json", "nowhere/scaling.json"], "nowhere"),
        (scaling, ["--json", "."], "is a folder"),
        (scaling, ["--width", "0"], "width is 0"),
        (scaling, ["--examples", "4"], "examples is 4; allowed: at least batch_size"),
        (launchers, ["--launchers", "rya"], "ray"),
        (launchers, ["--launchers"], "launchers are missing"),
        (launchers, ["--json", "."], "is a folder"),
        (launchers, ["--cells", "0"], "cells is 0"),
        (launchers, ["--json", "nowhere/launchers.json"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    module, arguments, said, monkeypatch, capfd
):
    monkeypatch.setattr(sys, "argv", [module.PROG, *arguments])
    assert _command_line.run(module.main, module.PROG) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert said in errors


def test_the_processor_time_is_that_of_processes_that_are_gone_too(monkeypatch):
    monkeypatch.setattr(launchers, "_SECONDS_TO_LOOK", 0.05)
    work = "import time\nwhile time.process_time() < 0.6: pass"
    with launchers._processor_time() as seconds:
        subprocess.run([sys.executable, "-c", work], check=True)
    assert max(seconds.values()) == pytest.approx(0.6, abs=0.1)
