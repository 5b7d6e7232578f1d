"""What compiling a second derivative of a convolution takes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax as jax_lax

from miue_jax.workflows.benchmark._work import Work


def ours(channels: int, batch_size: int, side: int) -> Work:
    """`miue_jax.models.loop_convolution`."""
    from miue_jax import models

    return _first_call(models.loop_convolution, channels, batch_size, side)


def lax(channels: int, batch_size: int, side: int) -> Work:
    """XLA's own."""
    return _first_call(jax_lax.conv_general_dilated, channels, batch_size, side)


def _first_call(convolution, channels: int, batch_size: int, side: int) -> Work:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, side, side, channels), np.float32)
    kernel = 0.05 * rng.standard_normal((3, 3, channels, channels), np.float32)

    def output(images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        made = convolution(images, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return jnp.sum(jnp.tanh(made))

    def penalty(images, kernel):
        return jnp.sum(jnp.square(jax.grad(output)(images, kernel)))

    def run() -> jax.Array:
        jax.clear_caches()
        return jax.block_until_ready(jax.jit(jax.grad(penalty, 1))(images, kernel))

    return Work(run, value=lambda found: float(jnp.linalg.norm(found)))
