"""The two moves of min-min generation: train the surrogates, perturb a batch."""

from typing import Any

import jax
import jax.numpy as jnp

from miue_jax.budget import to_unit
from miue_jax.generators import perturbation_steps, surrogate, transformed
from miue_jax.generators.min_min.state import (
    Engine,
    Outputs,
    Write,
    members_of,
    perturbed_of,
    with_members,
)
from miue_jax.generators.min_min.visit import Visit, look_at
from miue_jax.image import contrast
from miue_jax.losses import update_class_means
from miue_jax.train import classifier
from miue_jax.train.metrics import Mean, Metrics, mean_of
from miue_jax.train.parallel import State


def train(engine: Engine, state: State, visit: Visit) -> tuple[State, Metrics]:
    """Trains the surrogates on a perturbed batch; measures the first one."""
    perturbed = perturbed_of(engine, state, visit.batch, visit.view.carriers)
    members, measured = [], []
    for number, member in enumerate(members_of(state)):
        seen, targets = look_at(
            *(engine, number, member.learner.variables, visit),
            *(perturbed, engine.config.pgd_steps),
        )
        learner, loss, accuracy = classifier.train_step(
            member.learner,
            engine.modules[number],
            engine.optimizer,
            seen,
            targets,
            axis_name=engine.spec.axis_name,
        )
        members.append(member._replace(learner=learner))
        measured.append((mean_of(loss), mean_of(accuracy)))
    metrics = dict(zip(surrogate.METRICS, measured[0], strict=True))
    return with_members(state, members), metrics


def perturb(
    engine: Engine,
    state: State,
    visit: Visit,
    epoch: jax.Array,
    movable: jax.Array,
) -> tuple[State, Write | None, jax.Array]:
    """Moves the perturbations of a batch; also returns the loss before the first step.

    Those of classes are in the state, those of images are to be written. `movable`
    (g, b) says which perturbations of images may move; those of classes all do.
    """
    config, axis_name = engine.config, engine.spec.axis_name
    batch, view, *_ = visit
    labels = batch.labels.reshape(-1)
    progress = epoch / config.epochs
    step_size = config.step_size + progress * (config.step_size_end - config.step_size)

    members = members_of(state)

    def forward(number: int, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables = members[number].learner.variables
        outputs: Any = engine.modules[number].apply(variables, seen, train=False)
        return outputs

    def look(
        number: int, images: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, jax.Array]:
        variables = members[number].learner.variables
        return look_at(engine, number, variables, visit, images, step)

    if engine.memory is not None:
        perturbed = perturbed_of(engine, state, batch, view.carriers)
        for number, member in enumerate(members):
            seen, targets = look(number, perturbed)
            assert member.class_means is not None  # as there is a memory
            means = update_class_means(
                member.class_means,
                forward(number, seen)[0],
                transformed.most(targets),
                memory=engine.memory,
                axis_name=axis_name,
            )
            members[number] = member._replace(class_means=means)
        state = with_members(state, members)

    def loss_of(number: int, images: jax.Array, step: jax.Array | int) -> jax.Array:
        seen, targets = look(number, images, step)
        features, logits = forward(number, seen)
        outputs = Outputs(
            features,
            logits,
            targets,
            transformed.most(targets),
            forward(number, view.seen(images))[0] if engine.pairs else None,
            members[number].class_means,
        )
        return engine.objective(outputs, axis_name)

    def loss_fn(images: jax.Array, step: jax.Array | int = 0) -> jax.Array:
        losses = [loss_of(number, images, step) for number in range(len(members))]
        return losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2

    radius: Any = to_unit(config.radius)
    if config.smooth_radius is not None:
        # Of the images as published: those under a perturbation may be mirrored.
        published = batch.images.reshape(view.carriers.shape)
        radius = contrast.radius_map(
            published, radius=radius, smooth_radius=to_unit(config.smooth_radius)
        )
    options = {
        "radius": radius,
        "step_size": to_unit(step_size),
        "num_steps": config.pgd_steps,
        "redraws": config.views.redraw == "step" or config.adversarial_radius > 0,
    }
    write = None
    if config.perturbation == "class":
        delta, losses = perturbation_steps.move_classes(
            state.shared.class_delta,
            batch,
            view.carriers,
            loss_fn,
            axis_name=axis_name,
            **options,
        )
        state = state._replace(shared=state.shared._replace(class_delta=delta))
        perturbed = perturbed_of(engine, state, batch, view.carriers)
    else:
        before = perturbation_steps.of_images(
            state.per_example.stored, batch, engine.store
        )
        delta, losses = perturbation_steps.move_images(
            before, batch, view.carriers, loss_fn, **options
        )
        codes, chosen = engine.store.encode(delta), movable & batch.selected
        write = Write(batch.rows, chosen, codes.reshape(batch.images.shape))
        # As they will be read: the whole array is not written here.
        stays = ~chosen.reshape(-1, 1, 1, 1)
        perturbed = view.carriers + jnp.where(stays, before, engine.store.decode(codes))
    if config.stop_error is not None:
        _, logits = forward(0, look(0, perturbed)[0])
        fresh = batch.fresh.reshape(-1)
        wrong = (jnp.argmax(logits, -1) != labels) & fresh
        found = Mean(*(jnp.sum(x, dtype=jnp.float32) for x in (wrong, fresh)))
        mistakes = jax.tree.map(jnp.add, state.shared.mistakes, engine.spec.sum(found))
        state = state._replace(shared=state.shared._replace(mistakes=mistakes))
    return state, write, losses[0]
