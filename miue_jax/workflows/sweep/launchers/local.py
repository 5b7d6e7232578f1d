"""Processes of this machine, each with a device of its own."""

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from miue_jax.data.bucket import Address, Place
from miue_jax.train import run_directory
from miue_jax.workflows.sweep.launch import Launcher, Submission
from miue_jax.workflows.sweep.plan import Sweep
from miue_jax.workflows.sweep.tasks import Task

__all__ = ["launcher"]

_SECONDS_TO_WAIT = 1.0

# Where NVIDIA's driver has a file for every GPU.
_DEVICE_FILES = pathlib.Path("/dev")


def launcher(count: int) -> Launcher:
    """Several processes at once, which share the cells by the locks of their folders.

    Process i sees accelerator i only (of those that CUDA_VISIBLE_DEVICES lists, where
    it is set) and its share of the processor's cores. Each starts as a new Python
    program, and runs cells until none is left: what one compiles serves its next cells.

    Args:
      count: processes.

    Returns:
      The launcher. It raises a ValueError if there are fewer cores than processes, or
      fewer GPUs where there are any, or fewer that CUDA_VISIBLE_DEVICES lists.

    Example:
      >>> from miue_jax.workflows.sweep.launchers import local
      >>> local.launcher(2).detached
      False
    """
    return Launcher(functools.partial(_submit, count), checks=True)


def _submit(
    count: int, sweep: Sweep, workdir: Place, tasks: Sequence[Task]
) -> Submission:
    del tasks  # the processes find out which cells are left
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = pathlib.Path(folder, "sweep.json")
        run_directory.write_json(settings, sweep.to_plain())
        command = [sys.executable, "-m", "miue_jax", "sweep-worker"]
        command += [str(settings), str(workdir), str(os.getpid())]
        if isinstance(workdir, Address):
            logs = pathlib.Path(tempfile.mkdtemp(prefix="miue-logs-"))
        else:
            logs = workdir / ".logs"
        started = start(count, command, logs)
        stack.callback(started.close)
        return started._replace(close=stack.pop_all().close)


def start(count: int, arguments: Sequence[str], logs: pathlib.Path) -> Submission:
    """Starts a command in several processes.

    Args:
      count: processes.
      arguments: the command.
      logs: the folder of their output, worker_0.log and so on.

    Returns:
      The submission. Its check exits with the status of the first process that did not
      end with 0, whose last line is printed.

    Raises:
      ValueError: if there are fewer cores than processes, or fewer GPUs where there are
        any, or fewer that CUDA_VISIBLE_DEVICES lists.
    """
    cores = sorted(os.sched_getaffinity(0))
    visible = _visible(count, len(cores))
    logs.mkdir(parents=True, exist_ok=True)
    paths = [logs / f"worker_{index}.log" for index in range(count)]
    with contextlib.ExitStack() as stack:
        processes = []
        for index, path in enumerate(paths):
            process = subprocess.Popen(
                arguments,
                stdout=stack.enter_context(path.open("ab")),
                stderr=subprocess.STDOUT,
                env=os.environ | _environment(index, visible),
                # The terminal's signals are to reach them once, from here.
                process_group=0,
            )
            os.sched_setaffinity(process.pid, cores[index::count])
            processes.append(process)
        close = stack.pop_all().close

    def cancel(number: int) -> None:
        for process in processes:
            process.send_signal(number)

    def check() -> None:
        for process, path in zip(processes, paths, strict=True):
            if process.returncode:
                lines = path.read_text(errors="replace").strip().splitlines() or [""]
                print(f"{path}: {lines[-1]}", file=sys.stderr)
                sys.exit(process.returncode if process.returncode > 0 else 1)

    return Submission(
        lambda: all(process.poll() is not None for process in processes),
        cancel,
        check,
        close,
    )


def _visible(count: int, cores: int) -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, once there are enough of everything."""
    if not 1 <= count <= cores:
        raise ValueError(
            f"devices is {count}; allowed: from 1 to the {cores} cores there are"
        )
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = listed.split(",") if listed else None
    found = len(list(_DEVICE_FILES.glob("nvidia[0-9]*")))
    platforms = os.environ.get("JAX_PLATFORMS")
    on_gpus = not platforms or {"cuda", "gpu"} & set(platforms.split(","))
    if on_gpus and listed is None and 0 < found < count:
        # Processes beyond the GPUs would silently work on the CPU.
        raise ValueError(
            f"devices is {count}, and there are {found} GPUs; set JAX_PLATFORMS=cpu to "
            "work on the processor"
        )
    if visible is not None and count > len(visible):
        raise ValueError(
            f"devices is {count}; CUDA_VISIBLE_DEVICES lists {len(visible)}: {listed}"
        )
    return visible


def end_with(parent: int) -> None:
    """Stops this process, which saves its work first, once its parent is gone.

    A killed parent passes no signal on, and its workers would hold their devices.

    Args:
      parent: the parent's process number.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_TO_WAIT)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _environment(index: int, visible: Sequence[str] | None) -> dict[str, str]:
    if visible is not None:
        own = {"CUDA_VISIBLE_DEVICES": visible[index]}
    elif "CUDA_VISIBLE_DEVICES" in os.environ:
        own = {}  # an empty list hides them all
    else:
        own = {"CUDA_VISIBLE_DEVICES": str(index)}
    return {
        **own,
        "TPU_VISIBLE_DEVICES": str(index),
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
