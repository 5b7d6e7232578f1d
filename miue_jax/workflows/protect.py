"""Protects a data set: runs a generator and writes the images that can be published.

    python experiments/generate.py --config experiments/configs/generate.py \
        --config.data.name_or_path=shapes --workdir runs/shapes

The working directory then holds protected.npz (the artifact), protected.delta.npy,
metrics.jsonl
and checkpoints. The same command continues a run that was stopped, and does nothing
where it is finished.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from miue_jax import cli, data, generators
from miue_jax.data import artifact
from miue_jax.train import checkpoints, loop, parallel, run_directory, sampling

ARTIFACT = "protected.npz"


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    resume: bool = True,
    quiet: bool = False,
) -> artifact.Protected:
    """Protects a data set, or finishes a run that was stopped.

    Args:
      config: as in experiments/configs/generate.py.
      workdir: the directory of the run.
      resume: whether a directory that was used before may be continued.
      quiet: no progress bar.

    Returns:
      The protected data set, as it lies in the working directory.

    Raises:
      ValueError: if any input is bad, and nothing is written then; if training diverges
        or changes no image, and no artifact is written then.
    """
    job = prepare(config)
    clean = job.clean
    with run_directory.open_directory(workdir, job.identity, resume=resume):
        artifact = workdir / ARTIFACT
        if artifact.exists() and artifact.delta_path(artifact).exists():
            finished = artifact.load(artifact)
            run_directory.check_same(
                artifact, finished.metadata, job.identity, whole=False
            )
            artifact.check_source(finished, clean)
            return finished
        delta = _generate(
            job,
            workdir,
            checkpoint_every=config["checkpoint_every"],
            quiet=quiet,
        )
        delta = generators.per_example(job.method, delta, clean.labels, job.selected)
        # The export is told by what `build` measures.
        settings = {k: v for k, v in job.identity.items() if k != "export"}
        result = artifact.build(
            clean,
            delta,
            budget=job.method.budget,
            export=job.identity["export"],
            metadata={**settings, "protected_images": int(job.selected.sum())},
        )
        if result.metadata["audit"]["max_change"] == 0:
            raise run_directory.Failed(
                f"{workdir}: the perturbation is 0 gray levels in every image, so "
                "nothing is protected and nothing written; take larger or more steps"
            )
        if jax.process_index() == 0:
            artifact.save(artifact, result, delta=delta)
        # Other processes may go on to read it.
        parallel.barrier("artifact written")
        return result


class Job(NamedTuple):
    """A generator's run, ready to start.

    Attributes:
      clean: the data.
      method: the generator.
      mesh: the devices.
      dealt: the data, dealt to shards.
      selected: (N,) bool, the examples to protect.
      identity: all that the result depends on, as JSON.
    """

    clean: data.Dataset
    method: generators.Generator
    mesh: jax.sharding.Mesh
    dealt: sampling.Shards
    selected: np.ndarray
    identity: dict[str, Any]


def prepare(config: Mapping[str, Any], clean: data.Dataset | None = None) -> Job:
    """Checks everything that can be checked before a generator runs.

    Args:
      config: as in experiments/configs/generate.py.
      clean: the data that it names, if they are loaded already.

    Returns:
      The run.

    Raises:
      ValueError: if any input is bad.
    """
    if config["checkpoint_every"] <= 0:
        raise ValueError(
            f"checkpoint_every is {config['checkpoint_every']}; it must be positive"
        )
    run_directory.check_seeds("seed", (config["seed"],))
    check_export(config["export"])
    settings = dict(config["method"])
    name = settings.pop("name", None)
    method_config = generators.configure(name, settings)
    mesh = parallel.data_mesh()
    num_shards = run_directory.number_of_shards(config["num_shards"], mesh)
    parallel.check_shards(num_shards, mesh)
    if clean is None:
        clean = data.load(**config["data"])
    selected = generators.select(clean.labels, **config["protect"])
    method = generators.create(
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
        "export": config["export"],
        "seed": config["seed"],
        "num_shards": num_shards,
        "source": data.fingerprint(clean),
    }
    dealt = sampling.deal(clean.images, clean.labels, num_shards, selected=selected)
    # A network that does not take these images is found before anything is written.
    jax.eval_shape(method.init, jax.random.key(0), dealt)
    return Job(clean, method, mesh, dealt, selected, identity)


def _generate(
    job: Job, workdir: pathlib.Path, *, checkpoint_every: int, quiet: bool
) -> np.ndarray:
    """Runs a generator's steps with checkpoints, metrics and a progress bar."""
    method, mesh = job.method, job.mesh
    key = parallel.run_key(job.identity["seed"], "generator", mesh)
    placed = parallel.place(job.dealt, mesh, parallel.DATA_SPEC)
    state = loop.start(method.init, mesh)(key, placed)
    advance = loop.advance(method.step, mesh)
    report_every = max(1, method.num_steps // 100)
    with (
        checkpoints.Checkpoints(workdir / "checkpoints", config=job.identity) as saved,
        loop.stop_signals() as received,
    ):
        step, state, totals = loop.go_on(saved, state)
        metrics = run_directory.MetricsFile(workdir / "metrics.jsonl", keep_until=step)
        began = time.perf_counter()
        with loop.progress(method.num_steps, step, quiet=quiet) as bar:
            while step < method.num_steps and not bool(method.finished(state)):
                mark = min(
                    (step // report_every + 1) * report_every,
                    (step // checkpoint_every + 1) * checkpoint_every,
                    method.num_steps,
                )
                state, values = loop.run_until(
                    mark,
                    advance,
                    key,
                    state,
                    placed,
                    step=step,
                    totals=totals,
                    saved=saved,
                    received=received,
                )
                step, totals = mark, None
                seconds = time.perf_counter() - began
                metrics.write(step, {**values, "seconds": round(seconds, 3)})
                # The last one too: a signal that comes now finds everything saved.
                last = step == method.num_steps or bool(method.finished(state))
                if last or step % checkpoint_every == 0:
                    saved.save(step, state)
                bar.set_postfix(
                    {k: f"{v:.4g}" for k, v in values.items()}, refresh=False
                )
                bar.update(step - bar.n)
        return np.asarray(parallel.to_host(method.perturbation(state)), np.float32)


def main(config: dict[str, Any], workdir: pathlib.Path, resume: bool) -> None:
    """Runs and prints what came out."""
    result = run(config, workdir, resume=resume)
    print(f"{workdir / ARTIFACT}: {artifact.describe(result)}")


if __name__ == "__main__":
    cli.run(
        main,
        config_file="experiments/configs/generate.py",
        description="What to protect, and how.",
    )
