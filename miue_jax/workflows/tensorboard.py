"""Shows the metrics of runs in TensorBoard: event files beside their JSON lines.

What is shown is what the JSON lines hold, whichever process or machine writes them.
Where a resumed run drops lines behind its checkpoint, or another command goes on with
a run, a further file begins with TensorBoard's mark of a restart and holds all steps
again, so that none is shown twice and none that the run has dropped.
"""

import contextlib
import importlib.util
import json
import logging
import numbers
import pathlib
import threading
import time
from collections.abc import Iterator
from types import NoneType
from typing import Any

__all__ = ["FOLDER", "mirror", "mirrored"]

# In the working directory.
FOLDER = "tensorboard"

_LINES = "metrics.jsonl"
# Where they are: of `protect`, of the victims of `evaluate`, and of both in a sweep.
_PLACES = (
    *(_LINES, f"seed_*/{_LINES}"),
    *(f"protected/*/{_LINES}", f"cells/*/seed_*/{_LINES}"),
)
_LOGGER = logging.getLogger("miue_jax")

_EVENTS = "events.out.tfevents.*"

_SECONDS_TO_WAIT = 10.0
# After which the file of a run that goes on no more is closed.
_SECONDS_OPEN = 600.0


@contextlib.contextmanager
def mirrored(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps event files up to date while the context lasts, every ten seconds.

    Args:
      workdir: directory of a run or of a sweep; the files go below ``tensorboard``.

    Yields:
      Nothing.

    Raises:
      ValueError: if the writer of event files is not installed.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from miue_jax.workflows import tensorboard
      >>> clean = mj.data.load("shapes", per_class=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder, "run")
      ...     with tensorboard.mirrored(workdir):
      ...         made = mj.protect(clean, "random_noise", workdir=workdir)
      ...     len(list((workdir / "tensorboard").glob("events.out.tfevents.*")))
      1
    """
    update, close = mirror(workdir)
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_SECONDS_TO_WAIT):
            # The last one says so.
            with contextlib.suppress(OSError):
                update()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try:
            update()
            close()
        except OSError as error:
            # What the run has made is there all the same.
            _LOGGER.warning("event files: %s", error)


def mirror(workdir: pathlib.Path) -> tuple[Any, Any]:
    r"""Prepares to write the metrics below a directory as event files.

    Args:
      workdir: directory of a run or of a sweep; the files go below ``tensorboard``.

    Returns:
      Two functions without arguments: one writes what is new, the other closes the
      files. Files of an earlier mirror stay, and TensorBoard forgets what they hold.

    Raises:
      ValueError: if the writer of event files is not installed.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.workflows import tensorboard
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder)
      ...     size = (path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
      ...     update, close = tensorboard.mirror(path)
      ...     update()
      ...     close()
      ...     len(list(path.glob("tensorboard/events.out.tfevents.*")))
      1
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            "the writer for TensorBoard is not installed: pip install "
            "miue_jax[tensorboard]"
        )
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2

    # Their classes are made as they are imported.
    events: Any = event_pb2
    summaries: Any = summary_pb2
    written: dict[pathlib.Path, list[dict[str, Any]]] = {}
    writers: dict[pathlib.Path, Any] = {}

    def begin(path: pathlib.Path) -> None:
        if path in writers:
            writers.pop(path).close()
        open_file(path)
        # TensorBoard forgets all steps from here on, which other files hold.
        start = events.SessionLog(status=events.SessionLog.START)
        writers[path].write_event(events.Event(step=0, session_log=start))
        written[path] = []

    def open_file(path: pathlib.Path) -> None:
        folder = workdir / FOLDER / path.parent.relative_to(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        # It is named by the second, and then by what is there.
        suffix = f".{len(list(folder.glob(_EVENTS))):04}"
        writers[path] = EventsWriter(str(folder / "events"), suffix)

    def update_one(path: pathlib.Path) -> None:
        lines = _read(path)
        known = written.get(path, [])
        if path not in written or lines[: len(known)] != known:
            begin(path)
        new = lines[len(written[path]) :]
        if new and path not in writers:
            open_file(path)
        for line in new:
            values = [
                # What was not finite is null in JSON.
                summaries.Summary.Value(
                    tag=name, simple_value=float("nan" if value is None else value)
                )
                for name, value in line.items()
                if name != "step" and isinstance(value, numbers.Real | NoneType)
            ]
            event = events.Event(
                wall_time=time.time(),
                step=line["step"],
                summary=summaries.Summary(value=values),
            )
            writers[path].write_event(event)
        written[path] = lines
        if path in writers:
            writers[path].flush()
            if time.time() - path.stat().st_mtime > _SECONDS_OPEN:
                writers.pop(path).close()

    def update() -> None:
        for place in _PLACES:
            for path in sorted(workdir.glob(place)):
                # It may be that of a run that is removed at this moment.
                with contextlib.suppress(FileNotFoundError):
                    update_one(path)

    def close() -> None:
        for path in list(writers):
            writers.pop(path).close()

    return update, close


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines that are whole: another process may be writing the last one."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines
