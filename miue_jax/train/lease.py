"""Locks in a bucket: leases, renewed while their holder lives.

A lock is a sequence of numbered objects, of which the last one counts. It says who
holds the lock and for how long, or that it is free. Every change - taking it, renewing
it, giving it back - creates the next number, which of several processes only one can. A
holder that was killed renews no more, and the lock may be taken once its time is over.
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from miue_jax.data import bucket
from miue_jax.data.bucket import Address

# For which a lock is taken, and how often it is renewed meanwhile.
SECONDS = 60.0
_RENEWALS = 4

# Between two looks at a lock that another process holds.
_SECONDS_TO_WAIT = 1.0

_LOGGER = logging.getLogger("miue_jax")


class Held(OSError):
    """Raised if another process holds a lock.

    Example:
      >>> from miue_jax.train import lease
      >>> issubclass(lease.Held, OSError)
      True
    """


@dataclasses.dataclass
class Lease:
    """A lock that this process holds, from `hold`.

    Attributes:
      folder: of the lock's objects.
      number: of the last one.
      owner: this process.
      renewed: when, by the clock of `time.monotonic`.
      lost: whether another process has taken the lock.
      remains: whether there is something that the lock is for; without, none of its
        objects is left in the end.
    """

    folder: Address
    number: int
    owner: str
    renewed: float
    lost: bool = False
    remains: bool = True
    guard: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def keep(self) -> None:
        """Checks that the lock is held, before anything is written under it.

        Raises:
          Held: if another process has taken it.
          OSError: naming the address, if that cannot be found out.
        """
        if time.monotonic() - self.renewed > SECONDS / 2:
            self.renew()
        if self.lost:
            raise Held(
                f"{self.folder.parent}: another process took over, since this one did "
                f"not renew its lock for {SECONDS:.0f} seconds"
            )

    def renew(self) -> None:
        """Renews the lock, or finds that it is lost."""
        with self.guard:
            if self.lost:
                return
            now = time.monotonic()
            if _append(self.folder, self.number, self.owner, SECONDS):
                self.number, self.renewed = self.number + 1, now
            else:
                self.lost = True

    def give_back(self) -> None:
        """Frees the lock."""
        with self.guard:
            if self.lost or not _append(self.folder, self.number, None, 0):
                return
            if not self.remains:
                _object(self.folder, self.number + 1).unlink(missing_ok=True)


@contextlib.contextmanager
def hold(folder: Address) -> Iterator[Lease]:
    """Holds a lock while the context lasts.

    If another process holds it, this waits until that one renews it, which says that it
    lives, or until its time is over.

    Args:
      folder: of the lock's objects.

    Yields:
      The lease. Its ``keep()`` raises `Held` if the lock was lost.

    Raises:
      Held: naming the process that holds the lock.
      OSError: naming the address, if the bucket cannot be reached.
    """
    lease = _take(folder)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(SECONDS / _RENEWALS):
            # What is wrong shows where the lease is needed.
            with contextlib.suppress(OSError):
                lease.renew()

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        # Otherwise its time will be over.
        with contextlib.suppress(OSError):
            lease.give_back()


def holder(folder: Address) -> str | None:
    """Who holds a lock, as far as the clocks of this machine and the bucket agree.

    Args:
      folder: of the lock's objects.

    Returns:
      The process, or None if nobody does.
    """
    _, last, written = _last(folder)
    if last["owner"] is None or time.time() - written > last["seconds"]:
        return None
    return last["owner"]


def _take(folder: Address) -> Lease:
    owner = f"process {os.getpid()} of {socket.gethostname()} ({uuid.uuid4().hex[:12]})"
    number, last, written = _last(folder)
    if last["owner"] is not None:
        # By the clock of the bucket; its times may be whole seconds.
        left = last["seconds"] + 1 - (_clock(folder) - written)
        deadline, said = time.monotonic() + left, False
        while time.monotonic() < deadline:
            time.sleep(min(_SECONDS_TO_WAIT, last["seconds"] / _RENEWALS))
            before = number
            number, last, _ = _last(folder)
            if last["owner"] is None:
                break
            if number != before:
                raise _held(folder, last)
            if not said:
                _LOGGER.info(
                    "waiting for the lock of %s: %s holds it, for %.0f seconds at most "
                    "unless it renews it",
                    *(folder.parent, last["owner"], left),
                )
                said = True
    now = time.monotonic()
    if not _append(folder, number, owner, SECONDS):
        raise _held(folder, _last(folder)[1])
    return Lease(folder, number + 1, owner, now)


def _held(folder: Address, last: dict[str, Any]) -> Held:
    who = last["owner"] or "it had the lock a moment ago"
    return Held(f"another process is working in {folder.parent}: {who}")


def _last(folder: Address) -> tuple[int, dict[str, Any], float]:
    """The last object of a lock: its number, what it says, and when it was written."""
    while True:
        found = {k: v for k, v in bucket.listing(folder).items() if k.isdecimal()}
        if not found:
            return 0, {"owner": None, "seconds": 0}, 0.0
        name = max(found, key=int)
        try:
            said = json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue  # a later one has taken its place
        return int(name), said, found[name].st_mtime


def _append(folder: Address, number: int, owner: str | None, seconds: float) -> bool:
    """Writes the object behind a number; returns whether it is the last one then."""
    own = _object(folder, number + 1)
    # The same bytes where this is tried again after an error: owners are unique.
    said = {"owner": owner, "seconds": seconds}
    if not bucket.create(own, json.dumps(said).encode()):
        return False
    numbers = [name for name in bucket.listing(folder) if name.isdecimal()]
    if max(map(int, numbers), default=0) != number + 1:
        # Late: others have gone on, and removed the numbers in between.
        own.unlink(missing_ok=True)
        return False
    for name in numbers:
        if int(name) <= number:
            (folder / name).unlink(missing_ok=True)
    return True


def _object(folder: Address, number: int) -> Address:
    return folder / f"{number:09d}"


def _clock(folder: Address) -> float:
    """The time by the clock of the bucket."""
    probe = folder / f"clock-{uuid.uuid4().hex}"
    bucket.create(probe, probe.name.encode())
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
