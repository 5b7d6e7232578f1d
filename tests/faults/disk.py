"""A disk that is full, and files that may not grow.

The command must say so in one line and leave no temporary files; with room again, the
same command must end in the right bytes.
"""

import functools
import pathlib
import random
import subprocess
from collections.abc import Callable

from tests.faults import commands, trials
from tests.faults.trials import Result

_COMMANDS = {
    "protect": trials.PROTECT,
    "evaluate": trials.EVALUATE,
    "sweep": trials.SWEEP,
}


def part(folder: pathlib.Path, options: trials.Options) -> trials.Part:
    """Gives runs too small a disk, or too small a limit on the size of a file."""
    want, size, largest = {}, {}, {}
    for kind, command in _COMMANDS.items():
        with trials.sandbox(folder, f"disk-{kind}", keep=options.keep) as place:
            ended = commands.run(command, place)
            if ended.status != 0:
                raise RuntimeError(f"{kind} fails: {ended.err}")
            files = [x for x in (place / "run").rglob("*") if x.is_file()]
            want[kind] = trials.outputs(place / "run")
            # Disks are filled by blocks of 4 KiB.
            size[kind] = sum(-(-x.stat().st_size // 4096) * 4096 for x in files)
            largest[kind] = max(x.stat().st_size for x in files)
    cases = {}
    for number, case in enumerate(trials.numbered("disk", range(options.count))):
        kind = list(_COMMANDS)[number % 3]
        rng = trials.generator(options.seed, case)
        if number % 2:
            run = functools.partial(_limited, largest=largest[kind])
        else:
            run = functools.partial(_full, size=size[kind])
        cases[case] = functools.partial(
            run, case, kind, folder, rng=rng, want=want[kind], keep=options.keep
        )
    return trials.collect("no room", cases, options)


def _limited(
    case: str,
    kind: str,
    folder: pathlib.Path,
    *,
    largest: int,
    rng: random.Random,
    want: dict[str, str],
    keep: bool,
) -> Result:
    # Small files fail as well as large ones.
    limit = round(largest ** rng.uniform(0, 1))
    with trials.sandbox(folder, case, keep=keep) as place:
        command = commands.shown(_COMMANDS[kind])
        told = f"(ulimit in bytes: prlimit --fsize={limit} {command}); {command}"
        first = commands.run(_COMMANDS[kind], place, fresh=True, largest_file=limit)
        return _judged(case, kind, place, first, told, want)


def _full(
    case: str,
    kind: str,
    folder: pathlib.Path,
    *,
    size: int,
    rng: random.Random,
    want: dict[str, str],
    keep: bool,
) -> Result:
    small = round(rng.uniform(8192, size))
    with trials.sandbox(folder, case, keep=keep) as place:
        disk = place / "run"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", str(disk)]
        told = f"{' '.join(mount)}; {commands.shown(_COMMANDS[kind])}"
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False)
        except FileNotFoundError:
            return Result(case, "skipped", told, "there is no command mount")
        if mounted.returncode:
            why = "a small disk cannot be mounted here: only root may"
            return Result(case, "skipped", told, why)
        try:
            first = commands.run(_COMMANDS[kind], place, fresh=True)

            def enlarge() -> None:
                again = ["mount", "-o", "remount,size=256m", str(disk)]
                subprocess.run(again, check=True, capture_output=True)

            return _judged(case, kind, place, first, told, want, enlarge)
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _judged(
    case: str,
    kind: str,
    place: pathlib.Path,
    first: commands.Ended,
    told: str,
    want: dict[str, str],
    enlarge: Callable[[], None] = lambda: None,
) -> Result:
    if first.status == 0:
        # The limit was never reached.
        symptom = trials.difference(want, place / "run")
        outcome = "equal" if symptom is None else "failed"
        return Result(case, outcome, told, symptom or "")
    symptom = commands.refusal(first) or trials.remains(place / "run")
    enlarge()
    second = commands.run(_COMMANDS[kind], place)
    if second.status != 0:
        symptom = symptom or f"with room again: status {second.status}: {second.err}"
    symptom = symptom or trials.difference(want, place / "run")
    symptom = symptom or trials.remains(place / "run")
    if symptom is None:
        return Result(case, "refused", told, first.err.strip())
    return Result(case, "failed", told, symptom.strip())
