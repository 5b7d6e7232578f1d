"""Sweeps on engines: the results are those of this process, whatever is lost."""

import dataclasses
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from sweep_results import content, holder, write_data

from miue_jax.workflows.sweep import launch, tasks
from miue_jax.workflows.sweep.launch import Resources
from miue_jax.workflows.sweep.launchers import local, ray, slurm, work
from miue_jax.workflows.sweep.plan import Sweep

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (pip install miue_jax[ray])",
)


@pytest.fixture
def sweep(tmp_path):
    return Sweep(
        data=write_data(tmp_path / "data.npz"),
        generators={"clean": None, "noise": "random_noise"},
        victims={"small": {"model": "linear", "epochs": 200, "batch_size": 8}},
        seeds=(0, 1),
        evaluate_every=20,
    )


# What they are given.


def test_a_cell_takes_its_share_of_a_gpu_and_of_the_cores():
    assert work.environment(Resources()) == {"NPROC": "1"}
    assert work.environment(Resources(cpus=4, gpus=0.5)) == {
        "NPROC": "4",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpus": 0}, "cpus is 0"),
        ({"gpus": -1}, "gpus is -1"),
        ({"gpus": 1.5}, "gpus is 1.5; allowed: whole numbers above 1"),
        ({"tpus": 0.5}, "tpus is 0.5"),
        ({"minutes": 0}, "minutes is 0"),
    ],
)
def test_resources_that_nothing_has_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Resources(**change)


def test_only_what_is_left_is_submitted_in_order(tmp_path, sweep):
    seen = []

    def submit(sweep, workdir, given):
        seen.append([(task.name, task.after) for task in given])
        for task in given[:2]:
            tasks.run_task(sweep, workdir, task.name)
        return launch.Submission(
            *(lambda: True, lambda number: None, lambda: None, lambda: None)
        )

    launcher = launch.Launcher(submit, checks=True)
    quick = {"small": {"model": "linear", "epochs": 1, "batch_size": 8}}
    sweep = dataclasses.replace(sweep, victims=quick)
    for _ in range(2):
        launch.launch(sweep, tmp_path / "run", launcher, progress=False)
    planned = [(task.name, task.after) for task in tasks.tasks(sweep)]
    assert seen == [planned, planned[2:]]


def test_what_a_killed_process_was_writing_goes_where_no_cell_is_left(tmp_path, sweep):
    quick = {"small": {"model": "linear", "epochs": 1, "batch_size": 8}}
    sweep = dataclasses.replace(sweep, generators={"clean": None}, victims=quick)
    workdir = tmp_path / "run"
    for task in tasks.tasks(sweep):
        tasks.run_task(sweep, workdir, task.name)
    left = workdir / f".heat_map.png.{32 * '0'}.tmp"
    left.touch()

    def submit(*_):
        raise AssertionError("no cell is left")

    launch.launch(sweep, workdir, launch.Launcher(submit, checks=True), progress=False)
    assert not left.exists()
    assert (workdir / "results.json").exists()


