"""Says in one line that a process of a multi-process run is missing or was lost.

JAX aborts a process that waits for others in vain, and the remaining ones when one no
longer answers, from code that nothing in Python can catch, with pages on standard
error. `joining` is for the first: it keeps what is written there until all have come.
`watch` is for the second: it sends what compiled code writes through a small process,
which passes it on, except for such a report: of that it prints what the user needs.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

# How the runtime begins its report, and the ways in which it names a process.
_REPORT = re.compile(
    rb"^[WEF]\d{4} [\d:.]+ +\d+ (coordination_|preemption_|client\.h)", re.M
)
_FATAL = re.compile(rb"^F\d{4} ", re.M)
_NAMED = (
    rb"stopped sending heartbeats\):\s*((?:\d+\s*)+)",
    rb"Task (\d+) heartbeat timeout",
    rb"/task:(\d+)",
)
# Of what the runtime raises when the other side is gone: exceptions of several types,
# perhaps within a message of ours, but always with a status in capitals.
_DISCONNECTED = re.compile(
    r"\b[A-Z]{5,}(_[A-Z]+)*: .*(?i:gloo|nccl|heartbeat|connection|socket|peer)"
)
# Why the runtime could not connect, in its words.
_STATUS = re.compile(rb"absl::Status: ([A-Z_]+): ([^\n]*)")

_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)


@contextlib.contextmanager
def joining(prog: str, seconds: int, status: int) -> Iterator[None]:
    """Makes a process that cannot join the others end with one line.

    Args:
      prog: name of the program, which begins the line.
      seconds: after which the runtime gives up.
      status: to exit with.
    """
    if sys.stderr is None:
        yield
        return
    _flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:

        def leave(_: int) -> None:
            text = f"{prog}: {join_line(_content(held), seconds)}\n"
            _write(terminal, text.encode())
            os._exit(status)

        os.dup2(held.fileno(), 2)
        handler, set_handler = _ABORT(leave), ctypes.CDLL(None).signal
        set_handler.restype = ctypes.c_void_p
        before = set_handler(signal.SIGABRT, handler)
        try:
            yield
        finally:
            set_handler(signal.SIGABRT, ctypes.c_void_p(before))
            _flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            _write(2, _content(held))


# Where nothing can be written, the status says it.


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()


def _write(descriptor: int, text: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, text)


def _content(file: Any) -> bytes:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


def join_line(report: bytes, seconds: int) -> str:
    """Makes one line of what the runtime wrote as it gave up to connect.

    Args:
      report: what it wrote.
      seconds: how long it was to try.

    Returns:
      The line.
    """
    found = _STATUS.search(report)
    code = found[1].decode() if found else ""
    if code == "ALREADY_EXISTS":
        why = "another process has the same JAX_PROCESS_ID"
    elif code == "DEADLINE_EXCEEDED":
        why = f"after {seconds} seconds, not all processes have come"
    else:
        why = found[2].decode(errors="replace") if found else "it was not let in"
    return (
        f"this process cannot join a run: {why}; start all of them, with one address "
        "of process 0"
    )


def watch(prog: str) -> None:
    """Starts to watch for lost processes until this process ends.

    Args:
      prog: name of the program, which begins the line.
    """
    sys.stderr.flush()
    # Python keeps the terminal, and with it the progress bars.
    terminal = os.dup(2)
    watcher = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, prog],
        stdin=subprocess.PIPE,
        stdout=terminal,
        # A terminal's signals are for the run; the watcher ends when it does.
        start_new_session=True,
    )
    assert watcher.stdin is not None
    os.dup2(watcher.stdin.fileno(), 2)
    watcher.stdin.close()
    sys.stderr = os.fdopen(terminal, "w", buffering=1)
    # The runtime aborts. Leave without a core file, which would hold all memory; the
    # handler gets the number of the signal, so that this is the exit status.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, ctypes.cast(libc._exit, ctypes.c_void_p))


def is_disconnection(error: BaseException) -> bool:
    """Tells whether an error of the runtime is that another process is gone.

    Args:
      error: what was raised.

    Returns:
      Whether there are others and its text says so.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return False
    return _DISCONNECTED.search(str(error)) is not None


def wait_for_report(seconds: float) -> None:
    """Waits for the runtime to find out which process was lost, which ends this one.

    Args:
      seconds: after which it returns if nothing was found out.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)


def line(report: bytes, prog: str) -> str:
    """Makes one line of a report.

    Args:
      report: what the runtime wrote.
      prog: name of the program.

    Returns:
      The line.
    """
    for pattern in _NAMED:
        if found := re.search(pattern, report):
            which = " and ".join(dict.fromkeys(found[1].decode().split()))
            break
    else:
        # Without the process that coordinates, none can say more.
        which = "0" if b"PollForError" in report else ""
    return (
        f"{prog}: lost process {which} of this run; rerun the same command in all "
        "processes to resume"
    ).replace("  ", " ")


def _pass_on(prog: str) -> None:
    held, report = b"", b""
    while data := os.read(0, 65536):
        if report:
            report += data
            continue
        held += data
        if found := _REPORT.search(held):
            held, report = held[: found.start()], held[found.start() :]
        # A report may begin in an unfinished line.
        whole = len(held) if report else held.rfind(b"\n") + 1
        os.write(1, held[:whole])
        held = held[whole:]
    if report and _FATAL.search(report):
        os.write(1, f"{line(report, prog)}\n".encode())
    else:
        os.write(1, held + report)


if __name__ == "__main__":
    _pass_on(sys.argv[1])
