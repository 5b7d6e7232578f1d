"""What a side of a case hands over to be timed."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Work(NamedTuple):
    """Prepared work.

    Attributes:
      run: does it, and waits until it is done.
      value: a figure of what `run` returned that all sides must agree on.
      steps: how often it is done in one call.
      flops: of one of them, where they are known.
      peak: FLOPs per second of the device, at most, and where that number is from.
    """

    run: Callable[[], Any]
    value: Callable[[Any], float] | None = None
    steps: int = 1
    flops: float | None = None
    peak: tuple[float, str] | None = None
