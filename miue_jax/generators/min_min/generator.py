"""Min-min generation on its two schedules."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from miue_jax.budget import Budget, to_unit
from miue_jax.generators import surrogate
from miue_jax.generators.base import DataSpec, Generator, no_mean
from miue_jax.generators.min_min.config import MinMinConfig
from miue_jax.generators.min_min.state import (
    Engine,
    Objective,
    PerExample,
    Second,
    Shared,
    Write,
    no_write,
    without_stored,
    written,
)
from miue_jax.generators.min_min.steps import perturb, train
from miue_jax.generators.min_min.visit import (
    INIT,
    PERTURB_ORDER,
    TRAIN_ORDER,
    next_perturb_batch,
    next_train_batch,
)
from miue_jax.generators.perturbation_store import PerturbationStore
from miue_jax.train import classifier
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Metrics, mean_of
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Place, Shards, Streamed

_METRICS = ("surrogate_loss", "surrogate_accuracy", "perturbation_loss")


def min_min(
    config: MinMinConfig,
    objective: Objective,
    spec: DataSpec,
    *,
    pairs: bool = False,
    memory: float | None = None,
) -> Generator:
    """Builds a min-min generator.

    Args:
      config: the settings.
      objective: what the perturbation minimizes, from a batch's features and logits.
      spec: of the data.
      pairs: whether the objective is given the features of the images before their
        views change them, too, which takes a second pass.
      memory: the share that running means of the classes' features keep at each visit
        of a batch; None if the objective needs none.

    Returns:
      The generator. A step is one batch: a training step, a perturbation step, or
      (interleaved) both.

    Raises:
      ValueError: if the data do not fill a batch, the images do not fit the settings,
        or the model is unknown.
    """
    modules = [surrogate.create(config, spec, crop=config.crop)]
    if config.second_model is not None:
        second = dataclasses.replace(
            config, model=config.second_model, width=config.second_width
        )
        modules.append(surrogate.create(second, spec, crop=config.crop))
    batches = spec.steps_per_pass(config.batch_size)
    epoch_steps = config.batches_per_epoch or batches
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
    store = PerturbationStore(config.storage, config.radius)
    engine = Engine(
        *(config, spec, store, tuple(modules), optimizer, objective, pairs, memory)
    )
    radius, per_class = to_unit(config.radius), config.perturbation == "class"
    if config.schedule == "interleaved":
        step, num_steps, streamed = _interleaved(engine, batches)
    else:
        step, num_steps, streamed = _alternating(engine, batches, epoch_steps)

    def no_means(
        module: nn.Module, learner: Learner, shape: tuple[int, ...]
    ) -> jax.Array | None:
        if memory is None:
            return None
        one = jnp.zeros((1, *shape), jnp.float32)
        outputs: Any = jax.eval_shape(
            lambda variables: module.apply(variables, one, train=False),
            learner.variables,
        )
        return jnp.zeros((spec.num_classes, outputs[0].shape[-1]), jnp.float32)

    def init(key: jax.Array, data: Shards) -> State:
        shape = data.images.shape[2:]
        members = []
        for number, module in enumerate(modules):
            # The first one is what it is without a second.
            init_key = jax.random.fold_in(key, INIT)
            if number:
                init_key = jax.random.fold_in(init_key, number)
            learner = classifier.init_learner(init_key, module, optimizer, shape)
            members.append(Second(learner, no_means(module, learner, shape)))
        class_delta = stored = None
        if per_class:
            class_delta = jnp.zeros((spec.num_classes, *shape), jnp.float32)
        else:
            stored = jnp.zeros(data.images.shape, store.dtype)
        order = jnp.zeros(data.labels.shape, jnp.int32)
        first, *others = members
        shared = Shared(
            *(first.learner, class_delta, no_mean(), jnp.zeros((), bool)),
            *(first.class_means, others[0] if others else None),
        )
        return State(
            jnp.zeros((), jnp.int32),
            shared,
            PerExample(stored, order, order),
        )

    def stored_in(state: State) -> jax.Array:
        return state.shared.class_delta if per_class else state.per_example.stored

    def with_stored(state: State, codes: Any) -> State:
        per_example = state.per_example._replace(stored=codes)
        return state._replace(per_example=per_example)

    def decode(codes: jax.Array) -> jax.Array:
        return jnp.clip(store.decode(codes), -radius, radius)

    return Generator(
        init=init,
        step=step,
        num_steps=num_steps,
        perturbation=lambda state: decode(stored_in(state)),
        stored=stored_in,
        decode=decode,
        finished=lambda state: state.shared.finished,
        budget=Budget("linf", config.radius),
        per_class=per_class,
        sharded=True,
        streamed=streamed._replace(put=None if per_class else with_stored),
    )


# The two schedules.

_Step = Callable[[jax.Array, State, Shards], tuple[State, Metrics]]


def _interleaved(engine: Engine, batches: int) -> tuple[_Step, int, Streamed]:
    """Perturbs each batch right before training on it."""
    share = engine.spec.share(engine.config.batch_size)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        state, visit = next_train_batch(
            engine, key, state, data, state.step, batches, epoch_steps=batches
        )
        # Images that pad the last batch are trained on again, so they move again.
        movable = jnp.ones_like(visit.batch.fresh)
        epoch = state.step // batches
        state, write, loss = perturb(engine, state, visit, epoch, movable)
        state = written(state, write)
        state, metrics = train(engine, state, visit)
        metrics["perturbation_loss"] = mean_of(loss)
        return state._replace(step=state.step + 1), metrics

    def place(step: int) -> Place:
        return Place(TRAIN_ORDER, *divmod(step, batches), share, writes=True)

    return step, engine.config.epochs * batches, Streamed(place, share)


def _alternating(
    engine: Engine, batches: int, epoch_steps: int
) -> tuple[_Step, int, Streamed]:
    """Trains for some epochs, then perturbs every image, and so on."""
    config, spec = engine.config, engine.spec
    train_steps = config.perturb_every * epoch_steps
    whole = spec.steps_per_pass(
        config.perturbation_batch_size, "perturbation_batch_size"
    )
    perturb_steps = min(config.batches_per_visit or whole, whole)
    cycle_steps = train_steps + perturb_steps
    share = spec.share(config.perturbation_batch_size)
    train_share = spec.share(config.batch_size)

    def train_one(
        key: jax.Array,
        state: State,
        data: Shards,
        cycle: jax.Array,
        position: jax.Array,
    ) -> tuple[State, Write | None, Metrics]:
        count = cycle * train_steps + position
        state, visit = next_train_batch(
            engine, key, state, data, count, batches, epoch_steps=epoch_steps
        )
        state, metrics = train(engine, state, visit)
        metrics = {**metrics, "perturbation_loss": no_mean()}
        return state, no_write(engine, state, share), metrics

    def perturb_one(
        key: jax.Array,
        state: State,
        data: Shards,
        cycle: jax.Array,
        position: jax.Array,
    ) -> tuple[State, Write | None, Metrics]:
        count = cycle * perturb_steps + position - train_steps
        epoch = (cycle + 1) * config.perturb_every - 1
        state, visit = next_perturb_batch(
            engine, key, state, data, count, perturb_steps, epoch=epoch
        )
        state, write, loss = perturb(engine, state, visit, epoch, visit.batch.fresh)
        metrics = {name: no_mean() for name in _METRICS}
        return state, write, {**metrics, "perturbation_loss": mean_of(loss)}

    def advance(
        key: jax.Array, state: State, data: Shards
    ) -> tuple[State, Write | None, Metrics]:
        cycle, position = jnp.divmod(state.step, cycle_steps)
        state, write, metrics = lax.cond(
            position < train_steps,
            lambda: without_stored(train_one(key, state, data, cycle, position)),
            lambda: without_stored(perturb_one(key, state, data, cycle, position)),
        )
        if config.stop_error is not None:
            state = _stop_early(state, position == cycle_steps - 1, config.stop_error)
        return state._replace(step=state.step + 1), write, metrics

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        if config.stop_error is None:
            after, write, metrics = advance(key, state, data)
        else:
            nothing = dict.fromkeys(_METRICS, no_mean())
            after, write, metrics = lax.cond(
                state.shared.finished,
                lambda: without_stored(
                    (state, no_write(engine, state, share), nothing)
                ),
                lambda: advance(key, state, data),
            )
        stored = state.per_example.stored
        after = after._replace(per_example=after.per_example._replace(stored=stored))
        return written(after, write), metrics

    def place(step: int) -> Place:
        cycle, position = divmod(step, cycle_steps)
        if position < train_steps:
            count = cycle * train_steps + position
            return Place(TRAIN_ORDER, *divmod(count, batches), train_share)
        count = cycle * perturb_steps + position - train_steps
        visit = divmod(count, perturb_steps)
        return Place(PERTURB_ORDER, *visit, share, writes=True)

    return (
        step,
        config.epochs // config.perturb_every * cycle_steps,
        Streamed(place, max(share, train_share)),
    )


def _stop_early(state: State, pass_ended: jax.Array, stop_error: float) -> State:
    """Applies the stopping rule at the end of a perturbation pass."""
    shared = state.shared
    error = shared.mistakes.total / jnp.maximum(shared.mistakes.weight, 1)
    shared = shared._replace(
        finished=pass_ended & (error <= stop_error),
        mistakes=jax.tree.map(
            lambda value: jnp.where(pass_ended, 0, value), shared.mistakes
        ),
    )
    return state._replace(shared=shared)
