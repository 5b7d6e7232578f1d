"""Options that several commands of ``miue`` have, and the settings in files."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from tyro.conf import arg

from miue_jax import _checks, _command_line, _lost_process, _own
from miue_jax._command_line import load_config

PROG = "miue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Options of a data set.

    Attributes:
      split: train or test.
      per_class: images of each class, of a balanced subset; None for all.
      seed: of the subset, and of procedural images.
      data_dir: where TFDS keeps its prepared data.
    """

    split: str = "train"
    per_class: int | None = None
    seed: int = 0
    data_dir: str | None = None


TRAIN = Data()
TEST = Data(split="test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Options of every run.

    Attributes:
      workdir: directory of the run; rerun the same command to resume.
      config: a Python file whose get_config() returns the settings; options override
        them.
      resume: resume a run that is in the directory.
      quiet: no progress bars.
    """

    workdir: str = ""
    config: str | None = None
    resume: bool = True
    quiet: bool = False


def directory_of(workdir: str) -> Any:
    """A path, or an address in a bucket."""
    from miue_jax.data import bucket

    if not workdir:
        raise ValueError("--workdir is missing: name a directory for the run")
    return bucket.place(workdir)


def source_of(name: str, options: Data, missing: str = "DATA") -> Any:
    from miue_jax.data import DataSource

    if not name:
        raise ValueError(f"{missing} is missing: name a data set, such as shapes")
    return DataSource(name, **dataclasses.asdict(options))


def options_of(source: Any, default: Data) -> tuple[str, Data]:
    """The name and the options of a data set in a configuration file."""
    if isinstance(source, str | os.PathLike):
        source = {"name": os.fspath(source)}
    elif dataclasses.is_dataclass(source) and not isinstance(source, type):
        source = dataclasses.asdict(source)
    elif not isinstance(source, Mapping):
        raise ValueError(
            f"data are {_checks.shown(source)}; allowed: a name, a path, or a mapping "
            "with the name and the options"
        )
    settings: dict[str, Any] = {**dataclasses.asdict(default), **source}
    name = settings.pop("name", "shapes")
    for field in settings:
        if field not in Data.__dataclass_fields__:
            known = ("name", *Data.__dataclass_fields__)
            raise _checks.unknown("setting of data", field, known)
    return name, Data(**settings)


def from_file(file: str, convert: Callable[[Any], Any]) -> Any:
    """Converts what a configuration file returns; whatever is wrong names the file."""
    config = load_config(file)
    with _own.calling(file):
        return convert(config)


def mapping(config: Any, kind: type) -> dict[str, Any]:
    """The fields of a configuration, which may be a mapping or the dataclass itself."""
    if isinstance(config, kind):
        return shallow(config)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"get_config must return a {kind.__name__} or a mapping of its fields, "
            f"got {_checks.shown(config)}"
        )
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in config:
        if name not in fields:
            raise _checks.unknown("setting", name, fields)
    return dict(config)


def as_kind(kind: type, config: Any) -> Any:
    """The configuration as the dataclass, which converts its fields itself."""
    return config if isinstance(config, kind) else kind(**mapping(config, kind))


def shallow(instance: Any) -> dict[str, Any]:
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}


@contextlib.contextmanager
def shown_in_tensorboard(
    workdir: Any, wanted: bool, *, launched: bool = False
) -> Iterator[None]:
    """Mirrors metrics while the context lasts, in the first process of a run.

    Args:
      workdir: of the run.
      wanted: whether to do so.
      launched: whether other processes do the work, and this one takes no device.

    Raises:
      ValueError: if the directory is in a bucket.
    """
    with contextlib.ExitStack() as stack:
        if wanted:
            if not isinstance(workdir, pathlib.Path):
                raise ValueError(
                    f"tensorboard: {workdir} is in a bucket; allowed: a local --workdir"
                )
            import jax

            from miue_jax.train import parallel
            from miue_jax.workflows import tensorboard

            # Where it cannot be done, all processes end.
            with contextlib.nullcontext() if launched else parallel.together():
                if launched or jax.process_index() == 0:
                    stack.enter_context(tensorboard.mirrored(workdir))
        yield


def with_fields(base: type, **values: Any) -> type:
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


def start(*, alone: bool = False) -> None:
    """Prepares JAX, once the arguments are known to be right."""
    import jax

    from miue_jax.train import parallel

    _command_line.keep_compiled()
    if alone:
        return
    heartbeat, join = _command_line.heartbeat_timeout(), _command_line.join_timeout()
    with _lost_process.joining(PROG, join, _command_line.BAD_INPUT):
        parallel.initialize_processes(heartbeat_timeout=heartbeat, join_timeout=join)
    if jax.distributed.is_initialized():
        _lost_process.watch(PROG)
