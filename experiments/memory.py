"""Peak memory of `miue protect` on data of two sizes, beside another checkout.

    python experiments/memory.py --base ../before --model linear --width None \
        --storages int8 --stream --json results/memory_cpu.json

The result on one core is results/memory_cpu.json: with int8 0.38 of the memory before
for 50,000 images of 32x32 and 0.34 for 5,000 of 128x128, with --stream 0.30 and 0.22.
It takes about ten minutes of a core.

Makes random images with ten balanced classes, 50,000 of 32x32 pixels and 5,000 of
128x128 (an ``.npz`` file each), and protects them in one pass by `mi_ue/interleaved`
with a small surrogate, each time in a process of its own. The peak is the largest
resident set of the whole process, on a CPU that of the device's arrays
included. Two parts of it are no matter of the data: what importing the library takes,
and what the same command takes on 256 images of that size (the compiler, above all).
"less_import" and "less_empty_run" are the peaks without them; the compiler of a process
begins without a cache of programs. Ratios are to the peak of the other checkout, of
which the same commands are run, with float32.
"""

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from miue_jax import _command_line
from miue_jax._checks import check_choice, check_number, check_text, one_line
from miue_jax.generators.perturbation_store import STORAGES

PROG = "memory.py"

# Images, pixels of a side, images in a batch.
_DATA = {"50,000 of 32x32": (50_000, 32, 128), "5,000 of 128x128": (5_000, 128, 32)}
_FEW = 256
# On Linux `ru_maxrss` of a new process begins at that of the process which started it.
_WATCHED = """
import atexit, pathlib, resource, runpy, sys
_, peak, how, what, *rest = sys.argv

def keep():
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        most = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:  # macOS, in bytes
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pathlib.Path(peak).write_text(str(most))

atexit.register(keep)
sys.argv = [what, *rest]
if how == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    exec(what)
"""
_HERE = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures the peak memory of protecting data sets.

    Attributes:
      base: another checkout of the repository to compare with; None for none.
      model: the surrogate.
      width: its width; None for its own.
      storages: of the perturbations in this checkout.
      stream: whether to measure this checkout with --stream, too.
      share: of the images, in (0, 1], for a quick look.
      json: file for the results.
    """

    base: pathlib.Path | None = None
    model: str = "resnet10"
    width: int | None = 2
    storages: tuple[str, ...] = ("float32", "bfloat16", "int8")
    stream: bool = False
    share: float = 1.0
    json: pathlib.Path | None = None

    def __post_init__(self) -> None:
        check_text("model", self.model)
        check_number("share", self.share, "in (0, 1]")
        if self.width is not None:
            check_number("width", self.width, "> 0", whole=True)
        if not self.storages:
            raise ValueError(f"storages are missing; allowed: {', '.join(STORAGES)}")
        for name in self.storages:
            check_choice("storages", name, STORAGES)


def run(options: Options) -> dict[str, Any]:
    """Measures what the options ask for.

    Args:
      options: the options.

    Returns:
      The settings, the machine, and by data set and build the peaks in megabytes.

    Raises:
      ValueError: if the other checkout is none.
    """
    if options.base is not None and not (options.base / "miue_jax").is_dir():
        raise ValueError(f"base is {options.base}: there is no folder miue_jax in it")
    builds: dict[str, tuple[pathlib.Path, str | None]] = {
        name: (_HERE, name) for name in options.storages
    }
    if options.stream:
        builds |= {f"{name}{_STREAM}": (_HERE, name) for name in options.storages}
    if options.base is not None:
        builds = {"base": (options.base.resolve(), None), **builds}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, side, batch_size) in _DATA.items():
            files = [
                _images(pathlib.Path(folder, f"{count}.npz"), count, side)
                for count in (int(size * options.share), _FEW)
            ]
            command = [
                *("--generator", "mi_ue/interleaved", "--generator.epochs", "1"),
                *("--generator.batch-size", str(batch_size)),
                *("--generator.model", options.model, "--quiet"),
            ]
            if options.width is not None:
                command += ["--generator.width", str(options.width)]
            results[name] = _compare(name, builds, files, command)
            for file in files:
                file.unlink()
    return {
        "settings": {
            k: v for k, v in dataclasses.asdict(options).items() if k not in _PLACES
        },
        "hardware": _hardware(),
        "results": results,
    }


_PLACES = ("base", "json")
# What the names of streamed runs end with.
_STREAM = ", stream"


def _images(path: pathlib.Path, count: int, side: int) -> pathlib.Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)
    return path


def _compare(
    data: str,
    builds: Mapping[str, tuple[pathlib.Path, str | None]],
    files: list[pathlib.Path],
    command: list[str],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    base: dict[str, float] | None = None
    for name, (root, storage) in builds.items():
        options = [*command, *(["--generator.storage", storage] if storage else [])]
        options += ["--stream"] if name.endswith(_STREAM) else []
        imported = _peak(root, ["-c", "import miue_jax.workflows.protect"])
        whole, empty = (
            _peak(root, ["-m", "miue_jax", "protect", str(file), *options])
            for file in files
        )
        peaks = {
            "peak": whole,
            "less_import": whole - imported,
            "less_empty_run": whole - empty,
        }
        found[name] = {k: round(v, 1) for k, v in peaks.items()}
        if name == "base":
            base = peaks
        if base is not None:
            found[name]["ratio"] = {
                k: round(v / base[k], 3) if base[k] > 0 else None
                for k, v in peaks.items()
            }
        # At once: a whole run takes minutes.
        print(f"{data}, {name}: {json.dumps(found[name])}", flush=True)
    return found


def _peak(root: pathlib.Path, arguments: list[str]) -> float:
    """The largest resident set of a Python process, in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        if "protect" in arguments:
            arguments = [*arguments, "--workdir", f"{folder}/run"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
        }
        peak = pathlib.Path(folder, "peak")
        done = subprocess.run(
            [sys.executable, "-c", _WATCHED, str(peak), *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            reason = one_line(done.stderr.decode()[-200:])
            raise ValueError(f"a command failed: {reason}")
        return int(peak.read_text()) / 1e6


def _hardware() -> dict[str, Any]:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {
        "processor": names[0] if names else platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
