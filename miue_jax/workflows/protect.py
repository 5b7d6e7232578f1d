"""Protects a data set: runs a generator and writes the images that can be published.

The working directory then holds protected.npz (the artifact), protected.delta.npy (its
float perturbation), metrics.jsonl and checkpoints. Rerun it to resume; a finished run
is read, not repeated.
"""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from miue_jax import _own, _settings, data, generators
from miue_jax._checks import as_tuple, check_flag, check_number, check_seeds
from miue_jax._rows import Rows
from miue_jax.budget import check_export
from miue_jax.data import (
    Dataset,
    DataSource,
    artifact,
    bucket,
    npz,
    public,
    source,
)
from miue_jax.generators import GeneratorSpec
from miue_jax.train import (
    checkpoints,
    host_data,
    host_memory,
    loop,
    parallel,
    run_directory,
    sampling,
    tracing,
    windows,
)
from miue_jax.train import device_invariant as invariance

__all__ = ["ARTIFACT", "Export", "ProtectConfig", "Selection", "protect", "run"]

ARTIFACT = "protected.npz"

# Generators that run on a window of the data at a time.
_STREAMED = ("mi_ue", "error_minimizing")

# In the directory of a streamed run, until its artifact is written.
_IMAGES = "protected.images.npy"

# Below it, victims of small folders were not hurt.
_FEW_STEPS = 200

Export = Literal["round", "truncate", "drop_negative"]

