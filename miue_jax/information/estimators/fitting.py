"""Training of small networks with early stopping, as one compiled loop."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from miue_jax._arguments import check_scalar
from miue_jax._checks import shown
from miue_jax.information._core import check_counts

Layers = tuple[tuple[jax.Array, jax.Array], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Network and training of a trained estimator.

    The defaults are for a few thousand samples of one to 512 dimensions.

    Attributes:
      hidden: width of the hidden layers.
      depth: number of hidden layers.
      batch_size: training samples per step.
      learning_rate: learning rate of Adam.
      max_steps: maximum number of training steps, rounded up to whole rounds.
      steps_per_round: steps between evaluations on the validation split, rounded up to
        whole passes over the training split.
      patience: rounds without improvement after which training stops.
      validation_fraction: share of the samples for fitting that decide when to stop.
      evaluation_fraction: share of all samples on which the estimate is computed, once.
      evaluation_batch_size: largest K of the K x K score matrices of validation and
        evaluation.

    Example:
      >>> from miue_jax.information import estimators
      >>> config = estimators.FitConfig(hidden=64, max_steps=500)
      >>> config.batch_size
      256
    """

    hidden: int = 256
    depth: int = 2
    batch_size: int = 256
    learning_rate: float = 1e-3
    max_steps: int = 1000
    steps_per_round: int = 20
    patience: int = 10
    validation_fraction: float = 0.2
    evaluation_fraction: float = 0.2
    evaluation_batch_size: int = 1024

    def __post_init__(self) -> None:
        minimum = dict.fromkeys(
            ("hidden", "depth", "max_steps", "steps_per_round", "patience"), 1
        )
        minimum |= {"batch_size": 2, "evaluation_batch_size": 2}
        for name, least in minimum.items():
            check_counts(**{name: getattr(self, name)})
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be at least {least}"
                )
        check_scalar("learning_rate", self.learning_rate)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate is {self.learning_rate}; it must be positive and finite"
            )
        for name in ("validation_fraction", "evaluation_fraction"):
            check_scalar(name, getattr(self, name))
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be between 0 and 1"
                )


def check_config(config: Any) -> None:
    """Raises a ValueError for what is not a `FitConfig`."""
    if not isinstance(config, FitConfig):
        raise ValueError(f"config is {shown(config)}; it must be a FitConfig")


class Fit(NamedTuple):
    """The result of training.

    Attributes:
      params: parameters with the best score on the validation split.
      score: () float, that score.
      best_step: () int, training steps that led to them; 0 if nothing improved on the
        initial parameters.
      steps: () int, training steps taken.
    """

    params: Any
    score: jax.Array
    best_step: jax.Array
    steps: jax.Array


class _State(NamedTuple):
    round: jax.Array
    params: Any
    carry: Any
    optimizer: Any
    best_round: jax.Array
    best_params: Any
    best_score: jax.Array


def init_mlp(key: jax.Array, sizes: Sequence[int], dtype: jnp.dtype) -> Layers:
    """Initializes a (weights, biases) pair per layer: He's rule for ReLU, biases 0.

    The sizes are those of the input, the hidden layers and the output.
    """
    keys = jax.random.split(key, len(sizes) - 1)
    initializer = jax.nn.initializers.he_normal()
    return tuple(
        (initializer(key, shape, dtype), jnp.zeros(shape[1], dtype))
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    )


def apply_mlp(layers: Layers, inputs: jax.Array) -> jax.Array:
    """Applies the layers to (N, D) inputs, with a ReLU after all but the last."""
    hidden = inputs
    for weights, biases in layers[:-1]:
        hidden = jax.nn.relu(hidden @ weights + biases)
    weights, biases = layers[-1]
    return hidden @ weights + biases


def split(
    key: jax.Array,
    size: int,
    config: FitConfig,
    purpose: Literal["validation", "evaluation"],
) -> tuple[jax.Array, jax.Array]:
    """Splits indices at random: at least a batch for training, the rest for a purpose.

    The config holds the fraction for that purpose. Raises a ValueError if fewer than a
    batch or fewer than two samples are left.
    """
    second = round(size * getattr(config, f"{purpose}_fraction"))
    first = size - second
    if first < config.batch_size or second < 2:
        raise ValueError(
            f"of {size} samples {first} are left to train on and {second} for "
            f"{purpose}; at least {config.batch_size} and 2 are needed"
        )
    order = jax.random.permutation(key, size)
    return order[:first], order[first:]


def fit(
    key: jax.Array,
    params: Any,
    carry: Any,
    loss: Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]],
    score: Callable[[Any], jax.Array],
    *,
    num_samples: int,
    config: FitConfig,
) -> Fit:
    """Minimizes a loss by Adam and keeps the parameters with the best score.

    Every pass over the samples is a fresh permutation, so a batch never contains a
    sample twice. A score that is NaN is not an improvement: training that diverges
    stops after `patience` rounds with the best parameters it had.

    Args:
      key: random key.
      params: initial parameters.
      carry: state that the loss passes from step to step besides the parameters.
      loss: (params, carry, indices of a batch) -> (loss, carry).
      score: params -> score on the validation split, higher is better.
      num_samples: training samples, at least a batch.
      config: training configuration.

    Returns:
      The fit.
    """
    optimizer = optax.adam(config.learning_rate)
    steps_per_pass = num_samples // config.batch_size
    passes = math.ceil(config.steps_per_round / steps_per_pass)
    steps_per_round = passes * steps_per_pass
    max_rounds = math.ceil(config.max_steps / steps_per_round)

    def step(state: tuple, indices: jax.Array) -> tuple[tuple, None]:
        params, carry, optimizer_state = state
        gradients, carry = jax.grad(loss, has_aux=True)(params, carry, indices)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        return (optax.apply_updates(params, updates), carry, optimizer_state), None

    def train_round(state: _State) -> _State:
        keys = jax.random.split(jax.random.fold_in(key, state.round), passes)
        orders = jax.vmap(lambda key: jax.random.permutation(key, num_samples))(keys)
        used = orders[:, : steps_per_pass * config.batch_size]
        batches = used.reshape(steps_per_round, config.batch_size)
        start = (state.params, state.carry, state.optimizer)
        (params, carry, optimizer_state), _ = jax.lax.scan(step, start, batches)
        value = score(params)
        better = value > state.best_score
        best = (state.round + 1, params, value)
        kept = (state.best_round, state.best_params, state.best_score)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), best, kept)
        return _State(state.round + 1, params, carry, optimizer_state, *best)

    def unfinished(state: _State) -> jax.Array:
        stale = state.round - state.best_round
        return (state.round < max_rounds) & (stale < config.patience)

    zero, first = jnp.zeros((), jnp.int32), score(params)
    first = jnp.where(jnp.isnan(first), -jnp.inf, first)  # nothing is above NaN
    state = _State(zero, params, carry, optimizer.init(params), zero, params, first)
    state = jax.lax.while_loop(unfinished, train_round, state)
    return Fit(
        state.best_params,
        state.best_score,
        state.best_round * steps_per_round,
        state.round * steps_per_round,
    )
