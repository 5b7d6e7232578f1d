"""The interface of a generator and the helpers that build one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from miue_jax._checks import check_number
from miue_jax._rows import Rows
from miue_jax.budget import Budget, to_unit
from miue_jax.train import sampling
from miue_jax.train.metrics import Mean, Metrics
from miue_jax.train.parallel import State
from miue_jax.train.sampling import Shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The sizes of a data set, known before a generator sees it.

    Attributes:
      num_examples: N, the number of images.
      num_classes: K.
      image_shape: (H, W, C).
      num_shards: G, the number of shards over all devices.
      axis_name: the mesh axis over which the shards are split; None outside a mesh.

    Raises:
      ValueError: if there are fewer than two classes.

    Example:
      >>> from miue_jax import generators
      >>> spec = generators.DataSpec(
      ...     num_examples=100, num_classes=10, image_shape=(32, 32, 3)
      ... )
      >>> spec.steps_per_pass(batch_size=32)
      4
    """

    num_examples: int
    num_classes: int
    image_shape: tuple[int, ...]
    num_shards: int = 1
    axis_name: str | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes is {self.num_classes}; it must be >= 2")

    def share(self, batch_size: int) -> int:
        """The number of images that each shard contributes to a global batch."""
        return batch_size // self.num_shards

    def steps_per_pass(self, batch_size: int, name: str = "batch_size") -> int:
        """The batches in a pass over the data.

        A ValueError, if the data do not fill one, names the setting by `name`.
        """
        return sampling.steps_per_pass(
            self.num_examples, self.num_shards, batch_size, name=name
        )

    def mean(self, tree: Any) -> Any:
        """Averages a pytree of per-device values over the devices."""
        return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

    def sum(self, tree: Any) -> Any:
        """Sums a pytree of per-device values over the devices."""
        return tree if self.axis_name is None else lax.psum(tree, self.axis_name)


def _never(state: Any) -> jax.Array:
    del state
    return jnp.zeros((), bool)


def _state_itself(state: Any) -> jax.Array:
    return state


def _unchanged(codes: Any) -> Any:
    return codes


