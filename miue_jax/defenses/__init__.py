"""Defenses against protected data, by name.

A user-defined defense is named ``module:function``, where the function is one of

- ``own(key, images, labels, *, settings...) -> images``, a purification of the training
  images: (N, H, W, C) uint8 in and out, labels (N,) int32;
- ``own(image_shape, num_classes, *, settings...) -> Defense``, of which ``image_shape``
  and ``num_classes`` may be left out.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from miue_jax import _checks, _own, _settings
from miue_jax.defenses import own
from miue_jax.defenses.adversarial_training import adversarial_training
from miue_jax.defenses.base import Attack, Defense
from miue_jax.defenses.bit_depth import bit_depth
from miue_jax.defenses.cutmix import cutmix
from miue_jax.defenses.cutout import cutout
from miue_jax.defenses.d_vae import d_vae
from miue_jax.defenses.gaussian_blur import gaussian_blur
from miue_jax.defenses.gaussian_noise import gaussian_noise
from miue_jax.defenses.grayscale import grayscale
from miue_jax.defenses.jpeg import jpeg
from miue_jax.defenses.mixup import mixup
from miue_jax.defenses.orthogonal_projection import orthogonal_projection
from miue_jax.defenses.rand_augment import rand_augment
from miue_jax.defenses.ueraser import ueraser

__all__ = [
    "NAMES",
    "NONE",
    "Attack",
    "Defense",
    "Spec",
    "adversarial_training",
    "bit_depth",
    "config_type",
    "create",
    "cutmix",
    "cutout",
    "d_vae",
    "gaussian_blur",
    "gaussian_noise",
    "grayscale",
    "is_own",
    "jpeg",
    "mixup",
    "orthogonal_projection",
    "parameters",
    "parse",
    "rand_augment",
    "settings_of",
    "ueraser",
]

NONE = Defense()

_COMMON = ("image_shape", "num_classes")
_PURIFY = ["key", "images", "labels"]


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

# A name such as "none" or "jpeg-10", a mapping with the name and settings, or the name
# and an instance of its `config_type`.
Spec = str | Mapping[str, Any] | tuple[str, Any]


def create(spec: Spec, *, image_shape: tuple[int, ...], num_classes: int) -> Defense:
    """Creates a defense from its name and settings.

    Args:
      spec: a name such as "none" or, with its main setting, "jpeg-10", or
        module:function; a mapping with the `name` and the settings; or a pair of the
        name and an instance of its `config_type`.
      image_shape: (H, W, C) of the images that it has to fit.
      num_classes: number of classes.

    Returns:
      The defense.

    Raises:
      ValueError: if a name is unknown (with the nearest ones), a setting is missing or
        out of range, the defense does not fit such images, or a user-defined function
        fails or returns something else.

    Example:
      >>> from miue_jax import defenses
      >>> gray = defenses.create("grayscale", image_shape=(8, 8, 3), num_classes=2)
      >>> gray.purify is not None, gray.augment
      (True, None)
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
    fits = {"image_shape": tuple(image_shape), "num_classes": num_classes}
    if name in _REGISTRY:
        return build(**fits, **settings)
    return _user_defined(name, build, fits, _rebuilt(name, settings))


def settings_of(spec: Spec) -> dict[str, Any]:
    """Returns all settings of a defense, those that were left out at their defaults.

    Args:
      spec: as for `create`.

    Returns:
      The `name` and the settings, as JSON can hold them.

    Raises:
      ValueError: if the name is unknown, its number is not a number, or JSON cannot
        hold a setting.

    Example:
      >>> from miue_jax import defenses
      >>> defenses.settings_of("jpeg-10")
      {'name': 'jpeg', 'quality': 10}
    """
    name, given = _name_and_settings(spec)
    known = parameters(name).items()
    defaults = {k: v.default for k, v in known if v.default is not v.empty}
    settings = {"name": name, **defaults, **given}
    return {
        k: _settings.to_plain(v, f"{k} of defense {name!r}")
        for k, v in settings.items()
    }


def config_type(name: str) -> type:
    """Returns the settings of a defense as a frozen dataclass.

    Args:
      name: of the defense, without a number, or module:function.

    Returns:
      The dataclass; settings without a default are required.

    Raises:
      ValueError: if the name is unknown.

    Example:
      >>> from miue_jax import defenses
      >>> defenses.config_type("cutout")().size
      16
    """
    function = _entry(name).build
    return _settings.from_signature(function, skip=(*_COMMON, *_PURIFY))


