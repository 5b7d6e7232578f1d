"""Runs the command `miue` in processes that can be killed and limited."""

import contextlib
import itertools
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pathlib
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]

# Nothing here takes a minute on a quiet core: whoever takes longer hangs.
HANG = 300.0

# A child of the fork server starts without the seconds that the imports take. JAX has
# not touched a device when it forks, so each has a backend and threads of its own.
_PRELOADED = (
    *(
        "tests.faults.commands",
        "tyro",
        "miue_jax.cli",
        "miue_jax.defenses",
        "miue_jax.victims",
    ),
    *("miue_jax.data.tfds", "miue_jax.information.estimators"),
    *("miue_jax.workflows.protect", "miue_jax.workflows.evaluate"),
    *("miue_jax.workflows.sweep.run", "miue_jax.workflows.sweep.plot"),
    *("miue_jax.workflows.measure.run", "miue_jax.workflows.detect"),
    *("miue_jax.workflows.export", "miue_jax.workflows.import_perturbation"),
    *("miue_jax.workflows.table", "miue_jax.workflows.demo"),
)
_CONTEXT: Any = multiprocessing.get_context("forkserver")
_NUMBERS = itertools.count()
# The exit status of a child can be read once only, and starting one reads them all.
_LOCK = threading.Lock()
# And whatever they have started.
_RUNNING: set["Started"] = set()


class Ended(NamedTuple):
    """What came of a command.

    Attributes:
      status: its exit status, -n after signal n; None if it hung and was killed.
      out: standard output.
      err: standard error.
      seconds: that it took.
    """

    status: int | None
    out: str
    err: str
    seconds: float


class Started:
    """A command that runs, the leader of a session of its own."""

    def __init__(self, process: Any, logs: pathlib.Path | None):
        self._process, self._logs = process, logs
        self._began = time.monotonic()
        self.pid: int = process.pid
        _RUNNING.add(self)

    def kill(self) -> None:
        """Kills the process, and none of those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kills the process and all that it started."""
        self.kill()  # it may not lead its session yet
        for pid in members(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self, seconds: float) -> Ended | None:
        """Waits for the end; None if it has not come after so many seconds."""
        if self._logs is None:
            try:
                out, err = self._process.communicate(timeout=max(seconds, 0))
            except subprocess.TimeoutExpired:
                return None
            return self._ended(self._process.returncode, out, err)
        sentinel = self._process.sentinel
        if not multiprocessing.connection.wait([sentinel], max(seconds, 0)):
            return None
        with _LOCK:
            status = self._process.exitcode
        texts = [
            (self._logs / name).read_text(errors="replace") for name in ("out", "err")
        ]
        return self._ended(status, *texts)

    def end(self, seconds: float = HANG) -> Ended:
        """Waits for the end; a command that hangs is killed with all it started."""
        ended = self.wait(seconds)
        if ended is None:
            self.kill_all()
            last = self.wait(10)
            texts = ("", "") if last is None else (last.out, last.err)
            ended = self._ended(None, *texts)
        return ended

    def _ended(self, status: int | None, out: str, err: str) -> Ended:
        if not members(self.pid):
            _RUNNING.discard(self)
        return Ended(status, out, err, time.monotonic() - self._began)


