"""Memory that the allocator holds back."""

import os
import platform
import subprocess
import sys

import pytest

# Six threads that hold memory at once, and how many heaps the C library has for them.
_COUNT = """
import ctypes, sys, threading
from miue_jax.train import host_memory

if sys.argv[2] == "few":
    host_memory.keep_few_arenas()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(6)

def hold():
    barrier.wait()
    library.malloc(5000)
    barrier.wait()

threads = [threading.Thread(target=hold) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(library.fopen(sys.argv[1].encode(), b"w"))
library.malloc_info(0, file)
library.fclose(file)
host_memory.give_back()
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="it is about the C library of Linux"
)


@pytest.mark.parametrize(
    ("call", "limit", "arenas"),
    [("few", None, {2}), ("many", None, set(range(3, 8))), ("few", "5", {3, 4, 5})],
)
def test_threads_of_a_command_share_two_heaps(tmp_path, call, limit, arenas):
    environment = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    if limit is not None:
        environment["MALLOC_ARENA_MAX"] = limit
    file = tmp_path / "info.xml"
    command = [sys.executable, "-c", _COUNT, str(file), call]
    subprocess.run(command, env=environment, check=True)
    assert file.read_text().count("<heap nr=") in arenas
