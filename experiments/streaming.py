"""What --stream costs: seconds of a step with and without it, in turns.

    python experiments/streaming.py --json results/streaming_cpu.json

The result on one core of an AMD EPYC that other programs shared is
results/streaming_cpu.json. It takes two minutes of a core.

One process protects the same pictures by `mi_ue/interleaved` with the data in memory
and streamed. The two take turns of some steps each, after one that compiles. The wall
time and the time of the processor, all threads included, are those of a step; "rate" is
that of streamed steps relative to those in memory. A window of streamed steps is read
while the one before runs, so that turns should be longer than a window. The pictures
are smooth and random with noise, in an .npz file or as JPEG files.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any, Literal

import numpy as np
from PIL import Image

from miue_jax import _command_line, generators
from miue_jax._checks import check_choice, check_number
from miue_jax.data import DataSource
from miue_jax.train import checkpoints, host_data, loop, parallel
from miue_jax.train.run_directory import Run
from miue_jax.workflows import protect

PROG = "streaming.py"
_CLASSES = 10
_MODES = {"memory": False, "stream": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures what streaming costs.

    Attributes:
      kind: of the data: an .npz file, or a folder of JPEG files.
      images: how many there are.
      side: of an image, in pixels.
      model: the surrogate.
      width: its width; None for its own.
      storage: of the perturbations.
      batch_size: images in a batch.
      steps: of a turn.
      turns: of each.
      json: file for the results.
    """

    kind: Literal["npz", "folder"] = "npz"
    images: int = 20_000
    side: int = 32
    model: str = "resnet10"
    width: int | None = 16
    storage: str = "float32"
    batch_size: int = 128
    steps: int = 35
    turns: int = 3
    json: pathlib.Path | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("npz", "folder"))
        for name in ("images", "side", "batch_size", "steps", "turns"):
            check_number(name, getattr(self, name), "> 0", whole=True)


def run(options: Options) -> dict[str, Any]:
    """Measures what the options ask for.

    Args:
      options: the options.

    Returns:
      The settings, the cores, and by mode the seconds of a step.

    Raises:
      ValueError: if the settings do not fit the pictures.
    """
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in _MODES}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = pathlib.Path(folder)
        data = _data(place, options)
        running = {
            mode: _Running(data, options, place / mode, stack, stream=stream)
            for mode, stream in _MODES.items()
        }
        for turn in range(options.turns):
            for mode, one in running.items():
                found[mode].append(one.advance(options.steps))
                # At once: a turn may take minutes.
                shown = {k: round(v, 4) for k, v in found[mode][-1].items()}
                print(f"turn {turn}, {mode}: {json.dumps(shown)}", flush=True)
    seconds = {
        mode: {k: round(statistics.median(x[k] for x in runs), 4) for k in runs[0]}
        for mode, runs in found.items()
    }
    before, after = seconds["memory"], seconds["stream"]
    return {
        "settings": {
            k: v for k, v in dataclasses.asdict(options).items() if k != "json"
        },
        "cores": len(os.sched_getaffinity(0)),
        "turns": found,
        "seconds_a_step": seconds,
        "rate": {k: round(before[k] / after[k], 3) for k in before},
    }


class _Running:
    """A run that is advanced turn by turn."""

    def __init__(
        self,
        data: pathlib.Path,
        options: Options,
        folder: pathlib.Path,
        stack: contextlib.ExitStack,
        *,
        stream: bool,
    ):
        folder.mkdir()
        spec = generators.spec(
            "mi_ue/interleaved",
            model=options.model,
            width=options.width,
            storage=options.storage,
            batch_size=options.batch_size,
        )
        config = protect.ProtectConfig(
            data=DataSource(str(data)), generator=spec, stream=stream
        )
        job = protect.prepare(config, host_data.load(config.data, stream=stream))
        self._key = parallel.run_key(0, "generator", job.mesh)
        self._feed = stack.enter_context(protect.feed_of(job, Run(folder), self._key))
        saved = checkpoints.Checkpoints(folder / "checkpoints")
        start = loop.start(job.generator.init, job.mesh)
        state = self._feed.start(start, self._key)
        self._step, self._state, _ = self._feed.resume(saved, state)
        self._advance = loop.advance(job.generator.step, job.mesh)
        self.advance(1)

    def advance(self, steps: int) -> dict[str, float]:
        """Takes some steps; returns the seconds of one."""
        began = time.perf_counter(), time.process_time()
        self._state, _ = self._feed.run_until(
            *(self._step + steps, self._advance, self._key, self._state),
            step=self._step,
            received=[],
        )
        self._step += steps
        ended = time.perf_counter(), time.process_time()
        wall, cpu = ((b - a) / steps for a, b in zip(began, ended, strict=True))
        return {"wall": wall, "cpu": cpu}


def _data(folder: pathlib.Path, options: Options) -> pathlib.Path:
    rng = np.random.default_rng(0)
    labels = np.arange(options.images) % _CLASSES

    def picture() -> np.ndarray:
        # Smooth: a few colors, spread over the picture.
        colors = rng.integers(0, 256, (4, 4, 3), np.uint8)
        size = options.side, options.side
        smooth = Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)
        noise = rng.integers(-8, 9, (*size, 3))
        return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)

    if options.kind == "npz":
        images = np.stack([picture() for _ in labels])
        np.savez(folder / "data.npz", images=images, labels=labels)
        return folder / "data.npz"
    root = folder / "pictures"
    for label in range(_CLASSES):
        (root / f"class_{label}").mkdir(parents=True)
    for number, label in enumerate(labels):
        file = root / f"class_{label}" / f"{number:07d}.jpg"
        Image.fromarray(picture()).save(file, quality=90)
    return root


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
