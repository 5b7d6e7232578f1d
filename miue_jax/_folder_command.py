"""The commands of folders of pictures: ``protect IN OUT`` and ``fit-protector``."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from miue_jax._command_line import parse, report
from miue_jax._run_options import (
    PROG,
    TRAIN,
    Data,
    directory_of,
    source_of,
    start,
    with_fields,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderOptions:
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


def run(arguments: Sequence[str], name: str = "protect-folder") -> None:
    """Runs `miue protect IN OUT`, or one of its other names."""
    from miue_jax.data import bucket
    from miue_jax.workflows.folder import run as workflow

    given = parse(FolderOptions, arguments, prog=f"{PROG} {name}")
    names = [field.name for field in dataclasses.fields(workflow.FolderConfig)]
    config = workflow.FolderConfig(**{name: getattr(given, name) for name in names})
    bucket.refuse(IN=given.source, OUT=given.output, workdir=given.workdir)
    if not given.source:
        raise ValueError("IN is empty: name a folder of pictures")
    if not given.output:
        raise ValueError("OUT is empty: name a folder to create")
    output = pathlib.Path(given.output)
    workdir = workflow.workdir_of(output)
    if given.workdir is not None:
        workdir = directory_of(given.workdir)
    start(alone=True)
    found = workflow.run(
        config, pathlib.Path(given.source), output, workdir, progress=not given.quiet
    )
    report(f"{output}: {workflow.describe(found)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
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


def fit(arguments: Sequence[str]) -> None:
    """Runs `miue fit-protector`."""
    from miue_jax.data import atomic, bucket
    from miue_jax.protector import FitConfig
    from miue_jax.workflows.folder import fit_protector

    kind = with_fields(FitOptions, fit=FitConfig())
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
