"""The command ``miue sweep``: a whole sweep, or its cells one by one."""

import dataclasses
import functools
import json
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from tyro.conf import Positional, arg

from miue_jax import _checks
from miue_jax._command_line import option, parse, report, without_option
from miue_jax._run_options import (
    PROG,
    TEST,
    TRAIN,
    Data,
    as_kind,
    directory_of,
    from_file,
    options_of,
    shallow,
    shown_in_tensorboard,
    source_of,
    start,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """Settings of a sweep.

    Attributes:
      workdir: directory of the sweep.
      config: a Python file whose get_config() returns the settings; options override
        them.
      data: the training data (see `miue protect --help`).
      test: clean test images; None for the test split of the data.
      data_options: of the training data.
      test_options: of the test data.
      generators: rows: names and presets, "clean", or names of the configuration.
      defenses: columns: names, or names of the configuration.
      victims: protocols of the training, or names of the configuration.
      seeds: of the victims.
      generator_seed: of every generator whose row has none of its own.
      num_shards: shards of the data; None for one per device.
      device_invariant: make results equal to the last bit on any number of devices of
        one kind.
      evaluate_every: epochs between tests.
      data_name: what the tables call the data.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")] = ""
    workdir: str = ""
    config: str | None = None
    test: str | None = None
    data_options: Annotated[Data, arg(name="data")] = TRAIN
    test_options: Annotated[Data, arg(name="test")] = TEST
    generators: tuple[str, ...] = ("clean", "mi_ue/interleaved")
    defenses: tuple[str, ...] = ("none",)
    victims: tuple[str, ...] = ("quick",)
    seeds: tuple[int, ...] = (0,)
    generator_seed: int = 0
    num_shards: int | None = None
    device_invariant: bool = False
    evaluate_every: int = 1
    data_name: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions(_Settings):
    """Runs generators x defenses x seeds, cell by cell, and tabulates the accuracies.

    `miue sweep plan`, `run`, `status`, `table` and `manifest`, with the same settings,
    are about single cells and clusters (`miue sweep run --help`). Where the settings
    are left out, they are those of the sweep that was started in the directory.

    Attributes:
      resume: resume runs that are in the directory.
      quiet: no progress bars.
      tensorboard: write event files for TensorBoard, too.
      launcher: what runs the cells: local, processes of this machine; slurm; or ray.
        None for this process, or local where devices are given.
      devices: local processes to run at once, each on a device of its own.
      cpus: cores of a cell, on slurm and ray.
      gpus: GPUs of a cell, on slurm and ray, there also a part of one.
      tpus: TPU chips of a cell, on ray.
      minutes: time limit of a cell, on slurm.
      slurm: options of sbatch, such as partition=gpu account=me.
      address: of a Ray cluster (host:port, or auto); None to start one here.
      wait: wait for the cells; slurm can do without.
    """

    resume: bool = True
    quiet: bool = False
    tensorboard: bool = False
    launcher: Literal["local", "slurm", "ray"] | None = None
    devices: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    tpus: int = 0
    minutes: int = 240
    slurm: tuple[str, ...] = ()
    address: str | None = None
    wait: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PlanOptions(_Settings):
    """Prints the cells of a sweep in their order, and what each of them waits for.

    Attributes:
      json: print JSON.
    """

    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RunOptions(_Settings):
    """Runs one cell of a sweep, or resumes it; one that is done is left as it is.

    The status is 1 if it comes to nothing, such as training that diverges.

    Attributes:
      cell: its name, see `miue sweep plan`.
      quiet: no progress bars.
    """

    cell: str = ""
    quiet: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StatusOptions(_Settings):
    """Shows how many cells of a sweep are done, running, failed and waiting.

    Attributes:
      watch: go on until none of them is left, with a line for every change.
      tensorboard: write event files for TensorBoard meanwhile.
      every: seconds between two looks.
      json: print JSON: the state of every cell.
    """

    watch: bool = False
    tensorboard: bool = False
    every: float = 5.0
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ManifestOptions(_Settings):
    """Prints what runs a sweep on TPU slices: a JobSet of Kubernetes, or a script.

    Attributes:
      accelerator: of a slice, such as v5litepod-16.
      form: jobset, for `kubectl apply -f -`; or queued-resource, a shell script.
      name: of the JobSet or the queued resource.
      image: container of a JobSet, in which the package is installed.
      claim: volume claim of a JobSet, on which the directory lies.
      mount: where the volume is mounted.
      slices: of a JobSet, which share the cells.
      zone: of a queued resource.
    """

    accelerator: str = ""
    form: Literal["jobset", "queued-resource"] = "jobset"
    name: str = "miue-sweep"
    image: str = ""
    claim: str = ""
    mount: str = "/data"
    slices: int = 1
    zone: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TableOptions(_Settings):
    """Writes and prints the tables of the cells that are done, by whichever process."""


_AXES = ("generators", "defenses", "victims")
_SWEEP = (
    *("generator_seed", "num_shards", "device_invariant"),
    *("evaluate_every", "data_name"),
)


def run(arguments: Sequence[str]) -> int | None:
    """Runs ``miue sweep``, or one of its actions.

    Args:
      arguments: the command line behind ``sweep``.

    Returns:
      The exit status.
    """
    name, arguments = _split(arguments)
    action = _ACTIONS[name]
    base, defaults = _base(name, arguments)
    given: Any = parse(
        action.options,
        arguments,
        prog=f"{PROG} sweep {name}".rstrip(),
        default=action.options(**shallow(defaults)),
    )
    if name != "plan":
        workdir = directory_of(given.workdir)
        if name and base is None and not given.data:
            raise ValueError(f"{workdir} holds no sweep: name its DATA or a --config")
    sweep = _sweep(given, defaults, base)
    if name == "manifest":
        return _manifest(sweep, given, arguments)
    return action.run(sweep, given)


def _split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The action, "" for all cells, and the other arguments."""
    several = {f"--{axis}" for axis in (*_AXES, "seeds", "slurm")}
    flags = {"--quiet", "--resume", "--device-invariant", "--watch", "--json", "--wait"}
    flags.add("--tensorboard")
    values = 0.0
    for number, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, _ = argument.replace("_", "-").partition("=")
            values = 0 if equals or name.replace("--no-", "--", 1) in flags else 1
            values = float("inf") if name in several and not equals else values
        elif values:
            values -= 1
        elif argument in _ACTIONS:
            return argument, [*arguments[:number], *arguments[number + 1 :]]
    return "", list(arguments)


def _base(name: str, arguments: Sequence[str]) -> tuple[Any, _Settings]:
    """The sweep of a file or of the directory, and the options that would make it."""
    from miue_jax.data import bucket
    from miue_jax.workflows.sweep import records
    from miue_jax.workflows.sweep.plan import Sweep, test_split

    file, workdir = (option(arguments, x, None) for x in ("--config", "--workdir"))
    if file is not None:
        base = from_file(file, functools.partial(as_kind, Sweep))
    elif name and workdir and (bucket.place(workdir) / records.SETTINGS).exists():
        if "" not in sys.path:
            sys.path.append("")  # its settings may name parts of the user's own
        base = records.read_settings(bucket.place(workdir))
    else:
        return None, _Settings()
    data, test = options_of(base.data, TRAIN), options_of(base.test, TRAIN)
    shown: dict[str, Any] = {axis: tuple(getattr(base, axis)) for axis in _AXES}
    shown |= {k: getattr(base, k) for k in ("seeds", *_SWEEP)}
    return base, _Settings(
        data=data[0],
        test=None if base.test == test_split(base.data) else test[0],
        data_options=data[1],
        test_options=test[1],
        **shown,
    )


def _sweep(given: Any, defaults: _Settings, base: Any) -> Any:
    from miue_jax.workflows.sweep.plan import Sweep

    axes = {axis: _chosen(base, axis, getattr(given, axis)) for axis in _AXES}
    # Blocks name rows and columns of the file: a choice of others replaces them.
    chosen = any(getattr(given, x) != getattr(defaults, x) for x in (*_AXES, "seeds"))
    named = given.test is not None or given.test_options != TEST
    return Sweep(
        data=source_of(given.data, given.data_options),
        test=source_of(given.test or given.data, given.test_options) if named else None,
        **axes,
        seeds=given.seeds,
        blocks=() if base is None or chosen else base.blocks,
        **{k: getattr(given, k) for k in _SWEEP},
    )


def _chosen(base: Any, axis: str, names: Sequence[str]) -> Any:
    """Rows or columns by name: those of a configuration, or their own specs."""
    from miue_jax.workflows.sweep import plan

    known = {} if base is None else getattr(base, axis)
    labels = [name if name in known else plan.label(name) for name in names]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{label!r} is given twice in {axis}")
    return {k: known.get(name, name) for k, name in zip(labels, names, strict=True)}


def _all(sweep: Any, given: SweepOptions) -> None:
    from miue_jax.data import bucket
    from miue_jax.workflows.sweep import launch, run

    workdir = bucket.place(given.workdir)
    options = {"resume": given.resume, "progress": not given.quiet}
    launcher = _launcher(given)
    launched = launcher is not None
    if not launched:
        start()
    with shown_in_tensorboard(workdir, given.tensorboard, launched=launched):
        if launcher is None:
            results = run.run(sweep, workdir, **options)
        else:
            results = launch.launch(
                sweep, workdir, launcher, wait=given.wait, **options
            )
    told = _told(results)
    if not given.wait:
        return report(f"{workdir}: {told}; `miue sweep status --workdir {workdir}`")
    return report(f"{workdir}: {told}; see table.md")


# What is an option of which launchers.
_OF = {
    "devices": ("local",),
    "cpus": ("slurm", "ray"),
    "gpus": ("slurm", "ray"),
    "tpus": ("ray",),
    "minutes": ("slurm",),
    "slurm": ("slurm",),
    "address": ("ray",),
    "wait": ("slurm",),
}


def _launcher(given: SweepOptions) -> Any:
    name = given.launcher
    if name is None and given.devices is not None:
        name = "local"
    for option_, names in _OF.items():
        default = SweepOptions.__dataclass_fields__[option_].default
        if getattr(given, option_) != default and name not in names:
            raise ValueError(f"--{option_} is for --launcher {' and '.join(names)}")
    if name is None:
        return None
    from miue_jax.workflows.sweep.launch import Resources
    from miue_jax.workflows.sweep.launchers import local, ray, slurm

    if name == "local":
        return local.launcher(1 if given.devices is None else given.devices)
    numbers = ("cpus", "gpus", "tpus", "minutes")
    resources = Resources(**{k: getattr(given, k) for k in numbers})
    if name == "ray":
        return ray.launcher(given.address, resources)
    return slurm.launcher(resources, _pairs(given.slurm))


def _pairs(given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if not re.fullmatch(r"[a-z][a-z-]*=.+", text):
            raise ValueError(f"--slurm has {text!r}; allowed: name=value, of sbatch")
    return dict(text.split("=", 1) for text in given)


def _told(results: Any) -> str:
    failed = f", {len(results['failed'])} failed" if results["failed"] else ""
    return f"{results['done']} of {results['planned']} cells are done{failed}"


def _plan(sweep: Any, given: _PlanOptions) -> None:
    from miue_jax.workflows.sweep import tasks

    found = tasks.tasks(sweep)
    if given.json:
        print(json.dumps([{"cell": t.name, "after": list(t.after)} for t in found]))
        return
    for task in found:
        print(" ".join([task.name, *(f"after {name}" for name in task.after)]))


def _run(sweep: Any, given: _RunOptions) -> int:
    from miue_jax.data import bucket
    from miue_jax.workflows.sweep import tasks

    if not given.cell:
        raise ValueError("--cell is missing: name one that `miue sweep plan` prints")
    tasks.find(sweep, given.cell)
    start()
    workdir = bucket.place(given.workdir)
    why = tasks.run_task(sweep, workdir, given.cell, progress=not given.quiet)
    report(f"{given.cell}: {'done' if why is None else f'failed: {why}'}")
    return int(why is not None)


def _status(sweep: Any, given: _StatusOptions) -> None:
    from miue_jax.data import bucket

    _checks.check_number("every", given.every, "> 0")
    workdir = bucket.place(given.workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: no such directory")
    with shown_in_tensorboard(workdir, given.tensorboard, launched=True):
        _watch(sweep, workdir, given)


def _watch(sweep: Any, workdir: Any, given: _StatusOptions) -> None:
    from miue_jax.workflows.sweep import status

    before = None
    while True:
        found = status.status(sweep, workdir)
        if given.json:
            text = json.dumps(found._asdict())
        else:
            failed = [f"\n{name}: {why}" for name, why in found.failed.items()]
            text = status.describe(found) + "".join(failed)
        if text != before:
            print(text, flush=True)
            before = text
        left = {"running", "waiting"} & set(found.states.values())
        if not given.watch or not left:
            return
        time.sleep(given.every)


def _table(sweep: Any, given: _TableOptions) -> None:
    from miue_jax.data import bucket
    from miue_jax.workflows.sweep import plan, records, table
    from miue_jax.workflows.sweep import report as reports

    workdir, cells = bucket.place(given.workdir), plan.cells(sweep)
    records.check_protected(sweep, workdir, [cell.generator for cell in cells])
    results = reports.report(sweep, workdir, cells, {})
    if not results["done"]:
        raise ValueError(f"{workdir}: no cell of this sweep is done")
    print(table.render(results))


def _manifest(sweep: Any, given: _ManifestOptions, arguments: Sequence[str]) -> None:
    from miue_jax.workflows.sweep import manifest

    del sweep  # it is a right one
    own = set(_ManifestOptions.__dataclass_fields__) - set(
        _Settings.__dataclass_fields__
    )
    if not given.workdir.startswith("/"):
        raise ValueError(f"--workdir is {given.workdir}; name it from / on")
    command = [PROG, "sweep", *arguments]
    for name in own:
        command = without_option(command, f"--{name}")
    needed = ("image", "claim") if given.form == "jobset" else ("zone",)
    for name in ("accelerator", *needed):
        if not getattr(given, name):
            raise ValueError(f"--{name} is missing")
    common = {"accelerator": given.accelerator, "name": given.name}
    if given.form == "queued-resource":
        text = manifest.queued_resource(command, zone=given.zone, **common)
        print(text, end="")
        return
    if not given.workdir.startswith(f"{given.mount.rstrip('/')}/"):
        raise ValueError(
            f"--workdir is {given.workdir}; it must lie below --mount {given.mount}"
        )
    made = manifest.jobset(
        command,
        image=given.image,
        claim=given.claim,
        mount=given.mount,
        slices=given.slices,
        **common,
    )
    print(json.dumps(made, indent=2))


class _Action(NamedTuple):
    run: Callable[..., int | None]
    options: Any


_ACTIONS = {
    "": _Action(_all, SweepOptions),
    "plan": _Action(_plan, _PlanOptions),
    "run": _Action(_run, _RunOptions),
    "status": _Action(_status, _StatusOptions),
    "table": _Action(_table, _TableOptions),
    "manifest": _Action(_manifest, _ManifestOptions),
}


def _work(arguments: Sequence[str]) -> None:
    """One of the processes of the launcher local."""
    from miue_jax.data import bucket
    from miue_jax.train import run_directory
    from miue_jax.workflows.sweep import run
    from miue_jax.workflows.sweep.launchers import local
    from miue_jax.workflows.sweep.plan import Sweep

    settings, workdir, parent = arguments
    local.end_with(int(parent))
    start(alone=True)
    sweep = Sweep(**run_directory.read_json(pathlib.Path(settings)))
    run.run(sweep, bucket.place(workdir))


def _check(arguments: Sequence[str]) -> None:
    """Looks for what is wrong with a sweep before any cell is launched."""
    from miue_jax.train import run_directory
    from miue_jax.workflows.sweep import plan

    (settings,) = arguments
    start(alone=True)
    sweep = plan.Sweep(**run_directory.read_json(pathlib.Path(settings)))
    plan.check(sweep, plan.cells(sweep))


# Commands of processes that others start.
INTERNAL = {"sweep-worker": _work, "sweep-check": _check}
