"""Generators of unlearnable examples, by name and preset.

A user-defined generator is named ``module:function``, where the function is one of

- ``own(key, images, labels, *, settings...) -> delta``, the whole perturbation in one
  traced step (see `from_function`);
- ``own(config: OwnConfig, spec: DataSpec) -> Generator``, where ``OwnConfig`` is a
  frozen dataclass with defaults.

Its keyword-only parameters, or the fields of its config, are its settings.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from miue_jax import _checks, _settings
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
    select,
    to_sharded,
)
from miue_jax.train import sampling

__all__ = [
    "NAMES",
    "DataSpec",
    "Generator",
    "GeneratorSpec",
    "clip_batches",
    "create",
    "from_function",
    "per_example",
    "preset",
    "presets",
    "select",
    "spec",
    "to_sharded",
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

# The global batches among the settings of generators.
_BATCHES = ("batch_size", "perturbation_batch_size")


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """A generator's name and settings.

    Attributes:
      name: one of `NAMES`, or module:function.
      config: its frozen settings, from `preset`.

    Example:
      >>> from miue_jax import generators
      >>> generators.spec("mi_ue/interleaved", radius=4.0).config.radius
      4.0
    """

    name: str
    config: Any

    def to_plain(self) -> dict[str, Any]:
        """The name and all settings as JSON can hold them."""
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
      ('paper', 'authors_code', 'interleaved')
    """
    return tuple(_entry(name).presets)


def preset(name: str, preset: str | None = None, **changes: Any) -> Any:
    """Returns the settings of a generator's preset.

    Args:
      name: of the generator (`NAMES`, or module:function).
      preset: of its settings; None for the generator's first.
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
    return _settings.from_plain(type(config), {**before, **changes}, name)


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
        return GeneratorSpec(name, _settings.from_plain(type(first), settings, name))
    name, _, chosen = str(generator).partition("/")
    return GeneratorSpec(name, preset(name, chosen or None, **changes))


def clip_batches(config: Any, data: DataSpec) -> Any:
    """Reduces batches that are larger than the data.

    Args:
      config: a generator's settings.
      data: the data.

    Returns:
      The settings with every global batch at most as large as the data can fill.

    Raises:
      ValueError: if there are fewer images than shards.
    """
    clipped = {
        field: sampling.clip_batch_size(
            getattr(config, field), data.num_examples, data.num_shards
        )
        for field in _BATCHES
        if hasattr(config, field)
    }
    changed = {k: v for k, v in clipped.items() if v < getattr(config, k)}
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
        user-defined generator fails or returns something else.

    Example:
      >>> from miue_jax import generators
      >>> data = generators.DataSpec(
      ...     num_examples=20, num_classes=2, image_shape=(8, 8, 3)
      ... )
      >>> config = generators.preset("random_noise")
      >>> generators.create("random_noise", config, data).num_steps
      1
    """
    entry = _entry(name)
    if name in _REGISTRY:
        return entry.build(config, spec)
    try:
        generator = entry.build(config, spec)
        if not isinstance(generator, Generator):
            raise ValueError(f"it must return a Generator, got {generator!r:.100}")
        if not generator.sharded:
            _check_whole(generator, spec)
            generator = to_sharded(generator, spec)
    except Exception as error:  # of the user's own code
        raise ValueError(f"generator {name!r} failed: {_one_line(error)}") from error
    return generator


def _check_whole(generator: Generator, spec: DataSpec) -> None:
    """Traces a generator of whole arrays, so that faults are found before a run."""
    images = jax.ShapeDtypeStruct((spec.num_examples, *spec.image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((spec.num_examples,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(generator.init, key, images, labels)
    result = jax.eval_shape(generator.step, key, state, images, labels)
    after = result[0] if isinstance(result, tuple) and len(result) == 2 else result
    if jax.tree.structure(after) != jax.tree.structure(state):
        after = result  # a state that is itself a pair
    if after is None or jax.tree.structure(after) != jax.tree.structure(state):
        raise ValueError(f"step must return a state like init's, got {result!r:.100}")
    delta = jax.eval_shape(generator.perturbation, after)
    rows = spec.num_classes if generator.per_class else spec.num_examples
    wanted = (rows, *spec.image_shape)
    shape, dtype = getattr(delta, "shape", None), getattr(delta, "dtype", None)
    if shape != wanted or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the perturbation must be floating point of shape {wanted}, got {dtype} "
            f"{shape}"
        )


def _entry(name: object) -> _Entry:
    if not isinstance(name, str) or ":" not in name:
        return _lookup("generator", name, _REGISTRY)
    function = _checks.imported("generator", name)
    try:
        parameters = list(inspect.signature(function).parameters)
        hints = typing.get_type_hints(function)
    except (TypeError, ValueError, NameError) as error:
        raise ValueError(f"generator {name!r}: {_one_line(error)}") from error
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
            return from_function(function, budget=budget, **values)

        return _Entry(build, {"default": _defaults(kind, name)})
    raise ValueError(
        f"generator {name!r} has the parameters ({', '.join(parameters)}); allowed: "
        "(key, images, labels, *, settings), or (config, spec) where the annotation of "
        "config is a dataclass"
    )


def _defaults(kind: type, name: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise ValueError(
            f"generator {name!r}: every setting needs a default: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, ValueError) and text
        else f"{type(error).__name__}: {text}"
    )


def _lookup(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
    if isinstance(name, str) and name in table:
        return table[name]
    raise _checks.unknown(kind, name, table)
