"""Protects a data set: runs a generator and writes the images that can be published.

    python experiments/generate.py --config experiments/configs/generate.py \
        --config.data.name_or_path=shapes --workdir runs/shapes

The working directory then holds protected.npz (the artefact), protected.delta.npy,
metrics.jsonl
and checkpoints. The same command continues a run that was stopped, and does nothing
where it is finished.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import command_line
import jax
import numpy as np
import runs

from miue_jax import checkpoints, data, methods, parallel, runner, sampling
from miue_jax.data import protected

ARTEFACT = "protected.npz"


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    resume: bool = True,
    quiet: bool = False,
) -> protected.Protected:
    """Protects a data set, or finishes a run that was stopped.

    Args:
      config: as in experiments/configs/generate.py.
      workdir: the directory of the run.
      resume: whether a directory that was used before may be continued.
      quiet: no progress bar.

    Returns:
      The protected data set, as it lies in the working directory.

    Raises:
      ValueError: if any input is bad; nothing is written then.
    """
    config = dict(config)
    if config["checkpoint_every"] <= 0:
        raise ValueError(
            f"checkpoint_every is {config['checkpoint_every']}; it must be positive"
        )
    settings = dict(config["method"])
    name = settings.pop("name")
    method_config = methods.configure(name, settings)
    clean = data.load(**config["data"])
    mesh = parallel.data_mesh()
    num_shards = config["num_shards"] or mesh.size
    batches = ["batch_size"]
    if settings.get("schedule") == "alternating":
        batches.append("perturbation_batch_size")
    for size in batches:
        if size in settings:
            parallel.check_divisible(settings[size], num_shards, mesh)
    selected = methods.select(clean.labels, **config["protect"])
    method = methods.create(
        name,
        method_config,
        num_examples=len(clean.labels),
        num_classes=len(clean.class_names),
        num_shards=num_shards,
        axis_name=parallel.AXIS,
    )
    identity = {
        "data": dict(config["data"]),
        "method": {"name": name, **settings},
        "protect": dict(config["protect"]),
        "seed": config["seed"],
        "num_shards": num_shards,
        "source": data.fingerprint(clean),
    }
    dealt = sampling.deal(clean.images, clean.labels, num_shards, selected=selected)
    # A network that does not take these images is found before anything is written.
    jax.eval_shape(method.init, jax.random.key(0), dealt)
    with runs.open_directory(workdir, identity, resume=resume):
        artefact = workdir / ARTEFACT
        if artefact.exists() and protected.delta_path(artefact).exists():
            finished = protected.load(artefact)
            protected.check_source(finished, clean)
            return finished
        delta = _generate(
            method,
            dealt,
            mesh,
            workdir,
            seed=config["seed"],
            checkpoint_every=config["checkpoint_every"],
            quiet=quiet,
        )
        delta = methods.per_example(method, delta, clean.labels, selected)
        result = protected.build(
            clean,
            delta,
            radius=method_config.radius,
            metadata={**identity, "protected_images": int(selected.sum())},
        )
        if jax.process_index() == 0:
            protected.save(artefact, result, delta=delta)
        return result


def _generate(
    method: methods.Method,
    dealt: sampling.Shards,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
    *,
    seed: int,
    checkpoint_every: int,
    quiet: bool,
) -> np.ndarray:
    """Runs a generator's steps with checkpoints, metrics and a progress bar."""
    key = parallel.run_key(seed, "generator", mesh)
    placed = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    state = runner.start(method.init, mesh)(key, placed)
    advance = runner.advance(method.step, mesh)
    report_every = max(1, method.num_steps // 100)
    with (
        checkpoints.Checkpoints(workdir / "checkpoints") as saved,
        runs.stop_signals() as received,
    ):
        step = saved.latest_step or 0
        if step:
            state = saved.restore(state)
        metrics = runs.MetricsFile(workdir / "metrics.jsonl", keep_until=step)
        began = time.perf_counter()
        with runs.progress(method.num_steps, step, quiet=quiet) as bar:
            while step < method.num_steps and not bool(method.finished(state)):
                mark = min(
                    (step // report_every + 1) * report_every,
                    (step // checkpoint_every + 1) * checkpoint_every,
                    method.num_steps,
                )
                state, values = runs.run_until(
                    mark,
                    advance,
                    key,
                    state,
                    placed,
                    step=step,
                    saved=saved,
                    received=received,
                )
                step = mark
                seconds = time.perf_counter() - began
                metrics.write(step, {**values, "seconds": round(seconds, 3)})
                if step % checkpoint_every == 0:
                    saved.save(step, state)
                bar.set_postfix(
                    {k: f"{v:.4g}" for k, v in values.items()}, refresh=False
                )
                bar.update(step - bar.n)
        return np.asarray(parallel.to_host(method.perturbation(state)), np.float32)


def main(config: dict[str, Any], workdir: pathlib.Path, resume: bool) -> None:
    """Runs and prints what came out."""
    result = run(config, workdir, resume=resume)
    print(f"{workdir / ARTEFACT}: {protected.describe(result)}")


if __name__ == "__main__":
    command_line.run(
        main,
        config_file="experiments/configs/generate.py",
        description="What to protect, and how.",
    )
