"""Generators of unlearnable examples, by name and preset.

A generator of your own is named module:function. The function is called as those here
are, with `config` and the keywords `num_examples`, `num_classes`, `num_shards` and
`axis_name`, and returns a `Generator`; the annotation of its `config` is a dataclass whose
defaults are the only preset, "default".
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from miue_jax import _checks
from miue_jax.generators import adversarial_poisoning as _ap
from miue_jax.generators import autoregressive as _ar
from miue_jax.generators import convolution_filter as _cuda
from miue_jax.generators import error_minimizing as _em
from miue_jax.generators import hypocritical as _hypo
from miue_jax.generators import linear_synthetic as _lsp
from miue_jax.generators import mi_ue as _mi_ue
from miue_jax.generators import neural_tangent as _ntga
from miue_jax.generators import neural_tangent_config as _ntga_config
from miue_jax.generators import one_pixel as _ops
from miue_jax.generators import perturbation_linear as _pil
from miue_jax.generators import perturbation_linear_config as _pil_config
from miue_jax.generators import random_noise as _noise
from miue_jax.generators import robust_error_minimizing as _rem
from miue_jax.generators import robust_error_minimizing_config as _rem_config
from miue_jax.generators import self_ensemble as _sep
from miue_jax.generators import self_ensemble_config as _sep_config
from miue_jax.generators.adversarial_poisoning import (
    AdversarialPoisoningConfig as AdversarialPoisoningConfig,
)
from miue_jax.generators.alternation import alternation as alternation
from miue_jax.generators.alternation_config import (
    AlternationConfig as AlternationConfig,
)
from miue_jax.generators.autoregressive import (
    AutoregressiveConfig as AutoregressiveConfig,
)
from miue_jax.generators.base import Generator as Generator
from miue_jax.generators.base import per_example as per_example
from miue_jax.generators.base import select as select
from miue_jax.generators.convolution_filter import (
    ConvolutionFilterConfig as ConvolutionFilterConfig,
)
from miue_jax.generators.error_minimizing import (
    ErrorMinimizingConfig as ErrorMinimizingConfig,
)
from miue_jax.generators.hypocritical import HypocriticalConfig as HypocriticalConfig
from miue_jax.generators.linear_synthetic import (
    LinearSyntheticConfig as LinearSyntheticConfig,
)
from miue_jax.generators.mi_ue import MIUEConfig as MIUEConfig
from miue_jax.generators.neural_tangent_config import (
    NeuralTangentConfig as NeuralTangentConfig,
)
from miue_jax.generators.one_pixel import OnePixelConfig as OnePixelConfig
from miue_jax.generators.perturbation_linear_config import (
    PerturbationLinearConfig as PerturbationLinearConfig,
)
from miue_jax.generators.random_noise import RandomNoiseConfig as RandomNoiseConfig
from miue_jax.generators.robust_error_minimizing_config import (
    RobustErrorMinimizingConfig as RobustErrorMinimizingConfig,
)
from miue_jax.generators.self_ensemble_config import (
    SelfEnsembleConfig as SelfEnsembleConfig,
)


class _Entry(NamedTuple):
    build: Callable[..., Generator]
    config: type
    presets: dict[str, Any]  # the first one is the default


_REGISTRY = {
    "mi_ue": _Entry(_mi_ue.mi_ue, MIUEConfig, _mi_ue.PRESETS),
    "error_minimizing": _Entry(
        _em.error_minimizing, ErrorMinimizingConfig, _em.PRESETS
    ),
    "random_noise": _Entry(_noise.random_noise, RandomNoiseConfig, _noise.PRESETS),
    "adversarial_poisoning": _Entry(
        _ap.adversarial_poisoning, AdversarialPoisoningConfig, _ap.PRESETS
    ),
    "autoregressive": _Entry(_ar.autoregressive, AutoregressiveConfig, _ar.PRESETS),
    "convolution_filter": _Entry(
        _cuda.convolution_filter, ConvolutionFilterConfig, _cuda.PRESETS
    ),
    "hypocritical": _Entry(_hypo.hypocritical, HypocriticalConfig, _hypo.PRESETS),
    "linear_synthetic": _Entry(
        _lsp.linear_synthetic, LinearSyntheticConfig, _lsp.PRESETS
    ),
    "neural_tangent": _Entry(
        _ntga.neural_tangent, NeuralTangentConfig, _ntga_config.PRESETS
    ),
    "one_pixel": _Entry(_ops.one_pixel, OnePixelConfig, _ops.PRESETS),
    "perturbation_linear": _Entry(
        _pil.perturbation_linear, PerturbationLinearConfig, _pil_config.PRESETS
    ),
    "robust_error_minimizing": _Entry(
        _rem.robust_error_minimizing, RobustErrorMinimizingConfig, _rem_config.PRESETS
    ),
    "self_ensemble": _Entry(
        _sep.self_ensemble, SelfEnsembleConfig, _sep_config.PRESETS
    ),
}

NAMES: tuple[str, ...] = tuple(_REGISTRY)


def _entry(method: str) -> _Entry:
    if not isinstance(method, str) or ":" not in method:
        return _lookup("method", method, _REGISTRY)
    build = _checks.imported("method", method)
    config = typing.get_type_hints(build).get("config")
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ValueError(
            f"method {method!r} needs a parameter config whose annotation is a "
            f"dataclass, got {config!r}"
        )
    return _Entry(build, config, {"default": config()})


def _lookup(kind: str, name: str, table: dict[str, Any]) -> Any:
    if isinstance(name, str) and name in table:
        return table[name]
    raise _checks.unknown(kind, name, table)


def preset(method: str, name: str | None = None) -> Any:
    """Returns the settings of a generator's preset.

    Args:
      method: name of the generator (`NAMES`, or module:function).
      name: of the preset; None for the generator's first.

    Returns:
      A frozen config.

    Raises:
      ValueError: if either name is unknown.
    """
    presets = _entry(method).presets
    name = next(iter(presets)) if name is None else name
    return _lookup(f"{method} preset", name, presets)


def configure(method: str, settings: dict[str, Any]) -> Any:
    """Builds a generator's config from plain settings.

    Args:
      method: name of the generator (`NAMES`, or module:function).
      settings: its fields by name.

    Returns:
      A frozen config.

    Raises:
      ValueError: if the method or a field is unknown or a value is not allowed.
    """
    config = _entry(method).config
    for field in settings:
        _lookup(f"setting of {method}", field, config.__dataclass_fields__)
    return config(**settings)


def create(
    method: str,
    config: Any,
    *,
    num_examples: int,
    num_classes: int,
    num_shards: int = 1,
    axis_name: str | None = None,
) -> Generator:
    """Builds a generator by name.

    Args:
      method: name of the generator (`NAMES`, or module:function).
      config: its config, from `preset` or `configure`.
      num_examples: images in the data set.
      num_classes: classes.
      num_shards: shards of the data over all devices.
      axis_name: the mesh axis over which the shards are split.

    Returns:
      The generator.

    Raises:
      ValueError: if the name is unknown, there are fewer than two classes, or the data
        do not fill a batch.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 2")
    return _entry(method).build(
        config,
        num_examples=num_examples,
        num_classes=num_classes,
        num_shards=num_shards,
        axis_name=axis_name,
    )