@contextlib.contextmanager
def prepared(folder: pathlib.Path, jobs: int) -> Iterator[None]:
    """Sets the environment of all commands, and ends what is left of them.

    Args:
      folder: for the compiled programs and the output of the commands.
      jobs: commands at once.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    os.environ |= {
        "PYTHONPATH": str(ROOT),
        # Nothing but what the command writes may appear beside its inputs.
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",
        "NPROC": "16",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MIUE_FAULTS_LOGS": str(folder / "logs"),
    }
    (folder / "logs").mkdir()
    # Who is killed cannot return the lock of its progress bars, and the tracker of such
    # locks would say so in the end.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    multiprocessing.resource_tracker.ensure_running()
    del os.environ["PYTHONWARNINGS"]
    _CONTEXT.set_forkserver_preload(list(_PRELOADED))
    try:
        yield
    finally:
        kill_running()


def start(
    arguments: Sequence[str],
    folder: pathlib.Path,
    *,
    fresh: bool = False,
    environment: Mapping[str, str] | None = None,
    largest_file: int | None = None,
    memory: int | None = None,
) -> Started:
    """Starts a command.

    Args:
      arguments: of `miue`.
      folder: where it runs.
      fresh: whether to start a new interpreter; otherwise one that has imported the
        library is forked.
      environment: variables that differ.
      largest_file: bytes that a file may have.
      memory: bytes of addresses that it may use.
    """
    environment = dict(environment or {})
    if fresh:
        process = subprocess.Popen(
            [sys.executable, "-m", "miue_jax", *arguments],
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        limits = {resource.RLIMIT_FSIZE: largest_file, resource.RLIMIT_AS: memory}
        for kind, value in limits.items():
            if value is not None:
                # The interpreter has not begun to import what may be limited.
                resource.prlimit(process.pid, kind, (value, value))
        return Started(process, None)
    logs = pathlib.Path(os.environ["MIUE_FAULTS_LOGS"], str(next(_NUMBERS)))
    logs.mkdir()
    for name in ("out", "err"):  # it may be killed before it opens them
        (logs / name).touch()
    assert largest_file is None, "the limit would be on the files of its output, too"
    process = _CONTEXT.Process(
        target=_child, args=(list(arguments), folder, logs, environment, memory)
    )
    with _LOCK:
        process.start()
    return Started(process, logs)


def run(
    arguments: Sequence[str],
    folder: pathlib.Path,
    *,
    seconds: float = HANG,
    **options: Any,
) -> Ended:
    """Runs a command to its end, see `start`."""
    return start(arguments, folder, **options).end(seconds)


def _child(
    arguments: list[str],
    folder: pathlib.Path,
    logs: pathlib.Path,
    environment: dict[str, str],
    memory: int | None,
) -> None:
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ |= environment
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    from miue_jax import cli

    sys.exit(cli.main(arguments))


def kill_running() -> None:
    """Kills all commands, and what they have started."""
    for process in tuple(_RUNNING):
        process.kill_all()


def members(session: int) -> list[int]:
    """The processes that a command has started and that still run, itself included."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything.
            state, _, _, of, *_ = (path / "stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state != "Z":
                found.append(int(path.name))
    return sorted(found)


def shown(arguments: Sequence[str]) -> str:
    """The command as one types it."""
    return shlex.join(["miue", *map(str, arguments)])


# Lines that are no message about the input, and why they are printed.
_LOG_LINES = (
    r"miue [\w-]+: cell: ",  # a sweep names each cell that it begins
    r"miue [\w-]+: (perturbation_)?batch_size is more than ",  # it was reduced
    r"\[Gloo\] Rank ",  # collectives of several processes print how they connect
    r"[EIW]\d{4} ",  # XLA's own log, of the service that watches the processes
)


def messages(text: str) -> list[str]:
    """The lines of an output that are not of a log."""
    logged = re.compile("|".join(_LOG_LINES))
    return [line for line in text.splitlines() if line and not logged.match(line)]


def refusal(
    ended: Ended, *, statuses: Sequence[int] = (2,), own: bool = False
) -> str | None:
    """What is wrong with a command that should have said in one line what is wrong.

    Args:
      ended: the command.
      statuses: that it may end with.
      own: whether only its own lines count, since those of libraries cannot be helped.
    """
    every = messages(ended.err)
    last = every[-1][:200] if every else ""
    lines = [x for x in every if re.match("miue[ :]", x)] if own else every
    if ended.status is None:
        return f"hangs: killed after {ended.seconds:.0f} s"
    if "Traceback (most recent call last)" in ended.err:
        raised = [x for x in every if re.match(r"[\w.]+(Error|Exception|Exit)\b", x)]
        return f"traceback, status {ended.status}: {(raised or [last])[-1][:200]}"
    if ended.status not in statuses:
        return f"status {ended.status}: {last or ended.out.strip()[:200]}"
    if len(lines) != 1:
        return f"{len(lines)} lines instead of one: {' / '.join(every)[:300]}"
    if printed := messages(ended.out):
        return f"prints {' / '.join(printed)[:100]!r} besides: {last}"
    return None
