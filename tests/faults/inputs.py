"""Bad input to every command: wrong options, files, configurations and own parts.

Options are read from the help of the commands, so that new ones are tried as well. Each
must be refused in one line with status 2, and nothing may be written.
"""

import concurrent.futures
import functools
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.faults import bad_files, commands, trials
from tests.faults.trials import Result

# Real processes, beside those that are forked.
_FRESH = 30
# Sizes that nobody checks must not take the machine's memory.
_MEMORY = 12 << 30
# What is accepted runs to its end; on a quiet core that takes a few seconds.
_PATIENCE = 120.0


class _Option(NamedTuple):
    """An option, as the help shows it."""

    name: str
    kind: str


class _Base(NamedTuple):
    """A command that is right but for what is appended."""

    arguments: tuple[str, ...]
    # Which options are tried here: all, or those of one section.
    prefix: str = "--"


# Settings with which a command that is accepted by mistake ends soon.
_SMALL = {
    "model": "mlp2",
    "width": "32",
    "epochs": "2",
    "batch-size": "20",
    "num-steps": "2",
    "pgd-steps": "1",
    "steps": "2",
    "critic-steps": "2",
    "critic-seeds": "1",
    "permutations": "0",
    "num-slices": "2",
    "block-size": "20",
    "validation-size": "20",
    "checkpoints": "2",
}
# In the names of defenses, as `miue list defenses` shows them.
_PLACES = {"size": "4", "sigma": "0.1", "radius": "2", "bits": "2", "quality": "50"}

# Commands that are run once as they are, so that only what is appended can be wrong.
_TRIED = (
    *("protect", "protect-folder", "fit-protector", "evaluate", "sweep"),
    *("measure", "detect", "import"),
)

_HUGE = str(2**70)
_NUMBERS = {
    "INT": ("three", "1.5", "nan", "-1", _HUGE, ""),
    "FLOAT": ("three", "nan", "inf", "-inf", "-1", ""),
}
# By the end of an option's name: text that no such option may have.
_TEXTS = {
    "workdir": ("file.txt", "file.txt/run", "foreign"),
    "config": ("no_such.py", "file.txt", "foreign", ""),
    "generator": ("mi_uu/interleaved", "mi_ue/no_such", "", "no_such:part", "own:"),
    "victim": ("quik", "", "own:model"),
    "victims": ("quik", ""),
    "defense": ("jpg-10", "jpeg-ten", "jpeg-101", "", "no_such:part"),
    "defenses": ("jpg-10", "jpeg-ten", ""),
    "generators": ("mi_uu", "clean/er", ""),
    "split": ("validation", ""),
    "model": ("lenet", "", "no_such:model"),
    "models": ("mlp9", ""),
    "dtype": ("float31", ""),
    "schedule": ("cosin", ""),
    "classes": ("no_such", "99", ""),
    "layers": ("no_such",),
    "data": ("no_such.npz", "no_such_folder/", "shape", "foreign", ""),
    "test": ("no_such.npz", "shape", "foreign"),
    "protected": ("no_such.npz", "file.txt", "foreign", "data.npz"),
    "output": ("made.zip", "no_such/made.npz", "foreign"),
    "json": ("no_such/made.json", "foreign"),
    "npy": ("made.txt", "no_such/made.npy"),
    "png": ("foreign", "file.txt", "no_such/made"),
    "perturbation": ("no_such", ""),
    "norm": ("l3", ""),
    "protector": ("no_such.safetensors", "file.txt", "data.npz", "foreign", ""),
    "format": ("gif", ""),
    "effort": ("slow", ""),
}
# Where more than there will ever be means never, or all, or any number will do.
_UNLIMITED = re.compile(
    r"--(checkpoint-every|evaluate-every|.*batch-size|.*batches-per-visit"
    r"|(data|train|test)\.seed)"
)
# What only a whole run of one's own generator can show: its directory may be left,
# without results.
_LATE = ("own:nan_noise", "own:wide_noise")


