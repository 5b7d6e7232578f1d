"""Work on many pictures at once, as long as their pixels fit into the memory."""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from miue_jax.pictures import Entry

# Pixels of all pictures that are held at once. One that is larger is alone.
PIXELS = 12_000_000


def unordered(
    function: Callable[[Entry], Any],
    entries: Sequence[Entry],
    stop: Sequence[object] = (),
) -> Iterator[Any]:
    """Yields results as they come; few are begun before they are needed.

    Args:
      function: of a picture; the pixels of those that are worked on are few enough.
      entries: the pictures.
      stop: once it holds something, no other picture is begun.

    Yields:
      The results.

    Example:
      >>> from miue_jax.workflows.folder import threads
      >>> list(threads.unordered(len, []))
      []
    """
    workers, room = os.cpu_count() or 1, Room()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        left = iter(entries)
        waiting: set[concurrent.futures.Future[Any]] = set()
        while True:
            while len(waiting) < 2 * workers and not stop:
                entry = next(left, None)
                if entry is None:
                    break
                waiting.add(pool.submit(_in_room, room, function, entry))
            if not waiting:
                return
            done, waiting = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                yield future.result()


def ordered(
    function: Callable[[Entry], Any], entries: Sequence[Entry]
) -> Iterator[Any]:
    """Yields results in the order of the pictures; all are kept until they are needed.

    Args:
      function: of a picture; the pixels of those that are worked on are few enough.
      entries: the pictures.

    Yields:
      The results.

    Example:
      >>> from miue_jax.workflows.folder import threads
      >>> list(threads.ordered(len, []))
      []
    """
    room = Room()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda entry: _in_room(room, function, entry), entries)


def _in_room(room: "Room", function: Callable[[Entry], Any], entry: Entry) -> Any:
    with room.take(entry.header.width * entry.header.height):
        return function(entry)


class Room:
    """Lets pictures in while their pixels together are few enough.

    Args:
      pixels: how many; None for `PIXELS`.

    Example:
      >>> from miue_jax.workflows.folder import threads
      >>> with threads.Room().take(10**9):
      ...     print("alone")
      alone
    """

    def __init__(self, pixels: int | None = None):
        self._pixels = PIXELS if pixels is None else pixels
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Waits for room; one that is larger than all of it waits to be alone.

        Args:
          pixels: of the picture.

        Yields:
          Nothing, once there is room.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken or self._taken + pixels <= self._pixels
            )
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()
