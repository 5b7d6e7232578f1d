"""The command ``miue``: what `miue_jax.workflows` does, from the command line."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro
from tyro.conf import Positional, arg

from miue_jax import (
    _benchmark_command,
    _checks,
    _command_line,
    _evaluate_command,
    _folder_command,
    _protect_command,
    _sweep_command,
)
from miue_jax._command_line import option, parse, report
from miue_jax._protect_command import Export
from miue_jax._run_options import (
    PROG,
    TRAIN,
    Data,
    Run,
    as_kind,
    directory_of,
    from_file,
    options_of,
    source_of,
    start,
    with_fields,
)
from miue_jax.train import host_memory

# JAX and the workflows are imported by the commands, so that the help is quick.

# measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measure(Run):
    """Measures the information between features of clean and of protected images.

    Attributes:
      victims: directories of `miue evaluate`, or victims of the configuration.
      data: the clean images, the source of every protected data set (see
        `miue protect --help`).
      data_options: of the clean images.
      protected: the protected data set whose images are measured where the victims were
        trained on clean ones.
      layers: which layers; None for the inner ones and the features.
      per_class: pairs of each class at most.
      defended: whether images are measured as the victim's defense prepares them (JPEG,
        grayscale, bit depth), not as they are.
      noise_variances: of the bracket, on the scale of features of unit norm.
      confidence: of the limits.
      seed: of all draws.
    """

    victims: Annotated[Positional[tuple[str, ...]], arg(metavar="VICTIM")] = ()
    data: str = "shapes"
    data_options: Annotated[Data, arg(name="data")] = TRAIN
    protected: str | None = None
    layers: tuple[str, ...] | None = None
    per_class: int = 250
    defended: bool = False
    noise_variances: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    confidence: float = 0.95
    seed: int = 0


def _measure(arguments: Sequence[str]) -> None:
    from miue_jax.workflows.measure import run
    from miue_jax.workflows.measure.config import MeasureConfig

    base = MeasureConfig()
    if (file := option(arguments, "--config", None)) is not None:
        base = from_file(file, functools.partial(as_kind, MeasureConfig))
    name, options = options_of(base.data, TRAIN)
    kind = with_fields(_Measure, estimators=base.estimators)
    given: Any = parse(
        kind,
        arguments,
        prog=f"{PROG} measure",
        default=kind(
            victims=tuple(base.victims),
            data=name,
            data_options=options,
            estimators_settings=base.estimators,
            **{k: getattr(base, k) for k in _MEASURE},
        ),
    )
    workdir = directory_of(given.workdir)
    known = set(given.victims) <= base.victims.keys()
    config = MeasureConfig(
        data=source_of(given.data, given.data_options),
        victims={v: base.victims[v] for v in given.victims} if known else given.victims,
        estimators=given.estimators_settings,
        **{k: getattr(given, k) for k in _MEASURE},
    )
    start()
    results = run.run(config, workdir, resume=given.resume, progress=not given.quiet)
    report(f"{workdir / run.RESULTS}: {run.describe(results)}")


_MEASURE = (
    *("protected", "layers", "per_class", "defended"),
    *("noise_variances", "confidence", "seed"),
)


# detect, export, import, table, demo, list


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Detect:
    """Tells how well simple models detect that a data set is protected.

    Attributes:
      protected: the protected data set (.npz).
      data: its clean source (see `miue protect --help`).
      data_options: of the source.
      json: a file for the results.
    """

    protected: Annotated[Positional[str], arg(metavar="PROTECTED")]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    data_options: Annotated[Data, arg(name="data")] = TRAIN
    json: str | None = None


def _detect(arguments: Sequence[str]) -> None:
    from miue_jax.data import atomic, bucket
    from miue_jax.train import run_directory
    from miue_jax.workflows import detect

    kind = dataclasses.make_dataclass(
        "Detect", [], bases=(_Detect, detect.DetectConfig), frozen=True, kw_only=True
    )
    kind.__doc__ = _joined_docs(_Detect, detect.DetectConfig)
    given: Any = parse(kind, arguments, prog=f"{PROG} detect")
    if given.json is not None:
        atomic.check_new_file(given.json)
        atomic.check_not_read(given.json, (given.protected, given.data))
    config = detect.DetectConfig(
        **{
            f.name: getattr(given, f.name)
            for f in dataclasses.fields(detect.DetectConfig)
        }
    )
    start()
    source = source_of(given.data, given.data_options)
    results = detect.detect(given.protected, source, config)
    if given.json is not None:
        run_directory.write_json(bucket.place(given.json), results)
    # Without a file, this is all that there is of them.
    (print if given.json is None else report)(detect.describe(results))


def _joined_docs(*kinds: type) -> str:
    """One docstring with the attributes of several dataclasses."""
    first = (kinds[0].__doc__ or "").rstrip()
    rest = [
        (kind.__doc__ or "").partition("Attributes:")[2].rstrip() for kind in kinds[1:]
    ]
    return first + "".join(rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    """Writes a protected data set as PNG files, or its perturbation as an array.

    Attributes:
      protected: the protected data set (.npz).
      png: a folder to create: class/name.png, named like the source's files.
      npy: a file to create: float32 (N, C, H, W) in [0, 1] units, as PyTorch has it.
    """

    protected: Annotated[Positional[str], arg(metavar="PROTECTED")]
    png: str | None = None
    npy: str | None = None


def _export(arguments: Sequence[str]) -> None:
    from miue_jax.workflows.export import export

    given = parse(_ExportOptions, arguments, prog=f"{PROG} export")
    export(given.protected, png=given.png, npy=given.npy)
    for path in filter(None, (given.npy, given.png)):
        report(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Import:
    """Makes a protected data set of a perturbation that another program generated.

    Attributes:
      perturbation: .npy, .npz, a PNG folder, or .pt (read without running its code).
      data: the clean data (see `miue protect --help`).
      output: the .npz file to write.
      data_options: of the clean data.
      norm: that bounds the change.
      radius: its largest value: gray levels (linf), [0, 1] units (l2) or pixels (l0).
      class_wise: whether there is one per class; None to tell from the shape.
      export: how it becomes whole gray levels.
    """

    perturbation: Annotated[Positional[str], arg(metavar="PERTURBATION")]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    output: str
    data_options: Annotated[Data, arg(name="data")] = TRAIN
    norm: Literal["linf", "l2", "l0", "unbounded"] = "linf"
    radius: float = 8.0
    class_wise: bool | None = None
    export: Export = "round"


def _import(arguments: Sequence[str]) -> None:
    from miue_jax.budget import Budget
    from miue_jax.data import artifact, bucket
    from miue_jax.workflows.import_perturbation import import_perturbation

    given = parse(_Import, arguments, prog=f"{PROG} import")
    bucket.refuse(PERTURBATION=given.perturbation, output=given.output)
    radius: float | None = given.radius
    if given.norm == "unbounded":
        radius = None
    elif given.norm == "l0" and given.radius.is_integer():
        radius = int(given.radius)
    made = import_perturbation(
        given.perturbation,
        source_of(given.data, given.data_options),
        output=given.output,
        budget=Budget(given.norm, radius),
        class_wise=given.class_wise,
        export=given.export,
    )
    report(f"{given.output}: {artifact.describe(made)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    """Prints the table of results, or fills the marked tables of a Markdown file.

    Attributes:
      path: results.json, the folder of a run, or a Markdown file to fill.
      check: write nothing; the status is 1 if a table of the file is out of date.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    check: bool = False


