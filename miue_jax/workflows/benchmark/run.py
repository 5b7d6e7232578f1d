"""Runs the benchmark: each case in new processes, its sides in turns.

All sides of a case are in one process, but for an older build of this library and for
cases whose memory is measured. The process that asks for the work does none meanwhile.
A ratio above one says that this library is faster; each is of one turn.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import miue_jax
from miue_jax import _checks, _command_line
from miue_jax.data import atomic, bucket, public
from miue_jax.train import run_directory
from miue_jax.workflows.benchmark.cases import BEFORE, CASES, OURS

__all__ = ["BenchmarkConfig", "benchmark", "installed"]

# What a file of results is known by, and what all that is in one must share.
_SAME = ("settings", "hardware", "versions", "build")
_CHILD = pathlib.Path(__file__).with_name("_child.py")

_LOGGER = logging.getLogger("miue_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Settings of the benchmark.

    Attributes:
      cases: their names; none for all that the device is for.
      repetitions: timed turns of every side, after one that compiles.
      threads: of every side; None for one on the CPU, and for all on accelerators.
      size: full; or small, which only tries whether all sides work.
      against: a wheel of an older build of this package to compare with.

    Raises:
      ValueError: if a case is unknown, a number is out of range, or processes cannot be
        kept to some cores here.

    Example:
      >>> from miue_jax.workflows.benchmark.run import BenchmarkConfig
      >>> BenchmarkConfig(cases=("ksg_5000_1",)).repetitions
      5
    """

    cases: tuple[str, ...] = ()
    repetitions: int = 5
    threads: int | None = None
    size: Literal["full", "small"] = "full"
    against: str | None = None

    def __post_init__(self) -> None:
        _check_names(self.cases)
        _checks.check_number("repetitions", self.repetitions, "> 0", whole=True)
        _checks.check_choice("size", self.size, ("full", "small"))
        if self.threads is None:
            return
        _checks.check_number("threads", self.threads, "> 0", whole=True)
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError("threads cannot be limited on this system: leave it out")
        cores = len(os.sched_getaffinity(0))
        if self.threads > cores:
            raise ValueError(
                f"threads is {self.threads}; allowed: at most {cores}, the cores that "
                "this process may use"
            )


