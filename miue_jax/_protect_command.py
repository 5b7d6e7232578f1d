"""The command ``miue protect``, of data sets; it knows folders of pictures, too."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from miue_jax import _folder_command
from miue_jax._command_line import option, parse, report, without_option
from miue_jax._run_options import (
    PROG,
    TRAIN,
    Data,
    Run,
    directory_of,
    from_file,
    mapping,
    options_of,
    shallow,
    shown_in_tensorboard,
    source_of,
    start,
    with_fields,
)

Export = Literal["round", "truncate", "drop_negative"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectOptions(Run):
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
    export: Export = "round"
    seed: int = 0
    num_shards: int | None = None
    device_invariant: bool = False
    stream: bool = False
    checkpoint_every: int = 200
    tensorboard: bool = False


# The name of views, whose settings are options that begin with it.
_VIEWS = "--generator.views"


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    from miue_jax import generators
    from miue_jax.data import artifact
    from miue_jax.workflows import protect

    if _names_folders(arguments):
        return _folder_command.run(arguments, "protect")
    defaults, spec = ProtectOptions(), None
    if (file := option(arguments, "--config", None)) is not None:
        defaults, spec = from_file(file, _defaults)
    name = option(arguments, "--generator", None)
    if name is not None or spec is None:
        spec = generators.spec(defaults.generator if name is None else name)
    views = option(arguments, _VIEWS, None)
    if views is not None and hasattr(spec.config, "views"):
        # A name decides what the other options of views are by default.
        spec = generators.spec(spec, views=views)
        arguments = without_option(arguments, _VIEWS)
    kind = with_fields(ProtectOptions, generator=spec.config)
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


def _defaults(config: Any) -> tuple[ProtectOptions, Any]:
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
    return ProtectOptions(data=name, data_options=options, **plain), spec


def _option_names(kind: type) -> set[str]:
    """The options of a command, without what follows a dot."""
    return {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)}


# Flags of both forms of `protect`, which take no value.
_FLAGS = frozenset(("--quiet", "--no-quiet"))


def _names_folders(arguments: Sequence[str]) -> bool:
    """Whether `protect` is asked for a folder of pictures rather than a data set."""
    folder, data = (
        _option_names(_folder_command.FolderOptions),
        _option_names(ProtectOptions),
    )
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
