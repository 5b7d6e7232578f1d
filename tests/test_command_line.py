"""What a command prints cannot undo what it did."""

import os
import subprocess
import sys

import pytest

from miue_jax.workflows import protect


def _miue(*arguments: str, stdout) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "miue_jax", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture
def full():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as file:
        yield file


def test_a_finished_run_whose_output_cannot_be_written_is_finished(tmp_path, full):
    run = f"--workdir={tmp_path / 'run'}"
    arguments = ("protect", "shapes", "--data.per-class=2", "--generator=random_noise")
    done = _miue(*arguments, run, "--quiet", stdout=full)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ("miue protect: standard output: no space left on device\n")
    assert (tmp_path / "run" / protect.ARTIFACT).exists()


def test_output_that_is_all_that_was_asked_for_must_be_written(full):
    done = _miue("list", "generators", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "miue list: no space left on device\n"


def test_output_may_be_closed():
    program = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "miue_jax", "list", "generators"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        done = _miue("list", stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