_LOGGER = logging.getLogger("miue_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images to protect.

    Attributes:
      fraction: share of the images in (0, 1], drawn at random.
      classes: from which they are drawn, by name or number; None for all.
      seed: of the draw.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax.workflows.protect import Selection
      >>> Selection(fraction=0.5, classes=("cat", "dog"))
      Selection(fraction=0.5, classes=('cat', 'dog'), seed=0)
    """

    fraction: float = 1.0
    classes: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes is not None:
            classes = as_tuple("classes", self.classes)
            object.__setattr__(self, "classes", classes)
        check_number("fraction", self.fraction, "in (0, 1]")
        check_number("seed", self.seed, ">= 0", whole=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectConfig:
    """Settings of a run that protects a data set.

    Attributes:
      data: the data set.
      generator: the generator and its settings.
      select: which images to protect.
      export: how the perturbation becomes whole gray levels, see `budget.quantize`.
      seed: of the generator.
      num_shards: shards of the data; None for one per device. Results depend on it, not
        on the devices: set it to reproduce a larger machine on a smaller one.
      device_invariant: whether the result is equal to the last bit on any number of
        devices of one kind, and not only up to rounding.
      stream: whether to read the images, and to keep their perturbations on disk, a
        window of some steps at a time, for data larger than memory. The result is the
        same.
      checkpoint_every: steps between checkpoints.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.data import DataSource
      >>> from miue_jax.workflows.protect import ProtectConfig
      >>> config = ProtectConfig(
      ...     data=DataSource("shapes", per_class=2),
      ...     generator=generators.spec("random_noise", radius=4.0),
      ... )
      >>> config.export, config.generator.config.radius
      ('round', 4.0)
    """

    data: DataSource | Dataset = DataSource("shapes")
    generator: GeneratorSpec
    select: Selection = Selection()
    export: Export = "round"
    seed: int = 0
    num_shards: int | None = None
    device_invariant: bool = False
    stream: bool = False
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        check_number("checkpoint_every", self.checkpoint_every, "> 0", whole=True)
        check_seeds("seed", (self.seed,))
        check_flag("device_invariant", self.device_invariant)
        check_flag("stream", self.stream)
        if self.num_shards is not None:
            check_number("num_shards", self.num_shards, "> 0", whole=True)


def protect(
    data: str | os.PathLike[str] | DataSource | Dataset,
    generator: str | Mapping[str, Any] | GeneratorSpec = "mi_ue/interleaved",
    *,
    workdir: str | os.PathLike[str] | None = None,
    fraction: float = 1.0,
    classes: Sequence[str | int] | None = None,
    export: Export = "round",
    seed: int = 0,
    num_shards: int | None = None,
    device_invariant: bool = False,
    stream: bool = False,
    progress: bool = False,
    **settings: Any,
) -> artifact.Protected:
    """Protects a data set.

    Args:
      data: a name or path (see `data.load`), a `DataSource` or a `Dataset`.
      generator: "name" or "name/preset", module:function, or what `generators.spec`
        returns.
      workdir: directory of the run, which can be resumed; None for a temporary one.
      fraction: share of the images to protect, in (0, 1].
      classes: names or numbers of the classes to protect; None for all.
      export: how the perturbation becomes whole gray levels, see `budget.quantize`.
      seed: of the generator and of the draw of the fraction.
      num_shards: shards of the data; None for one per device.
      device_invariant: whether the result is equal to the last bit on any number of
        devices of one kind.
      stream: whether to read the images when they are needed, for data larger than
        memory; those of the result are then read from its file when they are needed.
        Needs a workdir.
      progress: whether to show a progress bar.
      **settings: of the generator, where they differ from the preset's.

    Returns:
      The protected data set.

    Raises:
      ValueError: if an input is bad, and nothing is written then; if training diverges
        or no image changes, and no artifact is written then.

    Example:
      >>> import miue_jax as mj
      >>> clean = mj.data.load("shapes", per_class=2)
      >>> made = mj.protect(clean, "random_noise", radius=4)
      >>> made.metadata["audit"]["max_change"]
      4
    """
    chosen = None
    if classes is not None:
        chosen = tuple(map(str, as_tuple("classes", classes)))
    config = ProtectConfig(
        data=source(data),
        generator=generators.spec(generator, **settings),
        select=Selection(fraction=fraction, classes=chosen, seed=seed),
        export=export,
        seed=seed,
        num_shards=num_shards,
        device_invariant=device_invariant,
        stream=stream,
    )
    if stream and workdir is None:
        raise ValueError("workdir is None; allowed with stream: a directory")
    with directory_of(workdir) as path:
        return run(config, path, progress=progress)


@contextlib.contextmanager
def directory_of(
    workdir: str | os.PathLike[str] | bucket.Address | None,
) -> Iterator[bucket.Place]:
    """Yields a working directory, a temporary one for None."""
    if workdir is not None:
        if not str(workdir):
            # It would be the current directory.
            raise ValueError("workdir is empty: name a directory for the run")
        yield bucket.place(workdir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder) / "run"


def run(
    config: ProtectConfig,
    workdir: bucket.Place,
    *,
    resume: bool = True,
    progress: bool = True,
) -> artifact.Protected:
    """Protects a data set in a working directory, or finishes a run that was stopped.

    Args:
      config: the settings.
      workdir: directory of the run, also in a bucket.
      resume: whether to resume a run that is in the directory.
      progress: whether to show a progress bar.

    Returns:
      The protected data set, as in the working directory.

    Raises:
      ValueError: if an input is bad, and nothing is written then; if training diverges
        or no image changes, and no artifact is written then.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax import generators
      >>> from miue_jax.data import DataSource
      >>> from miue_jax.workflows import protect
      >>> config = protect.ProtectConfig(
      ...     data=DataSource("shapes", per_class=2),
      ...     generator=generators.spec("random_noise"),
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder, "run")
      ...     made = protect.run(config, workdir, progress=False)
      ...     (workdir / protect.ARTIFACT).exists()
      True
    """
    clean = parallel.in_all(lambda: _open(config))
    with parallel.together():
        job = prepare(config, clean)
    job = read(job)
    claim = {**job.identity, **streaming(config.stream)}
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(
            run_directory.open_directory(workdir, claim, resume=resume)
        )
        first = jax.process_index() == 0
        if config.stream and first:
            # As large as the artifact, and of no use to a run that goes on; one that
            # was killed may have left it.
            stack.callback((opened.path / _IMAGES).unlink, missing_ok=True)
        path = opened.path / ARTIFACT
        there = path.exists() and artifact.delta_path(path).exists()
        # The first process decides, checks and writes; the others read what it made.
        (done,) = parallel.process_max(int(first and there))
        if done:
            made = parallel.in_all(lambda: _finished(config, job, path))
        else:
            _report(config, job)
            delta = _generate(job, opened, config.checkpoint_every, progress=progress)
            # The programs and the networks are gone, and the published images come.
            host_memory.give_back()
            made = parallel.in_all(lambda: _build(config, job, delta, opened.path))
            changed = made is None or made.metadata["audit"]["max_change"]
            (unchanged,) = parallel.process_max(int(not changed))
            if unchanged:
                raise run_directory.Failed(
                    f"{workdir}: the perturbation is 0 gray levels in every image, so "
                    "nothing is protected and nothing written; take larger or more "
                    "steps"
                )
            parallel.in_all(lambda: _save(path, made, delta))
        if config.stream and made is not None:
            place = workdir / ARTIFACT
            address = place if isinstance(place, bucket.Address) else None
            made = artifact.in_file(path, made, address)
        with parallel.together():
            return made or artifact.load(path, stream=True, verify=False)


class Job(NamedTuple):
    """A generator's run, ready to start.

    Attributes:
      clean: the data.
      generator: with ``sharded=True``.
      mesh: the devices.
      shards: the data, dealt to shards; of streamed data those of a window, without
        values. The images of several processes have values once they are read.
      selected: (N,) bool, the examples to protect.
      device_invariant: how `loop` compiles the generator.
      identity: all that the result depends on, as JSON; the fingerprint of the data
        once they are read.
      source: of streamed data, else None.
    """

    clean: Dataset
    generator: generators.Generator
    mesh: jax.sharding.Mesh
    shards: sampling.Shards
    selected: np.ndarray
    device_invariant: bool
    identity: dict[str, Any]
    source: windows.Source | None = None


def _finished(
    config: ProtectConfig, job: Job, path: pathlib.Path
) -> artifact.Protected | None:
    """Reads what a finished run made, and checks it, in the first process."""
    if jax.process_index() != 0:
        return None
    finished = artifact.load(path, stream=config.stream)
    run_directory.check_same(
        path, finished.metadata, public.without_folders(job.identity), whole=False
    )
    artifact.check_source(
        finished, job.clean, source_fingerprint=job.identity["source"]
    )
    _check_delta(finished, artifact.delta_path(path))
    return finished


def _build(
    config: ProtectConfig, job: Job, delta: Rows | None, folder: pathlib.Path
) -> artifact.Protected | None:
    """Makes the artifact, in the first process."""
    if jax.process_index() != 0 or delta is None:
        return None
    return artifact.build(
        job.clean if config.stream else host_data.whole(job.clean),
        delta,
        budget=job.generator.budget,
        export=config.export,
        metadata=_metadata(config, job),
        source_fingerprint=job.identity["source"],
        scratch=folder / _IMAGES if config.stream else None,
    )


def _save(
    path: pathlib.Path, made: artifact.Protected | None, delta: Rows | None
) -> None:
    if made is not None:
        artifact.save(path, made, delta=delta, verify=False)


def _check_delta(finished: artifact.Protected, path: pathlib.Path) -> None:
    """Checks that the float perturbation beside an artifact is still the one of it."""
    try:
        artifact.check_delta(finished, npz.rows_of_npy(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}; remove it to have it made again"
        ) from error


def _open(config: ProtectConfig) -> Dataset:
    """Loads or opens the data, unless a quick check says that it is in vain."""
    check_export(config.export)
    parallel.resolve_num_shards(config.num_shards, parallel.data_mesh())
    return host_data.load(config.data, stream=config.stream)


def prepare(config: ProtectConfig, clean: Dataset) -> Job:
    """Checks everything that can be checked before the images are read.

    Args:
      config: the settings.
      clean: the data that they name.

    Returns:
      The run, without the fingerprint of the data.

    Raises:
      ValueError: if an input is bad.
    """
    check_export(config.export)
    mesh = parallel.data_mesh()
    num_shards = parallel.resolve_num_shards(config.num_shards, mesh)
    select = config.select
    classes = select.classes
    if classes is not None:
        classes = data.class_indices(clean.class_names, classes)
    selected = generators.select(
        clean.labels, fraction=select.fraction, classes=classes, seed=select.seed
    )
    name, settings = config.generator.name, config.generator.config
    spec = generators.DataSpec(
        num_examples=len(clean.labels),
        num_classes=len(clean.class_names),
        image_shape=clean.images.shape[1:],
        num_shards=num_shards,
        axis_name=parallel.AXIS,
    )
    clipped = generators.clip_batches(settings, spec)
    generator = generators.create(name, clipped, spec)
    streamed = generator.streamed
    if config.stream and streamed is None:
        raise ValueError(
            f"stream is True, and generator {name!r} needs all images at once; allowed "
            f"with stream: {', '.join(_STREAMED)}"
        )
    # The steps of all passes over these data, which a run counts in 32 bits.
    check_number("steps of the generator", generator.num_steps, "> 0", whole=True)
    identity = {
        "data": data_settings(config.data),
        "generator": config.generator.to_plain(),
        "select": dataclasses.asdict(select),
        "export": config.export,
        "seed": config.seed,
        "num_shards": num_shards,
        "source": None,
        "clipped": clipped_fields(settings, clipped),
        **mode(config.device_invariant),
        **code_of(config),
    }
    # Numbers may be NumPy's.
    identity = _settings.to_plain(identity)
    origin = None
    if config.stream and streamed is not None:
        origin = windows.source(clean, num_shards, selected=selected)
        shards = windows.shapes_of(origin, _width(generator, origin, mesh))
    else:
        shards = host_data.deal(clean, num_shards, selected=selected)
    # A network that does not take these images is found before anything is written.
    if generators.is_own(name):
        state = generators.trace_own(name, generator, spec, mesh, shards)
    else:
        state = jax.eval_shape(generator.init, jax.random.key(0), shards)
    tracing.check_memory(state, "the generator")
    if config.device_invariant:
        invariance.check(generator.step, mesh, state, shards)
    exact = config.device_invariant
    return Job(clean, generator, mesh, shards, selected, exact, identity, origin)


def read(job: Job) -> Job:
    """Reads the images that this process needs; all processes must call it.

    Args:
      job: the run, from `prepare`.

    Returns:
      The run with the fingerprint of the data.

    Raises:
      ValueError: if they cannot be read, or the processes differ in settings or data.
    """
    run_directory.check_agreement(job.identity)
    num_shards = job.identity["num_shards"]
    found = host_data.read(job.clean, num_shards, job.mesh, keep=job.source is None)
    shards = job.shards
    if job.source is not None:
        width = windows.agreed(shards.images.shape[1])
        shards = windows.shapes_of(job.source, width)
    elif found.images is not None:
        shards = host_data.deal(
            job.clean, num_shards, found.images, selected=job.selected
        )
    identity = {**job.identity, "source": found.fingerprint}
    return job._replace(shards=shards, identity=identity)


def streaming(stream: bool) -> dict[str, bool]:
    """What the files of a run depend on, though its result does not."""
    return {"stream": True} if stream else {}


def _width(
    generator: generators.Generator, source: windows.Source, mesh: jax.sharding.Mesh
) -> int:
    """The rows of a window, for what the generator stores of an image."""
    streamed = generator.streamed
    assert streamed is not None  # it was checked
    stored = 0
    if streamed.put is not None and generator.stored is not None:
        one = windows.shapes_of(source, 1)
        state = jax.eval_shape(generator.init, jax.random.key(0), one)
        codes = jax.eval_shape(generator.stored, state)
        stored = math.prod(codes.shape[1:]) * codes.dtype.itemsize
    return windows.width_of(source, mesh, share=streamed.share, stored=stored)


def code_of(config: ProtectConfig) -> dict[str, Any]:
    """The code of the user's own parts, which the result depends on."""
    spec = config.generator
    return _own.code(spec.name, getattr(spec.config, "model", None))


def mode(device_invariant: bool) -> dict[str, bool]:
    """How results are computed, for the identity of a run; nothing by default."""
    return {"device_invariant": True} if device_invariant else {}


def data_settings(source: DataSource | Dataset) -> dict[str, Any]:
    """The settings of data that a run depends on.

    Their fingerprint says what the data are: a path is not among the settings, so that
    they may be moved, and nothing published names the maker's folders.
    """
    if isinstance(source, tuple):
        return {}
    return {
        k: v
        for k, v in dataclasses.asdict(source).items()
        if k not in ("name", "data_dir")
    }


def clipped_fields(before: Any, after: Any) -> dict[str, Any]:
    """The settings that were reduced to the size of the data, as they are used."""
    fields = [field.name for field in dataclasses.fields(before)]
    used = {name: getattr(after, name) for name in fields}
    return {k: v for k, v in used.items() if v != getattr(before, k)}


def report_clipped(
    part: str, clipped: Mapping[str, Any], size: int, *, consequence: str = ""
) -> None:
    """Logs the batches that were reduced to the size of the data."""
    for name, value in clipped.items():
        _LOGGER.warning(
            "%s.%s is more than the %s images: using %s%s",
            *(part, name, size, value, consequence),
        )


def _report(config: ProtectConfig, job: Job) -> None:
    """Logs what may surprise in the result."""
    size, steps = len(job.clean.labels), job.generator.num_steps
    few = f", which makes {steps} steps in all: few steps protect little"
    report_clipped(
        *("generator", job.identity["clipped"], size),
        consequence=few if steps < _FEW_STEPS else "",
    )
    source = config.data
    if isinstance(source, DataSource) and artifact.is_artifact(source.name):
        _LOGGER.warning(
            "%s is a protected data set: changes add up to more than the budget",
            source.name,
        )


def _metadata(config: ProtectConfig, job: Job) -> dict[str, Any]:
    # `artifact.build` records the export and the fingerprint of the source itself.
    settings = {k: v for k, v in job.identity.items() if k != "export"}
    if isinstance(config.data, DataSource):
        name = pathlib.Path(config.data.name).name
        settings["data"] = {"name": name, **settings["data"]}
    return {**settings, "protected_images": int(job.selected.sum())}


def _generate(
    job: Job, opened: run_directory.Run, checkpoint_every: int, *, progress: bool
) -> Rows | None:
    """Runs a generator's steps with checkpoints, metrics and a progress bar.

    Returns the perturbation in the order of the data set, decoded as it is read; None
    where only another process has it.
    """
    generator, mesh, exact = job.generator, job.mesh, job.device_invariant
    key = parallel.run_key(job.identity["seed"], "generator", mesh)
    init = loop.start(generator.init, mesh, device_invariant=exact)
    advance = loop.advance(generator.step, mesh, device_invariant=exact)
    finished = generator.finished
    if exact:
        finished = invariance.of_whole_arrays(
            finished,
            mesh,
            in_specs=(parallel.STATE_SPEC,),
            out_specs=parallel.REPLICATED_SPEC,
        )
    report_every = max(1, generator.num_steps // 100)
    lines, folder = opened.path / "metrics.jsonl", opened.path / "checkpoints"
    opened.fetch(folder)
    opened.fetch(opened.path / windows.STORE)
    with (
        feed_of(job, opened, key) as feed,
        checkpoints.Checkpoints(
            folder, config=job.identity, logs=[lines], keep=opened.keep
        ) as saved,
        loop.stop_signals() as received,
    ):
        state = feed.start(init, key)
        host_memory.give_back()
        step, state, totals = feed.resume(saved, state)
        metrics = run_directory.MetricsFile(lines, keep_until=step)
        began = time.perf_counter()
        with loop.progress(generator.num_steps, step, quiet=not progress) as bar:
            bar.set_postfix_str("compiling")
            while step < generator.num_steps and not bool(finished(state)):
                mark = min(
                    (step // report_every + 1) * report_every,
                    (step // checkpoint_every + 1) * checkpoint_every,
                    generator.num_steps,
                )
                state, values = feed.run_until(
                    *(mark, advance, key, state),
                    step=step,
                    totals=totals,
                    received=received,
                )
                if bar.postfix == "compiling":
                    host_memory.give_back()
                    bar.unpause()  # the time left is that of steps
                step, totals = mark, None
                seconds = time.perf_counter() - began
                metrics.write(step, {**values, "seconds": round(seconds, 3)})
                # The last state too: a signal that comes now finds everything saved.
                last = step == generator.num_steps or bool(finished(state))
                if last or step % checkpoint_every == 0:
                    feed.save(step, state)
                bar.set_postfix(
                    {k: f"{v:.4g}" for k, v in values.items()}, refresh=False
                )
                bar.update(step - bar.n)
        if exact:  # on one device, whatever a generator computes there
            state = parallel.to_host(state)
        stored = feed.stored(state)
    if stored is None:
        return None
    return generators.rows_per_example(
        generator, stored, job.clean.labels, job.selected
    )


def feed_of(
    job: Job, opened: run_directory.Run, key: jax.Array
) -> windows.Whole | windows.Windows:
    """The data on the devices: all of them, or a window at a time."""
    generator, mesh = job.generator, job.mesh
    stored = generator.stored or generator.perturbation
    if job.source is None or generator.streamed is None:
        placed = parallel.place(job.shards, mesh, parallel.DATA_SPEC)
        return windows.Whole(placed, stored)
    return windows.Windows(
        *(job.source, generator.streamed, mesh, key),
        num_steps=generator.num_steps,
        width=job.shards.images.shape[1],
        stored=stored,
        folder=opened.path,
    )
