"""User-defined generators: what they may look like, and what is refused."""

import dataclasses
import enum
import json
import math
import sys
import textwrap
from typing import Any

import jax
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.budget import Budget
from miue_jax.generators.testing import check_generator
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means

SIZE, CLASSES, SHAPE = 19, 3, (6, 5, 3)

FUNCTION = '''
import jax
import jax.numpy as jnp


def stripes(key, images, labels, *, period: int = 4, radius: float = 8.0):
    """Stripes whose phase is that of the class."""
    offset = jax.random.randint(key, (), 0, period)
    place = jnp.arange(images.shape[2]) + offset + labels[:, None]
    lit = place % period < period // 2
    return jnp.where(lit, radius, -radius)[:, None, :, None] / 255 + 0 * images
'''

SEVERAL_STEPS = '''
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miue_jax import Budget, generators


@dataclasses.dataclass(frozen=True)
class AwayConfig:
    """Moves every image away from the mean of its class."""

    steps: int = 5
    radius: float = 6.0


class AwayState(NamedTuple):
    delta: jax.Array
    log: dict


def away(config: AwayConfig, spec: generators.DataSpec) -> generators.Generator:
    radius = config.radius / 255

    def init(key, images, labels):
        noise = jax.random.uniform(key, images.shape, images.dtype, -radius, radius)
        return AwayState(noise, {"moved": jnp.zeros((), jnp.float32)})

    def step(key, state, images, labels):
        members = jax.nn.one_hot(labels, spec.num_classes, dtype=images.dtype)
        seen = images + state.delta
        centers = jnp.tensordot(members.T / members.sum(0)[:, None], seen, 1)
        direction = jnp.sign(seen - centers[labels])
        delta = jnp.clip(state.delta + direction / 255, -radius, radius)
        moved = jnp.mean(jnp.abs(delta - state.delta))
        return AwayState(delta, {"moved": moved}), {"moved": moved}

    return generators.Generator(
        init=init,
        step=step,
        num_steps=config.steps,
        perturbation=lambda state: state.delta,
        budget=Budget("linf", config.radius),
    )
'''

PER_CLASS = '''
import dataclasses

import jax
import jax.numpy as jnp

from miue_jax import Budget, generators


@dataclasses.dataclass(frozen=True)
class PatternConfig:
    norm: float = 0.5


def pattern(config: PatternConfig, spec: generators.DataSpec) -> generators.Generator:
    def init(key, images, labels):
        return jnp.zeros((spec.num_classes, *spec.image_shape), jnp.float32)

    def step(key, state, images, labels):
        noise = jax.random.normal(key, state.shape, state.dtype)
        length = jnp.sqrt(jnp.sum(noise**2, axis=(1, 2, 3), keepdims=True))
        return config.norm * noise / length

    return generators.Generator(
        init, step, budget=Budget("l2", config.norm), per_class=True
    )
'''