class Generator(NamedTuple):
    """A generator of unlearnable examples: pure functions of a state.

    By default the functions see the whole data set and need not know how it is split
    over devices: ``images`` are (N, H, W, C) float32 in [0, 1] and ``labels`` (N,)
    int32. With ``sharded=True`` they see one device's share instead, as a
    `train.sampling.Shards`, and use collectives over `DataSpec.axis_name`. Either way,
    the perturbations of images that are not selected for protection are ignored.

    Attributes:
      init: ``(key, images, labels) -> state``, any pytree. Sharded: ``(key, data) ->
        State``, a `train.parallel.State`; it is traced outside the mesh axis.
      step: ``(key, state, images, labels) -> state`` or ``(state, metrics)``, where
        metrics is a dictionary of scalars; ``key`` is new in every step. The state
        keeps its structure, its shapes and its dtypes. Sharded: ``(key, state, data) ->
        (state, metrics)``, where the key is the run's own, the state counts its steps
        and metrics are `train.metrics.Mean` by name.
      num_steps: the number of steps, unless it finishes earlier.
      perturbation: ``state -> delta`` in [0, 1] units, (N, H, W, C); the state itself
        by default. Sharded: (G, n, H, W, C). With ``per_class``: (K, H, W, C).
      stored: ``state -> codes``, the same array in the form in which the state holds
        it, which takes no memory beyond the state; None for what `perturbation`
        returns.
      decode: ``codes -> delta`` turns any rows of `stored` into those of
        `perturbation`, float32, value by value.
      finished: ``state -> () bool``, whether it stopped early; further steps must then
        change nothing.
      budget: the bound on every image's perturbation.
      per_class: whether the perturbation has one row per class.
      sharded: whether the functions see one device's share of the data.
      streamed: how it runs on data of which the devices hold a window at a time; None
        if it needs all of them. Sharded only.

    Example:
      >>> import jax
      >>> from miue_jax import generators
      >>> noise = generators.Generator(
      ...     init=lambda key, images, labels: 0 * images,
      ...     step=lambda key, state, images, labels: jax.random.uniform(
      ...         key, images.shape, minval=-8 / 255, maxval=8 / 255
      ...     ),
      ... )
      >>> noise.num_steps, str(noise.budget)
      (1, 'linf 8 gray levels')
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    num_steps: int = 1
    perturbation: Callable[[Any], jax.Array] = _state_itself
    stored: Callable[[Any], jax.Array] | None = None
    decode: Callable[[Any], Any] = _unchanged
    finished: Callable[[Any], jax.Array] = _never
    budget: Budget = Budget()
    per_class: bool = False
    sharded: bool = False
    streamed: sampling.Streamed | None = None


def to_sharded(generator: Generator, spec: DataSpec) -> Generator:
    """Adapts a generator of whole arrays to sharded data.

    Every device gathers the images, computes the same step and keeps the same state, so
    results do not depend on the number of devices or shards.

    Args:
      generator: with ``sharded=False``; one with ``sharded=True`` is returned as it is.
      spec: of the data.

    Returns:
      A generator with ``sharded=True``. When traced, its functions raise a ValueError
      if the given ones return arrays of the wrong structure, shape or dtype.

    Example:
      >>> from miue_jax import generators
      >>> spec = generators.DataSpec(
      ...     num_examples=4, num_classes=2, image_shape=(8, 8, 3)
      ... )
      >>> plain = generators.from_function(lambda key, images, labels: 0 * images)
      >>> generators.to_sharded(plain, spec).sharded
      True
    """
    if generator.sharded:
        return generator

    def whole(data: Shards, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
        images, labels = data.images, data.labels
        if axis_name is not None:
            images, labels = lax.all_gather((images, labels), axis_name, tiled=True)
        images, labels = (
            jnp.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])[: spec.num_examples]
            for array in (images, labels)
        )
        return to_unit(images.astype(jnp.float32)), labels

    def init(key: jax.Array, data: Shards) -> State:
        state = generator.init(key, *whole(data, None))
        return State(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, state), None)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        result = generator.step(
            jax.random.fold_in(key, state.step),
            state.shared,
            *whole(data, spec.axis_name),
        )
        after, metrics = _state_and_metrics(result, state.shared)
        return State(state.step + 1, after, None), metrics

    def perturbation(state: State) -> jax.Array:
        rows = spec.num_classes if generator.per_class else spec.num_examples
        delta = _check_perturbation(
            generator.perturbation(state.shared), (rows, *spec.image_shape)
        )
        if generator.per_class:
            return delta
        rows = -(-spec.num_examples // spec.num_shards)
        padding = rows * spec.num_shards - spec.num_examples
        padded = jnp.pad(delta, ((0, padding), *[(0, 0)] * (delta.ndim - 1)))
        dealt = padded.reshape(rows, spec.num_shards, *delta.shape[1:])
        return jnp.swapaxes(dealt, 0, 1)

    return generator._replace(
        init=init,
        step=step,
        perturbation=perturbation,
        finished=lambda state: generator.finished(state.shared),
        sharded=True,
    )


def _state_and_metrics(result: Any, before: Any) -> tuple[Any, Metrics]:
    """Splits and checks what a step of whole arrays returns."""
    structure, values = jax.tree.structure(before), {}
    # A state may itself be a pair, so its structure decides.
    if jax.tree.structure(result) != structure:
        if isinstance(result, tuple) and len(result) == 2:
            result, values = result
        if jax.tree.structure(result) != structure or not isinstance(values, dict):
            raise ValueError(
                "step must return a state like init's, or (state, metrics) with a "
                f"dictionary of metrics, got {result!r:.100}"
            )

    def like(new: Any, old: jax.Array) -> jax.Array:
        new = jnp.asarray(new)
        both_floating = jnp.issubdtype(new.dtype, jnp.floating) and jnp.issubdtype(
            old.dtype, jnp.floating
        )
        if new.shape != old.shape or not (both_floating or new.dtype == old.dtype):
            raise ValueError(
                f"step must keep the shapes and dtypes of the state: {old.dtype} "
                f"{old.shape} became {new.dtype} {new.shape}"
            )
        return new.astype(old.dtype) if both_floating else new

    metrics = {}
    for name, value in values.items():
        value = jnp.asarray(value, jnp.float32)
        if value.shape:
            raise ValueError(f"metric {name!r} must be a scalar, got {value.shape}")
        metrics[name] = Mean(value, jnp.ones((), jnp.float32))
    return jax.tree.map(like, result, before), metrics


def _check_perturbation(delta: Any, shape: tuple[int, ...]) -> jax.Array:
    """Checks the shape and the dtype of a perturbation; returns it as float32."""
    if isinstance(delta, jax.Array | np.ndarray):
        if delta.shape == shape and jnp.issubdtype(delta.dtype, jnp.floating):
            return jnp.asarray(delta, jnp.float32)
        given = f"{delta.dtype} {delta.shape}"
    else:
        given = f"{delta!r:.100}"
    raise ValueError(
        f"the perturbation must be floating point of shape {shape}, got {given}"
    )


def from_function(
    function: Callable[..., jax.Array], *, budget: Budget | None = None, **settings: Any
) -> Generator:
    """Makes a one-step generator from a function that returns the whole perturbation.

    Args:
      function: ``(key, images, labels, **settings) -> delta``: images (N, H, W, C)
        float32 in [0, 1], labels (N,) int32, delta of the shape of the images in [0, 1]
        units. It is traced.
      budget: the bound on every image's perturbation; None for 8 gray levels.
      **settings: passed on to the function.

    Returns:
      The generator.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax import generators
      >>> def darker(key, images, labels, *, levels=4.0):
      ...     return jnp.full_like(images, -levels / 255)
      >>> generators.from_function(darker, levels=2.0).num_steps
      1
    """

    def step(
        key: jax.Array, state: jax.Array, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        del state
        delta = function(key, images, labels, **settings)
        return _check_perturbation(delta, images.shape)

    return Generator(
        init=lambda key, images, labels: jnp.zeros_like(images),
        step=step,
        budget=Budget() if budget is None else budget,
    )


def single_step(
    perturb: Callable[[jax.Array, Shards], tuple[jax.Array, Metrics]], *, budget: Budget
) -> Generator:
    """Makes a sharded generator whose only step computes the whole perturbation.

    Args:
      perturb: (key, data) -> the perturbation, (g, n, H, W, C) float32 in [0, 1] units,
        and metrics.
      budget: the bound on every image's perturbation.

    Returns:
      The generator.
    """

    def init(key: jax.Array, data: Shards) -> State:
        del key
        delta = jnp.zeros(data.images.shape, jnp.float32)
        return State(jnp.zeros((), jnp.int32), None, delta)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        delta, metrics = perturb(key, data)
        return state._replace(step=state.step + 1, per_example=delta), metrics

    return Generator(
        init=init,
        step=step,
        perturbation=lambda state: state.per_example,
        budget=budget,
        sharded=True,
    )


class Stage(NamedTuple):
    """A number of steps of one kind.

    Attributes:
      step: (key, count, state, data) -> (state, metrics), where count is the () int32
        number of steps the stage has taken before. It does not change `State.step`.
      num_steps: steps of the stage.
      metrics: names of the metrics that its steps return.
    """

    step: Callable[[jax.Array, jax.Array, State, Shards], tuple[State, Metrics]]
    num_steps: int
    metrics: tuple[str, ...]


def in_stages(
    stages: Sequence[Stage],
) -> tuple[Callable[[jax.Array, State, Shards], tuple[State, Metrics]], int]:
    """Joins stages into the step function of a sharded generator.

    Args:
      stages: in the order in which they run.

    Returns:
      (key, state, data) -> (state, metrics), where the metrics of all other stages have
      weight 0, and the total number of steps.
    """
    ends = np.cumsum([stage.num_steps for stage in stages])
    names = dict.fromkeys(name for stage in stages for name in stage.metrics)

    def step(key: jax.Array, state: State, data: Shards) -> tuple[State, Metrics]:
        nothing = dict.fromkeys(names, no_mean())

        def branch(stage: Stage, end: int) -> Callable[..., tuple[State, Metrics]]:
            def run(state: State) -> tuple[State, Metrics]:
                count = state.step - (end - stage.num_steps)
                state, metrics = stage.step(key, count, state, data)
                return state, {**nothing, **metrics}

            return run

        branches = [
            branch(stage, int(end)) for stage, end in zip(stages, ends, strict=True)
        ]
        current = jnp.sum(state.step >= ends[:-1], dtype=jnp.int32)
        state, metrics = lax.switch(current, branches, state)
        return state._replace(step=state.step + 1), metrics

    return step, int(ends[-1])


def no_mean() -> Mean:
    """The mean of no values, float32 even with x64 enabled."""
    return Mean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def by_class(
    function: Callable[[jax.Array], jax.Array], labels: jax.Array, num_classes: int
) -> jax.Array:
    """Evaluates a function of the class on all rows and keeps each row's own class.

    Only the parameters and results of one class are alive at a time, at the cost of
    computing every row once per class.

    Args:
      function: () integer class -> (g, n, ...), as if every row were of this class.
      labels: (g, n) integer.
      num_classes: K.

    Returns:
      (g, n, ...): for each row the function's result for its class, and 0 where the
      label is not a class.
    """
    result = jax.eval_shape(function, jnp.zeros((), jnp.int32))

    def add(label: jax.Array, rows: jax.Array) -> jax.Array:
        mine = jnp.expand_dims(labels == label, tuple(range(2, rows.ndim)))
        return jnp.where(mine, function(label), rows)

    start = jnp.zeros(result.shape, result.dtype)
    return lax.fori_loop(0, num_classes, add, start)


def per_example(
    generator: Generator, delta: np.ndarray, labels: np.ndarray, selected: np.ndarray
) -> np.ndarray:
    """Puts a sharded perturbation into the order of the data set, on the host.

    `rows_per_example` does the same without a copy.

    Args:
      generator: with ``sharded=True``.
      delta: from `Generator.perturbation`, for the whole mesh.
      labels: (N,) integer.
      selected: (N,) bool, the examples that may be perturbed.

    Returns:
      (N, H, W, C) float32 in [0, 1] units, 0 where nothing may change.

    Raises:
      ValueError: if the perturbation does not have the shape that `Generator` says.

    Example:
      >>> import numpy as np
      >>> from miue_jax import generators
      >>> spec = generators.DataSpec(
      ...     num_examples=3, num_classes=2, image_shape=(1, 1, 1), num_shards=2
      ... )
      >>> config = generators.preset("random_noise")
      >>> noise = generators.create("random_noise", config, spec)
      >>> delta = np.arange(4.0).reshape(2, 2, 1, 1, 1)  # two shards with two rows each
      >>> labels, selected = np.array([0, 1, 0]), np.array([True, True, False])
      >>> generators.per_example(noise, delta, labels, selected).ravel().tolist()
      [0.0, 2.0, 0.0]
    """
    plain = generator._replace(decode=_unchanged)
    return rows_per_example(plain, delta, labels, selected)[:]


def rows_per_example(
    generator: Generator, stored: np.ndarray, labels: np.ndarray, selected: np.ndarray
) -> Rows:
    """Decodes a perturbation in the order of the data set, as it is read.

    Args:
      generator: with ``sharded=True``.
      stored: from `Generator.stored` (from `Generator.perturbation`, if there is none),
        for the whole mesh, on the host.
      labels: (N,) integer.
      selected: (N,) bool, the examples that may be perturbed.

    Returns:
      Rows (N, H, W, C) of float32 in [0, 1] units, 0 where nothing may change. Slices
      of them are arrays.

    Raises:
      ValueError: if the perturbation does not have the shape that `Generator` says.

    Example:
      >>> import numpy as np
      >>> from miue_jax import generators
      >>> spec = generators.DataSpec(
      ...     num_examples=3, num_classes=2, image_shape=(1, 1, 1), num_shards=2
      ... )
      >>> config = generators.preset("random_noise")
      >>> noise = generators.create("random_noise", config, spec)
      >>> delta = np.arange(4.0).reshape(2, 2, 1, 1, 1)  # two shards with two rows each
      >>> labels, selected = np.array([0, 1, 0]), np.array([True, True, False])
      >>> rows = generators.rows_per_example(noise, delta, labels, selected)
      >>> rows.shape, rows[1:2].ravel().tolist()
      ((3, 1, 1, 1), [2.0])
    """
    labels = np.asarray(labels)
    rows = len(stored) if generator.per_class else stored.shape[0] * stored.shape[1]
    needed = labels.max() + 1 if generator.per_class else len(labels)
    if stored.ndim != (4 if generator.per_class else 5) or rows < needed:
        shape = "(K, H, W, C)" if generator.per_class else "(G, n, H, W, C)"
        raise ValueError(
            f"a perturbation of {len(labels)} images has shape {shape} with "
            f"{'K' if generator.per_class else 'G n'} >= {needed}, got {stored.shape}"
        )

    def read(start: int, stop: int) -> np.ndarray:
        if generator.per_class:
            codes = stored[labels[start:stop]]
        else:
            # `sampling.deal` gave each shard every G-th example.
            number, shard = np.divmod(np.arange(start, stop), len(stored))
            codes = stored[shard, number]
        delta = np.asarray(generator.decode(codes), np.float32)
        return delta * selected[start:stop, None, None, None].astype(np.float32)

    shape = (len(labels), *stored.shape[1 if generator.per_class else 2 :])
    return Rows(shape, np.dtype(np.float32), read)


def select(
    labels: np.ndarray,
    *,
    fraction: float = 1.0,
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Chooses the examples to protect: a random fraction of some classes.

    Args:
      labels: (N,) integer.
      fraction: share of the examples in (0, 1], drawn at random.
      classes: the classes to draw from; None for all.
      seed: of the draw, not negative.

    Returns:
      (N,) bool.

    Raises:
      ValueError: if the fraction, the seed or a class is out of range, or nothing is
        chosen.

    Example:
      >>> import numpy as np
      >>> from miue_jax import generators
      >>> generators.select(np.array([0, 1, 0, 1]), classes=(1,)).tolist()
      [False, True, False, True]
    """
    labels = np.asarray(labels)
    check_number("fraction", fraction, "in (0, 1]")
    check_number("seed", seed, ">= 0", whole=True)
    known = sorted({int(label) for label in labels})
    for label in classes or ():
        if label not in known:
            raise ValueError(f"class {label} to protect is not in the data: {known}")
    eligible = np.flatnonzero(np.isin(labels, known if classes is None else classes))
    size = round(fraction * len(eligible))
    if size == 0:
        raise ValueError(
            f"a fraction of {fraction} of {len(eligible)} images leaves none to protect"
        )
    chosen = np.random.default_rng(seed).choice(eligible, size, replace=False)
    selected = np.zeros(len(labels), bool)
    selected[chosen] = True
    return selected
