"""Single bits and cut files, anywhere in a run.

Whoever reads the run next must end in the right bytes or refuse it in one line: a
stopped run that is resumed, a finished run that is rerun, and the commands that read
what a finished run has made.
"""

import functools
import pathlib
import random
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from tests.faults import commands, trials
from tests.faults.trials import Result


class _Reader(NamedTuple):
    """A command that reads a run.

    Attributes:
      state: the run whose files are damaged.
      command: that reads it.
      files: which of its files are damaged, as patterns.
      made: the folder whose results are compared, or None for what is printed.
      weight: share of the cases.
    """

    state: str
    command: Sequence[str]
    files: Sequence[str] = ("*",)
    made: str | None = "run"
    weight: int = 1


_ARTIFACT = ("protected.npz", "protected.delta.npy")
_VICTIM = (
    *("evaluate", "run/protected.npz", "data.npz", "--quiet", "--seeds", "0"),
    *("--victim.model", "linear", "--victim.epochs", "2", "--workdir", "made"),
)
_EXPORT = (
    *("export", "run/protected.npz", "--npy", "made/delta.npy", "--png", "made/png"),
)
_READERS = (
    _Reader("protect-stopped", trials.PROTECT, weight=6),
    _Reader("protect-done", trials.PROTECT, weight=2),
    _Reader("protect-done", _VICTIM, _ARTIFACT, "made", weight=1),
    _Reader("protect-done", _EXPORT, _ARTIFACT, "made", weight=2),
    _Reader("evaluate-stopped", trials.EVALUATE, weight=5),
    _Reader("evaluate-done", trials.EVALUATE, weight=2),
    _Reader("sweep-stopped", trials.SWEEP, weight=3),
    _Reader("sweep-done", trials.SWEEP, weight=2),
    _Reader("sweep-done", ("table", "run"), ("results.json",), None, weight=1),
    _Reader("sweep-done", ("table", "run/results.json"), ("results.json",), None),
)
# A run is stopped when this has appeared in its folder.
_STOP = {
    "protect": ("checkpoints/8", "checkpoints/12"),
    "evaluate": ("seed_1/checkpoints/4", "seed_1/checkpoints/6"),
    "sweep": ("cells/em-none-mlp-seed_0/seed_0/metrics.jsonl",),
}
_ALONE = {
    "protect": trials.PROTECT,
    "evaluate": trials.EVALUATE,
    "sweep": trials.SWEEP,
}


def part(folder: pathlib.Path, options: trials.Options) -> trials.Part:
    """Damages one file of a run in each case."""
    want = {}
    for kind, command in _ALONE.items():
        _stop(kind, folder / f"{kind}-stopped")
        done = folder / f"{kind}-done"
        _new(done)
        _right(command, done)
    for number, reader in enumerate(_READERS):
        place = folder / f"damage-right-{number}"
        shutil.copytree(folder / reader.state, place)
        (place / "made").mkdir()
        printed = _right(reader.command, place)
        want[reader] = (
            printed if reader.made is None else trials.outputs(place / reader.made)
        )
    cases = {}
    for case in trials.numbered("damage", range(options.count)):
        rng = trials.generator(options.seed, case)
        reader = rng.choices(_READERS, [reader.weight for reader in _READERS])[0]
        cases[case] = functools.partial(
            _trial, case, folder, reader, rng, want[reader], keep=options.keep
        )
    return trials.collect("damaged files", cases, options)


def _new(place: pathlib.Path) -> None:
    place.mkdir()
    trials.write_inputs(place)


def _right(command: Sequence[str], place: pathlib.Path) -> str:
    ended = commands.run(command, place)
    if ended.status != 0:
        raise RuntimeError(f"{commands.shown(command)} fails: {ended.err}")
    return ended.out


def _stop(kind: str, place: pathlib.Path) -> None:
    """Kills a run in its middle."""
    result = {"protect": "protected.npz"}.get(kind, "results.json")
    for _ in range(20):
        shutil.rmtree(place, ignore_errors=True)
        _new(place)
        process = commands.start(_ALONE[kind], place)
        while not any((place / "run" / name).exists() for name in _STOP[kind]):
            if process.wait(0.002):
                break
        process.kill()
        process.end()
        checkpoints = [*(place / "run").rglob("checkpoints/[0-9]*/state")]
        if checkpoints and (kind == "sweep" or not (place / "run" / result).exists()):
            return
    raise RuntimeError(f"{kind} cannot be stopped in its middle")


def _trial(
    case: str,
    folder: pathlib.Path,
    reader: _Reader,
    rng: random.Random,
    want: object,
    *,
    keep: bool,
) -> Result:
    place = folder / case.replace("/", "_")
    shutil.rmtree(place, ignore_errors=True)
    # With their times, as those of a run that was left where it was.
    shutil.copytree(folder / reader.state, place)
    (place / "made").mkdir(exist_ok=True)
    told = _damage(place / "run", reader.files, rng)
    ended = commands.run(reader.command, place)
    shown = f"{commands.shown(reader.command)}  # {reader.state}: {told}"
    result = Result(case, "equal", shown)
    if ended.status != 0:
        symptom = commands.refusal(ended)
        result = result._replace(outcome="refused", symptom=ended.err.strip())
    elif "Traceback" in ended.err:
        symptom = f"traceback, status 0: {ended.err[-200:]}"
    elif reader.made is not None:
        symptom = trials.difference(want, place / reader.made)
        if symptom and reader.command is trials.SWEEP and ".delta.npy" in symptom:
            symptom = None  # a sweep does not read it, and whoever does checks it
        symptom = symptom and f"status 0, but {symptom}"
    else:
        symptom = None if ended.out == want else "status 0, but prints something else"
    if not keep:
        shutil.rmtree(place)
    if symptom is not None:
        return result._replace(outcome="failed", symptom=symptom)
    return result


def _damage(workdir: pathlib.Path, files: Sequence[str], rng: random.Random) -> str:
    """Flips one bit of a file, or cuts it short; locks are empty and hold nothing."""
    found = [
        path
        for path in sorted(workdir.rglob("*"))
        if path.is_file()
        and any(path.match(pattern) for pattern in files)
        and path.stat().st_size
    ]
    # Checkpoints have many small files, large ones hold arrays, and results are few.
    results = [path for path in found if any(map(path.match, trials.RESULTS))]
    way = rng.choice(("any", "large", "results" if results else "any"))
    path = rng.choices(
        results if way == "results" else found,
        [x.stat().st_size for x in found] if way == "large" else None,
    )[0]
    content = bytearray(path.read_bytes())
    name = path.relative_to(workdir)
    if rng.random() < 1 / 3:
        length = rng.randrange(len(content))
        path.write_bytes(content[:length])
        return f"{name} cut from {len(content)} to {length} bytes"
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{name} with bit {bit} of byte {place} flipped"
