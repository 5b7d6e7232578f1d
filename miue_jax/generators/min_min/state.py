"""What min-min generation carries from step to step, and what no step changes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from miue_jax.generators import perturbation_steps
from miue_jax.generators.base import DataSpec
from miue_jax.generators.min_min.config import MinMinConfig
from miue_jax.generators.perturbation_store import PerturbationStore
from miue_jax.train import sampling
from miue_jax.train.classifier import Learner
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Batch


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


class Engine(NamedTuple):
    """What every step needs and none changes."""

    config: MinMinConfig
    spec: DataSpec
    store: PerturbationStore
    modules: tuple[nn.Module, ...]
    optimizer: optax.GradientTransformation
    objective: Objective
    pairs: bool
    memory: float | None


def members_of(state: State) -> list[Second]:
    """The surrogates."""
    shared = state.shared
    first = Second(shared.learner, shared.class_means)
    return [first] if shared.second is None else [first, shared.second]


def with_members(state: State, members: Sequence[Second]) -> State:
    """Puts the surrogates back."""
    first, *others = members
    return state._replace(
        shared=state.shared._replace(
            learner=first.learner,
            class_means=first.class_means,
            second=others[0] if others else None,
        )
    )


def perturbed_of(
    engine: Engine, state: State, batch: Batch, carriers: jax.Array
) -> jax.Array:
    """Adds the perturbations of a batch to its carriers (B, H, W, C)."""
    if engine.config.perturbation == "class":
        return perturbation_steps.add_clipped(
            carriers, perturbation_steps.of_classes(state.shared.class_delta, batch)
        )
    return carriers + perturbation_steps.of_images(
        state.per_example.stored, batch, engine.store
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


def written(state: State, write: Write | None) -> State:
    """Stores the perturbations of a step."""
    if write is None:
        return state
    stored = sampling.store_rows(state.per_example.stored, *write)
    return state._replace(per_example=state.per_example._replace(stored=stored))


def no_write(engine: Engine, state: State, share: int) -> Write | None:
    """What a step of `share` images a shard returns that stores nothing."""
    stored = state.per_example.stored
    if stored is None:
        return None
    size = (len(stored), share)
    return Write(
        jnp.zeros(size, jnp.int32),
        jnp.zeros(size, bool),
        jnp.zeros((*size, *engine.spec.image_shape), stored.dtype),
    )


def without_stored(
    result: tuple[State, Write | None, Metrics],
) -> tuple[State, Write | None, Metrics]:
    """Leaves out the perturbations of images, of which a branch would make a copy."""
    state, write, metrics = result
    per_example = state.per_example._replace(stored=None)
    return state._replace(per_example=per_example), write, metrics
