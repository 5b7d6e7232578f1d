"""What all parts share: tiny runs, how their results compare, and what is counted."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

# Every run has checkpoints, and files of every kind, within a few seconds.
PROTECT = (
    *("protect", "data.npz", "--generator", "mi_ue/interleaved", "--quiet"),
    *("--generator.model", "lenet5", "--generator.width", "4"),
    *("--generator.epochs", "12", "--generator.batch-size", "20"),
    *("--checkpoint-every", "4", "--workdir", "run"),
)
EVALUATE = (
    *("evaluate", "data.npz", "data.npz", "--defense", "bit_depth-2", "--quiet"),
    *("--victim.model", "mlp2", "--victim.width", "8", "--victim.epochs", "5"),
    *("--victim.batch-size", "20", "--seeds", "0", "1", "--workdir", "run"),
)
SWEEP = ("sweep", "--config", "sweep.py", "--quiet", "--workdir", "run")
WORKERS = (*SWEEP, "--devices", "2")

_SWEEP_FILE = """\
from miue_jax import generators, victims

SMALL = {"model": "mlp2", "width": 8, "epochs": 2, "batch_size": 20}


def get_config():
    return {
        "data": "data.npz",
        "generators": {
            "clean": None,
            "em": generators.spec("error_minimizing/interleaved", **SMALL),
        },
        "defenses": {"none": "none", "depth": "bit_depth-2"},
        "victims": {"mlp": victims.preset("quick", **SMALL)},
    }
"""

# The files that a run is for. Others, such as logs and checkpoints, serve to make them.
RESULTS = ("*.npz", "*.npy", "results.json", "table.*")
# What a killed writer may leave, and the next run removes.
_TEMPORARY = re.compile(r"\..+\.tmp|.*\.orbax-checkpoint-tmp.*")

Outcome = Literal["equal", "refused", "failed", "skipped"]


class Options(NamedTuple):
    """How a part is run.

    Attributes:
      seed: of all draws.
      count: cases.
      jobs: cases at once.
      only: the one case to run; None for all.
      keep: whether to keep the folders.
      say: prints a line.
    """

    seed: int
    count: int
    jobs: int
    only: str | None
    keep: bool
    say: Callable[[str], None]


class Result(NamedTuple):
    """What came of one case.

    Attributes:
      case: its name.
      outcome: the right bytes, one line and status 2, neither, or not possible here.
      command: what shows it.
      symptom: what is wrong, or why it was skipped.
      faults: kills and the like that it took.
    """

    case: str
    outcome: Outcome
    command: str
    symptom: str = ""
    faults: int = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """The results of one part."""

    name: str
    wanted: int
    seconds: float
    results: list[Result]

    def count(self, outcome: Outcome) -> int:
        return sum(result.outcome == outcome for result in self.results)

    @property
    def faults(self) -> int:
        return sum(r.faults for r in self.results if r.outcome != "skipped")

    @property
    def short(self) -> bool:
        """Whether a case failed, or fewer were tried than were asked for."""
        tried = self.faults >= self.wanted or self.count("skipped") > 0
        return self.count("failed") > 0 or not tried


def generator(seed: int, case: str) -> random.Random:
    """The draws of one case, whatever else is run."""
    return random.Random(f"{seed} {case}")


def collect(
    name: str, cases: Mapping[str, Callable[[], Result]], options: Options
) -> Part:
    """Runs the cases of a part, some at once, and prints each failure as it comes."""
    began = time.monotonic()
    chosen = {k: v for k, v in cases.items() if options.only in (None, k)}
    found = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(run): case for case, run in chosen.items()}
        for number, future in enumerate(concurrent.futures.as_completed(waiting), 1):
            try:
                result = future.result()
            except Exception as error:  # a fault of the suite must not end it
                why = f"the suite failed: {type(error).__name__}: {error}"
                result = Result(waiting[future], "failed", "", why)
            found.append(result)
            if result.outcome == "failed":
                options.say(
                    f"FAILED {result.case}: {result.command}\n    {result.symptom}"
                )
            elif number % 25 == 0:
                options.say(f"{name}: {number} of {len(chosen)}")
    order = list(chosen)
    found.sort(key=lambda result: order.index(result.case))
    wanted = options.count if options.only is None else 0
    return Part(name, wanted, time.monotonic() - began, found)


@contextlib.contextmanager
def sandbox(folder: pathlib.Path, case: str, *, keep: bool) -> Iterator[pathlib.Path]:
    """A folder of its own for a case, with the inputs of the tiny runs."""
    path = folder / case.replace("/", "_")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    write_inputs(path)
    yield path
    if not keep:
        shutil.rmtree(path, ignore_errors=True)


def write_inputs(folder: pathlib.Path) -> None:
    """Writes small images of four classes, and the configuration of the sweep."""
    rng = np.random.default_rng(0)
    centers = rng.integers(40, 216, (4, 16, 16, 3))
    arrays = {}
    for split, count in (("train", 48), ("test", 20)):
        labels = np.arange(count) % 4
        noise = rng.normal(0, 30, (count, 16, 16, 3))
        images = np.clip(centers[labels] + noise, 0, 255).astype(np.uint8)
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez(folder / "data.npz", **arrays)
    (folder / "sweep.py").write_text(_SWEEP_FILE)


def outputs(workdir: pathlib.Path) -> dict[str, str]:
    """Digests of the results below a folder, times aside."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        where = path.relative_to(workdir).as_posix()
        if not path.is_file() or any(part[0] == "." for part in where.split("/")):
            continue
        if any(path.match(pattern) for pattern in RESULTS):
            found[where] = _digest(path)
    return found


def _digest(path: pathlib.Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):
            plain = _timeless(json.loads(content))
            content = json.dumps(plain, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if "seconds" not in k}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def difference(want: Mapping[str, str], workdir: pathlib.Path) -> str | None:
    """How the results in a folder differ from the right ones."""
    found = outputs(workdir)
    for name in {**want, **found}:
        if found.get(name) != want.get(name):
            missing = "is missing" if name not in found else "has other bytes"
            return f"{name} {missing if name in want else 'should not be there'}"
    return None


def remains(workdir: pathlib.Path) -> str | None:
    """A temporary file or folder that was left below a folder."""
    for path in workdir.rglob("*"):
        if _TEMPORARY.fullmatch(path.name):
            return f"{path.relative_to(workdir)} is left"
    return None


def tree(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files and folders, to see whether anything is written."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        size = 0 if path.is_dir() else about.st_size
        found[path.relative_to(folder).as_posix()] = (size, about.st_mtime_ns)
    return found


def numbered(kind: str, numbers: Iterable[int]) -> list[str]:
    """Names of cases."""
    return [f"{kind}/{number}" for number in numbers]
