"""Adversarial training: every batch is attacked before the victim learns from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from miue_jax import _checks, _flat_draws, projected_gradient
from miue_jax._checks import check_number
from miue_jax.budget import to_unit
from miue_jax.defenses.base import Defense, Predict, freeze
from miue_jax.train.classifier import Forward, cross_entropy


class _Protocol(NamedTuple):
    num_steps: int
    # Radius -> length of a step, both in gray levels.
    step_size: Callable[[float], float]
    start: str  # "uniform" in the ball, "gaussian" of one step's deviation, or "none"
    train: bool = False  # whether batch statistics normalize during the attack


_PROTOCOLS = {
    "em": _Protocol(10, lambda radius: radius * 0.007 / 0.031, "gaussian"),
    "apbench": _Protocol(10, lambda radius: radius / 4, "gaussian"),
    "rem": _Protocol(10, lambda radius: radius / 5, "uniform"),
    "miue": _Protocol(10, lambda radius: 2.0, "uniform"),
    "dune": _Protocol(7, lambda radius: radius / 4, "uniform"),
    "pil": _Protocol(7, lambda radius: radius / 4, "none", train=True),
    "hypo": _Protocol(10, lambda radius: radius / 4, "uniform"),
}


def adversarial_training(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    radius: float,
    protocol: str = "miue",
    step_size: float | None = None,
    num_steps: int | None = None,
    eval_steps: int = 20,
) -> Defense:
    """Trains on the images within an L-infinity ball that the victim knows worst.

    The loss is the cross-entropy of x + delta in training mode, where delta comes from
    projected sign steps that raise the cross-entropy of the network as it is: delta <-
    clip(delta + step_size * sign(gradient), -radius, radius), cut so that x + delta
    stays in [0, 1]. No gradient of the parameters flows through these steps.

    Published experiments differ in the attack. The protocols are those of:

    ========  =====  ==================  ========================
    protocol  steps  step size           start
    ========  =====  ==================  ========================
    em        10     0.226 of radius     Gaussian, one step's deviation
    apbench   10     a quarter           Gaussian, one step's deviation
    rem       10     a fifth             uniform in the ball
    miue      10     2 gray levels       uniform in the ball
    dune      7      a quarter           uniform in the ball
    pil       7      a quarter           the image
    hypo      10     a quarter           uniform in the ball
    ========  =====  ==================  ========================

    Where a step was published for one radius only (em 0.007 for 0.031, apbench 2/255
    for 8/255, rem 0.8/255 for 4/255), it keeps its share of other radii. That of miue
    is 2 gray levels at every radius, as its authors have it: at radius 2 one step
    crosses half of the ball, and at 16 all ten do not cross it. Set `step_size` for a
    sweep in which the attacks are alike. The attack sees running statistics, but with
    pil those of the attacked batch; which of them hypo takes is not known. Learning
    rates and epochs, which differ as well, are those of the victim's protocol:
    `protocols.PROTOCOLS` has "rem_adversarial" and so on ("authors_adversarial" for
    miue).

    APBench also trains within L2 balls, which is not offered.

    The accuracy under attack is reported for `eval_steps` steps of a quarter of the
    radius from a uniform start, whatever the protocol, so that the defenses of one
    radius are compared under one attack.

    Args:
      image_shape: unused, as any images will do.
      num_classes: unused.
      radius: of the ball, in gray levels (8, not 8/255), in (0, 255].
      protocol: whose attack to train with: em, apbench, rem, miue, dune, pil or hypo.
      step_size: in gray levels; None for the protocol's.
      num_steps: of the attack in training; None for the protocol's.
      eval_steps: of the attack on the trained victim.

    Returns:
      A defense with `loss` and `attack`.

    Raises:
      ValueError: for an unknown protocol or a number out of range.

    Example:
      >>> from miue_jax import defenses
      >>> defense = defenses.adversarial_training((32, 32, 3), 10, radius=8)
      >>> defense.loss is not None, defense.attack is not None
      (True, True)

    References:
      Madry et al., Toward Deep Learning Models Resistant to Adversarial Attacks, 2018,
      section 2.1. Protocols: Huang et al., Unlearnable Examples, 2021 (em); Qin et al.,
      APBench, 2023; Fu et al., Robust Unlearnable Examples, 2022 (rem); Tao et al.,
      Can Adversarial Training Be Manipulated By Non-Robust Features?, 2022 (hypo).
    """
    del image_shape, num_classes
    check_number("radius", radius, "> 0")
    if radius > 255:
        raise ValueError(f"radius is {radius!r}; allowed: up to 255 gray levels")
    if not isinstance(protocol, str) or protocol not in _PROTOCOLS:
        raise _checks.unknown("protocol", protocol, _PROTOCOLS)
    steps, step_size_of, start, train = _PROTOCOLS[protocol]
    if step_size is None:
        step_size = step_size_of(radius)
    check_number("step_size", step_size, "> 0")
    if num_steps is not None:
        check_number("num_steps", num_steps, "> 0", whole=True)
        steps = num_steps
    check_number("eval_steps", eval_steps, "> 0", whole=True)
    ball, length = to_unit(radius), to_unit(step_size)

    def loss(
        keys: jax.Array,
        progress: jax.Array,
        forward: Forward,
        images: jax.Array,
        labels: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        del progress
        frozen = freeze(forward, images, train=train)
        delta = _start(start, keys, images, ball, length)
        delta = _ascend(frozen, images, delta, labels, ball, length, steps)
        logits, state = forward(images + delta)
        return cross_entropy(logits, labels), (logits, state)

    def attack(
        keys: jax.Array, predict: Predict, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        delta = _start("uniform", keys, images, ball, ball / 4)
        delta = _ascend(predict, images, delta, labels, ball, ball / 4, eval_steps)
        return images + delta

    return Defense(loss=loss, attack=attack)


def _start(
    kind: str, keys: jax.Array, images: jax.Array, radius: float, step_size: float
) -> jax.Array:
    def draw(key: jax.Array) -> jax.Array:
        shape = images.shape[1:]
        # Draws in bfloat16 are 128 numbers whose mean is not 0.
        wide = jnp.promote_types(images.dtype, jnp.float32)
        if kind == "uniform":
            return _flat_draws.draw(
                jax.random.uniform, key, shape, wide, -radius, radius
            )
        if kind == "gaussian":
            return step_size * _flat_draws.draw(jax.random.normal, key, shape, wide)
        return jnp.zeros(shape, wide)

    draws = jax.vmap(draw)(keys).astype(images.dtype)
    delta = projected_gradient.project(draws, radius=radius)
    return projected_gradient.clip_to_images(images, delta)


def _ascend(
    predict: Predict,
    images: jax.Array,
    delta: jax.Array,
    labels: jax.Array,
    radius: float,
    step_size: float,
    num_steps: int,
) -> jax.Array:
    return projected_gradient.pgd(
        lambda attacked: cross_entropy(predict(attacked), labels),
        images,
        delta,
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
        ascend=True,
    )
