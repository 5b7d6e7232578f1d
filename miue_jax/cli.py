"""The command ``miue``: what `miue_jax.workflows` does, from the command line."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro
from tyro.conf import Positional, arg

from miue_jax import _benchmark_command, _checks, _command_line, _sweep_command
from miue_jax._command_line import option, parse, report, without_option
from miue_jax._run_options import (
    PROG,
    TEST,
    TRAIN,
    Data,
    Run,
    as_kind,
    directory_of,
    from_file,
    mapping,
    options_of,
    shallow,
    shown_in_tensorboard,
    source_of,
    start,
)
from miue_jax.train import host_memory

# JAX and the workflows are imported by the commands, so that the help is quick.

_Export = Literal["round", "truncate", "drop_negative"]


def _with_fields(base: type, **values: Any) -> type:
    """Adds typed settings to options: `generator=config` makes --generator.FIELD."""
    fields = []
    for name, value in values.items():
        kind: Any = value if isinstance(value, type) else type(value)
        default: Any = dataclasses.MISSING if kind is value else value
        field = dataclasses.field(default=default)
        fields.append((f"{name}_settings", Annotated[kind, arg(name=name)], field))
    made = dataclasses.make_dataclass(
        base.__name__.strip("_"), fields, bases=(base,), frozen=True, kw_only=True
    )
    made.__doc__ = base.__doc__
    return made


# protect


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Protect(Run):
    """Protects a data set: writes images that models do not learn from.

    `miue protect IN OUT` protects a folder of pictures of any sizes and formats; see
    `miue protect-folder --help`, which is another name for it.

    Attributes:
      data: "shapes", a TFDS name, an image folder, an .npz file, a CIFAR archive, or
        module:function.
      data_options: of the data.
      generator: its name and preset (see `miue list presets`), or module:function.
      fraction: share of the images to protect.
      classes: names or numbers of the classes to protect; None for all.
      select_seed: of the choice of images.
      export: how the perturbation becomes whole gray levels.
      seed: of the generator.
      num_shards: shards of the data; None for one per device.
      device_invariant: make results equal to the last bit on any number of devices of
        one kind.
      stream: read images when they are needed and keep perturbations on disk, for data
        larger than memory; the result is the same.
      checkpoint_every: steps between checkpoints.
      tensorboard: write event files for TensorBoard, too.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")] = ""
    data_options: Annotated[Data, arg(name="data")] = TRAIN
    generator: str = "mi_ue/interleaved"
    fraction: float = 1.0
    classes: tuple[str, ...] | None = None
    select_seed: int = 0
    export: _Export = "round"
    seed: int = 0
    num_shards: int | None = None
    device_invariant: bool = False
    stream: bool = False
    checkpoint_every: int = 200
    tensorboard: bool = False


# The name of views, whose settings are options that begin with it.
_VIEWS = "--generator.views"


def _protect(arguments: Sequence[str]) -> None:
    from miue_jax import generators
    from miue_jax.data import artifact
    from miue_jax.workflows import protect

    if _names_folders(arguments):
        return _protect_folder(arguments, "protect")
    defaults, spec = _Protect(), None
    if (file := option(arguments, "--config", None)) is not None:
        defaults, spec = from_file(file, _protect_defaults)
    name = option(arguments, "--generator", None)
    if name is not None or spec is None:
        spec = generators.spec(defaults.generator if name is None else name)
    views = option(arguments, _VIEWS, None)
    if views is not None and hasattr(spec.config, "views"):
        # A name decides what the other options of views are by default.
        spec = generators.spec(spec, views=views)
        arguments = without_option(arguments, _VIEWS)
    kind = _with_fields(_Protect, generator=spec.config)
    given: Any = parse(
        kind,
        arguments,
        prog=f"{PROG} protect",
        default=kind(**shallow(defaults), generator_settings=spec.config),
    )
    if not given.workdir and pathlib.Path(given.data or "none").is_dir():
        raise ValueError(
            "OUT is missing for a folder of pictures (miue protect IN OUT), or "
            "--workdir for a data set: name a directory for the run"
        )
    workdir = directory_of(given.workdir)
    config = protect.ProtectConfig(
        data=source_of(given.data, given.data_options),
        generator=generators.GeneratorSpec(spec.name, given.generator_settings),
        select=protect.Selection(
            fraction=given.fraction, classes=given.classes, seed=given.select_seed
        ),
        **{
            k: getattr(given, k)
            for k in (
                *("export", "seed", "num_shards", "device_invariant"),
                *("stream", "checkpoint_every"),
            )
        },
    )
    start()
    with shown_in_tensorboard(workdir, given.tensorboard):
        made = protect.run(
            config, workdir, resume=given.resume, progress=not given.quiet
        )
    report(f"{workdir / protect.ARTIFACT}: {artifact.describe(made)}")


