"""Images per second of a training step and of a perturbation step.

    python experiments/benchmark.py --model resnet18 --width 64 --batch-size 128 \
        --steps 2 --repeats 5 --json results/benchmark_cpu_resnet18_w64.json

The result on one core of an AMD EPYC is results/benchmark_cpu_resnet18_w64.json: 32
images per second of training, 1.07 times PyTorch's by processor time, and 63 of
perturbation, 1.44 times; at width 16, results/benchmark_cpu_resnet18_w16.json,
0.71 and 0.91 times. It takes a few minutes. Not run on a GPU yet, where it compares
with compiled PyTorch in bfloat16, too.

Runs the steps as the library does, in a loop on the device and over all local devices;
for residual networks also in PyTorch, where it can be imported, in turns with the
library: eager and channels-last, on a GPU also compiled in bfloat16. A ratio above one
says that the library is faster; it is the median over the turns, with the smallest and
the largest. The share of the peak is that of the fastest of as many large matrix
products, with the FLOPs of the forward pass counted three times per training step
(forward, gradient to the parameters, gradient to the activations) and twice per
perturbation step. They are those of direct convolutions: where the library does with
fewer (Winograd's filtering, on the CPU) the share can exceed 100 %.

On a shared machine pin it to one core (``taskset -c 0 python ...``): threads that wait
for a busy core spoil both sides, PyTorch's more.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# PyTorch has to find memory on the same device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from miue_jax import _command_line, losses, models, projected_gradient
from miue_jax._checks import check_choice, check_number
from miue_jax.data import atomic, public
from miue_jax.train import classifier, parallel

PROG = "benchmark.py"

_CLASSES = 10
_IMAGE_SHAPE = (32, 32, 3)
_RADIUS, _STEP_SIZE = 8 / 255, 0.8 / 255
# The work of a step in forward passes.
_PASSES = {"train": 3, "perturbation": 2}

Run = Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Times a training step and a perturbation step.

    Attributes:
      model: name of the network.
      width: of the network; None for its own.
      batch_size: images in a batch over all devices.
      dtype: compute type, float32 or bfloat16.
      repeats: timed loops of each program.
      steps: steps in a loop.
      json: file for the results.
    """

    model: str = "resnet18"
    width: int | None = None
    batch_size: int = 128
    dtype: str = "float32"
    repeats: int = 5
    steps: int = 3
    json: pathlib.Path | None = None


def run(options: Options) -> dict[str, Any]:
    """Times both steps.

    Args:
      options: of the command.

    Returns:
      What the JSON file holds: images per second, ratios, shares of the peak, hardware
      and versions.

    Raises:
      ValueError: for an unknown model or type, or a number that is not positive.
    """
    sizes = {k: getattr(options, k) for k in ("batch_size", "repeats", "steps")}
    for name, value in sizes.items():
        check_number(name, value, "> 0", whole=True)
    check_choice("dtype", options.dtype, ("float32", "bfloat16"))
    model, width, dtype = options.model, options.width, options.dtype
    batch_size, repeats, steps = sizes.values()
    shared = {"num_classes": _CLASSES, "width": width, "dtype": jnp.dtype(dtype)}
    module = models.create(model, axis_name=parallel.AXIS, **shared)
    mesh = parallel.data_mesh(jax.local_devices())
    if batch_size % mesh.size:
        raise ValueError(
            f"a batch of {batch_size} images does not split over {mesh.size} devices"
        )
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, *_IMAGE_SHAPE), np.float32)
    labels = (np.arange(batch_size) % _CLASSES).astype(np.int32)

    programs = _jax_runs(module, mesh, images, labels, steps)
    omitted = _why_no_torch(module, mesh)
    if omitted is None:
        programs |= _torch_runs(module, images, labels, steps, dtype)
    matmul, matmul_flops = _matmul_run(dtype, mesh.size)
    programs["miue_jax", "matmul"] = matmul
    wall, cpu = _time_in_turns(programs, repeats)
    peaks = [matmul_flops / seconds for seconds in wall["miue_jax", "matmul"]]
    forward = _forward_flops(
        models.create(model, convolution=lax.conv_general_dilated, **shared)
    )
    results: dict[str, Any] = {}
    for kind, passes in _PASSES.items():
        work = batch_size * steps
        ours = wall["miue_jax", kind]
        speeds = [work / seconds for seconds in ours]
        flops = [passes * forward * speed for speed in speeds]
        results[kind] = {
            "images_per_second": _spread(speeds),
            "share_of_matmul_peak": _spread([f / max(peaks) for f in flops]),
            "pytorch": {
                name: {
                    "images_per_second": _spread([work / s for s in seconds]),
                    "ratio": _spread(_quotients(seconds, ours)),
                    "ratio_of_cpu_time": _spread(
                        _quotients(cpu[name, kind], cpu["miue_jax", kind])
                    ),
                }
                for (name, of), seconds in wall.items()
                if of == kind and name != "miue_jax"
            },
        }
    settings = {"model": model, "width": width, "dtype": dtype, "image": _IMAGE_SHAPE}
    return {
        "settings": settings | sizes,
        "results": results,
        "pytorch_omitted": omitted,
        "forward_flops_per_image": forward,
        "flops_convention": "forward x 3 (train), forward x 2 (perturbation)",
        "matmul_flops_per_second": _spread(peaks),
        "hardware": _hardware(mesh.size),
        "versions": _versions(),
    }


