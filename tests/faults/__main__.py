"""Shows what a run survives, and what the command says of bad input.

It kills runs, damages their files, fills their disk, loses one of their processes and
gives them bad input, and counts what came of it. Each case must end in the bytes of a
run that was left alone, or in one line on standard error and status 2.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tests.faults import commands, damage, disk, inputs, kills, processes, trials

_PARTS: dict[str, dict[str, tuple[Callable[..., trials.Part], int]]] = {
    "processes": {"processes": (processes.part, 6)},
    "kills": {
        f"kills-{kind}": (
            lambda *a, kind=kind: kills.part(kind, *a),
            50,
        )
        for kind in ("protect", "evaluate", "sweep")
    },
    "damage": {"damage": (damage.part, 200)},
    "disk": {"disk": (disk.part, 24)},
    "inputs": {"inputs": (inputs.part, 600)},
}
_COLUMNS = ("cases", "faults", "right bytes", "one line", "failed", "skipped", "s")


def main() -> int:
    """Runs the parts that are asked for."""
    arguments = _arguments()
    chosen = arguments.only.split(",") if arguments.only else list(_PARTS)
    for name in chosen:
        if name not in _PARTS:
            print(f"unknown part {name!r}; allowed: {', '.join(_PARTS)}")
            return 2
    began, lock = time.monotonic(), threading.Lock()

    def say(text: str) -> None:
        with lock:
            print(f"[{time.monotonic() - began:6.0f} s] {text}", flush=True)

    folder = pathlib.Path(tempfile.mkdtemp(prefix="miue_faults_"))

    def stop(number: int, _: object) -> None:
        # Threads that wait for commands would start others in their place.
        commands.kill_running()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    found: dict[str, trials.Part] = {}

    def run(names: Sequence[str]) -> None:
        for part, (function, count) in (x for n in names for x in _PARTS[n].items()):
            say(f"{part} begins")
            try:
                options = trials.Options(
                    seed=arguments.seed,
                    count=max(1, round(count * arguments.scale)),
                    jobs=arguments.jobs,
                    only=arguments.case,
                    keep=arguments.keep,
                    say=say,
                )
                found[part] = function(folder, options)
            except Exception:
                # The other parts have something to tell all the same.
                say(f"{part} cannot be run:\n{traceback.format_exc()}")

    with commands.prepared(folder, arguments.jobs):
        # Who waits for a lost process leaves the cores to others.
        aside = [name for name in chosen if name == "processes"]
        waiting = threading.Thread(target=run, args=(aside,), daemon=True)
        waiting.start()
        run([name for name in chosen if name not in aside])
        waiting.join()
    missing = [p for name in chosen for p in _PARTS[name] if p not in found]
    parts = [found[p] for name in chosen for p in _PARTS[name] if p in found]
    _report(parts)
    if arguments.json:
        text = json.dumps(_plain(parts, arguments, time.monotonic() - began), indent=1)
        pathlib.Path(arguments.json).write_text(text + "\n")
    if arguments.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    for part in missing:
        print(f"{part} could not be run")
    return int(bool(missing) or any(part.short for part in parts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", help=f"parts, of {','.join(_PARTS)}")
    parser.add_argument("--case", help="one case of these parts, by its name")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the number of cases"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, len(os.sched_getaffinity(0))),
        help="cases at once",
    )
    parser.add_argument("--keep", action="store_true", help="keep all folders")
    parser.add_argument("--json", help="a file for the figures")
    return parser.parse_args()


def _row(part: trials.Part) -> list[str]:
    counts = [part.count(x) for x in ("equal", "refused", "failed", "skipped")]
    numbers = [len(part.results), part.faults, *counts, round(part.seconds)]
    return [part.name, *map(str, numbers)]


def _report(parts: Sequence[trials.Part]) -> None:
    rows = [["", *_COLUMNS], *map(_row, parts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for name, *cells in rows:
        shown = [x.rjust(w) for x, w in zip(cells, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *shown]))
    for part in parts:
        for result in part.results:
            if result.outcome in ("failed", "skipped"):
                print(f"\n{result.outcome} {result.case}: {result.symptom}")
                print(f"    {result.command}")
        if part.short:
            print(f"\n{part.name} falls short")


def _plain(
    parts: Sequence[trials.Part], arguments: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    return {
        "command": f"python -m tests.faults --seed {arguments.seed}",
        "seconds": round(seconds),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            "jax": importlib.metadata.version("jax"),
        },
        "parts": [
            {
                "name": part.name,
                "cases": len(part.results),
                "faults": part.faults,
                **{
                    outcome: part.count(outcome)
                    for outcome in ("equal", "refused", "failed", "skipped")
                },
                "seconds": round(part.seconds),
            }
            for part in parts
        ],
        "failures": [
            {"part": part.name, **result._asdict()}
            for part in parts
            for result in part.results
            if result.outcome == "failed"
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
