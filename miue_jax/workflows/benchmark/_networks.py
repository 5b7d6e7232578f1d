"""Training and perturbation steps of the library, in a loop on the device."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from miue_jax import losses, models, projected_gradient
from miue_jax.train import classifier, parallel
from miue_jax.workflows.benchmark._work import Work

CLASSES, IMAGE_SHAPE = 10, (32, 32, 3)
RADIUS, STEP_SIZE = 8 / 255, 0.8 / 255
# The work of a step in forward passes: forward, gradient to the activations, and in
# training the gradient to the parameters.
PASSES = {"train": 3, "perturb": 2}

# Dense, as the data sheets have it; float32 is computed in TF32 by default.
_PEAKS = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "NVIDIA H200": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 156e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 156e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def batch(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, 32, 32, 3) in [0, 1] and labels (B,)."""
    images = np.random.default_rng(0).random((batch_size, *IMAGE_SHAPE), np.float32)
    return images, (np.arange(batch_size) % CLASSES).astype(np.int32)


def steps_of_call(steps: int | None) -> int:
    """Steps in one call: so many that starting it takes no time on an accelerator."""
    if steps is not None:
        return steps
    return 2 if jax.default_backend() == "cpu" else 20


def step(
    kind: str, model: str, width: int, batch_size: int, dtype: str, steps: int | None
) -> Work:
    """Steps of SGD, or signed steps of a perturbation on the similarity loss."""
    count = steps_of_call(steps)
    shared = {"num_classes": CLASSES, "width": width, "dtype": jnp.dtype(dtype)}
    module = models.create(
        model, axis_name=parallel.AXIS, convolution=models.loop_convolution, **shared
    )
    mesh = parallel.data_mesh(jax.local_devices()[:1])
    optimizer = classifier.sgd(0.01, weight_decay=5e-4)
    learner = jax.jit(classifier.init_learner, static_argnums=(1, 2, 3))(
        jax.random.key(0), module, optimizer, IMAGE_SHAPE
    )
    learner = parallel.place(learner, mesh, parallel.REPLICATED_SPEC)
    given = parallel.place(batch(batch_size), mesh, parallel.DATA_SPEC)

    def train(learner, images, labels):
        def once(_, learner):
            return classifier.train_step(
                learner, module, optimizer, images, labels, axis_name=parallel.AXIS
            )[0]

        return lax.fori_loop(0, count, once, learner)

    def perturb(learner, images, labels):
        def loss(perturbed):
            features, _ = module.apply(learner.variables, perturbed, train=False)
            return losses.similarity_loss(features, labels, axis_name=parallel.AXIS)

        return projected_gradient.pgd(
            loss,
            images,
            jnp.zeros_like(images),
            radius=RADIUS,
            step_size=STEP_SIZE,
            num_steps=count,
        )

    specs = (parallel.REPLICATED_SPEC, parallel.DATA_SPEC, parallel.DATA_SPEC)
    function, out = (
        (train, parallel.REPLICATED_SPEC)
        if kind == "train"
        else (perturb, parallel.DATA_SPEC)
    )
    compiled = parallel.parallelize(function, mesh, in_specs=specs, out_specs=out)
    plain = models.create(model, convolution=lax.conv_general_dilated, **shared)
    return Work(
        lambda: jax.block_until_ready(compiled(learner, *given)),
        steps=count,
        flops=PASSES[kind] * batch_size * _forward_flops(plain),
        peak=_peak(dtype),
    )


def _forward_flops(module: Any) -> float:
    """FLOPs of one image's forward pass, by XLA's cost analysis of the program."""
    image = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), jnp.float32)
    variables = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False), image
    )
    lowered = jax.jit(lambda v, x: module.apply(v, x, train=False)).lower(
        variables, image
    )
    # Before optimization: a GPU's library calls count for nothing afterwards.
    analysis: Any = lowered.cost_analysis()
    return float(analysis["flops"])


def _peak(dtype: str) -> tuple[float, str]:
    kind = jax.devices()[0].device_kind
    if dtype in _PEAKS.get(kind, {}):
        return _PEAKS[kind][dtype], "data sheet"
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    taken = []
    for _ in range(6):
        before = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        taken.append(time.perf_counter() - before)
    # The first one compiles.
    return 2.0 * size**3 / min(taken[1:]), "fastest matrix product"
