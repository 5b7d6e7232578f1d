"""Adversarial perturbations of a surrogate that is trained first: AP and HYPO.

A surrogate is trained on the clean images. Then each batch is visited once, in the
order of the data, and its perturbations are moved by projected gradient so that the
finished surrogate classifies shifted and mirrored views as the objective says. AP and
HYPO differ in the objective and in how the surrogate is trained.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from miue_jax import _flat_draws, projected_gradient
from miue_jax._checks import check_choice, check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators import perturbation_store, surrogate, transformed
from miue_jax.generators.base import DataSpec, Generator, Stage, in_stages
from miue_jax.generators.perturbation_store import PerturbationStore, Storage
from miue_jax.generators.surrogate import SurrogateTrainingConfig, check_radius
from miue_jax.train import sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State

Objective = Literal["next_class", "own_class", "other_class"]
Start = Literal["zero", "uniform", "normal"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateAttackConfig(SurrogateTrainingConfig):
    """The attack on a finished surrogate; the surrogate's settings are inherited.

    Attributes:
      objective: "next_class" makes the surrogate assign images of class y to y + 1
        (mod K), "own_class" to y with more confidence, "other_class" to any class but
        y.
      radius: largest change of a channel, in gray levels.
      step_size: of a projected-gradient step, in gray levels.
      pgd_steps: projected-gradient steps on each image.
      start: of a perturbation: "zero"; "uniform" in the ball; "normal" with the radius
        as standard deviation, clipped to the ball.
      shift: largest shift of the views, see `shift_and_flip`.
      perturbation_batch_size: global batch size of the attack.
      storage: of the perturbations, see `generators.perturbation_store`.
    """

    objective: Objective = "next_class"
    radius: float = 8.0
    step_size: float = 0.4
    pgd_steps: int = 250
    start: Start = "zero"
    shift: float = 8 / 31
    perturbation_batch_size: int = 512
    storage: Storage = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(
            "objective", self.objective, ("next_class", "own_class", "other_class")
        )
        check_radius(self.radius)
        # Stored once, after all steps.
        perturbation_store.check(self.storage, self.radius)
        check_number("step_size", self.step_size, "> 0")
        check_number("pgd_steps", self.pgd_steps, "> 0", whole=True)
        check_choice("start", self.start, ("zero", "uniform", "normal"))
        check_number("shift", self.shift, "in [0, 1]")
        size = self.perturbation_batch_size
        check_number("perturbation_batch_size", size, "> 0", whole=True)


# The training of the surrogate folds the run's key with numbers below these.
_VIEW, _START, _TRANSFORMATION = 16, 17, 18


class _Shared(NamedTuple):
    learner: Learner
    loss: Mean  # over the images of the restart under way
    lowest: jax.Array  # () float32, mean loss of the restart that is kept


class _PerExample(NamedTuple):
    order: jax.Array  # (g, n) int32
    # (g, n, H, W, C), in the form of the setting `storage`
    stored: jax.Array  # of the restart under way
    kept: jax.Array | None  # of the best one, if there are several


def surrogate_attack(
    config: SurrogateAttackConfig,
    spec: DataSpec,
    *,
    restarts: int = 1,
    train_attack: surrogate.Attack | None = None,
) -> Generator:
    """Builds a generator that attacks a finished surrogate.

    Args:
      config: its settings.
      spec: of the data.
      restarts: attacks on the whole data set; the one is kept whose loss before the
        last step, averaged over all protected images, is lowest.
      train_attack: applied to each batch of the surrogate's training; None for none.

    Returns:
      The generator. A step is one batch: of training, or all steps of an attack.

    Raises:
      ValueError: if the data do not fill a batch, or the images do not fit the
        settings.
    """
    module = surrogate.create(config, spec, crop=surrogate.PADDING)
    trainer = surrogate.trainer(config, module, spec, attack=train_attack)
    size = config.perturbation_batch_size
    visits = spec.steps_per_pass(size, "perturbation_batch_size")
    share = spec.share(size)
    radius = to_unit(config.radius)
    store = PerturbationStore(config.storage, config.radius)

    def init(key: jax.Array, data: sampling.Shards) -> State:
        zero = jnp.zeros((), jnp.float32)
        stored = jnp.zeros(data.images.shape, store.dtype)
        return State(
            jnp.zeros((), jnp.int32),
            _Shared(trainer.init(key, data), Mean(zero, zero), zero),
            _PerExample(
                jnp.zeros(data.labels.shape, jnp.int32),
                stored,
                stored if restarts > 1 else None,
            ),
        )

    def train(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        learner, order, metrics = trainer.step(
            key, count, state.shared.learner, state.per_example.order, data
        )
        state = state._replace(
            shared=state.shared._replace(learner=learner),
            per_example=state.per_example._replace(order=order),
        )
        return state, metrics

    def start(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if config.start == "normal":
            draws = _flat_draws.draw(jax.random.normal, key, shape, jnp.float32)
            draws = radius * draws
            return jnp.clip(draws, -radius, radius)
        if config.start == "uniform":
            return _flat_draws.draw(
                jax.random.uniform, key, shape, jnp.float32, -radius, radius
            )
        return jnp.zeros(shape, jnp.float32)

    def costs(variables: Any, seen: jax.Array, labels: jax.Array) -> jax.Array:
        outputs: Any = module.apply(variables, seen, train=False)
        offset = 1 if config.objective == "next_class" else 0
        values = costs_toward(outputs[1], labels, offset)
        return -values if config.objective == "other_class" else values

    def visit(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        """Takes all steps on one batch."""
        batch = sampling.take_in_order(data, count % visits, share)
        chosen = batch.fresh & batch.selected
        shape = batch.images.shape
        images = batch.images.reshape(-1, *shape[2:])

        def shard_keys(key: jax.Array) -> jax.Array:
            return sampling.shard_keys(key, data.shard, count)

        transformation_key = jax.random.fold_in(
            jax.random.fold_in(key, _TRANSFORMATION), count
        )

        def transformed_at(step: jax.Array | int) -> transformed.Transformed:
            return transformed.draw(
                jax.random.fold_in(transformation_key, step),
                *(data.shard, shape, batch.labels, config.views),
                num_classes=spec.num_classes,
            )

        visit_view = transformed_at(0)

        def total_cost(
            keys: jax.Array, step: jax.Array, perturbed: jax.Array
        ) -> jax.Array:
            redraws = config.views.redraw == "step"
            changed = transformed_at(step) if redraws else visit_view
            # As published, shifts fill in zeros after the normalization.
            seen = surrogate.normalize(changed.see(perturbed), config).reshape(shape)
            shifted = jax.vmap(lambda k, x: shift_and_flip(k, x, shift=config.shift))
            seen = shifted(keys, seen).reshape(images.shape)
            values = costs(state.shared.learner.variables, seen, changed.targets)
            return jnp.sum(jnp.where(chosen.reshape(-1), values, 0))

        def move(
            delta: jax.Array, at: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            step_key, step = at
            delta, values = projected_gradient.pgd_with_losses(
                lambda perturbed: total_cost(shard_keys(step_key), step, perturbed),
                images,
                delta,
                radius=radius,
                step_size=to_unit(config.step_size),
                num_steps=1,
            )
            return delta, values[0]

        delta = jax.vmap(lambda k: start(k, shape[1:]))(
            shard_keys(jax.random.fold_in(key, _START))
        ).reshape(images.shape)
        step_keys = jax.random.split(jax.random.fold_in(key, _VIEW), config.pgd_steps)
        steps = jnp.arange(config.pgd_steps, dtype=jnp.int32)
        delta, values = lax.scan(move, delta, (step_keys, steps))
        loss = Mean(values[-1], jnp.sum(chosen, dtype=jnp.float32))
        loss = spec.sum(loss)
        stored = sampling.store(
            state.per_example.stored, batch, chosen, store.encode(delta)
        )
        state = state._replace(per_example=state.per_example._replace(stored=stored))
        if restarts > 1:
            state = keep_better(state, loss, count)
        return state, {"perturbation_loss": loss}

    def keep_better(state: State, loss: Mean, count: jax.Array) -> State:
        restart, position = jnp.divmod(count, visits)
        old = state.shared.loss
        loss = Mean(
            loss.total + jnp.where(position == 0, 0, old.total),
            loss.weight + jnp.where(position == 0, 0, old.weight),
        )
        mean = loss.total / jnp.maximum(loss.weight, 1)
        lowest = state.shared.lowest
        better = (position == visits - 1) & ((restart == 0) | (mean < lowest))
        kept = lax.cond(
            better, lambda rows: rows.stored, lambda rows: rows.kept, state.per_example
        )
        return state._replace(
            shared=state.shared._replace(
                loss=loss, lowest=jnp.where(better, mean, lowest)
            ),
            per_example=state.per_example._replace(kept=kept),
        )

    def stored_in(state: State) -> jax.Array:
        rows = state.per_example
        return rows.kept if restarts > 1 else rows.stored

    def decode(codes: jax.Array) -> jax.Array:
        return jnp.clip(store.decode(codes), -radius, radius)

    step, num_steps = in_stages(
        (
            Stage(train, config.epochs * trainer.epoch_steps, surrogate.METRICS),
            Stage(visit, restarts * visits, ("perturbation_loss",)),
        )
    )
    return Generator(
        init=init,
        step=step,
        num_steps=num_steps,
        perturbation=lambda state: decode(stored_in(state)),
        stored=stored_in,
        decode=decode,
        budget=Budget("linf", config.radius),
        sharded=True,
    )


def costs_toward(logits: jax.Array, labels: jax.Array, offset: int) -> jax.Array:
    """The cross-entropy of every image toward a class some places after its own.

    Args:
      logits: (B, K) float.
      labels: (B,) int, or (B, K) class probabilities of mixed images.
      offset: the places, modulo K.

    Returns:
      (B,) float, in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.generators.surrogate_attack import costs_toward
      >>> logits = jnp.array([[0.0, 100.0, 0.0]])
      >>> costs_toward(logits, jnp.array([0]), 1).tolist()
      [0.0]
    """
    if labels.ndim == 2:
        return optax.softmax_cross_entropy(logits, jnp.roll(labels, offset, axis=1))
    targets = (labels + offset) % logits.shape[1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


# The random views of the attack.


def shift_and_flip(key: jax.Array, images: jax.Array, *, shift: float) -> jax.Array:
    """Shifts every image, mirrors it with probability 1/2, and interpolates bilinearly.

    Coordinates run from -1 at the center of an axis's first pixel to 1 at that of the
    last, so a shift of s moves an axis of n pixels by s (n - 1) / 2 pixels. Each image
    is shifted along both axes by uniform draws from [-shift, shift]; zeros come in from
    outside.

    Args:
      key: a PRNG key.
      images: (B, H, W, C) float.
      shift: the largest shift, in the coordinates above; 8 / 31 is 4 of 32 pixels.

    Returns:
      (B, H, W, C), linear in the images.

    References:
      Fowl et al., NeurIPS 2021, arXiv 2106.10807: the augmentation of the attack.
    """
    size, height, width, _ = images.shape
    row_key, column_key, flip_key = jax.random.split(key, 3)
    mirrored = jax.random.bernoulli(flip_key, shape=(size, 1, 1))
    row_source = _source(row_key, size, height, shift)
    column_source = _source(column_key, size, width, shift)
    column_source = jnp.where(mirrored, width - 1 - column_source, column_source)
    # Exact products: an accelerator's fast ones would round pixels to 8 or 10 bits.
    return jnp.einsum(
        "bhi,bwj,bijc->bhwc",
        _weights(row_source, height),
        _weights(column_source, width),
        images,
        precision=lax.Precision.HIGHEST,
    )


def _source(key: jax.Array, size: int, length: int, shift: float) -> jax.Array:
    """The pixel that each position of an axis reads from: (size, length, 1)."""
    draws = jax.random.uniform(key, (size, 1, 1), jnp.float32, -shift, shift)
    place = jnp.arange(length, dtype=jnp.float32)[:, None]
    return place + draws * (length - 1) / 2


def _weights(source: jax.Array, length: int) -> jax.Array:
    """Weights of linear interpolation, 0 outside the axis: (size, length, length)."""
    return jnp.maximum(0, 1 - jnp.abs(source - jnp.arange(length, dtype=jnp.float32)))