def _table(arguments: Sequence[str]) -> int:
    from miue_jax.data import atomic, bucket
    from miue_jax.workflows.table import table

    given = parse(_Table, arguments, prog=f"{PROG} table")
    bucket.refuse(PATH=given.path)
    text, path = table(given.path), pathlib.Path(given.path)
    if path.is_dir() or path.suffix == ".json":
        print(text)
        return 0
    if given.check:
        return int(text != path.read_text())
    with atomic.write_file(path) as file:
        file.write(text.encode())
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Demo:
    """Protects the data set shapes and trains two victims, in a few minutes.

    Attributes:
      workdir: directory of the demonstration; rerun to resume.
      quiet: no progress bars.
    """

    workdir: str = "runs/demo"
    quiet: bool = False


def _demo(arguments: Sequence[str]) -> None:
    from miue_jax.data import bucket
    from miue_jax.workflows.demo import demo

    given = parse(_Demo, arguments, prog=f"{PROG} demo")
    bucket.refuse(workdir=given.workdir)
    start()
    demo(
        directory_of(given.workdir),
        say=report,
        progress=not given.quiet,
    )


_Kind = Literal[
    "generators", "presets", "defenses", "victims", "models", "data", "estimators"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _List:
    """Lists what can be named.

    Attributes:
      kind: what to list: generators, presets, defenses, victims, models, data or
        estimators; everything by default.
      json: print JSON.
    """

    kind: Annotated[Positional[_Kind | None], arg(metavar="KIND")] = None
    json: bool = False


def _list(arguments: Sequence[str]) -> None:
    given = parse(_List, arguments, prog=f"{PROG} list")
    kinds = [given.kind] if given.kind else list(get_args(_Kind))
    found = {kind: _names(kind) for kind in kinds}
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for kind, names in found.items():
        indent = "" if given.kind else "  "
        if not given.kind:
            print(f"{kind}:")
        for name in names:
            print(f"{indent}{name:<31}{_settings_shown(kind, name)}".rstrip())


def _settings_shown(kind: str, name: str) -> str:
    """The settings of a defense with their defaults, which have no other list."""
    if kind != "defenses":
        return ""
    from miue_jax import defenses

    known = defenses.parameters(name.partition("-<")[0]).items()
    return ", ".join(
        k if v.default is v.empty else f"{k}={v.default}" for k, v in known
    )


def _names(kind: str) -> list[str]:
    from miue_jax import defenses, generators, models, victims

    if kind == "presets":
        return [
            f"{name}/{preset}"
            for name in generators.NAMES
            for preset in generators.presets(name)
        ]
    if kind == "data":
        return [
            "shapes",
            "TFDS name (pip install miue_jax[tfds])",
            "path of an image folder, .npz file, CIFAR archive or protected data set",
            "path of a folder of WebDataset shards (pip install miue_jax[stream])",
            "module:function",
        ]
    if kind == "estimators":
        from miue_jax.information import estimators

        return list(estimators.NAMES)
    tables = {
        "generators": generators.NAMES,
        "defenses": defenses.NAMES,
        "victims": victims.NAMES,
        "models": models.NAMES,
    }
    return list(tables[kind])


# The command itself.


class _Command(NamedTuple):
    run: Callable[[Sequence[str]], int | None]
    options: type | None  # for shell completion


_COMMANDS = {
    "protect": _Command(_protect_command.run, _protect_command.ProtectOptions),
    "protect-folder": _Command(_folder_command.run, _folder_command.FolderOptions),
    "fit-protector": _Command(_folder_command.fit, _folder_command.FitOptions),
    "evaluate": _Command(_evaluate_command.run, _evaluate_command.EvaluateOptions),
    "sweep": _Command(_sweep_command.run, _sweep_command.SweepOptions),
    "measure": _Command(_measure, _Measure),
    "detect": _Command(_detect, _Detect),
    "export": _Command(_export, _ExportOptions),
    "import": _Command(_import, _Import),
    "table": _Command(_table, _Table),
    "demo": _Command(_demo, _Demo),
    "benchmark": _Command(_benchmark_command.run, _benchmark_command.BenchmarkOptions),
    "list": _Command(_list, _List),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: the command line without the program's name; None for that of the
        process.

    Returns:
      The exit status: 0, or 2 after bad input, which is reported in one line.
    """
    own_process = arguments is None
    if own_process:
        host_memory.keep_few_arenas()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name, *rest = arguments or ["--help"]
    prog = PROG if name.startswith("-") else f"{PROG} {name}"
    status = _command_line.run(lambda: _dispatch(name, rest), prog)
    if status == _command_line.INTERRUPTED and own_process:
        # XLA's threads go on compiling, and crash when Python ends around them.
        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(status)
    return status


def _dispatch(name: str, arguments: list[str]) -> int | None:
    if name in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if name == "--version":
        from miue_jax import __version__

        print(__version__)
        return 0
    # A user's own parts are found in the current directory, too, if the command names
    # any: no library may find a module there that it only tries to import.
    own = any(map(_names_own, arguments)) or name in _sweep_command.INTERNAL
    if own and "" not in sys.path:
        sys.path.append("")
    if name in _sweep_command.INTERNAL:
        return _sweep_command.INTERNAL[name](arguments)
    if name not in (*_COMMANDS, "completion"):
        raise _checks.unknown("command", name, (*_COMMANDS, "completion"))
    if name == "completion":
        return _completion(arguments)
    return _COMMANDS[name].run(arguments)


def _names_own(argument: str) -> bool:
    """Whether an argument is module:function, or a file that may name one."""
    value = argument.partition("=")[2] if argument.startswith("--") else argument
    return argument.startswith("--config") or bool(re.fullmatch(_OWN, value))


# A generator may have its preset behind it.
_OWN = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(/\w+)?"


def _usage() -> str:
    rows = [
        f"  {name:<14} {(command.options.__doc__ or '').splitlines()[0]}"
        for name, command in _COMMANDS.items()
        if command.options is not None
    ]
    return "\n".join(
        [
            f"usage: {PROG} COMMAND [OPTIONS]",
            "",
            "Unlearnable examples: protect pictures from unauthorized training, and "
            "measure it.",
            "",
            *rows,
            "  completion     Prints the completion script of a shell: bash or zsh.",
            "",
            f"`{PROG} COMMAND --help` shows the options of a command, "
            f"`{PROG} --version` the version.",
        ]
    )


def _completion(arguments: Sequence[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(f"usage: {PROG} completion {{bash,zsh}}")
        return
    if len(arguments) != 1 or arguments[0] not in ("bash", "zsh"):
        raise ValueError("name a shell: bash or zsh")
    kinds: Any = {n: c.options for n, c in _COMMANDS.items() if c.options is not None}
    with contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            kinds, prog=PROG, args=["--tyro-print-completion", arguments[0]]
        )
