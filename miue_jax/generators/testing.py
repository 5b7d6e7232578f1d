"""The contract that every generator keeps, checked on tiny data."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from miue_jax import generators
from miue_jax.budget import Budget
from miue_jax.data import Dataset, artifact
from miue_jax.generators.base import DataSpec, Generator
from miue_jax.train import loop, metrics, parallel, sampling

# Shards of different sizes: the last rows of some of them are padding.
_EXAMPLES, _SHARDS = 60, 8

# Gray levels of images, some at the ends of the range.
_LEVELS = (range(256), (0, 255), (0, 1, 2, 253, 254, 255))


def check_generator(
    generator: str | Callable[..., Any],
    config: Any = None,
    *,
    image_shape: tuple[int, int, int] = (8, 8, 3),
    num_classes: int = 4,
    draws: bool = True,
) -> None:
    """Checks that a generator keeps the contract of all generators.

    It protects 60 random images on 8 shards and checks that

    - the perturbation is float32, finite and within the generator's budget, also for
      images at the ends of the range, and the exported images pass the audit;
    - a key gives the same bits again, also if the run is cut, and another key others;
    - images that are not selected stay as they are;
    - the state keeps its dtypes, with x64 enabled too;
    - one device computes the same as several, where there are several.

    Args:
      generator: "name", "name/preset" or module:function; or the function itself, in
        one of the forms that module:function takes.
      config: its settings, small enough for a test: a run takes all of its steps seven
        times. None for the preset's. Batches larger than the data are reduced.
      image_shape: (H, W, C) of the images.
      num_classes: K, at most 60.
      draws: whether the perturbation depends on the key.

    Raises:
      AssertionError: if a check fails.
      ValueError: if the settings are not allowed or do not fit the data, or the
        generator fails.

    Example:
      >>> import jax
      >>> from miue_jax.testing import check_generator
      >>> def class_noise(key, images, labels, *, radius=8.0):
      ...     def of_class(label):
      ...         own_key = jax.random.fold_in(key, label)
      ...         return jax.random.rademacher(own_key, images.shape[1:], float)
      ...     return radius / 255 * jax.vmap(of_class)(labels)
      >>> check_generator(class_noise)
    """
    name, entry, config = _look_up(generator, config)
    spec = DataSpec(
        num_examples=_EXAMPLES,
        num_classes=num_classes,
        image_shape=image_shape,
        num_shards=_SHARDS,
        axis_name=parallel.AXIS,
    )
    config = generators.clip_batches(config, spec)
    built = generators._build(name, entry, config, spec)
    devices = jax.devices()
    devices = devices[: max(n for n in range(1, _SHARDS + 1) if _fits(n, devices))]
    runs = _compile(built, spec, devices)
    first = _images(spec, 0)
    whole = _run(runs, first)
    _check_perturbation(name, runs, first, whole)
    for number in range(1, len(_LEVELS)):
        images = _images(spec, number)
        result = _run(runs, images, seed=number)
        _check_perturbation(f"{name} on extreme images", runs, images, result)
    again = _run(runs, first)
    assert np.array_equal(whole, again), f"{name} gives another result for the same key"
    last = built.num_steps
    cut = _run(runs, first, stops=(1, min(4, last), last))
    assert np.array_equal(whole, cut), (
        f"{name} gives another result if the run is cut: the state must hold all that "
        "a step needs"
    )
    if draws:
        # There may be few different results.
        others = (_run(runs, first, seed=seed) for seed in range(1, 9))
        assert any(not np.array_equal(whole, other) for other in others), (
            f"{name} gives the same result for other keys; set draws=False if it draws "
            "nothing"
        )
    _check_selection(name, runs, first)
    _check_dtypes(name, entry, config, dataclasses.replace(spec, axis_name=None))
    if len(devices) > 1:
        _check_devices(name, runs, _compile(built, spec, devices[:1]), first)


def _look_up(generator: str | Callable[..., Any], config: Any) -> tuple[str, Any, Any]:
    """The name of a generator, its entry and its settings."""
    if isinstance(generator, str):
        spec = generators.spec(generator)
        name, entry = spec.name, generators._entry(spec.name)
        return name, entry, spec.config if config is None else config
    name = f"{generator.__module__}:{generator.__qualname__}"
    entry = generators._user_defined(name, generator)
    return name, entry, entry.presets["default"] if config is None else config


def _fits(num_devices: int, devices: Sequence[jax.Device]) -> bool:
    return num_devices <= len(devices) and _SHARDS % num_devices == 0


class _Runs(NamedTuple):
    """A generator, compiled."""

    generator: Generator
    spec: DataSpec
    mesh: Mesh
    start: loop.Start
    advance: loop.Advance


def _compile(
    generator: Generator, spec: DataSpec, devices: Sequence[jax.Device]
) -> _Runs:
    mesh = parallel.data_mesh(devices)
    start = loop.start(generator.init, mesh)
    return _Runs(generator, spec, mesh, start, loop.advance(generator.step, mesh))


def _labels(spec: DataSpec) -> np.ndarray:
    return (np.arange(spec.num_examples) % spec.num_classes).astype(np.int32)


def _images(spec: DataSpec, number: int) -> np.ndarray:
    levels = np.array(_LEVELS[number], np.uint8)
    shape = (spec.num_examples, *spec.image_shape)
    images = np.random.default_rng(number).choice(levels, shape)
    images[:2] = levels[0]  # of a single color, as is another one of its class
    images[spec.num_classes] = levels[0]
    return images


def _run(
    runs: _Runs, images: np.ndarray, *, stops: Sequence[int] = (), **options: Any
) -> np.ndarray:
    """The perturbation after calls that end at `stops`, by default all steps in one."""
    *_, delta = _advance(runs, images, stops or (runs.generator.num_steps,), **options)
    return delta


def _advance(
    runs: _Runs,
    images: np.ndarray,
    stops: Iterable[int],
    *,
    seed: int = 0,
    selected: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Yields the perturbation after every stop."""
    labels = _labels(runs.spec)
    shards = sampling.deal(images, labels, runs.spec.num_shards, selected=selected)
    data = parallel.place(shards, runs.mesh, parallel.DATA_SPEC)
    chosen = np.ones(len(labels), bool) if selected is None else selected
    key = jax.random.key(seed)
    state = runs.start(key, data)
    for stop in stops:
        state, measured = runs.advance(key, state, data, stop)
        for name, value in metrics.values(measured).items():
            assert np.isfinite(value), f"the metric {name!r} is {value}"
        delta = np.asarray(parallel.to_host(runs.generator.perturbation(state)))
        yield generators.per_example(runs.generator, delta, labels, chosen)