def _protect_defaults(config: Any) -> tuple[_Protect, Any]:
    from miue_jax import _settings, generators
    from miue_jax.workflows.protect import ProtectConfig, Selection

    plain = mapping(config, ProtectConfig)
    name, options = options_of(plain.pop("data", ""), TRAIN)
    spec = generators.spec(plain.pop("generator", "mi_ue/interleaved"))
    select = plain.pop("select", {})
    if not isinstance(select, Selection):
        select = _settings.from_plain(Selection, select, "select")
    classes = select.classes
    plain |= {
        "fraction": select.fraction,
        "classes": None if classes is None else tuple(map(str, classes)),
        "select_seed": select.seed,
    }
    return _Protect(data=name, data_options=options, **plain), spec


# protect IN OUT, fit-protector


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ProtectFolder:
    """Protects a folder of pictures as people have them: `miue protect IN OUT`.

    Attributes:
      source: the folder of pictures, with or without class folders, or one picture.
      output: the folder to create, or one of an earlier run.
      strength: largest change of a channel, in gray levels.
      effort: fast takes a protector that was fitted before; standard and strong fit
        one on these pictures.
      protector: file of a protector to use (see `miue fit-protector`).
      format: of all files; None for the format of each picture.
      strip_location: remove the place where pictures were taken.
      skip_unreadable: go on where pictures cannot be read, and name them at the end.
      measure: train small networks to see what they learn from the pictures.
      seed: of everything that is drawn.
      workdir: what the next run needs; None for OUT.miue. Do not publish it.
      quiet: no progress bars.
    """

    source: Annotated[Positional[str], arg(metavar="IN")]
    output: Annotated[Positional[str], arg(metavar="OUT")]
    strength: int = 8
    effort: Literal["fast", "standard", "strong"] = "standard"
    protector: str | None = None
    format: Literal["png", "webp", "jpeg"] | None = None
    strip_location: bool = False
    skip_unreadable: bool = False
    measure: bool = True
    seed: int = 0
    workdir: str | None = None
    quiet: bool = False


def _option_names(kind: type) -> set[str]:
    """The options of a command, without what follows a dot."""
    return {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)}


# Flags of both forms of `protect`, which take no value.
_FLAGS = frozenset(("--quiet", "--no-quiet"))


def _names_folders(arguments: Sequence[str]) -> bool:
    """Whether `protect` is asked for a folder of pictures rather than a data set."""
    folder, data = _option_names(_ProtectFolder), _option_names(_Protect)
    places, value = 0, False
    for argument in arguments:
        if not argument.startswith("--"):
            places += not value and argument[:1] != "-"
            value = False
            continue
        name, equals, _ = argument.replace("_", "-").partition("=")
        known = {name.partition(".")[0], name.replace("--no-", "--", 1)}
        # An option of one form alone decides; others may take several values.
        if (known & folder) - data:
            return True
        if (known & (data | {"--generator"})) - folder:
            return False
        value = not equals and name not in _FLAGS
    return places > 1


