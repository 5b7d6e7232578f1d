"""The memory of the process that its allocator holds back."""

import ctypes
import os
import sys

# What `mallopt` calls the number of arenas, and how many there are.
_M_ARENA_MAX, _ARENAS = -8, 2


def give_back() -> None:
    """Returns memory that was freed to the system.

    XLA's compiler frees hundreds of megabytes in small pieces, which the C library of
    Linux keeps for more of them: a process would carry them along to its end, beside
    its large arrays. Other systems need no call, and none is made there.

    Example:
      >>> from miue_jax.train import host_memory
      >>> host_memory.give_back()
    """
    if not sys.platform.startswith("linux"):
        return
    # Not in all C libraries.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_few_arenas() -> None:
    """Has all threads of the process share two heaps, before there are threads.

    The C library of Linux gives eight heaps to each core, and each keeps what was freed
    in it: after XLA's compiler some 40 MB more than with two. It is a matter of the
    whole process, thus for commands alone. ``MALLOC_ARENA_MAX`` in the environment has
    its way; other systems need no call, and none is made there.

    Example:
      >>> from miue_jax.train import host_memory
      >>> host_memory.keep_few_arenas()
    """
    if not sys.platform.startswith("linux") or "MALLOC_ARENA_MAX" in os.environ:
        return
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_ARENA_MAX, _ARENAS)
