"""Defenses against protected data, by name.

A defense of your own is named module:function. The function is called as those here
are, with `image_shape`, `num_classes` and its settings, all as keywords, and returns a
`Defense`.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from miue_jax import _checks, _settings
from miue_jax.defenses.adversarial_training import (
    adversarial_training as adversarial_training,
)
from miue_jax.defenses.base import Attack as Attack
from miue_jax.defenses.base import Defense as Defense
from miue_jax.defenses.bit_depth import bit_depth as bit_depth
from miue_jax.defenses.cutmix import cutmix as cutmix
from miue_jax.defenses.cutout import cutout as cutout
from miue_jax.defenses.d_vae import d_vae as d_vae
from miue_jax.defenses.gaussian_blur import gaussian_blur as gaussian_blur
from miue_jax.defenses.gaussian_noise import gaussian_noise as gaussian_noise
from miue_jax.defenses.grayscale import grayscale as grayscale
from miue_jax.defenses.jpeg import jpeg as jpeg
from miue_jax.defenses.mixup import mixup as mixup
from miue_jax.defenses.orthogonal_projection import (
    orthogonal_projection as orthogonal_projection,
)
from miue_jax.defenses.rand_augment import rand_augment as rand_augment
from miue_jax.defenses.ueraser import ueraser as ueraser

NONE = Defense()


class _Entry(NamedTuple):
    # (image_shape, num_classes, *, settings) -> defense
    build: Callable[..., Defense]
    number: str | None = None  # the setting that "name-<number>" sets


_REGISTRY: dict[str, _Entry] = {
    "none": _Entry(lambda image_shape, num_classes: Defense()),
    # In training.
    "cutout": _Entry(cutout, "size"),
    "cutmix": _Entry(cutmix),
    "mixup": _Entry(mixup),
    "gaussian_noise": _Entry(gaussian_noise, "sigma"),
    "gaussian_blur": _Entry(gaussian_blur),
    "rand_augment": _Entry(rand_augment),
    "ueraser": _Entry(ueraser),
    "adversarial_training": _Entry(adversarial_training, "radius"),
    # Before training.
    "grayscale": _Entry(grayscale),
    "bit_depth": _Entry(bit_depth, "bits"),
    "jpeg": _Entry(jpeg, "quality"),
    "orthogonal_projection": _Entry(orthogonal_projection),
    "d_vae": _Entry(d_vae),
}

NAMES: tuple[str, ...] = tuple(
    name if entry.number is None else f"{name}-<{entry.number}>"
    for name, entry in _REGISTRY.items()
)


def create(
    spec: str | Mapping[str, Any],
    *,
    image_shape: tuple[int, ...],
    num_classes: int,
) -> Defense:
    """Makes a defense from its name and settings.

    Args:
      spec: a name such as "none" or, with its main setting, "jpeg-10", or
        module:function; or a mapping with the `name` and the settings of the defense,
        the arguments of its function.
      image_shape: (H, W, C) of the images that it has to fit.
      num_classes: classes.

    Returns:
      The defense.

    Raises:
      ValueError: if a name is unknown (with the nearest ones), a setting is missing or
        out of range, or the defense does not fit such images.
    """
    name, settings = _name_and_settings(spec)
    build, number = _entry(name)
    known = parameters(name)
    for field in settings:
        if field not in known:
            raise _checks.unknown(f"setting of {name}", field, known)
    for field, parameter in known.items():
        if parameter.default is parameter.empty and field not in settings:
            hint = f", as in '{name}-<{field}>'" if field == number else ""
            raise ValueError(f"defense {name!r} needs its {field}{hint}")
    return build(image_shape=tuple(image_shape), num_classes=num_classes, **settings)


def settings_of(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a defense, those that were left out at their defaults.

    Args:
      spec: as for `create`.

    Returns:
      The `name` and the settings, as JSON can hold them.

    Raises:
      ValueError: if the name is unknown, its number is none, or JSON cannot hold a
        setting.
    """
    name, given = _name_and_settings(spec)
    known = parameters(name).items()
    defaults = {k: v.default for k, v in known if v.default is not v.empty}
    settings = {"name": name, **defaults, **given}
    return {k: _plain(v, f"{k} of defense {name!r}") for k, v in settings.items()}


def config_type(name: str) -> type:
    """The settings of a defense as a frozen dataclass.

    Args:
      name: of the defense, without a number, or module:function.

    Returns:
      The dataclass; settings without a default are required.

    Raises:
      ValueError: if the name is unknown.
    """
    return _settings.from_signature(
        _entry(name).build, skip=("image_shape", "num_classes")
    )


def parse(spec: str | Mapping[str, Any]) -> tuple[str, Any]:
    """Splits a defense into its name and its settings.

    Args:
      spec: as for `create`.

    Returns:
      The name, and an instance of its `config_type`, or that type itself where a
      required setting is missing.

    Raises:
      ValueError: if a name is unknown or a setting is not allowed.
    """
    name, settings = _name_and_settings(spec)
    kind = config_type(name)
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in settings
    ]
    return name, kind if missing else _settings.from_plain(kind, settings, name)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The settings of a defense: their types, and what they are if nothing is said.

    Args:
      name: of the defense, without a number, or module:function.

    Returns:
      The arguments of its function, by name, in their order.

    Raises:
      ValueError: if the name is unknown, or its function has not the parameters that
        all have, by keyword.
    """
    found = inspect.signature(_entry(name).build).parameters
    common = ("image_shape", "num_classes")
    named = {k for k, v in found.items() if v.kind != v.POSITIONAL_ONLY}
    if not set(common) <= named or len(named) < len(found):
        raise ValueError(
            f"defense {name!r} needs the parameters {' and '.join(common)}, by "
            f"keyword; it has ({', '.join(map(str, found.values()))})"
        )
    return {field: value for field, value in found.items() if field not in common}


def _entry(name: object) -> _Entry:
    if isinstance(name, str) and name in _REGISTRY:
        return _REGISTRY[name]
    if isinstance(name, str) and ":" in name:
        return _Entry(_checks.imported("defense", name))
    raise _checks.unknown("defense", name, _REGISTRY, allowed=NAMES)


def _name_and_settings(spec: str | Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    if isinstance(spec, str):
        return _parse(spec)
    if isinstance(spec, tuple):
        name, config = spec
        return name, {
            f.name: getattr(config, f.name) for f in dataclasses.fields(config)
        }
    settings = dict(spec)
    return settings.pop("name", None), settings


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    try:
        # Tuples become the lists that they will be read as.
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{what} is {value!r}; allowed: what JSON can hold (finite numbers, text, "
            "true, false, lists)"
        ) from error


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    name, _, text = spec.rpartition("-")
    if spec in _REGISTRY or name not in _REGISTRY:
        return spec, {}
    number = _REGISTRY[name].number
    if number is None:
        raise ValueError(f"defense {name!r} takes no number, got {spec!r}")
    for kind in (int, float):
        try:
            return name, {number: kind(text)}
        except ValueError:
            continue
    raise ValueError(f"defense {spec!r}: {text!r} is not a number")
