"""Figures of losses, projected gradient, a generator and its victim, on two devices.

`gpu_run.py` runs it: `python smoke.py OUTPUT SIZE` computes the same figures on the
device that JAX chooses and on the host's CPU, at the same time, and writes both, with
their differences and whether these are allowed.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

# Of convolutions in TF32; training amplifies it, and accuracies are of 500 images.
_ALLOWED = {"loss": 1e-4, "pgd": 2e-2, "generator": 0.1, "accuracy": 0.1}


def main() -> int:
    """Runs the processes and compares what they found."""
    output, size = sys.argv[1:3]
    command = [sys.executable, __file__, "--figures"]
    on_cpu = {**os.environ, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [*command, size, where], stdout=subprocess.PIPE, text=True, env=environment
        )
        for where, environment in (("device", None), ("cpu", on_cpu))
    ]
    found = []
    for process in processes:
        text, _ = process.communicate()
        if process.returncode:
            for other in processes:
                other.kill()
            return process.returncode
        found.append(json.loads(text.splitlines()[-1]))
    (device, figures), (_, expected) = found
    rows = {name: compare(name, figures[name], expected[name]) for name in expected}
    from miue_jax.train import run_directory

    results = {"device": device, "ok": all(x["ok"] for x in rows.values())}
    run_directory.write_json(pathlib.Path(output), {**results, "figures": rows})
    return 0


def compare(name: str, value: float, expected: float) -> dict[str, Any]:
    """A figure on the device and on the CPU; relative, but for accuracies."""
    kind = name.partition(":")[0]
    scale = 1.0 if kind == "accuracy" else abs(expected)
    difference = abs(value - expected) / scale if scale else abs(value)
    allowed = _ALLOWED[kind]
    # NaN is never right.
    row = {"device": value, "cpu": expected, "difference": difference}
    return {**row, "allowed": allowed, "ok": difference <= allowed}


def figures(size: str) -> dict[str, float]:
    """Computes them.

    Args:
      size: full or small.

    Returns:
      Their values by name, which begins with the kind of the difference allowed.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import miue_jax as mj

    many, per_class = (2048, 100) if size == "full" else (256, 10)
    tiny: dict[str, Any] = {
        "model": "resnet10",
        "width": 8,
        "batch_size": 50,
        "epochs": 5,
    }
    if size == "small":
        tiny = {"model": "lenet5", "batch_size": 50, "epochs": 1}
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((many, 64), np.float32))
    labels = jnp.arange(many) % 10
    direction = jnp.asarray(rng.standard_normal(features.shape, np.float32))
    found = {}
    covariance = functools.partial(mj.conditional_covariance_loss, num_classes=10)
    losses: dict[str, Any] = {
        "mi_ue": mj.mi_ue_loss,
        "similarity": mj.similarity_loss,
        "distance": mj.distance_loss,
        "trace": covariance,
        "logdet": functools.partial(covariance, statistic="logdet"),
    }
    for name, loss in losses.items():
        # Classes apart, so that no gradient is small.
        value, gradient = jax.jit(jax.value_and_grad(loss))(
            features + 0.5 * jax.nn.one_hot(labels, 64), labels
        )
        found[f"loss:{name}"] = float(value)
        found[f"loss:{name}, gradient"] = float(jnp.sum(gradient * direction))
    model = mj.models.create(tiny["model"], num_classes=10, width=tiny.get("width"))
    images = jnp.asarray(rng.random((16, 32, 32, 3), np.float32))
    variables = model.init(jax.random.key(0), images, train=False)
    towards = direction[:16, :64]

    def pgd_loss(perturbed):
        made, _ = model.apply(variables, perturbed, train=False)
        return jnp.mean(jnp.square(made[:, :64] - towards))

    delta = mj.pgd(
        pgd_loss,
        images,
        jnp.zeros_like(images),
        radius=8 / 255,
        step_size=2 / 255,
        num_steps=5,
    )
    found["pgd:loss"] = float(pgd_loss(images + delta))
    found["pgd:mean change"] = float(jnp.mean(jnp.abs(delta)))
    data = mj.data.load("shapes", per_class=per_class)
    protected = mj.protect(data, "mi_ue/interleaved", **tiny)
    change = protected.dataset.images.astype(np.float32) - data.images
    found["generator:mean change"] = float(np.abs(change).mean())
    test = mj.data.DataSource("shapes", split="test", per_class=50)
    for name, train in (("clean", data), ("protected", protected)):
        results = mj.evaluate(train, test, **tiny, learning_rate=0.05, seeds=(0,))
        found[f"accuracy:{name}"] = results["final"]["mean"]
    return found


def _print_figures(size: str, where: str) -> None:
    import jax

    if (size, where, jax.default_backend()) == ("full", "device", "cpu"):
        sys.exit("JAX finds no accelerator; --size small tries all steps without")
    found = figures(size)
    print(json.dumps([jax.devices()[0].device_kind, found]))


if __name__ == "__main__":
    if sys.argv[1] == "--figures":
        _print_figures(*sys.argv[2:])
    else:
        sys.exit(main())
