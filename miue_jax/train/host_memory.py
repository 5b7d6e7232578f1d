"""The memory of the process that its allocator holds back."""

import ctypes
import sys


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