def _protect_folder(arguments: Sequence[str], name: str = "protect-folder") -> None:
    from miue_jax.data import bucket
    from miue_jax.workflows.folder import run

    given = parse(_ProtectFolder, arguments, prog=f"{PROG} {name}")
    names = [field.name for field in dataclasses.fields(run.FolderConfig)]
    config = run.FolderConfig(**{name: getattr(given, name) for name in names})
    bucket.refuse(IN=given.source, OUT=given.output, workdir=given.workdir)
    if not given.source:
        raise ValueError("IN is empty: name a folder of pictures")
    if not given.output:
        raise ValueError("OUT is empty: name a folder to create")
    output = pathlib.Path(given.output)
    workdir = run.workdir_of(output)
    if given.workdir is not None:
        workdir = directory_of(given.workdir)
    start(alone=True)
    found = run.run(
        config, pathlib.Path(given.source), output, workdir, progress=not given.quiet
    )
    report(f"{output}: {run.describe(found)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FitProtector:
    """Fits a network that protects pictures, also later ones, by one forward pass.

    Attributes:
      data: a folder of pictures, or a data set (see `miue protect --help`).
      output: the .safetensors file to write; OUTPUT.fit holds what a stopped fit needs.
      data_options: of a data set.
      any_pictures: fit it for any pictures rather than for the classes of these.
      skip_unreadable: go on where pictures of a folder cannot be read, and name them.
      strength: largest change of a channel, in gray levels.
      size: pixels of the shorter side at which it sees pictures.
      num_codes: kinds of perturbation.
      quiet: no progress bars.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    output: str
    data_options: Annotated[Data, arg(name="data")] = TRAIN
    any_pictures: bool = False
    skip_unreadable: bool = False
    strength: int = 8
    size: int = 96
    num_codes: int = 32
    quiet: bool = False


def _fit_protector(arguments: Sequence[str]) -> None:
    from miue_jax.data import atomic, bucket
    from miue_jax.protector import FitConfig
    from miue_jax.workflows.folder import fit_protector

    kind = _with_fields(_FitProtector, fit=FitConfig())
    given: Any = parse(kind, arguments, prog=f"{PROG} fit-protector")
    bucket.refuse(DATA=given.data, output=given.output)
    atomic.check_new_file(given.output)
    atomic.check_not_read(given.output, (given.data,))
    start(alone=True)
    made = fit_protector.fit_protector(
        source_of(given.data, given.data_options),
        given.output,
        config=given.fit_settings,
        any_pictures=given.any_pictures,
        skip_unreadable=given.skip_unreadable,
        strength=given.strength,
        size=given.size,
        num_codes=given.num_codes,
        progress=not given.quiet,
    )
    report(f"{given.output}: {fit_protector.describe(made)}")


# evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluate(Run):
    """Trains victims on a data set and reports their accuracy on clean test images.

    Attributes:
      train: what they are trained on: a protected data set, or any other (see
        `miue protect --help`).
      test: clean test images.
      train_options: of the training data.
      test_options: of the test data.
      victim: protocol of the training (see `miue list victims`).
      defense: what they do against protection (see `miue list defenses`), or
        module:function.
      seeds: one victim each.
      num_shards: shards of the data; None for one per device.
      device_invariant: make results equal to the last bit on any number of devices of
        one kind.
      stream: read images when they are needed, for data larger than memory; the results
        are the same.
      evaluate_every: epochs between tests.
      checkpoint_every: epochs between checkpoints.
      tensorboard: write event files for TensorBoard, too.
    """

    train: Annotated[Positional[str], arg(metavar="TRAIN")] = ""
    test: Annotated[Positional[str], arg(metavar="TEST")] = ""
    train_options: Annotated[Data, arg(name="train")] = TRAIN
    test_options: Annotated[Data, arg(name="test")] = TEST
    victim: str = "quick"
    defense: str = "none"
    seeds: tuple[int, ...] = (0, 1, 2)
    num_shards: int | None = None
    device_invariant: bool = False
    stream: bool = False
    evaluate_every: int = 1
    checkpoint_every: int = 1
    tensorboard: bool = False


def _evaluate(arguments: Sequence[str]) -> None:
    from miue_jax import defenses, victims
    from miue_jax.workflows import evaluate

    defaults, victim, defense = _Evaluate(), None, None
    if (file := option(arguments, "--config", None)) is not None:
        defaults, victim, defense = from_file(file, _evaluate_defaults)
    name = option(arguments, "--victim", None)
    if name is not None or victim is None:
        victim = victims.preset(defaults.victim if name is None else name)
    name = option(arguments, "--defense", None)
    if name is None:
        name = defaults.defense if defense is None else defense
    defense_name, settings = defenses.parse(name)
    kind = _with_fields(_Evaluate, victim=victim, defense=settings)
    # A defense with required settings has no default.
    given: Any = parse(
        kind,
        arguments,
        prog=f"{PROG} evaluate",
        default=kind(
            **shallow(defaults),
            victim_settings=victim,
            defense_settings=(
                tyro.MISSING_NONPROP if isinstance(settings, type) else settings
            ),
        ),
    )
    workdir = directory_of(given.workdir)
    config = evaluate.EvaluateConfig(
        train=source_of(given.train, given.train_options, "TRAIN"),
        test=source_of(given.test, given.test_options, "TEST"),
        victim=given.victim_settings,
        defense=(defense_name, given.defense_settings),
        **{
            k: getattr(given, k)
            for k in (
                *("seeds", "num_shards", "device_invariant", "stream"),
                *("evaluate_every", "checkpoint_every"),
            )
        },
    )
    start()
    with shown_in_tensorboard(workdir, given.tensorboard):
        results = evaluate.run(
            config, workdir, resume=given.resume, progress=not given.quiet
        )
    report(f"{workdir / evaluate.RESULTS}: {evaluate.describe(results)}")


def _evaluate_defaults(config: Any) -> tuple[_Evaluate, Any, Any]:
    from miue_jax import _settings, defenses, victims
    from miue_jax.workflows.evaluate import EvaluateConfig

    plain = mapping(config, EvaluateConfig)
    victim = plain.pop("victim", "quick")
    if isinstance(victim, str):
        victim = victims.preset(victim)
    elif isinstance(victim, Mapping):
        victim = _settings.from_plain(victims.VictimConfig, victim, "victim")
    elif not isinstance(victim, victims.VictimConfig):
        raise ValueError(
            f"victim is {_checks.shown(victim)}; allowed: the name of a protocol, or "
            "settings"
        )
    for part, default in (("train", TRAIN), ("test", TEST)):
        named = options_of(plain.pop(part, ""), default)
        plain[part], plain[f"{part}_options"] = named
    defense = plain.pop("defense", "none")
    defenses.parse(defense)
    if "seeds" in plain:
        plain["seeds"] = _checks.as_tuple("seeds", plain["seeds"])
    return _Evaluate(**plain), victim, defense


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
    kind = _with_fields(_Measure, estimators=base.estimators)
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
    export: _Export = "round"


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
    "protect": _Command(_protect, _Protect),
    "protect-folder": _Command(_protect_folder, _ProtectFolder),
    "fit-protector": _Command(_fit_protector, _FitProtector),
    "evaluate": _Command(_evaluate, _Evaluate),
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
