"""Visits of a min-min generator: a batch's perturbations moved on the surrogate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax.generators import perturbation_table, views
from miue_jax.generators.alternation_config import AlternationConfig
from miue_jax.train import sampling
from miue_jax.train.metrics import Mean
from miue_jax.train.parallel import State

# (features (B, D), logits (B, K), labels (B,), axis_name) -> () loss
Objective = Callable[[jax.Array, jax.Array, jax.Array, str | None], jax.Array]


class Visits(NamedTuple):
    """The perturbations of a batch, read and moved.

    Attributes:
      perturbed: (state, batch, carriers (B, H, W, C)) -> the carriers with the
        perturbations of the batch.
      visit: (state, batch, view, () int32 epoch, (g, b) bool movable) -> (state, loss),
        () before the first step. The state is that of alternation_state.py.
    """

    perturbed: Callable[[State, sampling.Batch, jax.Array], jax.Array]
    visit: Callable[
        [State, sampling.Batch, views.View, jax.Array, jax.Array],
        tuple[State, jax.Array],
    ]


def visits(
    config: AlternationConfig,
    module: nn.Module,
    objective: Objective,
    *,
    axis_name: str | None = None,
) -> Visits:
    """Builds the visits of a generator.

    Args:
      config: its schedule: radius, steps, and whether images or classes have
        perturbations.
      module: the surrogate, from `surrogate.create`.
      objective: what the perturbation minimizes.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The visits.
    """
    per_class = config.perturbation == "class"
    options = {"radius": config.radius / 255, "num_steps": config.pgd_steps}

    def perturbed(
        state: State, batch: sampling.Batch, carriers: jax.Array
    ) -> jax.Array:
        if per_class:
            own = perturbation_table.of_classes(state.shared.class_delta, batch)
            return perturbation_table.add_clipped(carriers, own)
        return carriers + perturbation_table.of_images(state.per_example.delta, batch)

    def descend(
        state: State,
        batch: sampling.Batch,
        movable: jax.Array,
        carriers: jax.Array,
        loss_fn: perturbation_table.Loss,
        step_size: jax.Array,
    ) -> tuple[State, jax.Array]:
        """Takes the steps of a visit; also returns the loss before each of them."""
        if per_class:
            delta, losses = perturbation_table.move_classes(
                state.shared.class_delta,
                *(batch, carriers, loss_fn),
                axis_name=axis_name,
                step_size=step_size,
                **options,
            )
            shared = state.shared._replace(class_delta=delta)
            return state._replace(shared=shared), losses
        delta, losses = perturbation_table.move_images(
            state.per_example.delta,
            *(batch, movable, carriers, loss_fn),
            step_size=step_size,
            **options,
        )
        per_example = state.per_example._replace(delta=delta)
        return state._replace(per_example=per_example), losses

    def visit(
        state: State,
        batch: sampling.Batch,
        view: views.View,
        epoch: jax.Array,
        movable: jax.Array,
    ) -> tuple[State, jax.Array]:
        labels = batch.labels.reshape(-1)
        carriers, seen = view
        variables = state.shared.learner.variables
        progress = epoch / config.epochs
        step_size = config.step_size + progress * (
            config.step_size_end - config.step_size
        )

        def forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs: Any = module.apply(variables, seen(images), train=False)
            return outputs

        def loss_fn(images: jax.Array) -> jax.Array:
            features, logits = forward(images)
            return objective(features, logits, labels, axis_name)

        state, losses = descend(
            state, batch, movable, carriers, loss_fn, step_size / 255
        )
        if config.stop_error is not None:
            _, logits = forward(perturbed(state, batch, carriers))
            fresh = batch.fresh.reshape(-1)
            wrong = (jnp.argmax(logits, -1) != labels) & fresh
            found = Mean(*(jnp.sum(x, dtype=jnp.float32) for x in (wrong, fresh)))
            if axis_name is not None:
                found = lax.psum(found, axis_name)
            mistakes = jax.tree.map(jnp.add, state.shared.mistakes, found)
            state = state._replace(shared=state.shared._replace(mistakes=mistakes))
        return state, losses[0]

    return Visits(perturbed, visit)
