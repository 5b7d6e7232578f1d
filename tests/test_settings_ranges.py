"""Every number of every setting is checked before anything else happens."""

import dataclasses
import functools
import inspect
import math
import numbers
import re
import types
import typing

import pytest

from miue_jax import defenses, generators, victims
from miue_jax.budget import Budget
from miue_jax.data import DataSource
from miue_jax.detection import SimpleNetworkConfig
from miue_jax.workflows.detect import DetectConfig
from miue_jax.workflows.evaluate import EvaluateConfig
from miue_jax.workflows.measure.config import EstimatorConfig, MeasureConfig
from miue_jax.workflows.protect import ProtectConfig, Selection
from miue_jax.workflows.sweep.plan import Sweep

VALUES = (
    *(math.nan, math.inf, -math.inf, 1e38, -1, 1e-40, 10**18, 10**400),
    *(-(10**400), 2**63),
)

SETTINGS = [
    *(
        pytest.param(generators.preset(name, preset), id=f"{name}/{preset}")
        for name in generators.NAMES
        for preset in generators.presets(name)
    ),
    *(pytest.param(victims.preset(name), id=name) for name in victims.NAMES),
    *(
        pytest.param(value, id=type(value).__name__)
        for value in (
            Budget("linf", 8.0),
            Budget("l2", 1.0),
            Budget("l0", 3),
            DataSource("shapes", per_class=2),
            SimpleNetworkConfig(),
            DetectConfig(),
            EvaluateConfig(),
            EstimatorConfig(),
            MeasureConfig(),
            Selection(),
            ProtectConfig(generator=generators.spec("one_pixel")),
            Sweep(),
        )
    ),
]


def _takes_numbers(kind) -> bool:
    if typing.get_origin(kind) in (typing.Union, types.UnionType, tuple):
        return any(map(_takes_numbers, typing.get_args(kind)))
    return kind in (int, float)


def _numeric(settings) -> list[str]:
    hints = typing.get_type_hints(type(settings))
    return [
        field.name
        for field in dataclasses.fields(settings)
        if _takes_numbers(hints[field.name])
        or (
            isinstance(getattr(settings, field.name), numbers.Real)
            and not isinstance(getattr(settings, field.name), bool)
        )
    ]


def _given(settings, name, value):
    """The value as the field takes it, in a sequence where it takes one."""
    hint = typing.get_type_hints(type(settings))[name]
    inside = [hint, *typing.get_args(hint)]
    sequence = any("tuple" in str(kind) or "Sequence" in str(kind) for kind in inside)
    return (value,) if sequence else value


def _refusal(make) -> str:
    """What a constructor says about a value; nothing if it takes it."""
    try:
        make()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("settings", SETTINGS)
def test_numbers_out_of_any_range_are_refused_with_their_names(settings):
    for name in _numeric(settings):
        for value in VALUES:
            given = {name: _given(settings, name, value)}
            text = _refusal(functools.partial(dataclasses.replace, settings, **given))
            assert name in text, (name, value, text)
            assert re.search("allowed|must|gray levels", text), (name, value, text)
            assert len(text) < 500


@pytest.mark.parametrize(
    "name", [name.partition("-")[0] for name in defenses.NAMES if name != "none"]
)
def test_numbers_of_defenses_are_refused_with_their_names(name):
    fits = {"image_shape": (8, 8, 3), "num_classes": 10}
    required = {"jpeg": {"quality": 50}, "adversarial_training": {"radius": 8}}
    for field, parameter in defenses.parameters(name).items():
        default = parameter.default
        numeric = isinstance(default, int | float) and not isinstance(default, bool)
        if not numeric and default not in (None, inspect.Parameter.empty):
            continue
        for value in VALUES:
            spec = {"name": name, **required.get(name, {}), field: value}
            text = _refusal(functools.partial(defenses.create, spec, **fits))
            assert field in text, (field, value, text)
            assert len(text) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e38}, r"learning_rate is 1e\+38; allowed: .* at most 1000"),
        ({"learning_rate": 1e4}, r"learning_rate is 10000\.0; .* > 0, at most 1000"),
        ({"temperature": 1e-40}, r"temperature is 1e-40; .* > 0, at least 1e-06"),
        ({"temperature": 1e7}, r"temperature is 10000000\.0; .* > 0, at most 1000000"),
        ({"weight_decay": 1e-40}, "weight_decay is 1e-40; .* >= 0, at least 1e-12"),
        ({"width": 10**5}, "width is 100000; .* whole numbers > 0, at most 16384"),
        ({"epochs": 10**7}, "epochs is 10000000; .* > 0, at most 1000000"),
        ({"pgd_steps": 10**6}, "pgd_steps is 1000000; .* > 0, at most 100000"),
        ({"batch_size": 2**31}, "batch_size is 2147483648; .* at most 2147483647"),
    ],
)
def test_what_is_not_plausible_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        generators.preset("mi_ue", **changes)


def test_the_edges_of_what_is_plausible_are_allowed():
    generators.preset("mi_ue", learning_rate=1e3, weight_decay=0, temperature=1e-6)
    generators.preset("mi_ue", epochs=10**6, width=2**14)


def test_implausible_settings_leave_no_directory(miue, tmp_path):
    for setting in ("learning-rate=1e38", "temperature=1e-40", "epochs=10" + "0" * 17):
        status, _, errors = miue(
            *("protect", "shapes", "--data.per-class=2", "--workdir", tmp_path / "run"),
            f"--generator.{setting}",
        )
        assert (status, len(errors.splitlines())) == (2, 1)
        assert setting.partition("=")[0].replace("-", "_") in errors
        assert not (tmp_path / "run").exists()


def test_steps_beyond_what_a_run_counts_are_refused():
    with pytest.raises(ValueError, match="steps of the victim is 500000000000"):
        victims.victim(
            victims.preset("quick", epochs=10**6, batch_size=1),
            num_examples=500_000,
            num_classes=2,
        )
