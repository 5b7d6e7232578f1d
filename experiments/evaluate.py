"""Trains victims on a data set and reports their accuracy on clean test images.

    python experiments/evaluate.py --config experiments/configs/evaluate.py:quick \
        --config.train.name_or_path=runs/shapes/protected.npz \
        --config.test.name_or_path=shapes --workdir runs/shapes-victims

The working directory then holds results.json and, for each seed, metrics.jsonl and
checkpoints. The same command continues what was stopped.
"""

import pathlib
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import command_line
import jax
import numpy as np
import runs

from miue_jax import checkpoints, data, defenses, parallel, runner, sampling, training
from miue_jax import metrics as means

RESULTS = "results.json"


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
      ValueError: if any input is bad; nothing is written then.
    """
    config = dict(config)
    try:
        victim_config = training.VictimConfig(**config["victim"])
    except TypeError as error:
        raise ValueError(f"victim: {error}") from error
    for name in ("evaluate_every", "checkpoint_every"):
        if config[name] <= 0:
            raise ValueError(f"{name} is {config[name]}; it must be positive")
    seeds = list(config["seeds"])
    if not seeds:
        raise ValueError("seeds is empty; name at least one")
    defense = defenses.create(config["defense"])
    train_set, test_set = data.load(**config["train"]), data.load(**config["test"])
    _check_match(train_set, test_set)
    # One image tells whether the defence fits the data, before anything is written.
    _purify(defense, train_set._replace(images=train_set.images[:1]))
    mesh = parallel.data_mesh()
    num_shards = config["num_shards"] or mesh.size
    parallel.check_divisible(victim_config.batch_size, num_shards, mesh)
    victim = training.victim(
        victim_config,
        num_examples=len(train_set.labels),
        num_classes=len(train_set.class_names),
        num_shards=num_shards,
        axis_name=parallel.AXIS,
        defense=defense,
    )
    identity = {
        "train": dict(config["train"]),
        "test": dict(config["test"]),
        "victim": dict(config["victim"]),
        "defense": config["defense"],
        "seeds": seeds,
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
    with runs.open_directory(workdir, identity, resume=resume):
        results_file = workdir / RESULTS
        if results_file.exists():
            return runs.read_json(results_file)
        images = _purify(defense, train_set)
        placed = [
            parallel.place(dealt, mesh, parallel.DATA_SPEC)
            for dealt in (
                sampling.deal(images, train_set.labels, num_shards),
                sampling.deal(test_set.images, test_set.labels, num_shards),
            )
        ]
        compiled = _Compiled(
            runner.start(victim.init, mesh),
            runner.advance(victim.step, mesh),
            runner.evaluation(victim.evaluate, mesh),
        )
        curves = {
            seed: _train(
                victim,
                compiled,
                placed[0],
                placed[1],
                mesh,
                workdir / f"seed_{seed}",
                seed=seed,
                epochs=victim_config.epochs,
                evaluate_every=config["evaluate_every"],
                checkpoint_every=config["checkpoint_every"],
                quiet=quiet,
            )
            for seed in seeds
        }
        results = {**identity, **_summary(curves)}
        if jax.process_index() == 0:
            runs.write_json(results_file, results)
        return results


def _purify(defense: defenses.Defense, train_set: data.Dataset) -> np.ndarray:
    if defense.purify is None:
        return train_set.images
    labels = train_set.labels[: len(train_set.images)]
    return np.asarray(defense.purify(jax.random.key(0), train_set.images, labels))


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
    start: runner.Start
    advance: runner.Advance
    evaluate: runner.Evaluate


def _train(
    victim: training.Victim,
    compiled: _Compiled,
    train_data: sampling.Shards,
    test_data: sampling.Shards,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
    *,
    seed: int,
    epochs: int,
    evaluate_every: int,
    checkpoint_every: int,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Trains one victim; returns a line of metrics for every epoch."""
    workdir.mkdir(parents=True, exist_ok=True)
    key = parallel.run_key(seed, "victim", mesh)
    state = compiled.start(key, train_data)
    with (
        checkpoints.Checkpoints(workdir / "checkpoints") as saved,
        runs.stop_signals() as received,
    ):
        step = saved.latest_step or 0
        if step:
            state = saved.restore(state)
        metrics = runs.MetricsFile(workdir / "metrics.jsonl", keep_until=step)
        began = time.perf_counter()
        done = step // victim.steps_per_epoch
        with runs.progress(epochs, done, label=f"seed {seed}", quiet=quiet) as bar:
            while step < victim.num_steps:
                epoch = step // victim.steps_per_epoch + 1
                state, values = runs.run_until(
                    epoch * victim.steps_per_epoch,
                    compiled.advance,
                    key,
                    state,
                    train_data,
                    step=step,
                    # In the middle of an epoch its means would be lost.
                    saved=None,
                    received=received,
                )
                step = epoch * victim.steps_per_epoch
                line = {
                    "epoch": epoch,
                    "train_loss": values["loss"],
                    "train_accuracy": values["accuracy"],
                }
                if epoch % evaluate_every == 0 or epoch == epochs:
                    measured = means.values(compiled.evaluate(state, test_data))
                    line["test_accuracy"] = measured["accuracy"]
                line["seconds"] = round(time.perf_counter() - began, 3)
                metrics.write(step, line)
                if epoch % checkpoint_every == 0 or epoch == epochs:
                    saved.save(step, state)
                shown = {k: f"{v:.4g}" for k, v in line.items() if "_" in k}
                bar.set_postfix(shown, refresh=False)
                bar.update(1)
        return metrics.read()


def _summary(curves: Mapping[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Final and best accuracy over seeds, and every curve."""
    lines = list(curves.values())
    tests = [[x["test_accuracy"] for x in c if "test_accuracy" in x] for c in lines]

    def spread(values: list[float]) -> dict[str, Any]:
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return {"mean": statistics.mean(values), "std": deviation, "values": values}

    return {
        "final": spread([curve[-1] for curve in tests]),
        "best": spread([max(curve) for curve in tests]),
        "epochs_tested": [x["epoch"] for x in lines[0] if "test_accuracy" in x],
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
    spread = "" if final["std"] is None else f" +- {100 * final['std']:.2f}"
    print(
        f"{workdir / RESULTS}: clean test accuracy {100 * final['mean']:.2f}{spread} % "
        f"after the last epoch, {100 * best['mean']:.2f} % at its best, "
        f"{len(final['values'])} seeds"
    )


if __name__ == "__main__":
    command_line.run(
        main,
        config_file="experiments/configs/evaluate.py",
        description="Whom to train, and on what.",
    )
