"""kill -9 at random times, until the same command, rerun, has ended.

Times are drawn over a whole run; a third of the kills wait for a file instead, so that
the moments around each rename are hit as well. A sweep loses one of its two workers,
the process that started them, or all at once.
"""

import contextlib
import functools
import os
import pathlib
import random
import shutil
import signal
import time

from tests.faults import commands, trials
from tests.faults.trials import Result

_COMMANDS = {
    "protect": trials.PROTECT,
    "evaluate": trials.EVALUATE,
    "sweep": trials.WORKERS,
}
# Files whose writing a kill may be aimed at.
_FILES = {
    "protect": (
        *(".lock", "config.json", "metrics.jsonl", "checkpoints/*tmp*"),
        *("checkpoints/[0-9]*", ".*.tmp", "protected.delta.npy", "protected.npz"),
    ),
    "evaluate": (
        *("config.json", "purified.npz", "seed_0/checkpoints/*tmp*", "seed_1"),
        *("seed_1/metrics.jsonl", "seed_1/checkpoints/*", ".*.tmp", "results.json"),
    ),
    "sweep": (
        *("config.json", "protected/em/config.json", "protected/em/protected.npz"),
        *("cells/*/results.json", "cells/*/seed_0/checkpoints/*tmp*", "results.json"),
        *(".*.tmp", "table.csv", "heat_map.png"),
    ),
}


def part(kind: str, folder: pathlib.Path, options: trials.Options) -> trials.Part:
    """Kills one command `count` times in all, often more than once until it ends."""
    want, duration = _reference(kind, folder, options.jobs)
    cases, left, number = {}, options.count, 0
    while left > 0:
        case = f"kills-{kind}/{number}"
        rng = trials.generator(options.seed, case)
        kills = min(left, rng.choice((1, 1, 2, 3)))
        cases[case] = functools.partial(
            *(_trial, kind, case, folder),
            rng=rng,
            kills=kills,
            want=want,
            duration=duration,
            keep=options.keep,
        )
        left, number = left - kills, number + 1
    return trials.collect(f"kill -9 of {kind}", cases, options)


def _reference(
    kind: str, folder: pathlib.Path, jobs: int
) -> tuple[dict[str, str], float]:
    """The right results, and how long a run takes that compiles nothing."""
    found, ended = [], []
    with trials.sandbox(folder, f"kills-{kind}-whole", keep=True) as first:
        found.append(trials.outputs(_finish(kind, first)))
    places = [folder / f"kills-{kind}-timed-{i}" for i in range(jobs)]
    for place in places:
        place.mkdir()
        trials.write_inputs(place)
    running = [commands.start(_COMMANDS[kind], place) for place in places]
    for process, place in zip(running, places, strict=True):
        ended.append(process.end())
        found.append(trials.outputs(place / "run"))
    if any(other != found[0] for other in found):
        raise RuntimeError(f"{kind} gives other results each time it is run")
    return found[0], max(one.seconds for one in ended)


def _finish(kind: str, place: pathlib.Path) -> pathlib.Path:
    ended = commands.run(_COMMANDS[kind], place)
    if ended.status != 0:
        raise RuntimeError(f"{kind} fails: {ended.err}")
    return place / "run"


def _trial(
    kind: str,
    case: str,
    folder: pathlib.Path,
    *,
    rng: random.Random,
    kills: int,
    want: dict[str, str],
    duration: float,
    keep: bool,
) -> Result:
    command, latest = _COMMANDS[kind], duration
    told: list[str] = []
    processes: list[commands.Started] = []
    with trials.sandbox(folder, case, keep=keep) as place:
        workdir, symptom = place / "run", None
        while len(told) < kills and symptom is None:
            if not told:
                shutil.rmtree(workdir, ignore_errors=True)
            known = {path for file in _FILES[kind] for path in workdir.glob(file)}
            process = commands.start(command, place)
            processes.append(process)
            moment = _wait(process, workdir, known, rng, kind, latest)
            if moment is None:
                latest *= 0.7  # it ended before it could be killed
                continue
            victim = _kill(process, rng, kind)
            told.append(f"{victim} {moment}")
            ended = process.end()
            if victim == "a worker" and ended.status != 0:
                symptom = commands.refusal(ended, statuses=(1, 2))
        # Workers whose parent is dead go on meanwhile: a directory may be shared.
        ended = commands.run(command, place)
        if ended.status != 0:
            symptom = symptom or commands.refusal(ended) or f"refused: {ended.err}"
        for process in processes:
            symptom = symptom or _orphans(process)
        symptom = symptom or trials.difference(want, workdir) or trials.remains(workdir)
    if symptom is None:
        return Result(case, "equal", commands.shown(command), faults=len(told))
    shown = f"{commands.shown(command)}  # killed: {', '.join(told)}; then rerun"
    return Result(case, "failed", shown, symptom.strip(), len(told))


def _wait(
    process: commands.Started,
    workdir: pathlib.Path,
    known: set[pathlib.Path],
    rng: random.Random,
    kind: str,
    latest: float,
) -> str | None:
    """Waits for the moment of a kill, and describes it; None if the run ended first."""
    delay, aimed = rng.uniform(0, latest), rng.random() < 1 / 3
    file = rng.choice(_FILES[kind])
    if not aimed or any(path in known for path in workdir.glob(file)):
        return None if process.wait(delay) else f"after {delay:.2f} s"
    until = time.monotonic() + latest
    while time.monotonic() < until:
        if any(workdir.glob(file)):
            return f"at {file}"
        if process.wait(0.002):
            return None
    return f"after {latest:.2f} s"


def _kill(process: commands.Started, rng: random.Random, kind: str) -> str:
    who = rng.choice(("all", "a worker", "the parent")) if kind == "sweep" else "it"
    others = [pid for pid in commands.members(process.pid) if pid != process.pid]
    if who == "all":
        process.kill_all()
    elif who == "a worker" and others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(others), signal.SIGKILL)
    else:
        process.kill()
        who = "the parent" if kind == "sweep" else who
    return who


def _orphans(process: commands.Started) -> str | None:
    """Waits for the workers of a parent that was killed; they end when all is done."""
    until = time.monotonic() + commands.HANG
    while left := commands.members(process.pid):
        if time.monotonic() > until:
            process.kill_all()
            return f"workers of a killed sweep go on: {left}"
        time.sleep(0.1)
    return None
