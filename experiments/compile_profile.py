"""Where the time of a cold `miue demo` and of a cell of the matrix goes.

    python experiments/compile_profile.py --against ../before --works cell \
        --json results/compile_profile_cpu.json

The result on one core is results/compile_profile_cpu.json, of the cell: 0.75 of the
processor time of the build before, of XLA's 0.66, by part, with the number of programs
and the ten that took longest. It takes three minutes of processor time, with the demo
some nine.

Every command runs in a process of its own, builds in turns, with an empty cache of
compiled programs for every run. Seconds are those of the processor: wall time, which
stands beside them, has the waiting for other processes in it. The demo's parts are the
steps that it announces; the ratios of "equal_parts" are of those that both builds have,
as older ones do less. The cell is a generator and a victim of `matrix_cifar10_cpu.py`,
on as many procedural images of the same size, for one epoch each: the programs are the
same.

An older build is a checkout or a wheel. On a shared machine pin it to one core
(``taskset -c 0 python ...``).
"""

import bisect
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from miue_jax import _command_line
from miue_jax._checks import check_choice, check_number, one_line
from miue_jax.workflows.benchmark import run as benchmark

PROG = "compile_profile.py"

_WORKS = ("demo", "cell")
_OURS, _BEFORE = "miue_jax", "before"
_LONGEST = 10
# By what JAX calls them.
_STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "xla",
}
_HIT = "/jax/compilation_cache/cache_hits"
# What the cell's commands are given, by the names that they had before.
_GENERATOR = {"model": "resnet10", "epochs": 1}
_VICTIM = {**_GENERATOR, "batch_size": 32, "learning_rate": 0.05}
_PER_CLASS = 500

# Events have a duration in wall time; samples of both clocks say what part of it this
# process had the processor.
_WATCHED = """
import atexit, json, pathlib, re, runpy, sys, threading, time
_, path, how, what, *rest = sys.argv
clocks = lambda: (time.perf_counter(), time.process_time())
begin = time.perf_counter()
samples, events, hits, parts = [(begin, 0.0)], [], [], []

class Said:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, text):
        if found := re.match(r"\\d+/\\d+ (.*)", text):
            parts.append((found[1], *clocks()))
        return self.file.write(text)

def sample():
    while True:
        samples.append(clocks())
        time.sleep(0.01)

def keep():
    end = clocks()
    samples.append(end)
    made = {"begin": begin, "end": end, "samples": samples, "events": events}
    made |= {"hits": hits, "parts": parts}
    pathlib.Path(path).write_text(json.dumps(made))

atexit.register(keep)
sys.stdout = Said(sys.stdout)
threading.Thread(target=sample, daemon=True).start()
from jax import monitoring

def spent(event, seconds, **about):
    end = time.perf_counter()
    events.append((event, about.get("fun_name", ""), end - seconds, end))

monitoring.register_event_duration_secs_listener(spent)
monitoring.register_event_listener(
    lambda event, **about: hits.append((event, time.perf_counter()))
)
sys.argv = [what, *rest]
if how == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    sys.path[0] = str(pathlib.Path(what).parent)
    runpy.run_path(what, run_name="__main__")
"""
_HERE = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Profiles commands from an empty cache of compiled programs.

    Attributes:
      against: another build to compare with, a checkout or a wheel; None for none.
      works: what to run, of demo and cell.
      repeats: runs of each; the one of median processor time counts.
      json: file for the results.
    """

    against: pathlib.Path | None = None
    works: tuple[str, ...] = _WORKS
    repeats: int = 1
    json: pathlib.Path | None = None

    def __post_init__(self) -> None:
        check_number("repeats", self.repeats, "> 0", whole=True)
        if not self.works:
            raise ValueError(f"works are missing; allowed: {', '.join(_WORKS)}")
        for name in self.works:
            check_choice("works", name, _WORKS)


def run(options: Options) -> dict[str, Any]:
    """Profiles what the options ask for.

    Args:
      options: the options.

    Returns:
      The settings, the machine, and by work and build the seconds of each stage.

    Raises:
      ValueError: if the other build is none, or a command fails.
    """
    results: dict[str, Any] = {}
    with _build(options.against) as before:
        builds = {_OURS: _HERE} if before is None else {_BEFORE: before, _OURS: _HERE}
        for work in options.works:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
            for _ in range(options.repeats):
                for name, root in builds.items():
                    runs[name].append(_profile(work, root))
                    # At once: a run takes minutes.
                    print(f"{work}, {name}: {_told(runs[name][-1])}", flush=True)
            found: dict[str, Any] = {name: _median(made) for name, made in runs.items()}
            if before is not None:
                found["ratio"] = _ratios(found[_OURS], found[_BEFORE])
            results[work] = found
    return {
        "settings": {"works": options.works, "repeats": options.repeats},
        "hardware": _hardware(),
        "results": results,
    }


@contextlib.contextmanager
def _build(against: pathlib.Path | None) -> Iterator[pathlib.Path | None]:
    """The folder that holds the package of another build."""
    if against is None:
        yield None
    elif not against.is_dir():
        with benchmark.installed(str(against)) as folder:
            yield folder
    elif (against / "miue_jax").is_dir():
        yield against.resolve()
    else:
        raise ValueError(f"against is {against}: there is no folder miue_jax in it")


def _commands(work: str, root: pathlib.Path, folder: pathlib.Path) -> list[list[str]]:
    """What a build calls the work: its commands were scripts once."""
    made = str(folder / "generator" / "protected.npz")
    workdirs = [("--workdir", str(folder / name)) for name in ("generator", "victim")]
    size = str(_PER_CLASS)
    if (root / "miue_jax" / "workflows").is_dir():
        if work == "demo":
            return [["-m", "miue_jax", "demo", "--workdir", str(folder / "demo")]]
        options = [f"--data.per-class={size}"]
        tested = [f"--test.per-class={size}", "--seeds=0"]
        commands = [
            ("protect", ["shapes", "--generator=mi_ue/interleaved", *options]),
            ("evaluate", [made, "shapes", *tested]),
        ]
        settings = [("--generator.", _GENERATOR), ("--victim.", _VICTIM)]
        return [
            ["-m", "miue_jax", command, *given, *_options(*values), *workdir]
            for (command, given), values, workdir in zip(
                commands, settings, workdirs, strict=True
            )
        ]
    scripts = root / "experiments"
    if work == "demo":
        return [["-f", str(scripts / "demo.py"), "--workdir", str(folder / "demo")]]
    options = [f"--config.data.per_class={size}"]
    tested = [f"--config.test.per_class={size}", "--config.seeds=(0,)"]
    given = [f"--config.train.name_or_path={made}", *tested]
    commands = [
        ("generate.py", ":mi_ue/interleaved", options),
        ("evaluate.py", ":quick", given),
    ]
    settings = [("--config.method.", _GENERATOR), ("--config.victim.", _VICTIM)]
    return [
        [
            *("-f", str(scripts / script)),
            f"--config={scripts / 'configs' / script}{what}",
            *(*given, *_options(*values), *workdir),
        ]
        for (script, what, given), values, workdir in zip(
            commands, settings, workdirs, strict=True
        )
    ]


def _options(prefix: str, values: Mapping[str, object]) -> list[str]:
    return [f"{prefix}{name}={value}" for name, value in values.items()]


def _profile(work: str, root: pathlib.Path) -> dict[str, Any]:
    """Runs the commands of a work; the seconds of their parts and of all of them."""
    parts: dict[str, dict[str, Any]] = {}
    programs: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number, command in enumerate(_commands(work, root, folder)):
            watched = _watch(root, command, folder)
            label = "start" if work == "demo" else ("generator", "victim")[number]
            made, compiled = _by_part(watched, label)
            parts |= made
            programs += compiled
    longest = sorted(programs, key=lambda program: -program[1])[:_LONGEST]
    whole = {key: sum(part[key] for part in parts.values()) for key in _KEYS}
    return _rounded(
        {
            **whole,
            "longest": [{"program": name, "xla": spent} for name, spent in longest],
            "parts": parts,
        }
    )


# Seconds of the processor, by stage; of the wall; programs, and how many of them came
# from the cache, which two equal ones of a run share.
_KEYS = ("cpu", *_STAGES.values(), "rest", "wall", "programs", "cached")


def _watch(
    root: pathlib.Path, command: Sequence[str], folder: pathlib.Path
) -> dict[str, Any]:
    """Runs a command of a build; what it did when."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    # It would be another cache.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    path = folder / "watched.json"
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(path), *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        reason = one_line(done.stderr.decode(errors="replace")[-200:])
        raise ValueError(f"a command failed: {reason}")
    return json.loads(path.read_text())