def _jax_runs(module, mesh, images, labels, steps) -> dict[tuple[str, str], Run]:
    key = jax.random.key(0)
    optimizer = classifier.sgd(0.01, weight_decay=5e-4)
    learner = jax.jit(classifier.init_learner, static_argnums=(1, 2, 3))(
        key, module, optimizer, _IMAGE_SHAPE
    )
    learner = parallel.place(learner, mesh, parallel.REPLICATED_SPEC)
    batch = parallel.place((images, labels), mesh, parallel.DATA_SPEC)

    def train(learner, images, labels):
        def step(_, learner):
            return classifier.train_step(
                learner, module, optimizer, images, labels, axis_name=parallel.AXIS
            )[0]

        return lax.fori_loop(0, steps, step, learner)

    def perturb(learner, images, labels):
        def loss(perturbed):
            features, _ = module.apply(learner.variables, perturbed, train=False)
            return losses.similarity_loss(features, labels, axis_name=parallel.AXIS)

        return projected_gradient.pgd(
            loss,
            images,
            jnp.zeros_like(images),
            radius=_RADIUS,
            step_size=_STEP_SIZE,
            num_steps=steps,
        )

    specs = (parallel.REPLICATED_SPEC, parallel.DATA_SPEC, parallel.DATA_SPEC)
    runs: dict[tuple[str, str], Run] = {}
    for kind, function, out in (
        ("train", train, parallel.REPLICATED_SPEC),
        ("perturbation", perturb, parallel.DATA_SPEC),
    ):
        compiled = parallel.parallelize(function, mesh, in_specs=specs, out_specs=out)
        call = functools.partial(compiled, learner, *batch)
        runs["miue_jax", kind] = functools.partial(_finish, call)
    return runs


def _finish(call: Callable[[], Any]) -> None:
    jax.block_until_ready(call())


def _why_no_torch(module: nn.Module, mesh: jax.sharding.Mesh) -> str | None:
    if not isinstance(module, models.ResNet):
        return "the PyTorch side has residual networks only"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    kind = jax.default_backend()
    if kind == "cpu":
        return None
    if mesh.size > 1:
        return f"the PyTorch side uses one device, the library {mesh.size}"
    import torch

    # jax.default_backend() calls a CUDA device "gpu".
    if kind != "gpu" or not torch.cuda.is_available():
        return f"PyTorch has no {kind} here"
    return None


