"""The GPU run: its commands, its shares of the time, and what a cut leaves behind."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import gpu_run
import numpy as np
import pytest
from gpu import pack, smoke
from PIL import Image

from miue_jax import _command_line, cli, data
from miue_jax.train import run_directory
from miue_jax.workflows.benchmark.cases import CASES


@pytest.fixture
def start(monkeypatch, capfd, tmp_path):
    """Runs the script in this process; status, output, errors and what it has found."""

    def run(*arguments, script=gpu_run):
        workdir = tmp_path / "run"
        if script is gpu_run and "--workdir" not in arguments:
            arguments = ["--workdir", str(workdir), *arguments]
        monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
        status = _command_line.run(script.main, script.PROG)
        file = workdir / "results.json"
        found = json.loads(file.read_text()) if file.exists() else {"steps": {}}
        return status, *capfd.readouterr(), found["steps"]

    return run


def options(tmp_path, **changes):
    return gpu_run.Options(workdir=tmp_path / "run", **changes)


# The commands.


@pytest.mark.parametrize("size", ["full", "small"])
def test_the_commands_parse(tmp_path, size, capfd):
    found = gpu_run.steps(options(tmp_path, size=size))
    for name, step in found.items():
        if step.command[:2] != ["-m", "miue_jax"]:
            continue
        arguments = step.command[2:]
        if arguments[0] == "benchmark":
            # What comes before the file would be refused first.
            arguments[arguments.index("--output") + 1] = str(tmp_path)
            assert cli.main(arguments) == 2, name
            assert "is a folder" in capfd.readouterr().err
            continue
        # The directory is asked for after everything else was parsed.
        arguments[arguments.index("--workdir") + 1] = ""
        assert cli.main(arguments) == 2
        assert "--workdir is missing" in capfd.readouterr().err, name


def test_the_full_run_is_what_was_asked_for(tmp_path):
    (tmp_path / "pictures.tar.xz").touch()
    given = options(tmp_path, data=str(tmp_path / "pictures.tar.xz"))
    found = gpu_run.steps(given)
    shares = [step.until for step in found.values()]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    order = ["pack", "smoke", "benchmark", "mi_ue", "mi_ue_victim", "clean_victim"]
    assert list(found)[:6] == order
    packed = str(tmp_path / "run" / "data.npz")
    assert found["pack"].command[1:] == [given.data, packed]
    for name in ("mi_ue", "mi_ue_victim", "clean_victim"):
        assert packed in found[name].command
        assert "pack" in found[name].after
    assert "--generator.epochs=30" in found["mi_ue"].command
    assert "--generator.dtype=bfloat16" in found["mi_ue"].command
    assert "--victim.epochs=15" in found["clean_victim"].command
    assert found["mi_ue_victim"].after == ("pack", "mi_ue")
    first = set(found["benchmark"].command)
    for name, case in CASES.items():
        assert name in first or not case.accelerator, name
    # All cases, those that were cut, too.
    assert "--cases" not in found["benchmark_rest"].command


# The time.


@pytest.fixture
def sleepy(monkeypatch, tmp_path):
    """Steps that write a file and then last as long as they are told to."""
    lasting = {"first": 0.0, "second": 0.0, "third": 0.0}

    def steps(given):
        found = {}
        for name, seconds in lasting.items():
            script = (
                "import sys, time\n"
                f"with open({str(given.workdir / f'{name}.jsonl')!r}, 'w') as file:\n"
                f'    file.write(\'{{"name": "{name}"}}\\n\')\n'
                f"time.sleep({max(seconds, 0)})\n"
                f"sys.exit('no luck' if {seconds} < 0 else 0)\n"
            )
            after = ("second",) if name == "third" else ()
            found[name] = gpu_run.Step(["-c", script], 1.0, f"{name}.jsonl", after)
        return found

    monkeypatch.setattr(gpu_run, "steps", steps)
    monkeypatch.setattr(gpu_run, "_SECONDS_TO_STOP", 1.0)
    monkeypatch.setattr(gpu_run, "_SHORTEST", 1.0)
    return lasting


def test_a_cut_step_is_named_and_done_by_the_next_run(start, sleepy):
    sleepy["second"] = 1000.0
    status, printed, _, steps = start("--minutes", 0.1)
    assert status == 0
    assert {k: v["status"] for k, v in steps.items()} == {
        **{"first": "done", "second": "cut", "third": "skipped"}
    }
    # What it had found until then is there.
    assert steps["second"]["found"] == {"name": "second"}
    assert steps["third"]["why"] == "second is not done"
    assert "second: cut after" in printed
    sleepy.update(first=1000.0, second=0.0)
    _, _, _, steps = start("--minutes", 1)
    assert {v["status"] for v in steps.values()} == {"done"}


def test_a_step_that_fails_is_told_in_a_line_and_tried_again(start, sleepy):
    sleepy["first"] = -1.0
    _, printed, errors, steps = start()
    assert steps["first"]["status"] == "failed"
    assert steps["first"]["why"] == "no luck"
    assert steps["third"]["status"] == "done"
    assert "Traceback" not in printed + errors
    sleepy["first"] = 0.0
    assert start()[3]["first"]["status"] == "done"


def test_nothing_starts_without_time(start, sleepy):
    _, _, _, steps = start("--minutes", 0.02)
    assert [v["why"] for v in steps.values()] == [
        *2 * ["no time is left for it"],
        "second is not done",
    ]


def test_what_is_done_is_written_at_once(tmp_path, monkeypatch, sleepy):
    # As if the machine were taken away during the second step.
    real = gpu_run._run_step

    def run_step(step, *arguments):
        if "second" in step.made:
            raise KeyboardInterrupt
        return real(step, *arguments)

    monkeypatch.setattr(gpu_run, "_run_step", run_step)
    with pytest.raises(KeyboardInterrupt):
        gpu_run.run(options(tmp_path))
    found = run_directory.read_json(tmp_path / "run" / "results.json")["steps"]
    assert {k: v["status"] for k, v in found.items()} == {"first": "done"}
    assert found["first"]["found"] == {"name": "first"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_ends_its_step(tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this signal is ignored here, as under nohup")
    # The check of figures takes a while.
    command = [sys.executable, gpu_run.__file__, "--size", "small"]
    command += ["--workdir", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("smoke: ")
        (step,) = _children(process.pid)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    with contextlib.suppress(ProcessLookupError):
        os.kill(step, 0)
        pytest.fail("the step runs on")
    found = run_directory.read_json(tmp_path / "run" / "results.json")
    assert found["steps"] == {}


def _children(pid):
    for _ in range(100):
        found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if found:
            return list(map(int, found))
        time.sleep(0.1)
    return []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "minutes is 0"),
        (["--size", "huge"], "huge"),
        (["--data", "nowhere/pictures"], "nowhere/pictures: no such data"),
        (["--data", "nowhere.tar.xz"], "nowhere.tar.xz: no such data"),
        (["--data="], "data is empty"),
        (["--data", "s3://bucket/pictures"], "data is s3://bucket/pictures; allowed"),
        (["--workdir", "s3://bucket/gpu"], "allowed: a local path"),
        (["--minute", "3"], "--minutes"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(start, tmp_path, arguments, said):
    status, printed, errors, _ = start(*arguments)
    assert (status, printed) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("gpu_run.py: ")
    assert said in errors
    assert not list(tmp_path.iterdir())
    assert not pathlib.Path("s3:").exists()


def test_a_directory_of_something_else_stays(start, sleepy, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    assert start()[0] == 2
    (tmp_path / "run" / "letter.txt").unlink()
    assert start("--size", "small")[0] == 0
    status, _, errors, _ = start("--size", "full")
    assert status == 2
    assert "'size': 'small'" in errors


# What the steps are made of.


def test_figures_are_compared_by_their_kind():
    assert smoke.compare("loss:a", 1.00005, 1.0)["ok"]
    assert not smoke.compare("loss:a", 1.0002, 1.0)["ok"]
    assert smoke.compare("accuracy:a", 0.25, 0.2)["ok"]
    assert not smoke.compare("accuracy:a", 0.35, 0.2)["ok"]
    assert not smoke.compare("generator:a", float("nan"), 1.0)["ok"]
    assert smoke.compare("pgd:a", -2.0, -2.01)["difference"] == pytest.approx(
        0.01 / 2.01
    )


def test_an_archive_of_pictures_becomes_arrays(tmp_path, start):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, 3, 8, 8, 3), np.uint8)
    source = tmp_path / "pictures.tar.xz"
    with tarfile.open(source, "w:xz") as archive:
        for index in np.ndindex(2, 2, 3):
            file = io.BytesIO()
            Image.fromarray(images[index]).save(file, "PNG")
            split, name = ("train", "test")[index[0]], "ab"[index[1]]
            about = tarfile.TarInfo(f"{split}/{name}/{index[2]}.png")
            about.size = file.tell()
            file.seek(0)
            archive.addfile(about, file)
    status, _, errors, _ = start(source, tmp_path / "data.npz", script=pack)
    assert status == 0, errors
    for split, expected in zip(("train", "test"), images, strict=True):
        found = data.DataSource(str(tmp_path / "data.npz"), split=split).load()
        np.testing.assert_array_equal(found.images, expected.reshape(6, 8, 8, 3))
        np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 1, 1])


def test_what_is_no_archive_is_one_line(tmp_path, start):
    (tmp_path / "a.tar").write_text("mine")
    status, _, errors, _ = start(tmp_path / "a.tar", tmp_path / "b.npz", script=pack)
    assert status == 2
    assert errors.startswith("pack.py: ")
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.slow
def test_all_steps_run_at_small_size(start, tmp_path):
    status, printed, errors, steps = start("--size", "small", "--minutes", 30)
    assert status == 0, errors
    assert {k: v["status"] for k, v in steps.items()} == dict.fromkeys(steps, "done")
    smoked = steps["smoke"]["found"]
    # On the CPU it is compared with itself.
    assert smoked["ok"]
    assert smoked["figures"]["loss:mi_ue"]["cpu"] > 0
    assert 0 <= steps["mi_ue_victim"]["found"]["final"]["mean"] <= 1
    assert "mi_ue_128" in steps["benchmark"]["found"]["benchmark"]
    assert "figures that differ: none" in printed
    assert "| gradient of mi_ue_loss" in printed