def _by_part(
    watched: Mapping[str, Any], label: str
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, float]]]:
    """Sums up the events of a process by its parts; also its programs' seconds."""
    starts = [(label, watched["begin"], 0.0), *watched["parts"]]
    ends = [(wall, cpu) for _, wall, cpu in starts[1:]] + [tuple(watched["end"])]
    clock = _Clock(watched["samples"])
    parts: dict[str, dict[str, Any]] = {}
    programs = []
    for (name, wall, cpu), (wall_end, cpu_end) in zip(starts, ends, strict=True):
        part: dict[str, Any] = dict.fromkeys(_KEYS, 0)
        part |= {"cpu": cpu_end - cpu, "wall": wall_end - wall}
        for event, program, start, end in watched["events"]:
            if event not in _STAGES or not wall <= end < wall_end:
                continue
            spent = clock.cpu(end) - clock.cpu(start)
            part[_STAGES[event]] += spent
            if _STAGES[event] == "xla":
                part["programs"] += 1
                programs.append((program, spent))
        part["cached"] = sum(
            event == _HIT and wall <= at < wall_end for event, at in watched["hits"]
        )
        part["rest"] = part["cpu"] - sum(part[stage] for stage in _STAGES.values())
        parts[name] = part
    return parts, programs


class _Clock:
    """Processor time at a moment of wall time, from samples of both."""

    def __init__(self, samples: Sequence[Sequence[float]]) -> None:
        self._samples = [tuple(sample) for sample in samples]

    def cpu(self, wall: float) -> float:
        after = bisect.bisect(self._samples, (wall,))
        after = min(max(after, 1), len(self._samples) - 1)
        (start, used), (end, later) = self._samples[after - 1 : after + 1]
        share = min(max((wall - start) / (end - start), 0), 1) if end > start else 0
        return used + share * (later - used)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda made: made["cpu"])[len(runs) // 2]


def _ratios(ours: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """How many times the processor time of before: in all, and in equal parts."""
    equal = [name for name in ours["parts"] if name in before["parts"]]
    found = {"cpu": ours["cpu"] / before["cpu"], "equal_parts": {}}
    for key in ("cpu", *_STAGES.values(), "rest"):
        sums = [sum(made["parts"][x][key] for x in equal) for made in (ours, before)]
        found["equal_parts"][key] = sums[0] / sums[1] if sums[1] else None
    return _rounded(found)


def _told(made: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{key} {made[key]}" for key in (*_STAGES.values(), "rest"))
    return (
        f"{made['cpu']} s of processor time ({stages}), {made['programs']} programs, "
        f"{made['cached']} of them from the cache"
    )


def _hardware() -> dict[str, Any]:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": names[0] if names else platform.machine(),
        "cores_used": len(affinity(0)) if affinity else os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