def part(folder: pathlib.Path, options: trials.Options) -> trials.Part:
    """Tries `count` inputs: all that are listed, and for the rest wrong options."""
    good = folder / "inputs"
    bad_files.write(good)
    listed = list(dict.fromkeys(bad_files.commands()))
    rng = trials.generator(options.seed, "inputs")
    wrong = list(dict.fromkeys(_wrong_options(good, options.jobs)))
    rng.shuffle(wrong)
    # One for every option of every command first, then more of them.
    first: dict[tuple[str, str], tuple[str, ...]] = {}
    for about, arguments in wrong:
        first.setdefault(about, arguments)
    rest = [arguments for about, arguments in wrong if first[about] != arguments]
    chosen = [*listed, *first.values()]
    if options.count < len(chosen):
        chosen = rng.sample(chosen, options.count)
    else:
        chosen += rest[: options.count - len(chosen)]
    cases = {
        case: functools.partial(
            _trial,
            *(case, folder, good, arguments),
            fresh=number % (len(chosen) // _FRESH + 1) == 0,
            keep=options.keep,
        )
        for number, (case, arguments) in enumerate(
            zip(trials.numbered("inputs", range(len(chosen))), chosen, strict=True)
        )
    }
    options.say(f"{len(listed)} inputs are listed, {len(first)} options tried")
    return trials.collect("bad input", cases, options)


def _trial(
    case: str,
    folder: pathlib.Path,
    good: pathlib.Path,
    arguments: Sequence[str],
    *,
    fresh: bool,
    keep: bool,
) -> Result:
    place = folder / case.replace("/", "_")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place, symlinks=True)
    look = trials.tree if not {*_LATE} & {*arguments} else trials.outputs
    before = look(place)
    ended = commands.run(
        arguments, place, seconds=_PATIENCE, fresh=fresh, memory=_MEMORY
    )
    after = look(place)
    shown = commands.shown(arguments)
    symptom = commands.refusal(ended)
    if before != after:
        names = [x for x in {**before, **after} if before.get(x) != after.get(x)]
        changed = f"writes {', '.join(sorted(names)[:4])}"
        symptom = changed if symptom is None else f"{symptom}; {changed}"
    if not keep:
        shutil.rmtree(place)
    if symptom is not None:
        return Result(case, "failed", shown, symptom)
    return Result(case, "refused", shown, ended.err.strip())


def _names(kind: str, place: pathlib.Path) -> list[str]:
    ended = commands.run(("list", kind, "--json"), place)
    return json.loads(ended.out)[kind]


def _bases(place: pathlib.Path) -> Iterator[_Base]:
    run = ("--quiet", "--workdir", "new")
    noise = ("protect", "data.npz", *run, "--generator", "random_noise")
    yield _Base(noise)
    for name in _names("generators", place):
        # The schedule of the paper does nothing in two epochs.
        name = "mi_ue/interleaved" if name == "mi_ue" else name
        yield _Base(("protect", "data.npz", *run, "--generator", name), "--generator.")
    quick = ("--effort", "fast", "--no-measure", "--quiet")
    yield _Base(("protect-folder", "photos", "new", *quick))
    yield _Base(("fit-protector", "photos", "--output", "made.safetensors"))
    evaluate = ("evaluate", "data.npz", "data.npz", *run, "--seeds", "0")
    yield _Base(evaluate)
    for name in _names("defenses", place):
        name = re.sub("<(.*)>", lambda place: _PLACES[place[1]], name)
        yield _Base((*evaluate, "--defense", name), "--defense.")
    yield _Base(("sweep", "--config", "sweep.py", *run))
    measured = ("--data", "data.npz", "--protected", "protected.npz")
    yield _Base(("measure", "victim", *measured, *run))
    yield _Base(("detect", "protected.npz", "data.npz", "--models", "linear"))
    yield _Base(("export", "protected.npz"))
    made = ("--output", "made.npz")
    yield _Base(("import", "protected.delta.npy", "data.npz", *made))
    yield _Base(("table", "results.json"))
    yield _Base(("list",))
    yield _Base(("demo", "--quiet"))