def parse(spec: Spec) -> tuple[str, Any]:
    """Splits a defense into its name and its settings.

    Args:
      spec: as for `create`.

    Returns:
      The name, and an instance of its `config_type`, or that type itself if a required
      setting is missing.

    Raises:
      ValueError: if a name is unknown or a setting is not allowed.

    Example:
      >>> from miue_jax import defenses
      >>> name, config = defenses.parse("cutout-8")
      >>> name, config.size
      ('cutout', 8)
    """
    name, settings = _name_and_settings(spec)
    kind = config_type(name)
    known = [field.name for field in dataclasses.fields(kind)]
    for field in settings:
        if field not in known:
            raise _checks.unknown(f"setting of {name}", field, known)
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in settings
    ]
    if missing:
        return name, kind
    return name, _settings.from_plain(kind, settings, name, own=_own.is_own(name))


def is_own(spec: Spec) -> bool:
    """Tells whether a defense is user-defined.

    Args:
      spec: as for `create`.

    Returns:
      Whether its name is of the form ``module:function``.

    Example:
      >>> from miue_jax import defenses
      >>> defenses.is_own("my_defense:smooth"), defenses.is_own("jpeg-10")
      (True, False)
    """
    return _own.is_own(_name_and_settings(spec)[0])


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Returns the settings of a defense as the parameters of its function.

    Args:
      name: of the defense, without a number, or module:function.

    Returns:
      The parameters by name, in their order.

    Raises:
      ValueError: if the name is unknown, or a parameter cannot be given by keyword.

    Example:
      >>> from miue_jax import defenses
      >>> list(defenses.parameters("cutmix"))
      ['alpha', 'probability']
    """
    found = inspect.signature(_entry(name).build).parameters
    skip = _PURIFY if list(found)[:3] == _PURIFY else _COMMON
    named = {k for k, v in found.items() if v.kind is not v.POSITIONAL_ONLY}
    if skip is _COMMON and len(named) < len(found):
        raise ValueError(
            f"defense {name!r} has parameters that cannot be given by keyword: "
            f"({', '.join(map(str, found.values()))})"
        )
    return {field: value for field, value in found.items() if field not in skip}


def _user_defined(
    name: str,
    function: Callable[..., Any],
    fits: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Defense:
    found = list(inspect.signature(function).parameters)
    if found[:3] == _PURIFY:
        defense = Defense(purify=functools.partial(function, **settings))
    else:
        with _own.calling(f"defense {name!r}"):
            fits = {k: v for k, v in fits.items() if k in found}
            defense = function(**fits, **settings)
            if not isinstance(defense, Defense):
                raise ValueError(
                    f"it must return a Defense, got {_checks.shown(defense)}"
                )
    return own.guarded(f"defense {name!r}", defense)


def _rebuilt(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with enums, tuples and nested dataclasses where annotations say so."""
    config = _settings.from_plain(config_type(name), settings, name, own=True)
    return {k: getattr(config, k) for k in settings}


def _entry(name: object) -> _Entry:
    if isinstance(name, str) and name in _REGISTRY:
        return _REGISTRY[name]
    if isinstance(name, str) and _own.is_own(name):
        return _Entry(_own.imported("defense", name))
    raise _checks.unknown("defense", name, _REGISTRY, allowed=NAMES)


def _name_and_settings(spec: Spec) -> tuple[Any, dict[str, Any]]:
    if isinstance(spec, str):
        return _from_text(spec)
    if isinstance(spec, tuple) and len(spec) == 2:
        name, config = spec
        if dataclasses.is_dataclass(config) and not isinstance(config, type):
            fields = dataclasses.fields(config)
            return name, {field.name: getattr(config, field.name) for field in fields}
    if not isinstance(spec, Mapping):
        raise ValueError(
            f"defense is {_checks.shown(spec)}; allowed: a name, a mapping with the "
            "name and the settings, or the name and its config_type"
        )
    settings = dict(spec)
    return settings.pop("name", None), settings


def _from_text(spec: str) -> tuple[str, dict[str, Any]]:
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
