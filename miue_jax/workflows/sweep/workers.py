"""Several processes on one directory, each with its own device."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

_SECONDS_TO_WAIT = 1.0

# Where NVIDIA's driver has a file for every GPU.
_DEVICE_FILES = pathlib.Path("/dev")


def run(
    count: int,
    arguments: Sequence[str],
    logs: pathlib.Path,
    report: Callable[[], object],
) -> None:
    """Runs a command in several processes at once and waits for all.

    Process i sees accelerator i only (of those that CUDA_VISIBLE_DEVICES lists, where
    it is set) and its share of the processor's cores. SIGTERM, SIGINT and SIGHUP are
    passed on, and answered once all have ended.

    Args:
      count: processes.
      arguments: the command.
      logs: the folder of their output, worker_0.log and so on.
      report: called about once a second while they run.

    Raises:
      ValueError: if there are fewer cores than processes, or fewer GPUs where there are
        any, or fewer that CUDA_VISIBLE_DEVICES lists.
      SystemExit: with the status of the first process that did not end with 0, whose
        last line is printed; of 128 + n after signal n.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise ValueError(
            f"devices is {count}; allowed: from 1 to the {len(cores)} cores there are"
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
    logs.mkdir(parents=True, exist_ok=True)
    paths = [logs / f"worker_{index}.log" for index in range(count)]
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(_signals())
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
        passed = 0
        while any(process.poll() is None for process in processes):
            if received and not passed:
                print("stopping: waiting for the processes to save", file=sys.stderr)
            for number in received[passed:]:
                for process in processes:
                    process.send_signal(number)
            passed = len(received)
            report()
            time.sleep(_SECONDS_TO_WAIT)
    if received:
        print("stopped by a signal; rerun the same command to resume", file=sys.stderr)
        sys.exit(128 + received[0])
    for process, path in zip(processes, paths, strict=True):
        if process.returncode:
            lines = path.read_text(errors="replace").strip().splitlines() or [""]
            print(f"{path}: {lines[-1]}", file=sys.stderr)
            sys.exit(process.returncode if process.returncode > 0 else 1)


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


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