def _wrong_options(
    place: pathlib.Path, jobs: int
) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    """Yields the command and option, and the whole command line."""
    bases = list(_bases(place))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda base: (base, _options(base, place)), bases))
    for base, options in found:
        small = _small(options)
        for option in options:
            if not option.name.startswith(base.prefix):
                continue
            about = (" ".join(base.arguments), option.name)
            for arguments in _spoiled(base.arguments, small, option):
                yield about, arguments


def _small(options: Sequence[_Option]) -> tuple[str, ...]:
    """What makes a command quick that should be refused and is not."""
    return tuple(
        text
        for option in options
        if (setting := option.name.rpartition(".")[2]) in _SMALL and "." in option.name
        for text in (option.name, _SMALL[setting])
    )


def _options(base: _Base, place: pathlib.Path) -> list[_Option]:
    """The options of a command, from its help."""
    arguments = base.arguments
    ended = commands.run((*arguments, "--help"), place, environment={"COLUMNS": "100"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", ended.out)
    # As those of a long help do where it is wide: then only some would be found.
    if any(line.count("╭") > 1 for line in text.splitlines()):
        raise RuntimeError(f"{commands.shown(arguments)} --help: sections side by side")
    found = {}
    for line in text.splitlines():
        if shown := re.match(
            r"\W*(--[\w.-]+)(?:, --[\w.-]+| (\S.*?))?(?:  .*|\W*)$", line
        ):
            found[shown[1]] = _Option(shown[1], (shown[2] or "").strip(" │"))
    if not found:
        raise RuntimeError(f"{commands.shown(arguments)} --help: {ended.err}")
    found.pop("--help", None)
    options = list(found.values())
    # Its own network takes minutes to compile.
    if base.arguments[0] in _TRIED and "d_vae" not in base.arguments:
        _check_right((*arguments, *_small(options)), place)
    return options


def _check_right(arguments: Sequence[str], place: pathlib.Path) -> None:
    """Makes sure that only what is appended to a command is wrong with it."""
    copy = pathlib.Path(tempfile.mkdtemp(dir=place.parent))
    shutil.copytree(place, copy, symlinks=True, dirs_exist_ok=True)
    ended = commands.run(arguments, copy)
    shutil.rmtree(copy)
    if ended.status != 0:
        raise RuntimeError(f"{commands.shown(arguments)} is refused: {ended.err}")


def _spoiled(
    base: tuple[str, ...], small: Sequence[str], option: _Option
) -> Iterator[tuple[str, ...]]:
    """Yields command lines with a wrong use of one option."""
    name, kind = option

    # What the command line itself sets must not be given twice by accident.
    def without(arguments: Sequence[str]) -> list[str]:
        kept = list(arguments)
        while name in kept:
            at = kept.index(name)
            last = at + 1
            while last < len(kept) and kept[last][:2] != "--":
                last += 1
            del kept[at:last]
        return kept

    rest = [*without(base), *without(small)]
    misspelt = f"{name[:-2]}{name[-1]}{name[-2]}" if name[-1] != name[-2] else name[:-1]
    if not kind:
        yield (*rest, misspelt)
        yield (*rest, f"{name}=perhaps")
        yield (*rest, name, name)
        return
    value = "1" if re.search("INT|FLOAT", kind) else "none"
    yield (*rest, misspelt, value)
    if "[" not in kind:
        yield (*rest, name)
    yield (*rest, name, value, name, value)
    last = name.removeprefix("--").rpartition(".")[2]
    for bad in _values(last, kind):
        if bad != _HUGE or not _UNLIMITED.fullmatch(name):
            # With a sign of equality, a negative number is no option.
            yield (*rest, name, bad) if "[" in kind else (*rest, f"{name}={bad}")


def _values(name: str, kind: str) -> tuple[str, ...]:
    for word, values in _NUMBERS.items():
        if word in kind:
            return values
    if choices := re.search(r"\{([\w,-]+)\}(?!\|)", kind):
        first = choices[1].split(",")[0]
        return (f"{first}x", "", "1")
    return _TEXTS.get(name, ())