def _torch_runs(module, images, labels, steps, dtype) -> dict[tuple[str, str], Run]:
    import torch
    import torch_resnet

    on_gpu = jax.default_backend() == "gpu"
    torch.set_num_threads(_cores())
    torch.manual_seed(0)
    variants = [("eager", dtype)]
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        variants.append(("compiled", "bfloat16"))
    runs = {}
    for how, compute in variants:
        for kind in _PASSES:
            net = torch_resnet.ResNet(
                _CLASSES, module.stage_sizes, module.bottleneck, module.width
            )
            net = net.to("cuda" if on_gpu else "cpu", memory_format=torch.channels_last)
            if how == "compiled":
                net.compile()
            options = {"steps": steps, "dtype": compute}
            if kind == "train":
                program = torch_resnet.train_run(net, images, labels, **options)
            else:
                program = torch_resnet.perturbation_run(
                    net,
                    images,
                    labels,
                    radius=_RADIUS,
                    step_size=_STEP_SIZE,
                    **options,
                )
            runs[f"{how} {compute}", kind] = program
    return runs


def _time_in_turns(
    programs: dict[tuple[str, str], Run], repeats: int
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], list[float]]]:
    """Seconds of wall and of processor time, program by program, A B A B."""
    order = sorted(programs, key=lambda name: name[1])
    for name in order:
        programs[name]()
    wall, cpu = ({name: [] for name in order} for _ in range(2))
    for _ in range(repeats):
        for name in order:
            before = time.perf_counter(), time.process_time()
            programs[name]()
            wall[name].append(time.perf_counter() - before[0])
            cpu[name].append(time.process_time() - before[1])
    return wall, cpu


def _quotients(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    middle = statistics.median(values)
    return {"median": middle, "min": min(values), "max": max(values)}


def _matmul_run(dtype: str, num_devices: int) -> tuple[Run, float]:
    """A large matrix product, and what all devices do in the time one takes."""
    on_cpu = jax.default_backend() == "cpu"
    size = 2048 if on_cpu else 8192
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    # Fake CPU devices share one machine.
    flops = 2.0 * size**3 * (1 if on_cpu else num_devices)
    return lambda: jax.block_until_ready(product(matrix, matrix)), flops


def _forward_flops(module: nn.Module) -> float:
    """FLOPs of one image's forward pass, by XLA's cost analysis of the program."""
    image = jax.ShapeDtypeStruct((1, *_IMAGE_SHAPE), jnp.float32)
    variables = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False), image
    )
    lowered = jax.jit(lambda v, x: module.apply(v, x, train=False)).lower(
        variables, image
    )
    # Before optimization: a GPU's library calls count for nothing afterwards.
    analysis: Any = lowered.cost_analysis()
    return float(analysis["flops"])


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _hardware(num_devices: int) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": num_devices,
        "processor": processor,
        "cores_used": _cores(),
        # Above the number of cores used, neighbors were busy.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("miue_jax", "jax", "jaxlib", "flax", "optax", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _report(measured: dict[str, Any]) -> None:
    hardware = measured["hardware"]
    print(f"{hardware['num_devices']} x {hardware['device']}, {hardware['processor']}")
    for kind, result in measured["results"].items():
        speed, share = result["images_per_second"], result["share_of_matmul_peak"]
        print(
            f"{kind} step: {speed['median']:.4g} images/s "
            f"({speed['min']:.4g} to {speed['max']:.4g}), "
            f"{100 * share['median']:.1f} % of the matmul peak "
            f"({100 * share['min']:.1f} to {100 * share['max']:.1f})"
        )
        for name, other in result["pytorch"].items():
            speed, ratio = other["images_per_second"], other["ratio"]
            print(
                f"  PyTorch {name}: {speed['median']:.4g} images/s; ratio "
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            )
            if hardware["backend"] == "cpu":
                ratio = other["ratio_of_cpu_time"]
                print(
                    f"    by processor time {ratio['median']:.2f} "
                    f"({ratio['min']:.2f} to {ratio['max']:.2f})"
                )
    if measured["pytorch_omitted"]:
        print(f"no comparison with PyTorch: {measured['pytorch_omitted']}")


def main() -> None:
    """Measures, prints and writes what the options ask for."""
    options = _command_line.parse(Options, sys.argv[1:], prog=PROG)
    path = options.json
    # Before minutes of measuring, not after.
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    measured = run(options)
    measured["command"] = public.command(
        ["python", f"experiments/{PROG}", *sys.argv[1:]]
    )
    _report(measured)
    if path is not None:
        with atomic.write_file(path) as file:
            file.write(json.dumps(measured, indent=2).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
