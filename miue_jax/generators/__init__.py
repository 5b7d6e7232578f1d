"""Generators of unlearnable examples, by name and preset.

A user-defined generator is named ``module:function``, where the function is one of

- ``own(key, images, labels, *, settings...) -> delta``, the whole perturbation in one
  traced step (see `from_function`); a setting ``radius``, in gray levels, is its
  L-infinity budget, which is 8 without one;
- ``own(config: OwnConfig, spec: DataSpec) -> Generator``, where ``OwnConfig`` is a
  frozen dataclass.

The keyword-only parameters, or the fields of the config, are its settings. Each needs a
default and may be a number, text, a bool or None, a tuple of these, an enum or a nested
dataclass. `testing.check_generator` tests a generator.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import _checks, _own, _settings
from miue_jax._own import is_own
from miue_jax.budget import Budget
from miue_jax.generators import adversarial_poisoning as _ap
from miue_jax.generators import autoregressive as _ar
from miue_jax.generators import convolution_filter as _cuda
from miue_jax.generators import error_minimizing as _em
from miue_jax.generators import hypocritical as _hypo
from miue_jax.generators import linear_synthetic as _lsp
from miue_jax.generators import mi_ue as _mi_ue
from miue_jax.generators import neural_tangent as _ntga
from miue_jax.generators import one_pixel as _ops
from miue_jax.generators import perturbation_linear as _pil
from miue_jax.generators import random_noise as _noise
from miue_jax.generators import robust_error_minimizing as _rem
from miue_jax.generators import self_ensemble as _sep
from miue_jax.generators.base import (
    DataSpec,
    Generator,
    from_function,
    per_example,
    rows_per_example,
    select,
    to_sharded,
)
from miue_jax.train import sampling, tracing
from miue_jax.train.parallel import State

__all__ = [
    "NAMES",
    "DataSpec",
    "Generator",
    "GeneratorSpec",
    "clip_batches",
    "create",
    "from_function",
    "is_own",
    "per_example",
    "preset",
    "presets",
    "rows_per_example",
    "select",
    "spec",
    "to_sharded",
    "trace_own",
]


class _Entry(NamedTuple):
    build: Callable[[Any, DataSpec], Generator]
    presets: dict[str, Any]  # configs; the first one is the default


_REGISTRY = {
    "mi_ue": _Entry(_mi_ue.mi_ue, _mi_ue.PRESETS),
    "error_minimizing": _Entry(_em.error_minimizing, _em.PRESETS),
    "random_noise": _Entry(_noise.random_noise, _noise.PRESETS),
    "adversarial_poisoning": _Entry(_ap.adversarial_poisoning, _ap.PRESETS),
    "autoregressive": _Entry(_ar.autoregressive, _ar.PRESETS),
    "convolution_filter": _Entry(_cuda.convolution_filter, _cuda.PRESETS),
    "hypocritical": _Entry(_hypo.hypocritical, _hypo.PRESETS),
    "linear_synthetic": _Entry(_lsp.linear_synthetic, _lsp.PRESETS),
    "neural_tangent": _Entry(_ntga.neural_tangent, _ntga.PRESETS),
    "one_pixel": _Entry(_ops.one_pixel, _ops.PRESETS),
    "perturbation_linear": _Entry(_pil.perturbation_linear, _pil.PRESETS),
    "robust_error_minimizing": _Entry(_rem.robust_error_minimizing, _rem.PRESETS),
    "self_ensemble": _Entry(_sep.self_ensemble, _sep.PRESETS),
}

NAMES: tuple[str, ...] = tuple(_REGISTRY)

# The settings that are global batch sizes.
_BATCHES = ("batch_size", "perturbation_batch_size")


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """A generator's name and settings.

    Attributes:
      name: one of `NAMES`, or module:function.
      config: its settings, a frozen dataclass, from `preset`.

    Example:
      >>> from miue_jax import generators
      >>> generators.spec("mi_ue/interleaved", radius=4.0).config.radius
      4.0
    """

    name: str
    config: Any

    def to_plain(self) -> dict[str, Any]:
        """The name and all settings, as values that JSON can hold."""
        return {"name": self.name, **_settings.to_plain(self.config, self.name)}


def presets(name: str) -> tuple[str, ...]:
    """The names of a generator's presets, the default first.

    Args:
      name: one of `NAMES`, or module:function.

    Returns:
      The names; a user-defined generator has only "default".

    Raises:
      ValueError: if the name is unknown.

    Example:
      >>> from miue_jax import generators
      >>> generators.presets("mi_ue")
      ('paper', 'authors_code', 'interleaved', 'robust')
    """
    return tuple(_entry(name).presets)


def preset(name: str, preset: str | None = None, **changes: Any) -> Any:
    """Returns the settings of a generator's preset.

    Args:
      name: of the generator (`NAMES`, or module:function).
      preset: its name; None for the generator's first.
      **changes: settings that differ from the preset's.

    Returns:
      A frozen dataclass.

    Raises:
      ValueError: if a name is unknown or a setting is not allowed.

    Example:
      >>> from miue_jax import generators
      >>> generators.preset("mi_ue", "paper", radius=4.0).radius
      4.0
    """
    found = _entry(name).presets
    config = _lookup(
        f"{name} preset", next(iter(found)) if preset is None else preset, found
    )
    if not changes:
        return config
    before = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return _configured(name, type(config), {**before, **changes})


def spec(
    generator: str | Mapping[str, Any] | GeneratorSpec, **changes: Any
) -> GeneratorSpec:
    """Looks up a generator and its settings.

    Args:
      generator: "name" or "name/preset", module:function, a mapping with the `name` and
        settings, or a `GeneratorSpec`.
      **changes: settings that differ.

    Returns:
      The name and the settings.

    Raises:
      ValueError: if a name is unknown or a setting is not allowed.

    Example:
      >>> from miue_jax import generators
      >>> generators.spec("one_pixel/paper", pixels=2).to_plain()
      {'name': 'one_pixel', 'pixels': 2, 'spread': 'variance'}
    """
    if isinstance(generator, GeneratorSpec):
        generator = generator.to_plain()
    if isinstance(generator, Mapping):
        settings = {**generator, **changes}
        name = settings.pop("name", None)
        first = next(iter(_entry(name).presets.values()))
        return GeneratorSpec(name, _configured(name, type(first), settings))
    name, _, chosen = str(generator).partition("/")
    return GeneratorSpec(name, preset(name, chosen or None, **changes))


def clip_batches(config: Any, data: DataSpec) -> Any:
    """Reduces batches that are larger than the data.

    Args:
      config: a generator's settings.
      data: the sizes of the data.

    Returns:
      The settings with ``batch_size`` and ``perturbation_batch_size``, where there are
      any, reduced to what the data can fill.

    Raises:
      ValueError: if there are fewer images than shards.

    Example:
      >>> from miue_jax import generators
      >>> data = generators.DataSpec(
      ...     num_examples=90, num_classes=2, image_shape=(8, 8, 3), num_shards=4
      ... )
      >>> config = generators.preset("mi_ue", batch_size=64)
      >>> clipped = generators.clip_batches(config, data)
      >>> clipped.batch_size, clipped.perturbation_batch_size
      (64, 88)
    """
    # Interleaved min-min generators have no perturbation passes.
    used = _BATCHES[: 1 if getattr(config, "schedule", None) == "interleaved" else 2]
    given = {field: getattr(config, field, None) for field in used}
    sizes = {k: int(v) for k, v in given.items() if isinstance(v, int | np.integer)}
    clipped = {
        k: sampling.clip_batch_size(size, data.num_examples, data.num_shards)
        for k, size in sizes.items()
    }
    changed = {k: v for k, v in clipped.items() if v < sizes[k]}
    return dataclasses.replace(config, **changed) if changed else config


def create(name: str, config: Any, spec: DataSpec) -> Generator:
    """Builds a generator by name.

    Args:
      name: of the generator (`NAMES`, or module:function).
      config: its settings, from `preset`.
      spec: of the data.

    Returns:
      The generator, with ``sharded=True``.

    Raises:
      ValueError: if the name is unknown, the data do not fit the settings, or a
        user-defined generator fails or does not return what it should.

    Example:
      >>> from miue_jax import generators
      >>> data = generators.DataSpec(
      ...     num_examples=20, num_classes=2, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("random_noise")
      >>> generators.create("random_noise", config, data).num_steps
      1
    """
    return _build(name, _entry(name), config, spec)


def _build(name: str, entry: _Entry, config: Any, spec: DataSpec) -> Generator:
    if name in _REGISTRY:
        return entry.build(config, spec)
    what = _what(name)
    with _own.calling(what):
        generator = entry.build(config, spec)
        if not isinstance(generator, Generator):
            raise ValueError(
                f"it must return a Generator, got {_checks.shown(generator)}"
            )
        # They are called again while it runs, where nothing else names the generator.
        guarded = generator._replace(
            init=_own.guarded(what, generator.init),
            step=_own.guarded(what, generator.step),
            perturbation=_own.guarded(what, generator.perturbation),
            finished=_own.guarded(what, generator.finished),
        )
        return _traced(guarded, spec)


def _what(name: str) -> str:
    return f"generator {name!r} failed"


def trace_own(
    name: str,
    generator: Generator,
    spec: DataSpec,
    mesh: jax.sharding.Mesh,
    data: sampling.Shards,
) -> Any:
    """Traces a user-defined generator on a mesh, so that faults come before a run.

    Args:
      name: of the generator.
      generator: what `create` made of it.
      spec: of the data.
      mesh: the devices.
      data: dealt to shards.

    Returns:
      The shapes and dtypes of its state.

    Raises:
      ValueError: if a function fails, or returns something else than `Generator` says.

    Example:
      It is called with what `create` makes of a function of the user's own:

      >>> from miue_jax import generators
      >>> state = generators.trace_own(  # doctest: +SKIP
      ...     "my_noise:stripes", generator, spec, mesh, shards
      ... )
    """
    with _own.calling(_what(name)):
        state = tracing.trace(generator.init, generator.step, mesh, data)
        delta = jax.eval_shape(generator.perturbation, state)
        rows = data.images.shape[:2]
        if generator.per_class:
            rows = (spec.num_classes,)
        shape = (*rows, *spec.image_shape)
        fits = getattr(delta, "shape", None) == shape
        if not fits or not jnp.issubdtype(delta.dtype, jnp.floating):
            raise ValueError(
                f"the perturbation must be floating point of shape {shape}, got "
                f"{_checks.shown(delta)}"
            )
        return state


def _traced(generator: Generator, spec: DataSpec) -> Generator:
    """Traces a user-defined generator, so that its faults are found before a run."""
    steps = generator.num_steps
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(
            f"num_steps must be a whole number > 0, got {_checks.shown(steps)}"
        )
    if not isinstance(generator.budget, Budget):
        raise ValueError(
            f"budget must be a Budget, got {_checks.shown(generator.budget)}"
        )
    key = jax.eval_shape(lambda: jax.random.key(0))
    data = _shapes(spec)
    if generator.sharded:
        state = jax.eval_shape(generator.init, key, data)
        if not isinstance(state, State):
            raise ValueError(
                f"init must return a train.parallel.State, got {_checks.shown(state)}"
            )
        # Its step may use collectives, which are defined only on a mesh.
        return generator
    local = to_sharded(generator, dataclasses.replace(spec, axis_name=None))
    state = jax.eval_shape(local.init, key, data)
    state, _ = jax.eval_shape(local.step, key, state, data)
    jax.eval_shape(local.perturbation, state)
    finished = jax.eval_shape(local.finished, state)
    if (getattr(finished, "shape", None), finished.dtype) != ((), bool):
        raise ValueError(
            f"finished must return a () bool, got {_checks.shown(finished)}"
        )
    return to_sharded(generator, spec)


def _shapes(spec: DataSpec) -> sampling.Shards:
    """The shapes of data, dealt to shards."""
    shards = spec.num_shards
    rows = (shards, -(-spec.num_examples // shards))
    return jax.eval_shape(
        lambda: sampling.Shards(
            images=jnp.zeros((*rows, *spec.image_shape), jnp.uint8),
            labels=jnp.zeros(rows, jnp.int32),
            selected=jnp.zeros(rows, bool),
            count=jnp.zeros(shards, jnp.int32),
            shard=jnp.zeros(shards, jnp.int32),
        )
    )


def _entry(name: object) -> _Entry:
    if not isinstance(name, str) or not is_own(name):
        return _lookup("generator", name, _REGISTRY)
    return _user_defined(name, _own.imported("generator", name))


@functools.cache  # so that settings of one function are of one class, and comparable
def _user_defined(name: str, function: Callable[..., Any]) -> _Entry:
    with _own.calling(f"generator {name!r}"):  # annotations are code, too
        parameters = list(inspect.signature(function).parameters)
        hints = typing.get_type_hints(function)
    kind = hints.get(parameters[0]) if parameters else None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _Entry(function, {"default": _defaults(kind, name)})
    if parameters[:3] == ["key", "images", "labels"]:
        kind = _settings.from_signature(function, skip=parameters[:3])

        def build(config: Any, spec: DataSpec) -> Generator:
            del spec
            values = {
                f.name: getattr(config, f.name) for f in dataclasses.fields(config)
            }
            radius = values.get("radius")
            budget = None if radius is None else Budget("linf", radius)
            return from_function(functools.partial(function, **values), budget=budget)

        return _Entry(build, {"default": _defaults(kind, name)})
    raise ValueError(
        f"generator {name!r} has the parameters ({', '.join(parameters)}); allowed: "
        "(key, images, labels, *, settings), or (config, spec) where the annotation of "
        "config is a dataclass"
    )


def _defaults(kind: type, name: str) -> Any:
    with _own.calling(f"generator {name!r}: every setting needs a default"):
        config = kind()
    if hasattr(config, "name"):
        raise ValueError(f"generator {name!r}: no setting may be called 'name'")
    _settings.to_plain(config, name)
    return config


def _configured(name: str, kind: type, values: Mapping[str, Any]) -> Any:
    # A setting that a user's own check refuses is like any other.
    with _own.calling(f"generator {name!r}", passing=(ValueError,)):
        return _settings.from_plain(kind, values, name, own=is_own(name))


def _lookup(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
    if isinstance(name, str) and name in table:
        return table[name]
    raise _checks.unknown(kind, name, table)