def test_victims_are_grouped_by_the_generator_that_they_wait_for(sweep):
    planned = tasks.tasks(sweep)
    clean, noise = (
        [f"{name}-none-small-seed_{seed}" for seed in (0, 1)]
        for name in ("clean", "noise")
    )
    assert slurm._groups(planned) == {None: ["noise", *clean], "noise": noise}
    # The data set is there already.
    assert slurm._groups(planned[1:]) == {
        None: [clean[0], noise[0], clean[1], noise[1]]
    }


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--launcher=rya"], "--launcher"),
        (["--cpus=2"], "--cpus is for --launcher slurm and ray"),
        (["--launcher=ray", "--devices=2"], "--devices is for --launcher local"),
        (["--launcher=local", "--no-wait"], "--wait is for --launcher slurm"),
        (["--launcher=slurm", "--slurm", "partition"], "allowed: name=value"),
        (["--launcher=local", "--devices=1000"], "devices is 1000; allowed: from 1"),
        (["--launcher=ray", "--gpus=1.5"], "gpus is 1.5"),
    ],
)
def test_wrong_options_of_launchers_are_one_line(
    miue, tmp_path, sweep, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    where = ["sweep", "data.npz", "--generators", "clean", "--workdir=run", "--quiet"]
    status, output, errors = miue(*where, *arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert message in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "launcher"),
    [("ray", ray.launcher()), ("submitit", slurm.launcher())],
    ids=["ray", "slurm"],
)
def test_an_engine_that_is_not_installed_is_one_line(
    tmp_path, sweep, monkeypatch, module, launcher
):
    monkeypatch.setattr(launch, "_check_elsewhere", lambda sweep: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is not installed: pip install miue_jax\["):
        launch.launch(sweep, tmp_path / "run", launcher, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_machine_without_slurm_is_one_line(tmp_path, sweep, monkeypatch):
    monkeypatch.setattr(launch, "_check_elsewhere", lambda sweep: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no Slurm on this machine"):
        launch.launch(sweep, tmp_path / "run", slurm.launcher(), progress=False)
    assert not (tmp_path / "run").exists()


def test_an_address_where_nobody_listens_is_one_line():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=rf"no Ray cluster at localhost:{port}: "):
        ray._reach(f"localhost:{port}")
    with pytest.raises(ValueError, match="address is 'localhost'; allowed: host:port"):
        ray._reach("localhost")


def test_an_address_where_something_else_listens_is_one_line(monkeypatch):
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"
        monkeypatch.setattr(ray, "_SECONDS_TO_ANSWER", 1.0)
        monkeypatch.setattr(ray, "_TRY", "import time; time.sleep(100)")
        with pytest.raises(ValueError, match="there has not answered in 1 seconds"):
            ray._reach(address)
        monkeypatch.setattr(ray, "_TRY", "raise OSError('not Ray')")
        monkeypatch.setattr(ray, "_SECONDS_TO_ANSWER", 60.0)
        with pytest.raises(ValueError, match=f"at {address}: OSError: not Ray$"):
            ray._reach(address)


def test_cells_that_ask_for_more_than_there_is_are_refused():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    ray._check_room(nodes, Resources(cpus=2))
    ray._check_room(nodes, Resources(gpus=4))
    with pytest.raises(ValueError, match="asks for 3 CPUs; the largest machine has 2"):
        ray._check_room(nodes, Resources(cpus=3))
    with pytest.raises(ValueError, match="asks for 2 CPUs, 1 GPUs"):
        ray._check_room(nodes, Resources(cpus=2, gpus=1))


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("2 (null)", (2, 0)),
        ("64 gpu:4", (64, 4)),
        ("64 gpu:a100:4(S:0-1)", (64, 4)),
        ("128 gpu:a100:2(S:0),gpu:h100:1,mps:400", (128, 3)),
    ],
)
def test_the_room_of_a_slurm_node(line, room):
    assert slurm._room(line) == room


@pytest.mark.slow
def test_what_is_wrong_with_a_cell_is_found_before_any_is_launched(tmp_path, sweep):
    bad = dataclasses.replace(sweep, defenses=["none", "jpeg-10"])
    launcher = launch.Launcher(lambda *_: pytest.fail("it was launched"))
    with pytest.raises(ValueError, match="16x16"):
        launch.launch(bad, tmp_path / "run", launcher, progress=False)
    assert not (tmp_path / "run").exists()


# Engines.


@pytest.fixture(scope="module")
def one_thread():
    """The environment of engines: a device and a thread for every cell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", "1")
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
        yield


@pytest.mark.slow
@needs_ray
# Ray leaves its sockets and files to the end of the process.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_resumes_a_cell_whose_worker_was_killed(tmp_path, sweep, one_thread):
    launch.launch(sweep, tmp_path / "local", local.launcher(2), progress=False)
    workdir, killed = tmp_path / "run", []

    def kill():
        name = "noise-none-small-seed_0"
        while not killed:
            folder = workdir / "cells" / name
            if list(folder.glob("seed_0/checkpoints/*")):
                pid = holder(folder)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            elif (folder / "results.json").exists():
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    results = launch.launch(sweep, workdir, ray.launcher(), progress=False)
    thread.join()
    assert killed, "the cell was done before it could be killed"
    assert (results["done"], results["planned"], results["failed"]) == (4, 4, {})
    assert len(content(workdir)) == 2 + 4
    assert content(workdir) == content(tmp_path / "local")


@pytest.mark.slow
@needs_ray
def test_ray_that_is_asked_for_too_much_is_one_line(tmp_path, sweep, one_thread):
    command = [sys.executable, "-m", "miue_jax", "sweep", sweep.data.name]
    command += ["--generators", "clean", "--launcher=ray", "--cpus=1000", "--quiet"]
    done = subprocess.run(
        [*command, "--workdir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "a cell asks for 1000 CPUs; the largest machine has" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@needs_ray
def test_a_stopped_command_stops_the_cells_of_ray(tmp_path, sweep, one_thread):
    file, run = tmp_path / "long.py", tmp_path / "run"
    endless = {"small": {"model": "linear", "epochs": 10**6, "batch_size": 8}}
    plain = dataclasses.replace(sweep, victims=endless, seeds=(0,)).to_plain()
    file.write_text(f"def get_config():\n    return {plain!r}\n")
    command = [sys.executable, "-m", "miue_jax", "sweep", "--launcher=ray", "--quiet"]
    with subprocess.Popen(
        [*command, "--config", str(file), "--workdir", str(run)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 500
        while len(list(run.glob("cells/*/seed_0/checkpoints/*"))) < 2:
            assert time.monotonic() < deadline, "nothing was trained"
            time.sleep(0.2)
        process.terminate()
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 143
    assert errors == (
        "stopping: waiting for the cells to save\n"
        "stopped by a signal; rerun the same command to resume\n"
    )
    assert all(holder(folder) is None for folder in run.glob("cells/*"))
