"""A sweep on Slurm: controller and two nodes on this machine, for `make test-slurm`."""

import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from sweep_results import content, holder, write_data

from miue_jax.data import bucket
from miue_jax.workflows.sweep import launch, status
from miue_jax.workflows.sweep.launch import Resources
from miue_jax.workflows.sweep.launchers import local, slurm
from miue_jax.workflows.sweep.plan import Sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MIUE_TEST_SLURM" not in os.environ,
        reason="it starts daemons of Slurm as root; make test-slurm runs it",
    ),
]

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/controller.pid
SlurmdLogFile={folder}/%n.log
SlurmctldLogFile={folder}/controller.log
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=120
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "one", "two"):
        (folder / name).mkdir()
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for free in (a, b, c):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (a, b, c)]
    file = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    text = _CONFIGURATION.format(host=host, ports=ports, folder=folder)
    file.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(file))
        patch.setenv("NPROC", "1")
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
        commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", n] for n in NODES)]
        daemons = [
            subprocess.Popen(
                [shutil.which(command[0]) or f"/usr/sbin/{command[0]}", *command[1:]],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for command in commands
        ]
        try:
            deadline = time.monotonic() + 120
            while _ask("sinfo", "--noheader", "--format=%t %D") != "idle 2":
                assert time.monotonic() < deadline, "Slurm does not start"
                time.sleep(0.5)
            yield
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(60)


NODES = ("one", "two")


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _sweep(folder: pathlib.Path, seeds: tuple[int, ...]) -> Sweep:
    return Sweep(
        data=write_data(folder / "data.npz"),
        generators={"clean": None, "noise": "random_noise", "pixel": "one_pixel"},
        victims={"small": {"model": "linear", "epochs": 200, "batch_size": 8}},
        seeds=seeds,
        evaluate_every=20,
    )


def test_eight_cells_with_a_job_cancelled_and_a_node_drained(tmp_path, cluster):
    sweep, workdir = _sweep(tmp_path, (0, 1)), tmp_path / "run"
    launcher = slurm.launcher(Resources(minutes=60), {"partition": "main"})
    cancelled = []

    def disturb():
        folder = workdir / "cells" / "noise-none-small-seed_1"
        while not cancelled:
            if list(folder.glob("seed_1/checkpoints/*")) and (pid := holder(folder)):
                text = pathlib.Path(f"/proc/{pid}/environ").read_text()
                found = dict(x.split("=", 1) for x in text.split("\0") if "=" in x)
                array, index = (found[f"SLURM_ARRAY_{x}_ID"] for x in ("JOB", "TASK"))
                cancelled.append(_ask("scancel", f"{array}_{index}"))
                _ask("scontrol", "update", "nodename=two", "state=drain", "reason=test")
            time.sleep(0.01)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    with pytest.raises(ValueError, match="left the queue unfinished; see"):
        launch.launch(sweep, workdir, launcher, progress=False)
    thread.join()
    states = status.status(sweep, workdir).states
    assert [name for name, state in states.items() if state != "done"] == [
        "noise-none-small-seed_1"
    ]
    assert _ask("sinfo", "-h", "-n", "two", "--format=%t") == "drain"
    # What was lost is resumed by the node that is left.
    results = launch.launch(sweep, workdir, launcher, progress=False)
    _ask("scontrol", "update", "nodename=two", "state=resume")
    assert (results["done"], results["failed"]) == (6, {})
    launch.launch(sweep, tmp_path / "local", local.launcher(1), progress=False)
    assert len(content(workdir)) == 4 + 6
    assert content(workdir) == content(tmp_path / "local")


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_a_sweep_in_a_bucket(tmp_path, cluster, remote, monkeypatch):
    sweep = _sweep(tmp_path, (0,))
    monkeypatch.chdir(tmp_path)
    launcher = slurm.launcher(Resources(minutes=60), {"partition": "main"})
    results = launch.launch(sweep, remote, launcher, progress=False)
    assert (results["done"], results["failed"]) == (3, {})
    # Its own files are here, for all nodes to see.
    assert len(list((tmp_path / "miue-slurm").glob("*_log.err"))) == 2 + 3
    launch.launch(sweep, tmp_path / "local", local.launcher(1), progress=False)
    with bucket.local(remote) as copy:
        assert content(copy, str(remote)) == content(tmp_path / "local")


def test_what_slurm_refuses_is_one_line(tmp_path, cluster):
    sweep = _sweep(tmp_path, (0,))
    for resources, options, message in (
        (Resources(), {"partition": "none"}, "Slurm: .*[Ii]nvalid partition"),
        (Resources(cpus=64), {}, "asks for 64 CPUs; no node of Slurm has as many"),
        (Resources(gpus=0.5), {}, "gpus is 0.5; Slurm takes whole numbers"),
        (Resources(tpus=4), {}, "tpus are not Slurm's"),
    ):
        launcher = slurm.launcher(resources, options)
        with pytest.raises(ValueError, match=message):
            launch.launch(sweep, tmp_path / "run", launcher, progress=False)
        assert not list((tmp_path / "run").glob("[!.]*"))
    assert _ask("squeue", "-h") == ""