def _check_perturbation(
    name: str, runs: _Runs, images: np.ndarray, delta: np.ndarray
) -> None:
    assert delta.shape == images.shape, (
        f"{name}: the perturbation has shape {delta.shape}, the images {images.shape}"
    )
    assert delta.dtype == np.float32, (
        f"{name}: the perturbation is {delta.dtype}; it must be float32"
    )
    assert np.isfinite(delta).all(), f"{name}: the perturbation holds NaN or infinity"
    budget = runs.generator.budget
    if budget.radius is not None:
        largest = _sizes(delta, budget.norm).max()
        # Rounding of float32.
        assert largest <= budget.radius * (1 + 1e-5), (
            f"{name}: the perturbation's {budget.norm} norm is {largest:.6g}, its "
            f"budget is {budget}"
        )
    _export(name, runs, images, delta)


def _sizes(delta: np.ndarray, norm: str) -> np.ndarray:
    """The norm of every image's perturbation, in the units of a budget."""
    if norm == "linf":
        return np.abs(delta).max((1, 2, 3)) * 255
    if norm == "l2":
        return np.linalg.norm(delta.reshape(len(delta), -1), axis=1)
    return (delta != 0).any(3).sum((1, 2))


def _export(
    name: str, runs: _Runs, images: np.ndarray, delta: np.ndarray
) -> np.ndarray:
    """The images as they would be published."""
    classes = tuple(f"class {number}" for number in range(runs.spec.num_classes))
    clean = Dataset(images, _labels(runs.spec), classes)
    budget: Budget = runs.generator.budget
    try:
        protected = artifact.build(clean, delta, budget=budget, metadata={})
    except ValueError as error:
        raise AssertionError(
            f"{name}: the images cannot be exported: {error}"
        ) from None
    return protected.dataset.images


def _check_selection(name: str, runs: _Runs, images: np.ndarray) -> None:
    labels = _labels(runs.spec)
    selected = generators.select(labels, fraction=0.5, classes=(1,), seed=4)
    delta = _run(runs, images, selected=selected)
    changed = (_export(name, runs, images, delta) != images).any((1, 2, 3))
    assert not changed[~selected].any(), f"{name} changes images that are not selected"
    assert (delta[selected] != 0).any(), f"{name} changes no image that is selected"


def _check_dtypes(name: str, entry: Any, config: Any, spec: DataSpec) -> None:
    with jax.enable_x64(True):
        generator = generators._build(name, entry, config, spec)
        shards = sampling.deal(_images(spec, 0), _labels(spec), spec.num_shards)
        key = jax.random.key(0)
        before = jax.eval_shape(generator.init, key, shards)
        after, measured = jax.eval_shape(generator.step, key, before, shards)
        delta = jax.eval_shape(generator.perturbation, after)
        before, dtypes = (jax.tree.map(lambda x: x.dtype, s) for s in (before, after))
        assert dtypes == before, (
            f"{name}: a step changes the dtypes of the state from {before} to {dtypes}"
        )
        kept = jax.tree.leaves((after, measured, delta))
        assert not [leaf for leaf in kept if leaf.dtype == jnp.float64], (
            f"{name}: with x64 enabled the state holds float64; pass dtypes explicitly"
        )


def _check_devices(name: str, many: _Runs, one: _Runs, images: np.ndarray) -> None:
    # Rounding grows in later steps: the training of a surrogate is chaotic.
    last = many.generator.num_steps
    for stop, delta in enumerate(_advance(many, images, range(1, last + 1)), start=1):
        if delta.any() or stop == last:
            break
    # Where a gradient is 0 up to rounding its sign, and a whole step, may differ.
    differing = np.mean(np.abs(delta - _run(one, images, stops=(stop,))) > 1e-6)
    assert differing < 0.02, (
        f"{name}: after step {stop}, {differing:.1%} of the values differ between one "
        f"device and {many.mesh.size}"
    )
