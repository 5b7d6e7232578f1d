"""Rates and peaks of `miue protect` with and without --stream, in turns.

    python experiments/streaming.py --json results/streaming_cpu.json

The same command runs on the same pictures with and without --stream, in turns, each
time in a process of its own, for one pass and for several. The difference is the time
of the further passes: reading the data, compiling and writing the result drop out. Wall
time and the processor's are measured, and the peak of resident memory of the longer
run.
The pictures are smooth and random with noise, in an .npz file or as JPEG files.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Literal

import numpy as np
from PIL import Image

from miue_jax import _command_line
from miue_jax._checks import check_choice, check_number, one_line

PROG = "streaming.py"
_HERE = pathlib.Path(__file__).resolve().parents[1]
_CLASSES = 10


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
      further: passes of the longer run beyond that of the shorter one.
      turns: runs of each.
      steps: to stop after, for pictures of which a pass takes too long; the seconds
        are then those of a step, all but the first one. None for passes.
      json: file for the results.
    """

    kind: Literal["npz", "folder"] = "npz"
    images: int = 5000
    side: int = 32
    model: str = "resnet10"
    width: int | None = 16
    storage: str = "float32"
    batch_size: int = 128
    further: int = 2
    turns: int = 3
    steps: int | None = None
    json: pathlib.Path | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("npz", "folder"))
        for name in ("images", "side", "batch_size", "further", "turns"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        if self.steps is not None:
            check_number("steps", self.steps, "> 0", whole=True)


def run(options: Options) -> dict[str, Any]:
    """Measures what the options ask for.

    Args:
      options: the options.

    Returns:
      The settings, the machine, and by mode the seconds of a pass and the peak.

    Raises:
      ValueError: if a command fails.
    """
    found: dict[str, list[dict[str, float]]] = {"memory": [], "stream": []}
    with tempfile.TemporaryDirectory() as folder:
        data = _data(pathlib.Path(folder), options)
        if options.steps is None:
            for mode in found:
                for passes in (1, options.further + 1):
                    _protect(folder, data, options, mode, passes=passes)  # compiles
        for turn in range(options.turns):
            for mode, measured in found.items():
                if options.steps is None:
                    measured.append(_of_a_pass(folder, data, options, mode))
                else:
                    measured.append(_protect(folder, data, options, mode, passes=1))
                # At once: a turn takes minutes.
                shown = {k: round(v, 2) for k, v in measured[-1].items()}
                print(f"turn {turn}, {mode}: {json.dumps(shown)}", flush=True)
    medians = {
        mode: {k: round(statistics.median(x[k] for x in runs), 3) for k in runs[0]}
        for mode, runs in found.items()
    }
    ratio = {k: round(medians["memory"][k] / medians["stream"][k], 3) for k in _RATES}
    return {
        "settings": {
            k: v for k, v in dataclasses.asdict(options).items() if k != "json"
        },
        "cores": len(os.sched_getaffinity(0)),
        "unit": "pass" if options.steps is None else "step",
        "seconds": medians,
        "turns": found,
        "rate_of_stream": ratio,
    }


_RATES = ("wall", "cpu")


def _of_a_pass(
    folder: str, data: pathlib.Path, options: Options, mode: str
) -> dict[str, float]:
    one, all_of_them = (
        _protect(folder, data, options, mode, passes=passes)
        for passes in (1, options.further + 1)
    )
    seconds = {k: (all_of_them[k] - one[k]) / options.further for k in _RATES}
    return {**seconds, "peak_mb": all_of_them["peak_mb"]}


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


def _protect(
    folder: str, data: pathlib.Path, options: Options, mode: str, *, passes: int
) -> dict[str, float]:
    """The seconds and the peak of a run."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = [
            *(sys.executable, "-m", "miue_jax", "protect", str(data), "--quiet"),
            *("--workdir", f"{place}/run", "--generator", "mi_ue/interleaved"),
            *("--generator.epochs", str(passes), "--generator.model", options.model),
            *("--generator.batch-size", str(options.batch_size)),
            *("--generator.storage", options.storage),
        ]
        if options.width is not None:
            command += ["--generator.width", str(options.width)]
        if mode == "stream":
            command.append("--stream")
        paths = [str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
        }
        began = os.times()
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        steps: dict[str, float] = {}
        if options.steps is not None:
            steps = _steps(pathlib.Path(place, "run"), process, options.steps)
        with process.stderr as pipe:
            errors = pipe.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = os.times().elapsed - began.elapsed
    if process.returncode and not steps:
        raise ValueError(f"a command failed: {one_line(errors.decode()[-200:])}")
    # Kilobytes, on macOS bytes.
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3) * 1.024
    seconds = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}
    return {**(steps or seconds), "peak_mb": peak}


def _steps(
    workdir: pathlib.Path, process: subprocess.Popen[bytes], count: int
) -> dict[str, float]:
    """Stops a run after some steps; the seconds of one, without the first."""
    metrics, seen = workdir / "metrics.jsonl", []
    while process.poll() is None and len(seen) <= count:
        time.sleep(0.02)
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
        if lines > len(seen):
            # The user's and the system's ticks, behind a name in parentheses.
            text = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
            ticks = sum(map(int, text.rpartition(")")[2].split()[11:13]))
            cpu = ticks / os.sysconf("SC_CLK_TCK")
            seen += [(lines, time.perf_counter(), cpu)] * (lines - len(seen))
    if len(seen) <= count:
        return {}
    process.terminate()
    (first, *begin), (last, *end) = seen[0], seen[-1]
    wall, cpu = ((b - a) / (last - first) for a, b in zip(begin, end, strict=True))
    return {"wall": wall, "cpu": cpu}


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
