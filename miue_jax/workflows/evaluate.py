"""Trains victims on a data set and reports their accuracy on clean test images.

    python experiments/evaluate.py --config experiments/configs/evaluate.py:quick \
        --config.train.name_or_path=runs/shapes/protected.npz \
        --config.test.name_or_path=shapes --workdir runs/shapes-victims

The working directory then holds results.json and, for each seed, metrics.jsonl and
checkpoints. The same command continues what was stopped.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from miue_jax import cli, data, defenses, detection
from miue_jax._checks import check_number
from miue_jax.data import atomic
from miue_jax.train import checkpoints, loop, parallel, run_directory, sampling
from miue_jax.train import metrics as means
from miue_jax.victims import presets, training

RESULTS = "results.json"

# In the directory of a run that is under way.
_PURIFIED = "purified.npy"

# What others read in it.
_RESULTS = (
    *("victim", "defense", "final", "best"),
    *("epochs_tested", "test_accuracy", "train_accuracy"),
)


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    resume: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains one victim for each seed, or finishes a run that was stopped.

    Args:
      config: as in experiments/configs/evaluate.py.
      workdir: the directory of the run.
      resume: whether a directory that was used before may be continued.
      quiet: no progress bars.

    Returns:
      What results.json holds.

    Raises:
      ValueError: if any input is bad, and nothing is written then; if training
        diverges, or what lies in the directory is damaged.
    """
    job = prepare(config)
    train_set, test_set = job.train_set, job.test_set
    mesh, num_shards = job.mesh, job.identity["num_shards"]
    with run_directory.open_directory(workdir, job.identity, resume=resume):
        results_file = workdir / RESULTS
        if results_file.exists():
            (workdir / _PURIFIED).unlink(missing_ok=True)
            return read_results(results_file, job.identity)
        images = _purify(job.defense, train_set, workdir / _PURIFIED)
        placed = [
            parallel.place(dealt, mesh, parallel.DATA_SPEC)
            for dealt in (
                sampling.deal(images, train_set.labels, num_shards),
                sampling.deal(test_set.images, test_set.labels, num_shards),
            )
        ]
        compiled = _Compiled(
            loop.start(job.victim.init, mesh),
            loop.advance(job.victim.step, mesh),
            loop.evaluation(job.victim.evaluate, mesh),
            None
            if job.victim.evaluate_robust is None
            else loop.evaluation(job.victim.evaluate_robust, mesh),
        )
        curves = {
            seed: _train(
                job,
                compiled,
                placed[0],
                placed[1],
                workdir / f"seed_{seed}",
                seed=seed,
                checkpoint_every=config["checkpoint_every"],
                quiet=quiet,
            )
            for seed in job.identity["seeds"]
        }
        paths = {part: dict(config[part]) for part in ("train", "test")}
        results = {**job.identity, **paths, **_summary(curves)}
        if jax.process_index() == 0:
            run_directory.write_json(results_file, results)
            (workdir / _PURIFIED).unlink(missing_ok=True)
        # Other processes may go on to read it.
        parallel.barrier("results written")
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
    """

    train_set: data.Dataset
    test_set: data.Dataset
    victim: training.Victim
    defense: defenses.Defense
    epochs: int
    mesh: jax.sharding.Mesh
    identity: dict[str, Any]


def prepare(
    config: Mapping[str, Any],
    train_set: data.Dataset | None = None,
    test_set: data.Dataset | None = None,
) -> Job:
    """Checks everything that can be checked before a victim is trained.

    Args:
      config: as in experiments/configs/evaluate.py.
      train_set: the training data that it names, if they are loaded already, or
        others of their size and shape.
      test_set: the test data that it names, if they are loaded already.

    Returns:
      The training.

    Raises:
      ValueError: if any input is bad.
    """
    try:
        victim_config = presets.VictimConfig(**config["victim"])
    except TypeError as error:
        raise ValueError(f"victim: {error}") from error
    for name in ("evaluate_every", "checkpoint_every"):
        check_number(name, config[name], "> 0", whole=True)
    run_directory.check_seeds("seeds", config["seeds"])
    mesh = parallel.data_mesh()
    num_shards = run_directory.number_of_shards(config["num_shards"], mesh)
    parallel.check_shards(num_shards, mesh)
    if train_set is None:
        train_set = data.load(**config["train"])
    if test_set is None:
        test_set = data.load(**config["test"])
    _check_match(train_set, test_set)
    defense = defenses.create(
        config["defense"],
        image_shape=train_set.images.shape[1:],
        num_classes=len(train_set.class_names),
    )
    victim = training.victim(
        victim_config,
        num_examples=len(train_set.labels),
        num_classes=len(train_set.class_names),
        num_shards=num_shards,
        axis_name=parallel.AXIS,
        defense=defense,
    )
    identity = {
        # Fingerprints say what the data are, and directories may be moved.
        **{
            part: {k: v for k, v in config[part].items() if k != "name_or_path"}
            for part in ("train", "test")
        },
        "victim": dict(config["victim"]),
        "defense": defenses.settings_of(config["defense"]),
        "seeds": list(config["seeds"]),
        "evaluate_every": config["evaluate_every"],
        "num_shards": num_shards,
        "fingerprints": [data.fingerprint(train_set), data.fingerprint(test_set)],
    }
    # A network that does not take these images is found before anything is written.
    jax.eval_shape(
        victim.init,
        jax.random.key(0),
        sampling.deal(train_set.images, train_set.labels, num_shards),
    )
    epochs = victim_config.epochs
    return Job(train_set, test_set, victim, defense, epochs, mesh, identity)


def read_results(
    path: pathlib.Path, identity: Mapping[str, Any] | None = None
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
    results = run_directory.read_json(path, needed=_RESULTS)
    if identity is not None:
        run_directory.check_same(path, results, dict(identity), whole=False)
    return results


def _purify(
    defense: defenses.Defense, train_set: data.Dataset, file: pathlib.Path
) -> np.ndarray:
    """What a defense makes of the training images, kept until all victims are done."""
    if defense.purify is None:
        return train_set.images
    images, labels = train_set.images, train_set.labels
    if file.exists():
        return _read_purified(file, images)
    # All processes have looked before the first one writes.
    parallel.barrier("purified images looked for")
    try:
        purified = np.asarray(defense.purify(jax.random.key(0), images, labels))
    except FloatingPointError as error:
        raise run_directory.Diverged(str(error)) from error
    if jax.process_index() == 0:
        with atomic.write_file(file) as writing:
            np.save(writing, purified, allow_pickle=False)
    return purified


def _read_purified(file: pathlib.Path, images: np.ndarray) -> np.ndarray:
    try:
        purified = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged: {error}; remove it") from error
    if purified.shape != images.shape or purified.dtype != images.dtype:
        raise ValueError(
            f"{file} holds {purified.dtype} {purified.shape}, the training images are "
            f"{images.dtype} {images.shape}: remove it"
        )
    return purified


def _check_match(train_set: data.Dataset, test_set: data.Dataset) -> None:
    if train_set.class_names != test_set.class_names:
        raise ValueError(
            f"training and test data have other classes: {train_set.class_names} and "
            f"{test_set.class_names}"
        )
    shapes = train_set.images.shape[1:], test_set.images.shape[1:]
    if shapes[0] != shapes[1]:
        raise ValueError(f"training images are {shapes[0]}, test images {shapes[1]}")


class _Compiled(NamedTuple):
    start: loop.Start
    advance: loop.Advance
    evaluate: loop.Evaluate
    evaluate_robust: loop.Evaluate | None


def _train(
    job: Job,
    compiled: _Compiled,
    train_data: sampling.Shards,
    test_data: sampling.Shards,
    workdir: pathlib.Path,
    *,
    seed: int,
    checkpoint_every: int,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Trains one victim; returns a line of metrics for every epoch."""
    victim, epochs = job.victim, job.epochs
    workdir.mkdir(parents=True, exist_ok=True)
    key = parallel.run_key(seed, "victim", job.mesh)
    state = compiled.start(key, train_data)
    with (
        checkpoints.Checkpoints(
            workdir / "checkpoints", config={**job.identity, "seed": seed}
        ) as saved,
        loop.stop_signals() as received,
    ):
        step, state, totals = loop.go_on(saved, state)
        metrics = run_directory.MetricsFile(workdir / "metrics.jsonl", keep_until=step)
        _check_curve(job, metrics, step // victim.steps_per_epoch)
        began = time.perf_counter()
        done = step // victim.steps_per_epoch
        with loop.progress(epochs, done, label=f"seed {seed}", quiet=quiet) as bar:
            while step < victim.num_steps:
                epoch = step // victim.steps_per_epoch + 1
                state, values = loop.run_until(
                    epoch * victim.steps_per_epoch,
                    compiled.advance,
                    key,
                    state,
                    train_data,
                    step=step,
                    totals=totals,
                    saved=saved,
                    received=received,
                )
                step, totals = epoch * victim.steps_per_epoch, None
                line = {
                    "epoch": epoch,
                    "train_loss": values["loss"],
                    "train_accuracy": values["accuracy"],
                }
                if _is_tested(job, epoch):
                    measured = means.values(compiled.evaluate(state, test_data))
                    line["test_accuracy"] = measured["accuracy"]
                if epoch == epochs and compiled.evaluate_robust is not None:
                    measured = means.values(compiled.evaluate_robust(state, test_data))
                    line["robust_accuracy"] = measured["accuracy"]
                line["seconds"] = round(time.perf_counter() - began, 3)
                metrics.write(step, line)
                if epoch % checkpoint_every == 0 or epoch == epochs:
                    saved.save(step, state)
                shown = {k: f"{v:.4g}" for k, v in line.items() if "_" in k}
                bar.set_postfix(shown, refresh=False)
                bar.update(1)
        return metrics.read()


def _check_curve(job: Job, metrics: run_directory.MetricsFile, epochs: int) -> None:
    """Checks that the epochs that a checkpoint says are done have their lines."""
    found = metrics.read()
    whole = [line.get("epoch") for line in found] == list(range(1, epochs + 1))
    for line in found if whole else ():
        due = _is_tested(job, line["epoch"])
        whole &= "train_accuracy" in line and ("test_accuracy" in line or not due)
        robust = job.victim.evaluate_robust is not None and line["epoch"] == job.epochs
        whole &= "robust_accuracy" in line or not robust
    if not whole:
        raise ValueError(
            f"{metrics.path} is damaged: the checkpoint beside it is of {epochs} "
            f"epochs, and it has not the lines of all; remove {metrics.path.parent} to "
            "train this victim again"
        )


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
        **({"robust": run_directory.spread(robust)} if robust else {}),
        "final": run_directory.spread([curve[-1] for curve in tests]),
        "best": run_directory.spread([peak.accuracy for peak in peaks]),
        "best_epoch": [peak.epoch for peak in peaks],
        "epochs_tested": epochs,
        "test_accuracy": tests,
        "train_accuracy": [[x["train_accuracy"] for x in curve] for curve in lines],
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "jax": jax.__version__,
    }


def main(config: dict[str, Any], workdir: pathlib.Path, resume: bool) -> None:
    """Runs and prints what came out."""
    results = run(config, workdir, resume=resume)
    final, best = results["final"], results["best"]
    robust = results.get("robust")
    spread = "" if final["std"] is None else f" +- {100 * final['std']:.2f}"
    print(
        f"{workdir / RESULTS}: clean test accuracy {100 * final['mean']:.2f}{spread} % "
        f"after the last epoch, {100 * best['mean']:.2f} % at its best, "
        f"{len(final['values'])} seeds"
        + (f", robust {100 * robust['mean']:.2f} %" if robust else "")
    )


if __name__ == "__main__":
    cli.run(
        main,
        config_file="experiments/configs/evaluate.py",
        description="Whom to train, and on what.",
    )
