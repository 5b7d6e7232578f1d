"""The process of a case: prepares its sides, and does the work when it is told to.

Run as a file, so that it comes before any build of `miue_jax`: it first keeps to its
cores, then puts this package in the place of the build's own. Requests and replies are
lines of JSON on standard input and output; it ends with its input.
"""

import importlib.util
import json
import math
import os
import pathlib
import platform
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

PACKAGE = "miue_jax.workflows.benchmark"
# A repetition takes at least so long, in seconds: clocks and other processes matter
# less than in one call of a millisecond.
_SHORTEST = 0.2

_VERSIONS = (
    *("jax", "jaxlib", "flax", "numpy", "scipy", "torch"),
    *("scikit-image", "scikit-learn", "infomeasure"),
)


def main() -> None:
    """Serves the requests of `run`."""
    spec = json.loads(sys.argv[1])
    if spec["threads"] is not None:
        _keep_to_cores(spec["threads"])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    # What libraries print must not come between.
    os.dup2(2, 1)
    try:
        _take_place(spec["build"])
        answer = _Case(spec).answer if spec["case"] else _describe
    except Exception as error:
        reason = _told(error)
        answer = lambda _: {"error": reason}  # noqa: E731
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")


def _keep_to_cores(threads: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)


def _take_place(build: str) -> None:
    """Loads the build, and this package as a part of it, whatever its age."""
    import miue_jax

    place = pathlib.Path(str(miue_jax.__file__)).parents[1]
    if place != pathlib.Path(build):
        raise ImportError(f"miue_jax is that of {place.name}, not the one to measure")
    here = pathlib.Path(__file__).parent
    if importlib.util.find_spec("miue_jax.workflows") is None:
        sys.modules["miue_jax.workflows"] = types.ModuleType("miue_jax.workflows")
    made = importlib.util.spec_from_file_location(
        PACKAGE, here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[PACKAGE] = module
    made.loader.exec_module(module)


class _Case:
    def __init__(self, spec: Mapping[str, Any]) -> None:
        cases = importlib.import_module(f"{PACKAGE}.cases")
        case = cases.CASES[spec["case"]]
        self.sides = case.sides
        small = case.small if spec["size"] == "small" else {}
        self.parameters = {**case.parameters, **small}
        self.threads = spec["threads"]
        self.works: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        self.memory_before = 0

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            what, side = request["do"], request["side"]
            if what == "prepare":
                return self._prepare(side)
            return self._time(side) if what == "time" else self._memory()
        except Exception as error:
            return {"error": _told(error)}

    def _prepare(self, name: str) -> dict[str, Any]:
        side = self.sides[name]
        if side.package and importlib.util.find_spec(side.package) is None:
            return {"error": "not installed"}
        if side.package == "torch" and self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        place, _, function = side.make.partition(":")
        make = getattr(importlib.import_module(f"{PACKAGE}.{place}"), function)
        work = make(**{**self.parameters, **side.options})
        self.memory_before = _resident()
        # The first call compiles, or finds out what is fastest.
        found, first = _timed(work.run)
        value = None if work.value is None else work.value(found)
        if value is not None and not math.isfinite(value):
            value = None
        del found
        _, second = _timed(work.run) if first < 5 else (None, first)
        self.works[name] = work
        self.calls[name] = max(1, math.ceil(_SHORTEST / second))
        about = {"value": value, "steps": work.steps, "calls": self.calls[name]}
        if work.flops is not None and work.peak is not None:
            about |= {"flops": work.flops, "peak_flops_per_second": work.peak[0]}
            about |= {"peak": work.peak[1]}
        return {**about, "first_seconds": first}

    def _time(self, name: str) -> dict[str, Any]:
        work, calls = self.works[name], self.calls[name]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            work.run()
        count = calls * work.steps
        cpu = (time.process_time() - cpu) / count
        return {"seconds": (time.perf_counter() - wall) / count, "cpu_seconds": cpu}

    def _memory(self) -> dict[str, Any]:
        """Bytes at most, beyond what was held before the first call."""
        import jax

        if jax.default_backend() != "cpu":
            found = [(jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")]
            if "torch" in sys.modules:
                found.append(sys.modules["torch"].cuda.max_memory_allocated())
            return {"peak_bytes": max((x for x in found if x), default=None)}
        return {"peak_bytes": _most_resident() - self.memory_before}


def _timed(run: Any) -> tuple[Any, float]:
    before = time.perf_counter()
    found = run()
    return found, time.perf_counter() - before


def _resident() -> int:
    """Bytes that the process holds; 0 where the system does not say."""
    path = pathlib.Path("/proc/self/statm")
    if not path.exists():
        return 0
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _most_resident() -> int:
    """Bytes that the process has held at most."""
    path = pathlib.Path("/proc/self/status")
    if path.exists():
        # On Linux `ru_maxrss` begins at that of the process that started this one.
        return 1024 * int(path.read_text().partition("VmHWM:")[2].split()[0])
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _describe(_: Mapping[str, Any]) -> dict[str, Any]:
    """The machine, and the versions of what is installed."""
    import importlib.metadata

    import jax

    import miue_jax

    versions: dict[str, str | None] = {"python": platform.python_version()}
    # Not every build says it.
    versions["miue_jax"] = getattr(miue_jax, "__version__", None)
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    hardware = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": processor,
        "cores": os.cpu_count() or 1,
    }
    return {"hardware": hardware, "versions": versions}


def _told(error: Exception) -> str:
    """One line on what went wrong."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."


if __name__ == "__main__":
    main()
