"""Metrics of a run: a file of JSON lines, and what ends a run whose means are wrong."""

import json
import math
import pathlib
from typing import Any

import jax

from miue_jax import atomic, parallel


class Failed(ValueError):
    """Raised where a run came to an end without a result; it would do so again."""


class Diverged(Failed):
    """Raised where a mean that was measured in training is not finite."""


class MetricsFile:
    """A file of JSON lines, written by the first process only."""

    def __init__(self, path: pathlib.Path, *, keep_until: int):
        self.path = path
        kept = [line for line in self.read() if line["step"] <= keep_until]
        if jax.process_index() == 0:
            with atomic.write_file(path) as file:
                file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)
        # Other processes read it, and must not see what was cut off.
        parallel.barrier("metrics cut back")

    def read(self) -> list[dict[str, Any]]:
        """The lines that are whole; a kill may have cut the last one short.

        Returns:
          One dictionary a line.

        Raises:
          ValueError: naming the file, if another line is not one of metrics.
        """
        if not self.path.exists():
            return []
        texts = self.path.read_bytes().split(b"\n")
        lines = []
        for number, text in enumerate(texts, start=1):
            try:
                line = json.loads(text)
            except ValueError:
                if number == len(texts):
                    break
                line = None
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise ValueError(
                    f"{self.path} is damaged: line {number} holds no metrics of a step"
                )
            lines.append(line)
        return lines

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends a line; a mean that is not finite is an error.

        Args:
          step: steps taken so far.
          values: what was measured.

        Raises:
          Diverged: if training has; the line is written, with null for what is not
            finite.
          OSError: naming the file, if it cannot be written.
        """
        wrong = [
            name
            for name, value in values.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        line = {"step": step, **values, **dict.fromkeys(wrong)}
        if jax.process_index() == 0:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                reason = f"cannot be written ({error.strerror or error})"
                raise OSError(error.errno, reason, str(self.path)) from error
        if wrong:
            raise Diverged(
                f"{wrong[0]} is {values[wrong[0]]} at step {step}: training diverged "
                f"(lower the learning rate?); see {self.path}"
            )