def benchmark(
    config: BenchmarkConfig | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Times this library beside others that do the same work.

    Each case is written to the file as soon as it is done; those that it holds already
    are left as they are.

    Args:
      config: the settings; None for the defaults.
      output: the JSON file; None for none.
      **settings: those that differ.

    Returns:
      What the file holds, see `miue_jax.workflows.benchmark.table`.

    Raises:
      ValueError: if a setting is not allowed, the wheel is not one of this package, or
        the file holds something else or results that cannot be compared; nothing is
        written then.

    Example:
      >>> from miue_jax.workflows.benchmark.run import benchmark
      >>> found = benchmark(cases=("ssim_512",), size="small", repetitions=1)
      >>> found["benchmark"]["ssim_512"]["sides"]["miue_jax"]["calls"] > 0
      True
    """
    config = dataclasses.replace(config or BenchmarkConfig(), **settings)
    bucket.refuse(output=output)
    path = None if output is None else pathlib.Path(output)
    if path is not None:
        _check_output(path)
    with contextlib.ExitStack() as stack:
        here = pathlib.Path(miue_jax.__file__).parents[1]
        builds = {OURS: here}
        if config.against is not None:
            builds[BEFORE] = stack.enter_context(installed(config.against))
        about = [_asked(config, build, {"do": "describe"}) for build in builds.values()]
        accelerator = about[0]["hardware"]["backend"] != "cpu"
        names = _select(config.cases, accelerator=accelerator)
        threads = config.threads
        if threads is None and not accelerator and hasattr(os, "sched_setaffinity"):
            threads = 1
        config = dataclasses.replace(config, threads=threads)
        results = _header(config, here, about) | {"command": _command(config, path)}
        if path is not None:
            _add(path, results, {})
            results["benchmark"] = _read(path, results)
        for name in names:
            if name in results["benchmark"]:
                continue
            _LOGGER.info("case: %s", name)
            case = _measure(name, config, builds)
            results["benchmark"][name] = case
            if path is not None:
                _add(path, results, {name: case})
    done = results["benchmark"]
    results["benchmark"] = {name: done[name] for name in CASES if name in done}
    return results


def _select(names: tuple[str, ...], *, accelerator: bool) -> list[str]:
    """The cases to run, in the order of the table."""
    fits = [name for name, case in CASES.items() if accelerator or not case.accelerator]
    for name in names:
        if name not in fits:
            raise ValueError(f"{name} is for accelerators, and JAX finds none")
    return [name for name in fits if not names or name in names]


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in CASES:
            raise _checks.unknown("case", name, CASES)
        if names.count(name) > 1:
            raise ValueError(f"case {name} is named twice")


def _command(config: BenchmarkConfig, path: pathlib.Path | None) -> str:
    """The command that would give all of a file, in whatever pieces it was made."""
    command, default = ["miue", "benchmark"], BenchmarkConfig()
    for name in ("repetitions", "threads", "size", "against"):
        value = getattr(config, name)
        if value != getattr(default, name):
            command += [f"--{name}", str(value)]
    return public.command(command + ([] if path is None else ["--output", path.name]))


def _header(
    config: BenchmarkConfig, here: pathlib.Path, about: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    against = None
    if config.against is not None:
        wheel = pathlib.Path(config.against)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        against = {"wheel": wheel.name, "sha256": digest, **about[1]["versions"]}
    settings = {k: getattr(config, k) for k in ("repetitions", "threads", "size")}
    return {
        "settings": {**settings, "against": against},
        **about[0],
        "build": _digest(here / "miue_jax"),
        "benchmark": {},
    }


def _digest(package: pathlib.Path) -> str:
    """Of all modules of a build."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return found.hexdigest()


# The file of results.


def _check_output(path: pathlib.Path) -> None:
    atomic.check_new_file(path)
    if path.suffix != ".json":  # `miue table` takes others for Markdown
        raise ValueError(f"output is {path}; allowed: names that end with .json")
    if path.exists():
        run_directory.read_json(path, needed=[*_SAME, "benchmark"])
    # Before minutes of measuring, not after.
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def _read(path: pathlib.Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """The cases that are done, if they can stand beside those that follow."""
    if not path.exists():
        return {}
    before = run_directory.read_json(path, needed=[*_SAME, "benchmark"])
    for key in _SAME:
        old, new = before[key], results[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(k for k in {**old, **new} if old.get(k) != new.get(k))
            told = f"{name} is {_checks.shown(old.get(name))} there, {new.get(name)!r}"
            raise ValueError(f"{path}: its {key} differ ({told} here); name another")
        raise ValueError(
            f"{path}: is of another state of this package; name another file"
        )
    return before["benchmark"]


def _add(
    path: pathlib.Path, results: Mapping[str, Any], cases: Mapping[str, Any]
) -> None:
    """Adds cases to those in a file, which other processes may do, too."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Some file systems have no locks: nothing shares a file there.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        done = {**_read(path, results), **cases}
        if not done:
            return
        done = {name: done[name] for name in CASES if name in done}
        run_directory.write_json(path, {**results, "benchmark": done})
    finally:
        os.close(folder)


# The wheel of an older build.


@contextlib.contextmanager
def installed(wheel: str) -> Iterator[pathlib.Path]:
    """Installs a wheel, without what it depends on, in a temporary folder.

    Args:
      wheel: the file, of this package.

    Yields:
      The folder, for PYTHONPATH.

    Raises:
      ValueError: if it is no wheel of this package, or cannot be installed.

    Example:
      >>> from miue_jax.workflows.benchmark import run
      >>> with run.installed("miue_jax-0.0.1-py3-none-any.whl") as folder:
      ...     pass
      Traceback (most recent call last):
      ValueError: miue_jax-0.0.1-py3-none-any.whl: no such wheel
    """
    path = pathlib.Path(wheel)
    if not path.is_file():
        raise ValueError(f"{wheel}: no such wheel" if wheel else "against: no wheel")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{wheel}: is no wheel ({error})") from error
    ours = path.name.startswith("miue_jax-") and path.suffix == ".whl"
    if not ours or "miue_jax/__init__.py" not in names:
        raise ValueError(f"{wheel}: is no wheel of miue_jax")
    # Looking for its module would make setuptools replace distutils.
    if not list(importlib.metadata.distributions(name="pip")):
        raise ValueError("an older build is installed by pip, which is missing here")
    with tempfile.TemporaryDirectory(prefix="miue_benchmark_") as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--disable-pip-version-check", "--target", folder]
        done = subprocess.run(
            [*command, str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise ValueError(f"{wheel}: cannot be installed: {reason}")
        yield pathlib.Path(folder).resolve()


# Processes.


class _Ended(Exception):
    """A process that is gone."""


@contextlib.contextmanager
def _process(
    config: BenchmarkConfig, build: pathlib.Path, case: str | None
) -> Iterator[Any]:
    """A process that measures a build; a function asks it and waits for the reply."""
    spec = {"case": case, "size": config.size, "threads": config.threads}
    before = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": str(build)}
    if before:
        environment["PYTHONPATH"] += os.pathsep + before
    # It would overrule the cores that XLA may use.
    environment.pop("NPROC", None)
    # PyTorch and an older build have to find memory on the same device.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if case is not None and CASES[case].cold:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    else:
        _keep_compiled(environment)
    command = [sys.executable, "-P", str(_CHILD)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, json.dumps({**spec, "build": str(build)})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(request: Mapping[str, Any]) -> dict[str, Any]:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
            if line := stdout.readline():
                return json.loads(line)
            status = process.wait()
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            said = f"signal {-status}" if status < 0 else f"status {status}"
            last = f": {_checks.one_line(lines[-1], 160)}" if lines else ""
            raise _Ended(f"its process ended with {said}{last}")

        try:
            yield ask
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
            stdout.close()


def _keep_compiled(environment: dict[str, str]) -> None:
    import jax

    _command_line.keep_compiled()
    cache = jax.config.values["jax_compilation_cache_dir"]
    if cache is not None:
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))


def _asked(
    config: BenchmarkConfig, build: pathlib.Path, request: Mapping[str, Any]
) -> dict[str, Any]:
    """One reply of a new process; an error in it is one of the installation."""
    try:
        with _process(config, build, None) as ask:
            found = ask(request)
    except _Ended as error:
        found = {"error": str(error)}
    if "error" in found:
        raise ValueError(f"the benchmark cannot start here: {found['error']}")
    return found


# Measuring.


def _measure(
    name: str, config: BenchmarkConfig, builds: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    """Prepares all sides of a case, times them in turns, and compares them."""
    case = CASES[name]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    # By process: the sides in it, as they are called there and in the results.
    groups = [[(side, side)] for side in case.sides]
    if not case.alone:
        groups = [[pair for group in groups for pair in group]]
    found: dict[str, dict[str, Any]] = {side: {} for side in case.sides}
    with contextlib.ExitStack() as stack:
        asks = [stack.enter_context(_process(config, builds[OURS], name))]
        asks += [
            stack.enter_context(_process(config, builds[OURS], name))
            for _ in groups[1:]
        ]
        if BEFORE in builds:
            groups.append([(OURS, BEFORE)])
            asks.append(stack.enter_context(_process(config, builds[BEFORE], name)))
            found[BEFORE] = {}
        places = [
            (ask, side, label)
            for ask, group in zip(asks, groups, strict=True)
            for side, label in group
        ]
        timed: dict[str, list[dict[str, float]]] = {label: [] for label in found}

        def tell(ask: Any, what: str, side: str, label: str) -> dict[str, Any] | None:
            if "why" in found[label]:
                return None
            try:
                reply = ask({"do": what, "side": side})
            except _Ended as error:
                reply = {"error": str(error)}
            if "error" not in reply:
                return reply
            why = reply["error"]
            if label == BEFORE and what == "prepare":
                why = f"not in this build: {why}"
            # It may name files of the folder in which an older build was unpacked.
            found[label] = public.without_folders({"why": why})
            return None

        for ask, side, label in places:
            if (reply := tell(ask, "prepare", side, label)) is not None:
                found[label] = reply
        for _ in range(config.repetitions):
            for ask, side, label in places:
                if (reply := tell(ask, "time", side, label)) is not None:
                    timed[label].append(reply)
        for ask, side, label in places if case.alone else ():
            if (reply := tell(ask, "memory", side, label)) is not None:
                found[label] |= reply
    for label, about in found.items():
        if "why" not in about:
            found[label] = {**about, **_times(timed[label], timed[OURS])}
    return {"title": case.title, "load_average": load, "sides": found}


def _times(
    turns: Sequence[Mapping[str, float]], ours: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Medians and ranges, and how many times the time of ours it took in each turn."""
    found: dict[str, Any] = {}
    for key, ratio in (("seconds", "ratio"), ("cpu_seconds", "cpu_ratio")):
        values = [turn[key] for turn in turns]
        found[key] = _spread(values)
        if len(ours) == len(turns):
            pairs = zip(values, (turn[key] for turn in ours), strict=True)
            # Work on a device alone takes no processor time.
            quotients = [a / b for a, b in pairs if b]
            if len(quotients) == len(values):
                found[ratio] = _spread(quotients)
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    middle = statistics.median(values)
    return {"median": middle, "min": min(values), "max": max(values)}
