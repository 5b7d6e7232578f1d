"""The report of a lost process becomes one line; everything else is passed on."""

import subprocess
import sys

import jax
import pytest

from miue_jax import _lost_process

HEADER = b"1128 09:51:49.917098    2517 coordination_service.cc:1520] [91] "
REPORTS = {
    b"UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n"
    b"1\nThe tasks have crashed.": "process 1 of",
    b"Barrier failed because: UNAVAILABLE: Task 3 heartbeat timeout.": "process 3 of",
    b"Socket closed\nRPC: /xla.coordination.CoordinationService/PollForError": (
        "process 0 of"
    ),
    b"Something else.": "lost process of this run",
}


@pytest.mark.parametrize("report", REPORTS)
def test_the_line_names_the_process(report):
    line = _lost_process.line(b"F" + HEADER + report, "miue")
    assert line.startswith("miue: lost process")
    assert REPORTS[report] in line
    assert line.endswith("rerun the same command in all processes to resume")


JOINS = {
    b"absl::Status: DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /x": "after 5 seconds",
    b"absl::Status: ALREADY_EXISTS: Aborted connect": "the same JAX_PROCESS_ID",
    b"absl::Status: INVALID_ARGUMENT: Unexpected task\n": "run: Unexpected task; start",
    b"something else": "it was not let in",
}


@pytest.mark.parametrize("report", JOINS)
def test_the_line_says_why_a_process_cannot_join(report):
    line = _lost_process.join_line(b"F" + HEADER + report, 5)
    assert line.startswith("this process cannot join a run: ")
    assert JOINS[report] in line


def test_what_is_written_while_joining_comes_behind_it():
    program = (
        "import os\n"
        "from miue_jax import _lost_process\n"
        "with _lost_process.joining('miue', 5, 2):\n"
        "    os.write(2, b'inside ')\n"
        "os.write(2, b'outside')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "inside outside")


def _watched(*, writes: list[bytes]) -> str:
    program = (
        "import os, sys\n"
        "from miue_jax import _lost_process\n"
        "_lost_process.watch('miue')\n"
        "print('from Python', file=sys.stderr)\n"
        f"for text in {writes!r}: os.write(2, text)\n"
        "os.abort()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    # Not by the signal, which may leave a core file.
    assert done.returncode == 6
    return done.stderr


def test_a_report_is_replaced_and_what_came_before_is_kept():
    texts = [b"a warning\nE", HEADER + b"Shutdown\n", b"F" + HEADER]
    texts += [next(iter(REPORTS)), b"\n    @  0x7f  stack\n"]
    assert _watched(writes=texts).splitlines() == [
        "from Python",
        "a warning",
        _lost_process.line(next(iter(REPORTS)), "miue"),
    ]


def test_without_a_fatal_report_nothing_is_held_back():
    texts = [b"E" + HEADER + b"harmless\n", b"unfinished"]
    found = _watched(writes=texts)
    assert found == "from Python\n" + b"".join(texts).decode()


def test_an_error_of_a_single_process_is_not_waited_for():
    gone = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer"
    assert not _lost_process.is_disconnection(RuntimeError(gone))


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (RuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: closed by peer [::1]:8"), True),
        (
            OSError("checkpoint 4 in c cannot be written: UNAVAILABLE: socket"),
            True,
        ),
        (ValueError("my_connections.npz: no such file"), False),
        (ValueError("CIFAR10: unknown data set; did you mean 'peer'"), False),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
    ],
    ids=str,
)
def test_only_errors_of_the_runtime_are_waited_for(monkeypatch, error, waits):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert _lost_process.is_disconnection(error) == waits
