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


def test_a_compiled_program_that_was_cut_short_is_removed_and_made_again(tmp_path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-m", "miue_jax", "protect", "shapes", "--quiet"]
    command += ["--data.per-class=2", "--generator=random_noise"]

    def run(name: str) -> None:
        done = subprocess.run(
            [*command, f"--workdir={tmp_path / name}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    run("first")
    entries = sorted((tmp_path / "miue_jax").glob("*-cache"))
    whole = {path: path.stat().st_size for path in entries}
    assert whole, "nothing was kept"
    for path in entries:
        path.write_bytes(path.read_bytes()[:100])
    run("second")  # removes them
    run("third")
    found = sorted((tmp_path / "miue_jax").glob("*-cache"))
    assert found == entries
    assert all(path.stat().st_size > 100 for path in found)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_standard_error_the_status_says_it(tmp_path, redirection):
    command = f"{sys.executable} -m miue_jax protect"
    run = f"--generator random_noise --workdir {tmp_path / 'run'} {redirection}"
    for data, status in (("shapes --data.per-class 2", 0), ("no.npz", 2)):
        done = subprocess.run(
            ["bash", "-c", f"{command} {data} {run}"],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        assert done.returncode == status
        assert (done.stdout == "") == (status == 2)