PLUGINS = {
    "plugin_function:stripes": FUNCTION,
    "plugin_steps:away": SEVERAL_STEPS,
    "plugin_class:pattern": PER_CLASS,
}
each_plugin = pytest.mark.parametrize("name", list(PLUGINS))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module that can be imported."""

    def write_module(module: str, source: str) -> None:
        path = tmp_path / f"{module}.py"
        path.write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write_module


@pytest.fixture
def plugins(write):
    for name, source in PLUGINS.items():
        write(name.partition(":")[0], source)


def _data() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (SIZE, *SHAPE))
    return images.astype(np.uint8), (np.arange(SIZE) % CLASSES).astype(np.int32)


def _spec(num_shards: int = 1) -> generators.DataSpec:
    return generators.DataSpec(
        num_examples=SIZE,
        num_classes=CLASSES,
        image_shape=SHAPE,
        num_shards=num_shards,
        axis_name=parallel.AXIS,
    )


def _run(name: str, *, num_shards=1, num_devices=1, stops=(), **settings):
    chosen = generators.spec(name, **settings)
    generator = generators.create(chosen.name, chosen.config, _spec(num_shards))
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    images, labels = _data()
    data = sampling.deal(images, labels, num_shards)
    data = parallel.place(data, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(generator.init, mesh)(key, data)
    advance = loop.advance(generator.step, mesh)
    measured: Any = {}
    for stop in stops or (generator.num_steps,):
        state, measured = advance(key, state, data, stop)
    delta = np.asarray(parallel.to_host(generator.perturbation(state)))
    everything = np.ones(SIZE, bool)
    delta = generators.per_example(generator, delta, labels, everything)
    return delta, means.values(measured), generator


@each_plugin
def test_it_keeps_the_contract(plugins, name):
    check_generator(name)


@each_plugin
def test_it_takes_at_most_thirty_lines(name):
    code = [line for line in PLUGINS[name].splitlines() if line.strip()]
    assert len(code) <= 30


@each_plugin
def test_shards_and_devices_change_nothing(plugins, name):
    alone, measured, _ = _run(name)
    assert alone.shape == (SIZE, *SHAPE)
    assert len(np.unique(alone[0])) > 1
    # 19 images on 8 shards: five shards have a row that only pads.
    for num_devices in (1, 2, 8):
        delta, same, _ = _run(name, num_shards=8, num_devices=num_devices)
        np.testing.assert_allclose(delta, alone, atol=1e-7)
        assert same == pytest.approx(measured)


def test_a_function_computes_the_whole_perturbation(plugins):
    delta, measured, generator = _run("plugin_function:stripes", radius=4.0, period=2)
    assert generator.num_steps == 1
    assert generator.budget == Budget("linf", 4.0)
    assert generator.sharded
    assert measured == {}
    assert set(np.unique(np.rint(255 * delta))) == {-4.0, 4.0}
    _, labels = _data()
    # Phases differ by class and are those of no other.
    rows = {label: delta[labels == label] for label in range(2)}
    for label, mine in rows.items():
        assert np.ptp(mine, axis=0).max() == 0
        np.testing.assert_array_equal(mine[0], -rows[1 - label][0])


def test_steps_are_counted_measured_and_can_be_cut(plugins):
    name = "plugin_steps:away"
    whole, _, generator = _run(name, steps=4)
    assert generator.num_steps == 4
    cut, measured, _ = _run(name, steps=4, stops=(1, 3, 4))
    np.testing.assert_array_equal(cut, whole)
    assert 0 < measured["moved"] < 1 / 255
    first, _, _ = _run(name, steps=4, stops=(1,))
    assert (np.abs(whole) > np.abs(first)).mean() > 0.5
    assert np.abs(whole).max() == pytest.approx(6 / 255, rel=1e-5)


def test_every_step_has_a_key_of_its_own(write):
    write(
        "plugin_draws",
        """
        import jax
        import jax.numpy as jnp
        from miue_jax import generators

        def three(key, images, labels, *, radius: float = 8.0):
            raise NotImplementedError

        class Config:
            pass
        """,
    )
    spec = dataclasses.replace(_spec(), axis_name=None)
    draws = generators.Generator(
        init=lambda key, images, labels: (0 * images, jax.numpy.zeros(3)),
        step=lambda key, state, images, labels: (
            state[0],
            jax.numpy.roll(state[1], 1).at[0].set(jax.random.uniform(key)),
        ),
        num_steps=3,
        perturbation=lambda state: state[0],
    )
    sharded = generators.to_sharded(draws, spec)
    data = sampling.deal(*_data(), 1)
    state = sharded.init(jax.random.key(0), data)
    for _ in range(3):
        state, measured = sharded.step(jax.random.key(0), state, data)
        # The state is a pair itself, and nothing is measured.
        assert measured == {}
    assert len(np.unique(state.shared[1])) == 3
    assert int(state.step) == 3


def test_a_class_shares_its_perturbation(plugins):
    delta, _, generator = _run("plugin_class:pattern", num_shards=8, num_devices=8)
    assert generator.per_class
    _, labels = _data()
    for label in range(CLASSES):
        assert np.ptp(delta[labels == label], axis=0).max() == 0
    norms = np.linalg.norm(delta.reshape(SIZE, -1), axis=1)
    np.testing.assert_allclose(norms, 0.5, rtol=1e-5)
    assert (delta[0] != delta[1]).any()
