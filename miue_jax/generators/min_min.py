"""Min-min generation: a surrogate and a perturbation that improve in turn.

The surrogate is trained on perturbed images; the perturbations are moved by projected
gradient so that an objective of the surrogate's outputs decreases. EM and MI-UE differ
in the objective and in how often they alternate.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from miue_jax._checks import check_choice, check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators import (
    perturbation_steps,
    perturbation_store,
    surrogate,
    transformed,
)
from miue_jax.generators.adversary import adversarial_change
from miue_jax.generators.base import DataSpec, Generator, no_mean
from miue_jax.generators.perturbation_store import PerturbationStore, Storage
from miue_jax.generators.surrogate import SurrogateConfig, check_radius
from miue_jax.generators.transformed import Transformed
from miue_jax.image import contrast
from miue_jax.image.augment import flip_where, random_crop
from miue_jax.losses import update_class_means
from miue_jax.train import classifier, sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics, mean_of
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Batch, Place, Shards, Streamed


class Outputs(NamedTuple):
    """What an objective knows of a batch.

    Attributes:
      features: (B, D), of the images as the surrogate sees them.
      logits: (B, K), of the same.
      targets: (B,) int32 labels, or (B, K) class probabilities where views mix images.
      labels: (B,) int32, the class of which an image shows most.
      plain_features: (B, D), of the perturbed images before their views change them;
        None unless the objective is built with `pairs`.
      class_means: (K, D), running means of the classes' unit features over batches;
        None unless the objective is built with a `memory`.
    """

    features: jax.Array
    logits: jax.Array
    targets: jax.Array
    labels: jax.Array
    plain_features: jax.Array | None = None
    class_means: jax.Array | None = None


# (outputs, axis_name) -> () loss
Objective = Callable[[Outputs, str | None], jax.Array]

# Keys of a run are folded with these, so that no two uses share a stream.
_INIT, _TRAIN_ORDER, _PERTURB_ORDER, _TRAIN_VIEW, _PERTURB_VIEW = range(5)
_TRAIN_TRANSFORMATION, _PERTURB_TRANSFORMATION = 5, 6
_TRAIN_ADVERSARY, _PERTURB_ADVERSARY = 7, 8

_METRICS = ("surrogate_loss", "surrogate_accuracy", "perturbation_loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinMinConfig(SurrogateConfig):
    """Settings of a min-min generator; the surrogate's are inherited.

    Attributes:
      radius: largest change of a channel, in gray levels.
      smooth_radius: the same where the picture is smooth: there the change is at most
        the local contrast, see `image.contrast.radius_map`; None for `radius`
        everywhere.
      step_size: of projected gradient in the first epoch, in gray levels.
      step_size_end: approached linearly from `step_size` over the epochs, in gray
        levels.
      pgd_steps: projected-gradient steps per batch each time it is perturbed.
      schedule: "alternating" trains for whole epochs, then perturbs every image once;
        "interleaved" perturbs each batch right before the surrogate trains on it.
      epochs: training epochs of the surrogate.
      perturb_every: training epochs between perturbation passes (alternating).
      batches_per_epoch: batches that count as an epoch of training; None for a pass
        over the data (alternating).
      perturbation_batch_size: global batch size of a perturbation pass (alternating).
      batches_per_visit: batches of a perturbation pass, in a new random order each
        time; None for all images (alternating).
      learning_rate_end: approached from `learning_rate` along a cosine over the epochs;
        None for a constant rate.
      clip_norm: largest gradient norm of the surrogate's SGD; None for no limit.
      flip: mirror images while generating: "none"; "joint", image and perturbation
        together as a victim does; "image_only", the image under the perturbation.
      crop: pixels by which image and perturbation together are shifted at most, as by a
        victim's random crop; 0 for none.
      perturbation: "sample", one per image, or "class", one per class, moved by the
        gradient of the whole batch.
      storage: of the perturbations of images between visits: "float32", or "bfloat16"
        or "int8" in a half or a quarter of the memory, see
        `generators.perturbation_store`.
      second_model: another architecture that is trained and seen through along with
        `model`; the perturbation lowers the mean of both objectives. None for none.
      second_width: its width; None for the architecture's own.
      adversarial_radius: largest change of a channel, in gray levels, by an adversary
        who raises the cross-entropy of whatever a surrogate sees, in its training and
        in every step of the perturbation; 0 for none.
      adversarial_step_size: of its projected gradient, in gray levels.
      adversarial_steps: of the adversary, from a random start; 0 leaves it at the
        start, which is the noise of SEM.
      stop_error: error in [0, 1] on the images of a perturbation pass at which the
        generator stops early; None never stops (alternating). Each batch is measured
        right after it is perturbed, although perturbations of classes keep moving with
        later batches.
    """

    radius: float = 8.0
    smooth_radius: float | None = None
    step_size: float = 0.8
    step_size_end: float = 0.8
    pgd_steps: int = 10
    schedule: Literal["alternating", "interleaved"] = "alternating"
    epochs: int = 100
    perturb_every: int = 1
    batches_per_epoch: int | None = None
    perturbation_batch_size: int = 512
    batches_per_visit: int | None = None
    learning_rate_end: float | None = None
    clip_norm: float | None = None
    flip: Literal["none", "joint", "image_only"] = "none"
    crop: int = 0
    perturbation: Literal["sample", "class"] = "sample"
    storage: Storage = "float32"
    second_model: str | None = None
    second_width: int | None = None
    adversarial_radius: float = 0.0
    adversarial_step_size: float = 0.8
    adversarial_steps: int = 0
    stop_error: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("schedule", self.schedule, ("alternating", "interleaved"))
        check_choice("flip", self.flip, ("none", "joint", "image_only"))
        check_choice("perturbation", self.perturbation, ("sample", "class"))
        for name in ("pgd_steps", "epochs", "perturb_every", "perturbation_batch_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("step_size", "step_size_end"):
            check_number(name, getattr(self, name), "> 0")
        if self.learning_rate_end is not None:
            check_number("learning_rate_end", self.learning_rate_end, ">= 0")
        for name in ("crop", "adversarial_steps"):
            check_number(name, getattr(self, name), ">= 0", whole=True)
        check_number("adversarial_step_size", self.adversarial_step_size, "> 0")
        check_number("adversarial_radius", self.adversarial_radius, ">= 0")
        if self.adversarial_radius > 255:
            raise ValueError(
                f"adversarial_radius is {self.adversarial_radius!r}; allowed: gray "
                "levels from 0 to 255"
            )
        if self.second_width is not None:
            check_number("second_width", self.second_width, "> 0", whole=True)
            if self.second_model is None:
                raise ValueError(
                    f"second_width is {self.second_width}; allowed without a "
                    "second_model: None"
                )
        for name in ("batches_per_epoch", "batches_per_visit"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), "> 0", whole=True)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, "> 0")
        if self.stop_error is not None:
            check_number("stop_error", self.stop_error, "in [0, 1]")
        check_radius(self.radius)
        if self.perturbation == "class" and self.radius > 127:
            raise ValueError(
                f"radius is {self.radius!r}; allowed with perturbation 'class': whole "
                "gray levels from 1 to 127"
            )
        if self.smooth_radius is not None:
            check_number("smooth_radius", self.smooth_radius, "> 0")
            if not 1 <= self.smooth_radius <= self.radius:
                raise ValueError(
                    f"smooth_radius is {self.smooth_radius!r}; allowed: gray levels "
                    f"from 1 to radius, {self.radius:g}"
                )
            if self.perturbation == "class":
                raise ValueError(
                    f"smooth_radius is {self.smooth_radius!r}; allowed with "
                    "perturbation 'class', which no single picture limits: None"
                )
        perturbation_store.check(
            *(self.storage, self.radius),
            step_size=self.step_size,
            step_size_end=self.step_size_end,
        )
        if self.storage != "float32":
            for name, needed in (("perturbation", "sample"), ("smooth_radius", None)):
                if (value := getattr(self, name)) != needed:
                    raise ValueError(
                        f"{name} is {value!r}; allowed with storage {self.storage!r}: "
                        f"{needed!r}"
                    )
        alternating = (self.stop_error, self.batches_per_epoch, self.batches_per_visit)
        if self.schedule == "alternating":
            if self.epochs % self.perturb_every:
                raise ValueError(
                    f"epochs ({self.epochs}) must be a multiple of perturb_every "
                    f"({self.perturb_every}), or the last epochs change nothing"
                )
        elif any(setting is not None for setting in alternating):
            raise ValueError(
                "stop_error, batches_per_epoch and batches_per_visit belong to the "
                "alternating schedule"
            )


class Second(NamedTuple):
    """The second surrogate, where there is one.

    Attributes:
      learner: the surrogate.
      class_means: as in `Shared`, of its features.
    """

    learner: Learner
    class_means: jax.Array | None


class Shared(NamedTuple):
    """The part of the state that is copied to every device.

    Attributes:
      learner: the surrogate.
      class_delta: (K, H, W, C) float32 in [0, 1] units if every class has a
        perturbation, else None.
      mistakes: of the surrogate, on the images of the current perturbation pass.
      finished: () bool, whether `stop_error` was reached.
      class_means: (K, D) float32, running means of the classes' unit features if the
        objective has a memory, else None.
      second: the second surrogate, if there is one, else None.
    """

    learner: Learner
    class_delta: jax.Array | None
    mistakes: Mean
    finished: jax.Array
    class_means: jax.Array | None = None
    second: Second | None = None


class PerExample(NamedTuple):
    """The part of the state that is split over the devices like the data.

    Attributes:
      stored: (g, n, H, W, C), the perturbations of images in the form that the setting
        `storage` names, or None if every class has one instead.
      train_order: (g, n) int32, of the current training pass.
      perturb_order: (g, n) int32, of the current perturbation pass.
    """

    stored: jax.Array | None
    train_order: jax.Array
    perturb_order: jax.Array


class _Engine(NamedTuple):
    """What every step needs and none changes."""

    config: MinMinConfig
    spec: DataSpec
    store: PerturbationStore
    modules: tuple[nn.Module, ...]
    optimizer: optax.GradientTransformation
    objective: Objective
    pairs: bool
    memory: float | None


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
    engine = _Engine(
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
            init_key = jax.random.fold_in(key, _INIT)
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


def _interleaved(engine: _Engine, batches: int) -> tuple[_Step, int, Streamed]:
    """Perturbs each batch right before training on it."""
    share = engine.spec.share(engine.config.batch_size)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        state, visit = _next_train_batch(
            engine, key, state, data, state.step, batches, epoch_steps=batches
        )
        # Images that pad the last batch are trained on again, so they move again.
        movable = jnp.ones_like(visit.batch.fresh)
        epoch = state.step // batches
        state, write, loss = _perturb(engine, state, visit, epoch, movable)
        state = _written(state, write)
        state, metrics = _train(engine, state, visit)
        metrics["perturbation_loss"] = mean_of(loss)
        return state._replace(step=state.step + 1), metrics

    def place(step: int) -> Place:
        return Place(_TRAIN_ORDER, *divmod(step, batches), share, writes=True)

    return step, engine.config.epochs * batches, Streamed(place, share)


def _alternating(
    engine: _Engine, batches: int, epoch_steps: int
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
        state, visit = _next_train_batch(
            engine, key, state, data, count, batches, epoch_steps=epoch_steps
        )
        state, metrics = _train(engine, state, visit)
        metrics = {**metrics, "perturbation_loss": no_mean()}
        return state, _no_write(engine, state, share), metrics

    def perturb_one(
        key: jax.Array,
        state: State,
        data: Shards,
        cycle: jax.Array,
        position: jax.Array,
    ) -> tuple[State, Write | None, Metrics]:
        count = cycle * perturb_steps + position - train_steps
        number, place = jnp.divmod(count, perturb_steps)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _PERTURB_ORDER), number)
        order = state.per_example.perturb_order
        order = sampling.order_of_pass(order_key, place, order, data)
        per_example = state.per_example._replace(perturb_order=order)
        batch = sampling.take(data, order, place, share)
        view_key = jax.random.fold_in(jax.random.fold_in(key, _PERTURB_VIEW), count)
        epoch = (cycle + 1) * config.perturb_every - 1
        visit = Visit(
            batch,
            _draw_view(view_key, data.shard, batch.images, config),
            _draw_transformed(
                *(engine, key, _PERTURB_TRANSFORMATION, count, data, batch),
                epoch / config.epochs,
            ),
            _adversary_keys(key, _PERTURB_ADVERSARY, count, data),
        )
        state = state._replace(per_example=per_example)
        state, write, loss = _perturb(engine, state, visit, epoch, batch.fresh)
        metrics = {name: no_mean() for name in _METRICS}
        return state, write, {**metrics, "perturbation_loss": mean_of(loss)}

    def advance(
        key: jax.Array, state: State, data: Shards
    ) -> tuple[State, Write | None, Metrics]:
        cycle, position = jnp.divmod(state.step, cycle_steps)
        state, write, metrics = lax.cond(
            position < train_steps,
            lambda: _light(train_one(key, state, data, cycle, position)),
            lambda: _light(perturb_one(key, state, data, cycle, position)),
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
                lambda: _light((state, _no_write(engine, state, share), nothing)),
                lambda: advance(key, state, data),
            )
        stored = state.per_example.stored
        after = after._replace(per_example=after.per_example._replace(stored=stored))
        return _written(after, write), metrics

    def place(step: int) -> Place:
        cycle, position = divmod(step, cycle_steps)
        if position < train_steps:
            count = cycle * train_steps + position
            return Place(_TRAIN_ORDER, *divmod(count, batches), train_share)
        count = cycle * perturb_steps + position - train_steps
        visit = divmod(count, perturb_steps)
        return Place(_PERTURB_ORDER, *visit, share, writes=True)

    return (
        step,
        config.epochs // config.perturb_every * cycle_steps,
        Streamed(place, max(share, train_share)),
    )


class Write(NamedTuple):
    """Perturbations of images that a step stores.

    Attributes:
      rows: (g, b) int32, see `sampling.Batch`.
      chosen: (g, b) bool, which of them are stored.
      codes: (g, b, H, W, C), in the form of the store.
    """

    rows: jax.Array
    chosen: jax.Array
    codes: jax.Array


def _written(state: State, write: Write | None) -> State:
    if write is None:
        return state
    stored = sampling.store_rows(state.per_example.stored, *write)
    return state._replace(per_example=state.per_example._replace(stored=stored))


def _no_write(engine: _Engine, state: State, share: int) -> Write | None:
    stored = state.per_example.stored
    if stored is None:
        return None
    size = (len(stored), share)
    return Write(
        jnp.zeros(size, jnp.int32),
        jnp.zeros(size, bool),
        jnp.zeros((*size, *engine.spec.image_shape), stored.dtype),
    )


def _light(
    result: tuple[State, Write | None, Metrics],
) -> tuple[State, Write | None, Metrics]:
    """Leaves out the perturbations of images, of which a branch would make a copy."""
    state, write, metrics = result
    per_example = state.per_example._replace(stored=None)
    return state._replace(per_example=per_example), write, metrics


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


# Training steps.


class View(NamedTuple):
    """A random view of a batch, the same each time it is used.

    Attributes:
      carriers: (B, H, W, C), the images to which the perturbations are added.
      placed: perturbed carriers (B, H, W, C), transformed or not -> mirrored and
        shifted ones, differentiable.
      seen: the same -> the surrogate's input, which is normalized too.
    """

    carriers: jax.Array
    placed: Callable[[jax.Array], jax.Array]
    seen: Callable[[jax.Array], jax.Array]


class Visit(NamedTuple):
    """A batch, and how it is seen.

    Attributes:
      batch: the images.
      view: of them.
      transformed: number of a step of projected gradient, or their number for the
        training that follows -> what happens to perturbed carriers before the view.
      adversary_keys: the same -> (g,) keys of the adversary's start.
    """

    batch: Batch
    view: View
    transformed: Callable[[jax.Array | int], Transformed]
    adversary_keys: Callable[[jax.Array | int], jax.Array]


def _draw_view(
    key: jax.Array, shard: jax.Array, images: jax.Array, config: MinMinConfig
) -> View:
    """Draws how a batch (g, b, H, W, C) is mirrored and shifted, shard by shard."""
    size = images.shape[1]
    flat = images.reshape(-1, *images.shape[2:])
    both = jax.vmap(jax.random.split)(sampling.shard_keys(key, shard))
    flip_keys, crop_keys = jnp.unstack(both, axis=1)
    toss = jax.vmap(lambda k: jax.random.bernoulli(k, shape=(size,)))
    mirrored = toss(flip_keys).reshape(-1)

    def placed(perturbed: jax.Array) -> jax.Array:
        if config.flip == "joint":
            perturbed = flip_where(mirrored, perturbed)
        if config.crop:
            crop = jax.vmap(lambda k, x: random_crop(k, x, padding=config.crop))
            shaped = perturbed.reshape(images.shape)
            perturbed = crop(crop_keys, shaped).reshape(flat.shape)
        return perturbed

    def seen(perturbed: jax.Array) -> jax.Array:
        return surrogate.normalize(placed(perturbed), config)

    carriers = flip_where(mirrored, flat) if config.flip == "image_only" else flat
    return View(carriers, placed, seen)


def _draw_transformed(
    engine: _Engine,
    key: jax.Array,
    use: int,
    count: jax.Array,
    data: Shards,
    batch: Batch,
    progress: jax.Array,
) -> Callable[[jax.Array | int], Transformed]:
    """Draws the transformations of batch number `count`: one view, or one a step."""
    views = engine.config.views
    key = jax.random.fold_in(jax.random.fold_in(key, use), count)

    def draw(key: jax.Array) -> Transformed:
        return transformed.draw(
            *(key, data.shard, batch.images.shape, batch.labels, views),
            num_classes=engine.spec.num_classes,
            progress=progress,
        )

    if views.redraw == "step":
        return lambda step: draw(jax.random.fold_in(key, step))
    drawn = draw(key)
    return lambda step: drawn


def _next_train_batch(
    engine: _Engine,
    key: jax.Array,
    state: State,
    data: Shards,
    count: jax.Array,
    batches: int,
    *,
    epoch_steps: int,
) -> tuple[State, Visit]:
    """Takes training batch number `count`."""
    config = engine.config
    number, position = jnp.divmod(count, batches)
    order_key = jax.random.fold_in(jax.random.fold_in(key, _TRAIN_ORDER), number)
    order = state.per_example.train_order
    order = sampling.order_of_pass(order_key, position, order, data)
    state = state._replace(per_example=state.per_example._replace(train_order=order))
    batch = sampling.take(data, order, position, engine.spec.share(config.batch_size))
    view_key = jax.random.fold_in(jax.random.fold_in(key, _TRAIN_VIEW), count)
    visit = Visit(
        batch,
        _draw_view(view_key, data.shard, batch.images, config),
        _draw_transformed(
            *(engine, key, _TRAIN_TRANSFORMATION, count, data, batch),
            (count // epoch_steps) / config.epochs,
        ),
        _adversary_keys(key, _TRAIN_ADVERSARY, count, data),
    )
    return state, visit


def _adversary_keys(
    key: jax.Array, use: int, count: jax.Array, data: Shards
) -> Callable[[jax.Array | int], jax.Array]:
    key = jax.random.fold_in(jax.random.fold_in(key, use), count)
    return lambda step: sampling.shard_keys(key, data.shard, step)


def _seen(
    engine: _Engine,
    number: int,
    variables: Any,
    visit: Visit,
    perturbed: jax.Array,
    step: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """What a surrogate sees of perturbed carriers in a step, and the targets."""
    config = engine.config
    changed = visit.transformed(step)
    placed = visit.view.placed(changed.see(perturbed))
    if config.adversarial_radius:

        def entropy(images: jax.Array) -> jax.Array:
            outputs: Any = engine.modules[number].apply(
                variables, surrogate.normalize(images, config), train=False
            )
            return classifier.cross_entropy(outputs[1], changed.targets)

        change = adversarial_change(
            visit.adversary_keys(step),
            lax.stop_gradient(placed),
            entropy,
            radius=to_unit(config.adversarial_radius),
            step_size=to_unit(config.adversarial_step_size),
            num_steps=config.adversarial_steps,
        )
        placed = placed + lax.stop_gradient(change)
    return surrogate.normalize(placed, config), changed.targets


def _members(state: State) -> list[Second]:
    """The surrogates."""
    shared = state.shared
    first = Second(shared.learner, shared.class_means)
    return [first] if shared.second is None else [first, shared.second]


def _with_members(state: State, members: Sequence[Second]) -> State:
    first, *others = members
    return state._replace(
        shared=state.shared._replace(
            learner=first.learner,
            class_means=first.class_means,
            second=others[0] if others else None,
        )
    )


def _train(engine: _Engine, state: State, visit: Visit) -> tuple[State, Metrics]:
    """Trains the surrogates on a perturbed batch; measures the first one."""
    perturbed = _perturbed(engine, state, visit.batch, visit.view.carriers)
    members, measured = [], []
    for number, member in enumerate(_members(state)):
        seen, targets = _seen(
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
    return _with_members(state, members), metrics


# Perturbation steps.


def _perturb(
    engine: _Engine,
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

    members = _members(state)

    def forward(number: int, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables = members[number].learner.variables
        outputs: Any = engine.modules[number].apply(variables, seen, train=False)
        return outputs

    def look(
        number: int, images: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, jax.Array]:
        variables = members[number].learner.variables
        return _seen(engine, number, variables, visit, images, step)

    if engine.memory is not None:
        perturbed = _perturbed(engine, state, batch, view.carriers)
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
        state = _with_members(state, members)

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
        perturbed = _perturbed(engine, state, batch, view.carriers)
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


def _perturbed(
    engine: _Engine, state: State, batch: Batch, carriers: jax.Array
) -> jax.Array:
    """Adds the perturbations of a batch to its carriers (B, H, W, C)."""
    if engine.config.perturbation == "class":
        return perturbation_steps.add_clipped(
            carriers, perturbation_steps.of_classes(state.shared.class_delta, batch)
        )
    return carriers + perturbation_steps.of_images(
        state.per_example.stored, batch, engine.store
    )
