"""SEP: adversarial examples of an ensemble of checkpoints of one training."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax._checks import check_choice, check_number
from miue_jax.budget import Budget, to_unit
from miue_jax.generators import (
    checkpoint_ensemble,
    perturbation_store,
    surrogate,
    transformed,
)
from miue_jax.generators.base import DataSpec, Generator, Stage, in_stages
from miue_jax.generators.perturbation_store import PerturbationStore, Storage
from miue_jax.generators.surrogate import (
    Normalization,
    SurrogateTrainingConfig,
    check_radius,
)
from miue_jax.generators.surrogate_attack import costs_toward
from miue_jax.train import sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfEnsembleConfig(SurrogateTrainingConfig):
    """Settings of SEP; those of the surrogate's training are inherited.

    The published code keeps a checkpoint whenever the accuracy on test data improves,
    and uses every k-th of them. A generator does not have test data: here the
    checkpoints are those after evenly spaced epochs, including the last.

    Attributes:
      checkpoints: n, at most one per epoch. They are all held in memory and saved with
        the state of a run.
      objective: "cross_entropy" toward the class y + K // 2 (mod K), or "features", the
        mean squared distance of the features before the last layer from that class's
        mean over the clean data, computed separately for each checkpoint.
      radius: largest change of a channel, in gray levels.
      step_size: of a step, in gray levels.
      pgd_steps: steps on each image.
      inner_steps: steps of variance reduction within each of them; 0 for none.
      inner_means: the class means that the inner steps move toward: the drawn
        checkpoint's "own", or those of the "last" checkpoint; the outer steps always
        use the checkpoint's own. It matters only for inner steps on "features".
      perturbation_batch_size: global batch size of the attack.
      storage: of the perturbations, see `generators.perturbation_store`.
    """

    normalization: Normalization = "cifar10"
    epochs: int = 120
    milestones: tuple[float, ...] = (0.625, 0.75)
    warmup_epochs: int = 1
    checkpoints: int = 30
    objective: Literal["cross_entropy", "features"] = "features"
    radius: float = 8.0
    step_size: float = 1.0
    pgd_steps: int = 30
    inner_steps: int = 0
    inner_means: Literal["own", "last"] = "own"
    perturbation_batch_size: int = 256
    storage: Storage = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoints", "pgd_steps", "perturbation_batch_size"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        check_choice("objective", self.objective, ("cross_entropy", "features"))
        check_choice("inner_means", self.inner_means, ("own", "last"))
        check_radius(self.radius)
        # Stored once, after all steps.
        perturbation_store.check(self.storage, self.radius)
        check_number("step_size", self.step_size, "> 0")
        check_number("inner_steps", self.inner_steps, ">= 0", whole=True)
        if self.views.redraw == "step":
            raise ValueError("views redraw is 'step'; allowed with SEP: 'visit'")
        if self.checkpoints > self.epochs:
            raise ValueError(
                f"checkpoints ({self.checkpoints}) must be at most one per epoch, and "
                f"there are {self.epochs} epochs"
            )


# Tables that say SEP mean the variance-reduced variant: "variance_reduced" as in the
# paper, "authors_code" as in all released scripts, which presumably gave the published
# figures: there the inner steps move toward the means of the last checkpoint, whichever
# is drawn. "sep" is the paper's plain ensemble. The published commands have radius 2,
# the tables 8 too. Its images are truncated to gray levels: the export "truncate".
PRESETS: dict[str, SelfEnsembleConfig] = {
    "variance_reduced": SelfEnsembleConfig(checkpoints=15, inner_steps=15),
    "authors_code": SelfEnsembleConfig(
        checkpoints=15, inner_steps=15, inner_means="last"
    ),
    "feature_alignment": SelfEnsembleConfig(),
    "sep": SelfEnsembleConfig(objective="cross_entropy"),
}


# The training of the surrogate folds the run's key with numbers below this.
_ATTACK, _TRANSFORMATION = 16, 17


class _Checkpoint(NamedTuple):
    variables: Any
    sums: jax.Array | None  # (K, D), each class's features; None for "cross_entropy"


class _Shared(NamedTuple):
    learner: Learner
    stack: _Checkpoint  # leaves (n, ...)
    counts: jax.Array  # (K,) float32, images of each class whose features are summed


class _PerExample(NamedTuple):
    order: jax.Array  # (g, n) int32
    stored: jax.Array  # (g, n, H, W, C), in the form of the setting `storage`


def self_ensemble(config: SelfEnsembleConfig, spec: DataSpec) -> Generator:
    r"""Builds SEP.

    With the checkpoints :math:`f_k` of one training on clean images, the features
    :math:`h_k` before their last layer and their means :math:`\mu_{k,c}` over class c,

    .. math:: \delta_i = \arg\min_{\lVert\delta\rVert_\infty \le r} \frac1n \sum_k
              \frac1D \lVert h_k(x_i + \delta) - \mu_{k, y_i + \lfloor K/2 \rfloor}
              \rVert_2^2

    or the same with the cross-entropy of :math:`f_k` toward that class.

    Args:
      config: the settings.
      spec: of the data.

    Returns:
      The generator. A step is one batch: of training, of the features' means, or all
      steps of the attack.

    Raises:
      ValueError: if the data do not fill a batch, or the images do not fit the
        settings.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.generators.self_ensemble import self_ensemble
      >>> spec = generators.DataSpec(
      ...     num_examples=64, num_classes=4, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset(
      ...     "self_ensemble", batch_size=16, perturbation_batch_size=64
      ... )
      >>> self_ensemble(config, spec).num_steps  # 120 epochs, the means, the attack
      482

    References:
      Chen et al., Self-Ensemble Protection: Training Checkpoints Are Good Data
      Protectors, ICLR 2023, arXiv 2211.12005.
    """
    module = surrogate.create(config, spec, crop=surrogate.PADDING)
    trainer = surrogate.trainer(config, module, spec)
    size = config.perturbation_batch_size
    visits = spec.steps_per_pass(size, "perturbation_batch_size")
    share = spec.share(size)
    radius = to_unit(config.radius)
    store = PerturbationStore(config.storage, config.radius)
    by_features = config.objective == "features"

    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = surrogate.normalize(images, config)
        outputs: Any = module.apply(variables, seen, train=False)
        return outputs

    def init(key: jax.Array, data: sampling.Shards) -> State:
        learner = trainer.init(key, data)
        one = jnp.zeros((1, *data.images.shape[2:]), jnp.float32)
        features, _ = jax.eval_shape(forward, learner.variables, one)
        count = config.checkpoints
        stack = jax.tree.map(
            lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), learner.variables
        )
        sums = jnp.zeros((count, spec.num_classes, features.shape[-1]), jnp.float32)
        return State(
            jnp.zeros((), jnp.int32),
            _Shared(
                learner,
                _Checkpoint(stack, sums if by_features else None),
                jnp.zeros(spec.num_classes, jnp.float32),
            ),
            _PerExample(
                jnp.zeros(data.labels.shape, jnp.int32),
                jnp.zeros(data.images.shape, store.dtype),
            ),
        )

    def train(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        shared = state.shared
        learner, order, metrics = trainer.step(
            key, count, shared.learner, state.per_example.order, data
        )
        epochs = (count + 1) // trainer.epoch_steps
        before = count // trainer.epoch_steps * config.checkpoints // config.epochs
        after = epochs * config.checkpoints // config.epochs
        stack = checkpoint_ensemble.save(
            shared.stack.variables,
            jnp.maximum(after - 1, 0),
            learner.variables,
            after > before,
        )
        shared = shared._replace(
            learner=learner, stack=shared.stack._replace(variables=stack)
        )
        per_example = state.per_example._replace(order=order)
        return state._replace(shared=shared, per_example=per_example), metrics

    def sum_features(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        """Adds the features of one batch to each checkpoint's sums per class."""
        del key
        batch = sampling.take_in_order(data, count, share)
        images = batch.images.reshape(-1, *batch.images.shape[2:])
        members = jax.nn.one_hot(
            batch.labels.reshape(-1), spec.num_classes, dtype=jnp.float32
        )
        members = members * batch.fresh.reshape(-1, 1)

        def class_sums(variables: Any) -> jax.Array:
            features, _ = forward(variables, images)
            return jnp.matmul(members.T, features, precision=lax.Precision.HIGHEST)

        stack = state.shared.stack
        sums = lax.map(class_sums, stack.variables)
        counts = jnp.sum(members, axis=0)
        sums, counts = spec.sum((sums, counts))
        shared = state.shared._replace(
            stack=stack._replace(sums=stack.sums + sums),
            counts=state.shared.counts + counts,
        )
        return state._replace(shared=shared), {}

    def attack(
        key: jax.Array, count: jax.Array, state: State, data: sampling.Shards
    ) -> tuple[State, Metrics]:
        """Takes all steps on one batch."""
        batch = sampling.take_in_order(data, count, share)
        chosen = batch.fresh & batch.selected
        offset = spec.num_classes // 2
        view_key = jax.random.fold_in(jax.random.fold_in(key, _TRANSFORMATION), count)
        # One view for all of its steps: the checkpoints differ already.
        changed = transformed.draw(
            *(view_key, data.shard, batch.images.shape, batch.labels, config.views),
            num_classes=spec.num_classes,
        )

        def cost(one: _Checkpoint, images: jax.Array) -> jax.Array:
            features, logits = forward(one.variables, changed.see(images))
            if one.sums is None:
                values = costs_toward(logits, changed.targets, offset)
            else:
                means = one.sums / jnp.maximum(state.shared.counts, 1)[:, None]
                targets = (transformed.most(changed.targets) + offset) % len(means)
                values = jnp.mean(jnp.square(features - means[targets]), axis=-1)
            return jnp.sum(jnp.where(chosen.reshape(-1), values, 0))

        stack = state.shared.stack
        inner = stack
        if stack.sums is not None and config.inner_means == "last":
            last = jnp.broadcast_to(stack.sums[-1:], stack.sums.shape)
            inner = stack._replace(sums=last)
        delta, loss = checkpoint_ensemble.descend(
            jax.random.fold_in(jax.random.fold_in(key, _ATTACK), count),
            cost,
            stack,
            batch.images.reshape(-1, *batch.images.shape[2:]),
            checkpoint_ensemble.Steps(
                radius, to_unit(config.step_size), config.pgd_steps, config.inner_steps
            ),
            inner_stack=inner,
        )
        measured = Mean(loss, jnp.sum(chosen, dtype=jnp.float32))
        measured = spec.sum(measured)
        stored = sampling.store(
            state.per_example.stored, batch, chosen, store.encode(delta)
        )
        per_example = state.per_example._replace(stored=stored)
        metrics = {"perturbation_loss": measured}
        return state._replace(per_example=per_example), metrics

    def decode(codes: jax.Array) -> jax.Array:
        return jnp.clip(store.decode(codes), -radius, radius)

    training = config.epochs * trainer.epoch_steps
    stages = [Stage(train, training, surrogate.METRICS)]
    if by_features:
        stages.append(Stage(sum_features, visits, ()))
    stages.append(Stage(attack, visits, ("perturbation_loss",)))
    step, num_steps = in_stages(stages)
    return Generator(
        init=init,
        step=step,
        num_steps=num_steps,
        perturbation=lambda state: decode(state.per_example.stored),
        stored=lambda state: state.per_example.stored,
        decode=decode,
        budget=Budget("linf", config.radius),
        sharded=True,
    )
