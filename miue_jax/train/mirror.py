"""Run directories in buckets: worked on in a local copy, and kept in the bucket.

The copy lies in the system's temporary folder. What is in the bucket is brought there
at the start, and what has changed is put back whenever a run saves: files that only
grow first, then all others in the order in which they were written, so that whatever
part of them arrives is a state that a kill could have left in a local directory.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator

from miue_jax.data import bucket
from miue_jax.data.bucket import Address
from miue_jax.train import lease

# The folder of the lock's objects.
LOCK = ".lock"

# Folders brought here only when they are needed: a run that is done needs none.
_LATER = {"checkpoints", "rows"}
# What makes a checkpoint count.
_DIGESTS = "sha256.json"
# What a checkpoint says of such a file is about its beginning.
_GROWING = ".jsonl"

# What is for one machine or one moment.
_PASSING = re.compile(
    r"\..*|(.*/)?(\.lock|\.config\.lock)(/.*)?|.*/\.[^/]+\.tmp|.*\.orbax-checkpoint-tmp.*"
)


@dataclasses.dataclass
class Mirror:
    """A local copy of a run directory, from `open_mirror`.

    Attributes:
      path: the copy.
      address: of the directory.
      held: its lock.
      known: what the bucket holds, by name: the state of the local file that it was
        made from, or None if it was not brought here.
    """

    path: pathlib.Path
    address: Address
    held: lease.Lease
    known: dict[str, tuple[int, int] | None]

    def fetch(self, folder: pathlib.Path) -> None:
        """Brings here what the bucket holds of a folder.

        Args:
          folder: in the copy.

        Raises:
          OSError: naming the address that cannot be read.
        """
        for name in [name for name, state in self.known.items() if state is None]:
            if (self.path / name).is_relative_to(folder):
                self._fetch(name)

    def keep(self) -> None:
        """Puts what has changed into the bucket; what was removed is removed there.

        Raises:
          Held: if another process has taken the lock.
          OSError: naming the address that cannot be written.
        """
        found = {
            name: _state(path)
            for path in self.path.rglob("*")
            if path.is_file()
            and not _PASSING.fullmatch(name := path.relative_to(self.path).as_posix())
        }
        changed = [name for name in found if found[name] != self.known.get(name)]
        for name in sorted(changed, key=lambda name: _order(name, found[name])):
            self.held.keep()
            bucket.put(self.path / name, self.address / name)
            self.known[name] = found[name]
        removed = [k for k, v in self.known.items() if v is not None and k not in found]
        for name in sorted(removed, key=lambda name: not name.endswith(_DIGESTS)):
            self.held.keep()
            (self.address / name).unlink(missing_ok=True)
            del self.known[name]
        self.held.remains = bool(self.known)

    def _fetch(self, name: str) -> None:
        bucket.fetch(self.address / name, self.path / name)
        self.known[name] = _state(self.path / name)


def _state(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _order(name: str, state: tuple[int, int]) -> tuple[bool, int, bool]:
    return not name.endswith(_GROWING), state[0], name.endswith(_DIGESTS)


@contextlib.contextmanager
def open_mirror(address: Address) -> Iterator[Mirror]:
    """Locks a run directory in a bucket, and brings here all but what it resumes from.

    Args:
      address: of the directory.

    Yields:
      The copy, which is removed in the end.

    Raises:
      Held: if another process has locked the directory.
      OSError: naming the address, if the bucket is missing, refuses or cannot be
        reached.
    """
    bucket.remove_copies()
    with lease.hold(address / LOCK) as held, bucket.scratch(address) as path:
        copy = Mirror(path, address, held, dict.fromkeys(visible(address)))
        held.remains = bool(copy.known)
        for name in copy.known:
            if _LATER.isdisjoint(name.split("/")):
                copy._fetch(name)
        yield copy


def visible(address: Address) -> list[str]:
    """Names what is in a directory, without locks and what was being written.

    Args:
      address: of the directory.

    Returns:
      The names.

    Raises:
      OSError: naming the address, if the bucket is missing, refuses or cannot be
        reached.
    """
    names = bucket.listing(address)
    return [name for name in names if name and not _PASSING.fullmatch(name)]
