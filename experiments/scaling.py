"""Weak scaling: what it costs to split a step over devices, at equal work a device.

    python experiments/scaling.py --devices 1 2 4 8 --model resnet10 --width 16 \
        --batch-size 64 --steps 2 --repeats 5 --json results/scaling_cpu.json

The result on one core is results/scaling_cpu.json: on eight devices 1.08 times the
work an image for MI-UE and 1.05 for a victim. It takes five minutes of a core, most of
them to compile; one, if the programs are in the cache. Simulated devices share the
processor, so that nothing gets faster here: what is measured is processor time per
image, relative to that of the fewest devices. At 1.1, a tenth of the work is that of
splitting: collectives, copies, threads that wait for each other. Not run on several
GPUs or TPU chips yet, where the wall time of a step says the same.

Measured are a step of MI-UE (interleaved: the surrogate is trained on a batch, and its
perturbation is updated) and a training step of a victim. Every number of devices has a
process of its own, with ``--batch-size`` images on every device; they take turns. The
similarities of MI-UE are those of the global batch, which on more devices is larger:
that this is more work per image counts as a cost of splitting here.

On a shared machine pin it to one core (``taskset -c 0 python ...``).
"""

import dataclasses
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from miue_jax import _checks, _command_line, generators, models, victims
from miue_jax.data import shapes
from miue_jax.train import loop, parallel, sampling

PROG = "scaling.py"

_CLASSES = 10
_STEPS = ("protect", "train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps that are split over simulated devices.

    Attributes:
      devices: their numbers, one process each, in ascending order.
      model: name of the network.
      width: of the network; None for its own.
      batch_size: images on every device.
      examples: images of the data on every device.
      repeats: timed loops.
      steps: steps in a loop.
      json: file for the results.
    """

    devices: tuple[int, ...] = (1, 2, 4, 8)
    model: str = "resnet18"
    width: int | None = 16
    batch_size: int = 32
    examples: int = 128
    repeats: int = 5
    steps: int = 2
    json: pathlib.Path | None = None


def run(options: Options) -> dict[str, Any]:
    """Times the steps.

    Args:
      options: of the command.

    Returns:
      What the JSON file holds: seconds of processor time per step, ratios, hardware and
      versions.

    Raises:
      ValueError: for an unknown model or a number that is not positive.
    """
    for name in ("batch_size", "examples", "repeats", "steps"):
        _checks.check_number(name, getattr(options, name), "> 0", whole=True)
    if options.width is not None:
        _checks.check_number("width", options.width, "> 0", whole=True)
    if options.examples < options.batch_size:
        raise ValueError(
            f"examples is {options.examples}; allowed: at least batch_size, "
            f"{options.batch_size}"
        )
    if not options.devices or list(options.devices) != sorted(set(options.devices)):
        raise ValueError(f"devices are {options.devices}; they must ascend")
    for count in options.devices:
        _checks.check_number("devices", count, "> 0", whole=True)
    _checks.check_choice("model", options.model, models.NAMES)
    seconds = _measure(options)
    base = options.devices[0]
    results: dict[str, Any] = {}
    for step in _STEPS:
        # Of the same turn, so that what else the machine does weighs on both.
        quotients = {
            count: [
                (own / count) / (first / base)
                for own, first in zip(
                    seconds[count][step], seconds[base][step], strict=True
                )
            ]
            for count in options.devices
        }
        results[step] = {
            str(count): {
                "cpu_seconds_per_step": _spread(
                    [x / options.steps for x in seconds[count][step]]
                ),
                "ratio": _spread(quotients[count]),
            }
            for count in options.devices
        }
    settings = dataclasses.asdict(options)
    return {
        "settings": {k: v for k, v in settings.items() if k != "json"},
        "results": results,
        "hardware": _hardware(),
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("miue_jax", "jax", "jaxlib", "flax")
            },
        },
    }


def _measure(options: Options) -> dict[int, dict[str, list[float]]]:
    """Seconds of processor time of every loop, by number of devices and step."""
    spawn = multiprocessing.get_context("spawn")
    workers = {}
    for count in options.devices:
        here, there = spawn.Pipe()
        worker = spawn.Process(target=_serve, args=(there, count, options), daemon=True)
        worker.start()
        there.close()
        here.recv()  # it has compiled
        workers[count] = here
    taken = {count: {step: [] for step in _STEPS} for count in options.devices}
    for _ in range(options.repeats):
        for step in _STEPS:
            for count, connection in workers.items():
                connection.send(step)
                taken[count][step].append(connection.recv())
    for connection in workers.values():
        connection.send(None)
    return taken


def _serve(connection: Any, count: int, options: Options) -> None:
    """A process with so many devices, which runs the loops that it is asked for."""
    _command_line.keep_compiled()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    loops = _loops(count, options)
    for step in _STEPS:
        loops[step]()
    connection.send("ready")
    while (step := connection.recv()) is not None:
        before = time.process_time()
        loops[step]()
        connection.send(time.process_time() - before)


def _loops(count: int, options: Options) -> dict[str, Callable[[], None]]:
    mesh = parallel.data_mesh()
    batch, size = count * options.batch_size, count * options.examples
    clean = shapes.generate(size)
    dealt = sampling.deal(clean.images, clean.labels, count)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    shared: dict[str, Any] = {"model": options.model, "width": options.width}
    spec = generators.DataSpec(
        num_examples=size,
        num_classes=_CLASSES,
        image_shape=clean.images.shape[1:],
        num_shards=count,
        axis_name=parallel.AXIS,
    )
    settings = generators.spec("mi_ue/interleaved", batch_size=batch, **shared)
    generator = generators.create(settings.name, settings.config, spec)
    victim = victims.victim(
        victims.preset("quick", batch_size=batch, **shared),
        num_examples=size,
        num_classes=_CLASSES,
        num_shards=count,
        axis_name=parallel.AXIS,
    )
    return {
        name: _loop(procedure, mesh, data, options.steps)
        for name, procedure in zip(_STEPS, (generator, victim), strict=True)
    }


def _loop(procedure: Any, mesh: Any, data: Any, steps: int) -> Callable[[], None]:
    key = parallel.run_key(0, "scaling", mesh)
    advance = loop.advance(procedure.step, mesh)
    state = [loop.start(procedure.init, mesh)(key, data)]

    def run() -> None:
        stop = int(state[0].step) + steps
        state[0], _ = jax.block_until_ready(advance(key, state[0], data, stop))

    return run


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _hardware() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": processor,
        "cores_used": len(affinity(0)) if affinity else os.cpu_count(),
        # Above the number of cores used, neighbors were busy.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _report(measured: dict[str, Any]) -> None:
    for step, results in measured["results"].items():
        for count, result in results.items():
            seconds, ratio = result["cpu_seconds_per_step"], result["ratio"]
            print(
                f"{step}, {count} devices: {seconds['median']:.3g} s of processor time "
                f"a step, {ratio['median']:.3f} times as much per image "
                f"({ratio['min']:.3f} to {ratio['max']:.3f})"
            )


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    _command_line.measure(Options, run, PROG, report=_report)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
