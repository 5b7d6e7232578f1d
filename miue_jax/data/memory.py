"""How much memory an input may need, known from what it declares before it is read."""

import os
import pathlib
import resource

from miue_jax._checks import one_line

# In gigabytes; without it, this share of what the process may use.
VARIABLE = "MIUE_MEMORY"
_SHARE = 0.5

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")


class Exceeded(ValueError):
    """Raised if an input needs more than it may, or if what it may is not known.

    Example:
      >>> from miue_jax.data import memory
      >>> issubclass(memory.Exceeded, ValueError)
      True
    """


def check(needed: int, what: str) -> None:
    """Checks that an input may be read.

    Args:
      needed: bytes of memory that it will need.
      what: the input, for the message.

    Raises:
      Exceeded: if that is more than `limit`; the message says how much each is, and
        names the environment variable that sets the limit.

    Example:
      >>> from miue_jax.data import memory
      >>> memory.check(10**15, "images")
      Traceback (most recent call last):
      miue_jax.data.memory.Exceeded: images would need 1e+06 GB of memory; allowed: ...
    """
    allowed = limit()
    if needed > allowed:
        raise Exceeded(
            f"{what} would need {_gigabytes(needed)} of memory; allowed: "
            f"{_gigabytes(allowed)}, set by the environment variable {VARIABLE} (in "
            "GB) or half of what there is"
        )


def limit() -> int:
    """Returns how much memory an input may need.

    Returns:
      Bytes: what the environment variable MIUE_MEMORY says, in gigabytes, or half of
      what the process may use: the machine's memory, or less where a control group or
      a limit of the shell allows less.

    Raises:
      Exceeded: if the variable is not a positive number.

    Example:
      >>> from miue_jax.data import memory
      >>> memory.limit() > 0
      True
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return int(_SHARE * min(_available()))
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e9:
        raise Exceeded(
            f"{VARIABLE} is {one_line(given, 50)!r}; allowed: a number of gigabytes > 0"
        )
    return int(gigabytes * 1e9)


def _available() -> list[int]:
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    shell = resource.getrlimit(resource.RLIMIT_AS)[0]
    if shell != resource.RLIM_INFINITY:
        found.append(shell)
    for file in _limit_files():
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
    return found


def _limit_files() -> list[pathlib.Path]:
    """The files with the limits of the process's control groups and those above."""
    files = [
        _CGROUPS / "memory.max",
        _CGROUPS / "memory" / "memory.limit_in_bytes",
    ]
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return files
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = _CGROUPS, "memory.max"
        if controllers:
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        path = root / group.lstrip("/")
        files += [folder / name for folder in (path, *path.parents)]
    return files


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
