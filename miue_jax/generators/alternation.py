"""Min-min generation: a surrogate and a perturbation that improve in turn.

The surrogate is trained on the perturbed images; the perturbation of each image is
moved by projected gradient so that an objective of the surrogate's outputs falls. EM
and MI-UE differ in the objective and in how often they alternate.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax.budget import Budget
from miue_jax.generators import surrogate, views
from miue_jax.generators.alternation_config import AlternationConfig
from miue_jax.generators.alternation_state import PerExample, Shared, nothing
from miue_jax.generators.base import Generator
from miue_jax.generators.visits import Objective, visits
from miue_jax.train import classifier, sampling
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.parallel import State

# Keys of a run are folded with these, so that no two uses share a stream.
_INIT, _TRAIN_ORDER, _PERTURB_ORDER, _TRAIN_VIEW, _VISIT_VIEW = range(5)


def alternation(
    config: AlternationConfig,
    objective: Objective,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Generator:
    """Builds a min-min generator.

    Args:
      config: the schedule.
      objective: what the perturbation minimizes, from a batch's features and logits.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator. A step is one batch: a training step, a visit, or (interleaved)
      both.
    """
    module = surrogate.create(config, num_classes=num_classes, axis_name=axis_name)
    perturbed, visit = visits(config, module, objective, axis_name=axis_name)
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
    rate: optax.ScalarOrSchedule = config.learning_rate
    if config.learning_rate_end is not None:
        rate = classifier.epochwise_cosine(
            config.learning_rate, config.learning_rate_end, config.epochs, epoch_steps
        )
    optimizer = classifier.sgd(
        rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )

    def init(key: jax.Array, data: sampling.Shards) -> State:
        shape = data.images.shape[2:]
        surrogate.check_images(shape, config)
        surrogate.check_crop(shape, config.crop)
        learner = classifier.init_learner(
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
            Shared(learner, class_delta, nothing(), jnp.zeros((), bool)),
            PerExample(delta, order, order),
        )

    def train(
        state: State, batch: sampling.Batch, view: views.View
    ) -> tuple[State, Metrics]:
        carriers, seen = view
        learner, loss, accuracy = classifier.train_step(
            state.shared.learner,
            module,
            optimizer,
            seen(perturbed(state, batch, carriers)),
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

        def train_one(state: State) -> tuple[State, Metrics]:
            count = cycle * train_steps + position
            state, batch, view = train_batch(key, state, data, count)
            state, metrics = train(state, batch, view)
            return state, {**metrics, "perturbation_loss": nothing()}

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
                "surrogate_loss": nothing(),
                "surrogate_accuracy": nothing(),
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
        names = ("surrogate_loss", "surrogate_accuracy", "perturbation_loss")
        return lax.cond(
            state.shared.finished,
            lambda state: (state, dict.fromkeys(names, nothing())),
            lambda state: alternating_step(key, state, data),
            state,
        )

    def perturbation_of(state: State) -> jax.Array:
        delta = state.shared.class_delta if per_class else state.per_example.delta
        return jnp.clip(delta, -radius, radius)

    return Generator(
        init=init,
        step=step,
        num_steps=cycles * cycle_steps,
        perturbation=perturbation_of,
        finished=lambda state: state.shared.finished,
        per_class=per_class,
        budget=Budget("linf", config.radius),
    )
