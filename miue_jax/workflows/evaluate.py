"""Trains victims on a data set and reports their accuracy on clean test images.

The working directory then holds results.json and, for each seed, metrics.jsonl and
checkpoints. Rerun it to resume.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from miue_jax import _own, _settings, data, defenses, detection, models, victims
from miue_jax._checks import as_tuple, check_flag, check_number, check_seeds, shown
from miue_jax.data import Dataset, DataSource, atomic, bucket, npz
from miue_jax.data.artifact import Protected
from miue_jax.train import (
    checkpoints,
    classifier,
    host_data,
    loop,
    parallel,
    run_directory,
    sampling,
    tracing,
    windows,
)
from miue_jax.train import device_invariant as invariance
from miue_jax.train import metrics as means
from miue_jax.victims import Victim, VictimConfig
from miue_jax.workflows.protect import (
    clipped_fields,
    data_settings,
    directory_of,
    mode,
    report_clipped,
    streaming,
)

__all__ = ["RESULTS", "EvaluateConfig", "describe", "evaluate", "run"]

RESULTS = "results.json"

# In the directory of a run in progress.
_PURIFIED = "purified.npz"

# What others read in the results.
_NEEDED = (
    *("victim", "defense", "final", "best"),
    *("epochs_tested", "test_accuracy", "train_accuracy"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of a run that trains victims.

    Attributes:
      train: what they are trained on.
      test: clean images.
      victim: how they are trained.
      defense: what they do against protection: whatever `defenses.create` takes.
      seeds: one victim each.
      num_shards: shards of the data; None for one per device. Results depend on it, not
        on the devices.
      device_invariant: whether the results are equal to the last bit on any number of
        devices of one kind, and not only up to rounding.
      stream: whether to read the images when they are needed, a window of some steps at
        a time, for data larger than memory. The results are the same.
      evaluate_every: epochs between tests; the last epoch is always tested.
      checkpoint_every: epochs between checkpoints.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> from miue_jax import victims
      >>> from miue_jax.workflows.evaluate import EvaluateConfig
      >>> config = EvaluateConfig(
      ...     victim=victims.preset("em", epochs=2), defense="jpeg-10", seeds=(0,)
      ... )
      >>> config.train.name, config.test.split, config.victim.clip_norm
      ('shapes', 'test', 5.0)
    """

    train: DataSource | Dataset = DataSource("shapes")
    test: DataSource | Dataset = DataSource("shapes", split="test")
    victim: VictimConfig = dataclasses.field(
        default_factory=lambda: victims.preset("quick")
    )
    defense: Any = "none"
    seeds: tuple[int, ...] = (0, 1, 2)
    num_shards: int | None = None
    device_invariant: bool = False
    stream: bool = False
    evaluate_every: int = 1
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        for name in ("evaluate_every", "checkpoint_every"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        if not isinstance(self.victim, VictimConfig):
            raise ValueError(
                f"victim is {shown(self.victim)}; allowed: the name of a protocol, or "
                "settings"
            )
        check_seeds("seeds", self.seeds)
        check_flag("device_invariant", self.device_invariant)
        check_flag("stream", self.stream)
        if self.num_shards is not None:
            check_number("num_shards", self.num_shards, "> 0", whole=True)


def evaluate(
    train: str | os.PathLike[str] | DataSource | Dataset | Protected,
    test: str | os.PathLike[str] | DataSource | Dataset | None = None,
    victim: str | VictimConfig = "quick",
    *,
    defense: Any = "none",
    seeds: Sequence[int] = (0, 1, 2),
    workdir: str | os.PathLike[str] | None = None,
    num_shards: int | None = None,
    device_invariant: bool = False,
    stream: bool = False,
    evaluate_every: int = 1,
    progress: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Trains victims and measures their accuracy on clean test images.

    Args:
      train: what they are trained on: a name or path (see `data.load`), a `DataSource`,
        a `Dataset`, or a protected data set.
      test: clean images; None for the test split of `train`, if that is a name.
      victim: name of a protocol (`victims.NAMES`), or its settings.
      defense: what they do against protection, such as "jpeg-10"; see
        `defenses.create`.
      seeds: one victim each.
      workdir: directory of the run, which can be resumed; None for a temporary one.
      num_shards: shards of the data; None for one per device.
      device_invariant: whether the results are equal to the last bit on any number of
        devices of one kind.
      stream: whether to read the images when they are needed, for data larger than
        memory.
      evaluate_every: epochs between tests.
      progress: whether to show progress bars.
      **settings: of the victim, where they differ from the protocol's.

    Returns:
      What results.json holds: all settings; "final" and "best", the accuracy after the
      last and the best epoch, each with its "mean", "std" and "values" over the seeds;
      and the curves "train_accuracy" and "test_accuracy".

    Raises:
      ValueError: if an input is bad, and nothing is written then; if training diverges,
        or the contents of the directory are damaged.

    Example:
      >>> import miue_jax as mj
      >>> clean = mj.data.load("shapes", per_class=4)
      >>> test = mj.data.load("shapes", "test", per_class=2)
      >>> results = mj.evaluate(clean, test, model="linear", epochs=1, seeds=(0,))
      >>> len(results["final"]["values"])
      1
    """
    if isinstance(train, Protected):
        train = train.dataset
    if test is None:
        if isinstance(train, tuple):
            raise ValueError("test is missing: name clean test images")
        source: Any = data.source(train)
        test = DataSource(source.name, split="test", data_dir=source.data_dir)
    if isinstance(victim, str):
        victim = victims.preset(victim, **settings)
    elif settings and isinstance(victim, VictimConfig):
        values = {**dataclasses.asdict(victim), **settings}
        victim = _settings.from_plain(VictimConfig, values, "victim")
    config = EvaluateConfig(
        train=data.source(train),
        test=data.source(test, "test"),
        victim=victim,
        defense=defense,
        seeds=as_tuple("seeds", seeds),
        num_shards=num_shards,
        device_invariant=device_invariant,
        stream=stream,
        evaluate_every=evaluate_every,
    )
    with directory_of(workdir) as path:
        return run(config, path, progress=progress)


def run(
    config: EvaluateConfig,
    workdir: bucket.Place,
    *,
    resume: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains one victim per seed in a working directory, or finishes a stopped run.

    Args:
      config: the settings.
      workdir: directory of the run, also in a bucket.
      resume: whether to resume a run that is in the directory.
      progress: whether to show progress bars.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if an input is bad, and nothing is written then; if training diverges,
        or the contents of the directory are damaged.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax import victims
      >>> from miue_jax.data import DataSource
      >>> from miue_jax.workflows import evaluate
      >>> config = evaluate.EvaluateConfig(
      ...     train=DataSource("shapes", per_class=4),
      ...     test=DataSource("shapes", split="test", per_class=2),
      ...     victim=victims.preset("quick", model="linear", epochs=1),
      ...     seeds=(0,),
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir = pathlib.Path(folder, "run")
      ...     results = evaluate.run(config, workdir, progress=False)
      ...     (workdir / evaluate.RESULTS).exists()
      True
    """
    train_set, test_set = parallel.in_all(lambda: _open(config))
    with parallel.together():
        job = prepare(config, train_set, test_set)
    job = read(job)
    train_set, mesh = job.train_set, job.mesh
    claim = {**job.identity, **streaming(config.stream)}
    with run_directory.open_directory(workdir, claim, resume=resume) as opened:
        folder = opened.path
        results_file = folder / RESULTS
        if results_file.exists():
            (folder / _PURIFIED).unlink(missing_ok=True)
            return read_results(results_file, job.identity)
        job = _purify(job, folder / _PURIFIED)
        report_clipped("victim", job.identity["clipped"], len(train_set.labels))
        robust = job.victim.evaluate_robust
        exact = {"device_invariant": config.device_invariant}
        compiled = _Compiled(
            loop.start(job.victim.init, mesh, **exact),
            loop.advance(job.victim.step, mesh, **exact),
            loop.evaluation(job.victim.evaluate, mesh, **exact),
            None if robust is None else loop.evaluation(robust, mesh, **exact),
        )
        compiled, place = _with_data(job, compiled)
        curves = {
            seed: _train(
                job,
                compiled,
                place,
                opened._replace(path=folder / f"seed_{seed}"),
                seed=seed,
                checkpoint_every=config.checkpoint_every,
                progress=progress,
            )
            for seed in job.identity["seeds"]
        }
        results = {**job.identity, **_names(config), **_summary(curves)}
        # Other processes may read it next.
        with parallel.together():
            if jax.process_index() == 0:
                run_directory.write_json(results_file, results)
                (folder / _PURIFIED).unlink(missing_ok=True)
        return results


class Job(NamedTuple):
    """The training of some victims, ready to start.

    Attributes:
      train_set: what they are trained on.
      test_set: clean images.
      victim: their training.
      defense: what they do against protection.
      epochs: passes over the training data.
      mesh: the devices.
      identity: all that the results depend on, as JSON.
      streamed: whether the images are read when they are needed.
      train_images: those of this process's shards, where it holds no others.
      test_images: as `train_images`.
    """

    train_set: Dataset
    test_set: Dataset
    victim: Victim
    defense: defenses.Defense
    epochs: int
    mesh: jax.sharding.Mesh
    identity: dict[str, Any]
    streamed: bool = False
    train_images: host_data.OwnShards | None = None
    test_images: host_data.OwnShards | None = None


def _open(config: EvaluateConfig) -> tuple[Dataset, Dataset]:
    """Loads or opens the data, unless a quick check says that it is in vain."""
    parallel.resolve_num_shards(config.num_shards, parallel.data_mesh())
    train_set = host_data.load(config.train, stream=config.stream)
    return train_set, host_data.load(config.test, stream=config.stream)


def prepare(config: EvaluateConfig, train_set: Dataset, test_set: Dataset) -> Job:
    """Checks everything that can be checked before the images are read.

    Args:
      config: the settings.
      train_set: the training data that they name, or others of their size and shape.
      test_set: the test data that they name.

    Returns:
      The training, without the fingerprints of the data.

    Raises:
      ValueError: if an input is bad.
    """
    mesh = parallel.data_mesh()
    num_shards = parallel.resolve_num_shards(config.num_shards, mesh)
    _check_match(train_set, test_set)
    num_examples, num_classes = len(train_set.labels), len(train_set.class_names)
    defense = defenses.create(
        config.defense, image_shape=train_set.images.shape[1:], num_classes=num_classes
    )
    if config.stream and defense.purify is not None:
        name = defenses.settings_of(config.defense)["name"]
        raise ValueError(
            f"stream is True, and defense {name} purifies all training images at once; "
            "allowed with stream: defenses that work on batches"
        )
    settings = dataclasses.replace(
        config.victim,
        batch_size=sampling.clip_batch_size(
            config.victim.batch_size, num_examples, num_shards
        ),
    )
    victim = victims.victim(
        settings,
        num_examples=num_examples,
        num_classes=num_classes,
        num_shards=num_shards,
        axis_name=parallel.AXIS,
        defense=defense,
    )
    identity = {
        "train": data_settings(config.train),
        "test": data_settings(config.test),
        "victim": dataclasses.asdict(config.victim),
        "defense": defenses.settings_of(config.defense),
        "seeds": list(config.seeds),
        "evaluate_every": config.evaluate_every,
        "num_shards": num_shards,
        "fingerprints": None,
        "clipped": clipped_fields(config.victim, settings),
        **mode(config.device_invariant),
        **code_of(config),
    }
    # Numbers may be NumPy's.
    identity = _settings.to_plain(identity)
    # A network that does not take these images is found before anything is written,
    # and what is wrong with a defense or a model of the user's own.
    if config.stream:
        origin = windows.source(train_set, num_shards)
        width = windows.width_of(origin, mesh, share=victim.streamed.share)
        shards = windows.shapes_of(origin, width)
    else:
        shards = host_data.deal(train_set, num_shards)
    if models.is_own(config.victim.model) or defenses.is_own(config.defense):
        state = tracing.trace(
            victim.init, victim.step, mesh, shards, evaluate=victim.evaluate_robust
        )
    else:
        state = jax.eval_shape(victim.init, jax.random.key(0), shards)
    if config.device_invariant:
        invariance.check(victim.step, mesh, state, shards)
    tracing.check_memory(state, "a victim")
    return Job(
        *(train_set, test_set, victim, defense, settings.epochs, mesh, identity),
        streamed=config.stream,
    )


def read(job: Job) -> Job:
    """Reads the images that this process needs; all processes must call it.

    Args:
      job: the training, from `prepare`.

    Returns:
      The training with the fingerprints of the data.

    Raises:
      ValueError: if they cannot be read, or the processes differ in settings or data.
    """
    run_directory.check_agreement(job.identity)
    num_shards = job.identity["num_shards"]
    as_given = not job.streamed and job.defense.purify is None
    train = host_data.read(job.train_set, num_shards, job.mesh, keep=as_given)
    test = host_data.read(job.test_set, num_shards, job.mesh, keep=not job.streamed)
    found = [train.fingerprint, test.fingerprint]
    return job._replace(
        identity={**job.identity, "fingerprints": found},
        train_images=train.images,
        test_images=test.images,
    )


def code_of(config: EvaluateConfig) -> dict[str, Any]:
    """The code of the user's own parts, which the results depend on."""
    return _own.code(config.victim.model, defenses.settings_of(config.defense)["name"])


def _names(config: EvaluateConfig) -> dict[str, Any]:
    """The data as they were named, for those who read the results."""
    sources = {"train": config.train, "test": config.test}
    return {
        part: data_settings(source)
        if isinstance(source, tuple)
        else dataclasses.asdict(source)
        for part, source in sources.items()
    }


def read_results(
    path: bucket.Place, identity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Reads the results of a run that is finished.

    Args:
      path: its results.json.
      identity: all that the results depend on, if that is to be checked.

    Returns:
      The results.

    Raises:
      ValueError: if the file is damaged or of another configuration.
    """
    results = run_directory.read_json(path, needed=_NEEDED)
    if identity is not None:
        run_directory.check_same(path, results, dict(identity), whole=False)
    return results


def _purify(job: Job, file: pathlib.Path) -> Job:
    """Has a defense purify the training images, kept until all victims are done."""
    purify = job.defense.purify
    if purify is None:
        return job
    first = jax.process_index() == 0
    # The first process decides before it writes.
    (there,) = parallel.process_max(int(first and file.exists()))

    def make() -> tuple[Any, str]:
        if not first:
            return None, ""
        clean = host_data.whole(job.train_set)
        if there:
            return _read_purified(file, clean.images), ""
        try:
            # A copy, since a user's own function may write into its arguments.
            made = purify(jax.random.key(0), clean.images.copy(), clean.labels)
        except FloatingPointError as error:
            return None, str(error) or repr(error)
        purified = np.asarray(made)
        # In this format every array has a checksum.
        with atomic.write_file(file) as writing:
            npz.write(writing, {"images": purified})
        return purified, ""

    images, reason = parallel.in_all(make)
    (reason, *_) = parallel.gather_text(reason)
    if reason:
        raise run_directory.Diverged(reason)
    if jax.process_count() == 1:
        return job._replace(train_set=job.train_set._replace(images=images))
    rows: Any = parallel.in_all(lambda: npz.rows_of_member(file, "images"))
    purified = job.train_set._replace(images=rows)
    num_shards = job.identity["num_shards"]
    found = host_data.read(purified, num_shards, job.mesh, keep=True)
    return job._replace(train_set=purified, train_images=found.images)


def _read_purified(file: pathlib.Path, images: np.ndarray) -> np.ndarray:
    try:
        purified = npz.read(file)["images"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{error}; remove {file}") from error
    if purified.shape != images.shape or purified.dtype != images.dtype:
        raise ValueError(
            f"{file} holds {purified.dtype} {purified.shape}, the training images are "
            f"{images.dtype} {images.shape}: remove it"
        )
    return purified


def _check_match(train_set: Dataset, test_set: Dataset) -> None:
    if train_set.class_names != test_set.class_names:
        raise ValueError(
            f"training and test data have different classes: {train_set.class_names} "
            f"and {test_set.class_names}"
        )
    shapes = train_set.images.shape[1:], test_set.images.shape[1:]
    if shapes[0] != shapes[1]:
        raise ValueError(f"training images are {shapes[0]}, test images {shapes[1]}")


class _Compiled(NamedTuple):
    start: loop.Start
    advance: loop.Advance
    evaluate: loop.Evaluate
    evaluate_robust: loop.Evaluate | None


def _with_data(
    job: Job, compiled: _Compiled
) -> tuple[_Compiled, Callable[[jax.Array], windows.Whole | windows.Windows]]:
    """Gives the evaluations their data; also returns key -> the training data.

    All of them are on the devices, or a window at a time.
    """
    mesh, num_shards = job.mesh, job.identity["num_shards"]
    if job.streamed:
        origin = windows.source(job.train_set, num_shards)
        test = windows.source(job.test_set, num_shards)
        share = min(test.num_rows, classifier.ROWS_AT_ONCE)
        width = windows.agreed(windows.width_of(test, mesh, share=share))

        def tested(evaluate: loop.Evaluate) -> loop.Evaluate:
            return windows.evaluation(evaluate, test, mesh, width=width)

        def place(key: jax.Array) -> windows.Whole | windows.Windows:
            streamed = job.victim.streamed
            width = windows.width_of(origin, mesh, share=streamed.share)
            return windows.Windows(
                *(origin, streamed, mesh, key),
                num_steps=job.victim.num_steps,
                width=windows.agreed(width),
            )

    else:
        train_data, test_data = (
            parallel.place(shards, mesh, parallel.DATA_SPEC)
            for shards in (
                host_data.deal(job.train_set, num_shards, job.train_images),
                host_data.deal(job.test_set, num_shards, job.test_images),
            )
        )

        def tested(evaluate: loop.Evaluate) -> loop.Evaluate:
            return lambda state: evaluate(state, test_data)

        def place(key: jax.Array) -> windows.Whole | windows.Windows:
            return windows.Whole(train_data)

    robust = compiled.evaluate_robust
    made = compiled._replace(
        evaluate=tested(compiled.evaluate),
        evaluate_robust=None if robust is None else tested(robust),
    )
    return made, place


def _train(
    job: Job,
    compiled: _Compiled,
    place: Callable[[jax.Array], windows.Whole | windows.Windows],
    opened: run_directory.Run,
    *,
    seed: int,
    checkpoint_every: int,
    progress: bool,
) -> list[dict[str, Any]]:
    """Trains one victim; returns a line of metrics for every epoch."""
    victim, epochs = job.victim, job.epochs
    opened.path.mkdir(parents=True, exist_ok=True)
    key = parallel.run_key(seed, "victim", job.mesh)
    lines, folder = opened.path / "metrics.jsonl", opened.path / "checkpoints"
    opened.fetch(folder)
    with (
        place(key) as feed,
        checkpoints.Checkpoints(
            folder,
            config={**job.identity, "seed": seed},
            logs=[lines],
            keep=opened.keep,
        ) as saved,
        loop.stop_signals() as received,
    ):
        step, state, totals = feed.resume(saved, feed.start(compiled.start, key))
        metrics = run_directory.MetricsFile(lines, keep_until=step)
        began = time.perf_counter()
        done = step // victim.steps_per_epoch
        with loop.progress(
            epochs, done, label=f"seed {seed}", quiet=not progress
        ) as bar:
            bar.set_postfix_str("compiling")
            while step < victim.num_steps:
                epoch = step // victim.steps_per_epoch + 1
                state, values = feed.run_until(
                    *(epoch * victim.steps_per_epoch, compiled.advance, key, state),
                    step=step,
                    totals=totals,
                    received=received,
                )
                if bar.postfix == "compiling":
                    bar.unpause()  # the time left is that of epochs
                step, totals = epoch * victim.steps_per_epoch, None
                line = {
                    "epoch": epoch,
                    "train_loss": values["loss"],
                    "train_accuracy": values["accuracy"],
                }
                if _is_tested(job, epoch):
                    measured = means.values(compiled.evaluate(state))
                    line["test_accuracy"] = measured["accuracy"]
                if epoch == epochs and compiled.evaluate_robust is not None:
                    measured = means.values(compiled.evaluate_robust(state))
                    line["robust_accuracy"] = measured["accuracy"]
                line["seconds"] = round(time.perf_counter() - began, 3)
                metrics.write(step, line)
                if epoch % checkpoint_every == 0 or epoch == epochs:
                    feed.save(step, state)
                shown = {k: f"{v:.4g}" for k, v in line.items() if "_" in k}
                bar.set_postfix(shown, refresh=False)
                bar.update(1)
        return metrics.read()


def _is_tested(job: Job, epoch: int) -> bool:
    return epoch % job.identity["evaluate_every"] == 0 or epoch == job.epochs


def _summary(curves: Mapping[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Final and best accuracy over seeds, and every curve."""
    lines = list(curves.values())
    tests = [[x["test_accuracy"] for x in c if "test_accuracy" in x] for c in lines]
    epochs = [x["epoch"] for x in lines[0] if "test_accuracy" in x]
    peaks = [detection.early_stopping(curve, epochs) for curve in tests]
    robust = [c[-1]["robust_accuracy"] for c in lines if "robust_accuracy" in c[-1]]
    return {
        **({"robust": means.mean_and_std(robust)} if robust else {}),
        "final": means.mean_and_std([curve[-1] for curve in tests]),
        "best": means.mean_and_std([peak.accuracy for peak in peaks]),
        "best_epoch": [peak.epoch for peak in peaks],
        "epochs_tested": epochs,
        "test_accuracy": tests,
        "train_accuracy": [[x["train_accuracy"] for x in curve] for curve in lines],
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "jax": jax.__version__,
    }


def describe(results: Mapping[str, Any]) -> str:
    """The accuracies in one line.

    Args:
      results: what `evaluate` returned.

    Returns:
      The accuracy on clean test images after the last and the best epoch.

    Example:
      >>> from miue_jax.workflows import evaluate
      >>> one = {"mean": 0.25, "std": None, "values": [0.25]}
      >>> evaluate.describe({"final": one, "best": one})
      'clean test accuracy 25.00 % after the last epoch, 25.00 % at its best, 1 seed'
    """
    final, best, robust = results["final"], results["best"], results.get("robust")
    spread = "" if final["std"] is None else f" +- {100 * final['std']:.2f}"
    count = len(final["values"])
    seeds = f"{count} seed{'s' * (count > 1)}"
    return (
        f"clean test accuracy {100 * final['mean']:.2f}{spread} % after the last "
        f"epoch, {100 * best['mean']:.2f} % at its best, {seeds}"
        + (f", robust {100 * robust['mean']:.2f} %" if robust else "")
    )
