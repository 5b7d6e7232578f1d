"""Min-min generation: a surrogate and a perturbation that improve in turn.

The surrogate is trained on the perturbed images; the perturbation of each image is
moved by projected gradient so that an objective of the surrogate's outputs falls. EM
and MI-UE differ in the objective and in how often they alternate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax import learning, sampling
from miue_jax.budget import Budget
from miue_jax.learning import Learner
from miue_jax.methods import perturbation_table, surrogate, views
from miue_jax.methods.alternation_config import AlternationConfig
from miue_jax.methods.method import Method
from miue_jax.metrics import Mean, Metrics, mean_of
from miue_jax.parallel import State

# Keys of a run are folded with these, so that no two uses share a stream.
_INIT, _TRAIN_ORDER, _PERTURB_ORDER, _TRAIN_VIEW, _VISIT_VIEW = range(5)

# (features (B, D), logits (B, K), labels (B,), axis_name) -> () loss
Objective = Callable[[jax.Array, jax.Array, jax.Array, str | None], jax.Array]


class _Shared(NamedTuple):
    learner: Learner
    class_delta: jax.Array | None  # (K, H, W, C) when every class has one
    mistakes: Mean  # of the visit under way
    finished: jax.Array  # () bool


class _PerExample(NamedTuple):
    delta: jax.Array | None  # (g, n, H, W, C) when every image has one
    train_order: jax.Array  # (g, n) int32
    perturb_order: jax.Array  # (g, n) int32


def _nothing() -> Mean:
    # The type is said, as it would be float64 with x64 enabled.
    return Mean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def alternation(
    config: AlternationConfig,
    objective: Objective,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Method:
    """Builds a min-min generator.

    Args:
      config: the schedule.
      objective: what the perturbation minimises, from a batch's features and logits.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator. A step is one batch: a training step, a visit, or (interleaved)
      both.
    """
    module = surrogate.create(config, num_classes=num_classes, axis_name=axis_name)
    interleaved = config.schedule == "interleaved"
    per_class = config.perturbation == "class"
    train_share = config.batch_size // num_shards
    visit_share = config.perturbation_batch_size // num_shards
    batches = sampling.steps_per_pass(num_examples, num_shards, config.batch_size)
    epoch_steps = config.batches_per_epoch or batches
    if interleaved:
        train_steps, visit_steps, cycles = batches, 0, config.epochs
    else:
        train_steps = config.perturb_every * epoch_steps
        whole = sampling.steps_per_pass(
            num_examples, num_shards, config.perturbation_batch_size
        )
        visit_steps = min(config.batches_per_visit or whole, whole)
        cycles = config.epochs // config.perturb_every
    cycle_steps = train_steps + visit_steps
    radius = config.radius / 255
    optimizer = learning.sgd(
        learning.epochwise_cosine(
            config.learning_rate, config.learning_rate_end, config.epochs, epoch_steps
        ),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )

    def init(key: jax.Array, data: sampling.Shards) -> State:
        shape = data.images.shape[2:]
        surrogate.check_images(shape, config)
        surrogate.check_crop(shape, config.crop)
        learner = learning.init_learner(
            jax.random.fold_in(key, _INIT), module, optimizer, shape
        )
        class_delta = delta = None
        if per_class:
            class_delta = jnp.zeros((num_classes, *shape), jnp.float32)
        else:
            delta = jnp.zeros(data.images.shape, jnp.float32)
        order = jnp.zeros(data.labels.shape, jnp.int32)
        return State(
            jnp.zeros((), jnp.int32),
            _Shared(learner, class_delta, _nothing(), jnp.zeros((), bool)),
            _PerExample(delta, order, order),
        )

    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = module.apply(variables, images, train=False)
        return outputs

    def perturbed_by(
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
        options = {
            "radius": radius,
            "step_size": step_size,
            "num_steps": config.pgd_steps,
        }
        if per_class:
            delta, losses = perturbation_table.move_classes(
                state.shared.class_delta,
                *(batch, carriers, loss_fn),
                axis_name=axis_name,
                **options,
            )
            shared = state.shared._replace(class_delta=delta)
            return state._replace(shared=shared), losses
        delta, losses = perturbation_table.move_images(
            state.per_example.delta,
            *(batch, movable, carriers, loss_fn),
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
        """Moves the perturbations of a batch; also returns the objective before."""
        labels = batch.labels.reshape(-1)
        carriers, seen = view
        variables = state.shared.learner.variables
        progress = epoch / config.epochs
        step_size = config.step_size + progress * (
            config.step_size_end - config.step_size
        )

        def loss_fn(perturbed: jax.Array) -> jax.Array:
            features, logits = forward(variables, seen(perturbed))
            return objective(features, logits, labels, axis_name)

        state, losses = descend(
            state, batch, movable, carriers, loss_fn, step_size / 255
        )
        if config.stop_error is not None:
            perturbed = perturbed_by(state, batch, carriers)
            _, logits = forward(variables, seen(perturbed))
            fresh = batch.fresh.reshape(-1)
            wrong = (jnp.argmax(logits, -1) != labels) & fresh
            found = Mean(*(jnp.sum(x, dtype=jnp.float32) for x in (wrong, fresh)))
            if axis_name is not None:
                found = lax.psum(found, axis_name)
            mistakes = jax.tree.map(jnp.add, state.shared.mistakes, found)
            state = state._replace(shared=state.shared._replace(mistakes=mistakes))
        return state, losses[0]

    def train(
        state: State, batch: sampling.Batch, view: views.View
    ) -> tuple[State, Metrics]:
        carriers, seen = view
        learner, loss, accuracy = learning.train_step(
            state.shared.learner,
            module,
            optimizer,
            seen(perturbed_by(state, batch, carriers)),
            batch.labels.reshape(-1),
            axis_name=axis_name,
        )
        metrics = {
            "surrogate_loss": mean_of(loss),
            "surrogate_accuracy": mean_of(accuracy),
        }
        return state._replace(shared=state.shared._replace(learner=learner)), metrics

    def train_batch(
        key: jax.Array, state: State, data: sampling.Shards, count: jax.Array
    ) -> tuple[State, sampling.Batch, views.View]:
        number, position = jnp.divmod(count, batches)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _TRAIN_ORDER), number)
        order = state.per_example.train_order
        order = sampling.order_of_pass(order_key, position, order, data)
        state = state._replace(
            per_example=state.per_example._replace(train_order=order)
        )
        batch = sampling.take(data, order, position, train_share)
        view_key = jax.random.fold_in(jax.random.fold_in(key, _TRAIN_VIEW), count)
        return state, batch, views.draw(view_key, data.shard, batch.images, config)

    def interleaved_step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        state, batch, view = train_batch(key, state, data, state.step)
        # What fills up a batch is trained on once more, and moved before that.
        movable = jnp.ones_like(batch.fresh)
        state, loss = visit(state, batch, view, state.step // batches, movable)
        state, metrics = train(state, batch, view)
        metrics["perturbation_loss"] = mean_of(loss)
        return state._replace(step=state.step + 1), metrics

    def alternating_step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        cycle, position = jnp.divmod(state.step, cycle_steps)
        nothing = _nothing()

        def train_one(state: State) -> tuple[State, Metrics]:
            count = cycle * train_steps + position
            state, batch, view = train_batch(key, state, data, count)
            state, metrics = train(state, batch, view)
            return state, {**metrics, "perturbation_loss": nothing}

        def visit_one(state: State) -> tuple[State, Metrics]:
            count = cycle * visit_steps + position - train_steps
            number, place = jnp.divmod(count, visit_steps)
            order_key = jax.random.fold_in(key, _PERTURB_ORDER)
            order_key = jax.random.fold_in(order_key, number)
            order = state.per_example.perturb_order
            order = sampling.order_of_pass(order_key, place, order, data)
            batch = sampling.take(data, order, place, visit_share)
            view_key = jax.random.fold_in(jax.random.fold_in(key, _VISIT_VIEW), count)
            epoch = (cycle + 1) * config.perturb_every - 1
            state, loss = visit(
                state._replace(
                    per_example=state.per_example._replace(perturb_order=order)
                ),
                batch,
                views.draw(view_key, data.shard, batch.images, config),
                epoch,
                batch.fresh,
            )
            return state, {
                "surrogate_loss": nothing,
                "surrogate_accuracy": nothing,
                "perturbation_loss": mean_of(loss),
            }

        state, metrics = lax.cond(position < train_steps, train_one, visit_one, state)
        if config.stop_error is not None:
            ended = position == cycle_steps - 1
            shared = state.shared
            error = shared.mistakes.total / jnp.maximum(shared.mistakes.weight, 1)
            shared = shared._replace(
                finished=ended & (error <= config.stop_error),
                mistakes=jax.tree.map(
                    lambda value: jnp.where(ended, 0, value), shared.mistakes
                ),
            )
            state = state._replace(shared=shared)
        return state._replace(step=state.step + 1), metrics

    def step(
        key: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        if interleaved:
            return interleaved_step(key, state, data)
        if config.stop_error is None:
            return alternating_step(key, state, data)
        nothing = _nothing()
        names = ("surrogate_loss", "surrogate_accuracy", "perturbation_loss")
        return lax.cond(
            state.shared.finished,
            lambda state: (state, dict.fromkeys(names, nothing)),
            lambda state: alternating_step(key, state, data),
            state,
        )

    def perturbation_of(state: State) -> jax.Array:
        delta = state.shared.class_delta if per_class else state.per_example.delta
        return jnp.clip(delta, -radius, radius)

    return Method(
        init=init,
        step=step,
        num_steps=cycles * cycle_steps,
        perturbation=perturbation_of,
        finished=lambda state: state.shared.finished,
        per_class=per_class,
        budget=Budget("linf", config.radius),
    )
