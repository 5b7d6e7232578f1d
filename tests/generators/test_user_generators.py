"""User-defined generators: what they may look like, and what is refused."""

import dataclasses
import enum
import json
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
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

SEVERAL_STEPS = """
import dataclasses

import jax
import jax.numpy as jnp

from miue_jax import Budget, generators


@dataclasses.dataclass(frozen=True)
class AwayConfig:
    steps: int = 5
    radius: float = 6.0


def away(config: AwayConfig, spec: generators.DataSpec) -> generators.Generator:
    radius = config.radius / 255

    def init(key, images, labels):
        return jax.random.uniform(key, images.shape, images.dtype, -radius, radius)

    def step(key, delta, images, labels):
        members = jax.nn.one_hot(labels, spec.num_classes, dtype=images.dtype)
        centers = jnp.tensordot(members.T, images + delta, 1)
        direction = jnp.sign(images + delta - centers[labels])
        moved = jnp.clip(delta + direction / 255, -radius, radius)
        return moved, {"moved": jnp.mean(jnp.abs(moved - delta))}

    return generators.Generator(
        init, step, num_steps=config.steps, budget=Budget("linf", config.radius)
    )
"""

PER_CLASS = """
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
"""

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


def test_every_step_has_a_key_of_its_own_and_a_state_may_be_a_pair():
    spec = dataclasses.replace(_spec(), axis_name=None)
    draws = generators.Generator(
        init=lambda key, images, labels: (0 * images, {"log": jnp.zeros(3)}),
        step=lambda key, state, images, labels: (
            state[0],
            {"log": jnp.roll(state[1]["log"], 1).at[0].set(jax.random.uniform(key))},
        ),
        num_steps=3,
        perturbation=lambda state: state[0],
    )
    sharded = generators.to_sharded(draws, spec)
    data = sampling.deal(*_data(), 1)
    state = sharded.init(jax.random.key(0), data)
    for _ in range(3):
        state, measured = sharded.step(jax.random.key(0), state, data)
        assert measured == {}, "a part of the state is taken for metrics"
    assert len(np.unique(state.shared[1]["log"])) == 3
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


# Settings.

SETTINGS = """
    import dataclasses
    import enum
    from typing import Literal, Optional

    import jax.numpy as jnp

    from miue_jax import generators


    class Tone(enum.Enum):
        DARK = -1
        LIGHT = 1


    @dataclasses.dataclass(frozen=True)
    class Grid:
        every: int = 2
        tones: tuple[Tone, ...] = (Tone.LIGHT,)


    @dataclasses.dataclass(frozen=True)
    class OwnConfig:
        note: str | None = None
        scale: Optional[float] = None
        sizes: tuple[int, ...] = (1, 2)
        names: tuple[str, str] = ("a", "b")
        mode: Literal["on", "off"] = "on"
        tone: Tone = Tone.LIGHT
        grid: Grid = Grid()
        spare: Grid | None = None

        def __post_init__(self):
            assert isinstance(self.tone, Tone)
            if self.scale is not None and self.scale <= 0:
                raise ValueError(f"scale is {self.scale}; allowed: > 0")


    def own(config: OwnConfig, spec: generators.DataSpec) -> generators.Generator:
        shift = config.tone.value * (config.scale or 4) / 255

        def perturb(key, images, labels):
            return jnp.full_like(images, shift).at[:, :: config.grid.every].set(0)

        return generators.from_function(perturb)


    def by_signature(
        key,
        images,
        labels,
        *,
        note: str | None = None,
        scale: Optional[float] = None,
        sizes: tuple[int, ...] = (1, 2),
        names: tuple[str, str] = ("a", "b"),
        mode: Literal["on", "off"] = "on",
        tone: Tone = Tone.LIGHT,
        grid: Grid = Grid(),
        spare: Grid | None = None,
    ):
        config = OwnConfig(note, scale, sizes, names, mode, tone, grid, spare)
        return own(config, None).step(key, None, images, labels)
"""
CHANGES: dict[str, Any] = {
    "note": "hello",
    "scale": 2.5,
    "sizes": [3, 4, 5],
    "names": ["c", "d"],
    "mode": "off",
    "tone": "DARK",
    "grid": {"every": 3, "tones": ["DARK", "LIGHT"]},
    "spare": {"every": 5},
}
each_form = pytest.mark.parametrize(
    "name", ["own_settings:own", "own_settings:by_signature"]
)


@each_form
def test_settings_may_be_of_any_type_that_json_can_hold(write, name):
    write("own_settings", SETTINGS)
    assert generators.presets(name) == ("default",)
    default = generators.spec(name)
    plain = default.to_plain()
    assert plain == {
        "name": name,
        "note": None,
        "scale": None,
        "sizes": [1, 2],
        "names": ["a", "b"],
        "mode": "on",
        "tone": "LIGHT",
        "grid": {"every": 2, "tones": ["LIGHT"]},
        "spare": None,
    }
    assert generators.spec(json.loads(json.dumps(plain))) == default
    changed = generators.spec(name, **CHANGES)
    config = changed.config
    assert (config.note, config.scale, config.sizes) == ("hello", 2.5, (3, 4, 5))
    assert (config.names, config.mode) == (("c", "d"), "off")
    assert isinstance(config.tone, enum.Enum)
    assert config.tone.name == "DARK"
    assert config.grid.every == 3
    assert config.grid.tones == (config.tone, default.config.tone)
    assert config.spare == dataclasses.replace(default.config.grid, every=5)
    hash(config)
    plain = changed.to_plain()
    grid = {"every": 5, "tones": ["LIGHT"]}
    assert plain == {"name": name, **CHANGES, "spare": grid}
    again = generators.spec(json.loads(json.dumps(plain)))
    assert again == changed
    assert generators.spec(changed) == changed
    assert generators.spec(changed, scale=3).config.scale == 3
    back = generators.spec(changed, tone=default.config.tone)
    assert back.config == dataclasses.replace(config, tone=default.config.tone)


@each_form
def test_settings_reach_the_generator(write, name):
    write("own_settings", SETTINGS)
    delta, _, _ = _run(name, **CHANGES)
    np.testing.assert_allclose(delta[:, 1:3], -2.5 / 255, rtol=1e-6)
    np.testing.assert_array_equal(delta[:, ::3], 0)


@each_form
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tone": "BRIGHT"}, "unknown .* tone 'BRIGHT'; .*: DARK, LIGHT"),
        ({"tones": 1}, "unknown setting of .* 'tones'; did you mean 'tone'"),
        ({"grid": {"evry": 1}}, "unknown setting of .* grid 'evry'; .* 'every'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(write, name, changes, message):
    write("own_settings", SETTINGS)
    with pytest.raises(ValueError, match=message):
        generators.spec(name, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": -1}, r"^scale is -1; allowed: > 0$"),
        ({"tone": 1}, r"^unknown own_settings:own tone 1; allowed: "),
    ],
)
def test_the_checks_of_a_config_are_heeded(write, changes, message):
    write("own_settings", SETTINGS)
    with pytest.raises(ValueError, match=message):
        generators.spec("own_settings:own", **changes)


TYPED = """
    import enum
    from typing import Literal, Optional, Union
    import numpy as np


    class Side(enum.Enum):
        LEFT = 1


    def noise(
        key, images, labels, *, mode: Literal["on", "off"] = "on", count: int = 1,
        flag: bool = True, scale: Optional[float] = None, note: str = None,
        sizes: tuple[int, ...] = (1,), pair: tuple[int, str] = (1, "a"),
        either: Union[int, str] = 1, many: tuple[int, ...] | int = 1,
        side: Side = Side.LEFT, guessed=1,
    ):
        return images * 0


    def array(key, images, labels, *, weights=np.zeros(3)):
        return images * 0
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("mode", value) for value in ("of", None, 1)),
        *(("count", value) for value in ("1", 1.5, True, None)),
        *(("flag", value) for value in (1, "yes", None)),
        *(("scale", value) for value in ("x", [1.0], True)),
        *(("sizes", value) for value in (3, "1", ["x"], [2.5])),
        *(("pair", value) for value in ([1], [1, 2], ["a", 1], None)),
        *(("either", value) for value in (1.5, None)),
        *(("many", value) for value in ("x", ["x"])),
        *(("side", value) for value in ("RIGHT", 1)),
        ("note", 3),
    ],
)
def test_settings_of_another_type_are_refused(write, name, value):
    write("typed_noise", TYPED)
    with pytest.raises(ValueError, match=rf"{name} .*(a|A)llowed: "):
        generators.spec("typed_noise:noise", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", value) for value in (2, np.int32(2))),
        *(("scale", value) for value in (None, 2, np.float32(0.5))),
        *(("many", value) for value in (2, [1, 2], (1, 2))),
        *(("either", value) for value in (2, "x")),
        *(("sizes", value) for value in ([], (), [1, 2])),
        *(("guessed", value) for value in (1, 0.5)),
        *(("note", value) for value in (None, "x")),
        *(("flag", value) for value in (False, np.bool_(True))),
    ],
)
def test_settings_of_their_type_are_taken(write, name, value):
    write("typed_noise", TYPED)
    spec = generators.spec("typed_noise:noise", **{name: value})
    found = getattr(spec.config, name)
    assert found == (tuple(value) if isinstance(value, list) else value)
    again = generators.spec(json.loads(json.dumps(spec.to_plain())))
    assert getattr(again.config, name) == found


def test_a_default_that_cannot_be_recorded_is_named(write):
    write("typed_noise", TYPED)
    with pytest.raises(ValueError, match=r"^typed_noise:array.weights is array"):
        generators.spec("typed_noise:array")


def test_a_preset_of_ones_own_is_found_in_the_current_directory(
    miue, tmp_path, monkeypatch
):
    (tmp_path / "here_noise.py").write_text(textwrap.dedent(TYPED))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    _, _, errors = miue("protect", "no.npz", "--generator", "here_noise:noise/x")
    assert "unknown here_noise:noise preset 'x'; allowed: default" in errors


# Faults.

FAULTY = """
    import dataclasses

    import jax
    import jax.numpy as jnp

    from miue_jax import generators
    from miue_jax.generators import Generator


    def flat(key, images, labels):
        return images.reshape(len(images), -1)


    def whole_numbers(key, images, labels):
        return jnp.zeros(images.shape, jnp.int32)


    def nothing(key, images, labels):
        pass


    def pair(key, images, labels):
        return images, images


    def raises(key, images, labels):
        raise KeyError("lost")


    def branches(key, images, labels):
        return images if images.mean() > 0.5 else -images


    def wide(key, images, labels, *, radius: float = 1000.0):
        return 0 * images


    def needs_more(key, images, labels, *, strength: float):
        return images


    def takes_name(key, images, labels, *, name: str = "a"):
        return images


    def other_order(images, labels, key):
        return images


    def no_parameters():
        pass


    def no_annotation(config, spec):
        pass


    def bad_annotation(config: "Missing", spec):
        pass


    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 1


    @dataclasses.dataclass(frozen=True)
    class Required:
        size: int


    def required(config: Required, spec):
        pass


    def no_spec(config: Config):
        pass


    def returns_none(config: Config, spec):
        pass


    def build_raises(config: Config, spec):
        raise RuntimeError("two\\n  lines")


    def zeros(key, images, labels):
        return jnp.zeros_like(images)


    def same(key, state, images, labels):
        return state


    def state_grows(config: Config, spec):
        return Generator(zeros, lambda key, state, images, labels: (state, state))


    def state_shrinks(config: Config, spec):
        return Generator(zeros, lambda key, state, images, labels: state[0])


    def state_turns_whole(config: Config, spec):
        return Generator(
            zeros, lambda key, state, images, labels: state.astype(jnp.int32)
        )


    def bad_metric(config: Config, spec):
        return Generator(
            zeros, lambda key, state, images, labels: (state, {"loss": labels})
        )


    def metrics_are_a_list(config: Config, spec):
        return Generator(zeros, lambda key, state, images, labels: (state, [1.0]))


    def bad_perturbation(config: Config, spec):
        return Generator(zeros, same, perturbation=lambda state: state[:, 1:])


    def per_class_of_all(config: Config, spec):
        return Generator(zeros, same, per_class=True)


    def bad_finished(config: Config, spec):
        return Generator(zeros, same, finished=lambda state: state)


    def finished_in_python(config: Config, spec):
        return Generator(zeros, same, finished=lambda state: False)


    def no_steps(config: Config, spec):
        return Generator(zeros, same, num_steps=0)


    def half_a_step(config: Config, spec):
        return Generator(zeros, same, num_steps=0.5)


    def bad_budget(config: Config, spec):
        return Generator(zeros, same, budget=8)


    def init_takes_less(config: Config, spec):
        return Generator(lambda key: 0, same)


    def sharded_init_raises(config: Config, spec):
        return Generator(lambda key, data: data.pictures, same, sharded=True)


    not_a_function = 3
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("flat", r"floating point of shape \(19, 6, 5, 3\), got float32 \(19, 90\)"),
        ("whole_numbers", "floating point of shape .*, got int32"),
        ("nothing", "floating point of shape .*, got None"),
        ("pair", "floating point of shape"),
        ("raises", "failed: KeyError: 'lost'"),
        ("branches", "failed: TracerBoolConversionError: "),
        ("wide", "radius is in gray levels, from 1 to 255, got 1000"),
        ("needs_more", "every setting needs a default: .*'strength'"),
        ("takes_name", "no setting may be called 'name'"),
        ("other_order", r"has the parameters \(images, labels, key\); allowed: \(key"),
        ("no_parameters", r"has the parameters \(\); allowed"),
        ("no_annotation", r"has the parameters \(config, spec\); allowed"),
        ("bad_annotation", "name 'Missing' is not defined"),
        ("required", "every setting needs a default: .*'size'"),
        ("no_spec", "failed: TypeError: "),
        ("returns_none", "it must return a Generator, got None"),
        ("build_raises", r"failed: RuntimeError: two lines \(faulty.py, line \d+\)$"),
        ("state_grows", "step must return a state like init's, or"),
        ("state_shrinks", "step must keep the shapes and dtypes of the state"),
        ("state_turns_whole", "keep the shapes and dtypes .* float32 .* became int32"),
        ("bad_metric", r"metric 'loss' must be a scalar, got \(19,\)"),
        ("metrics_are_a_list", "with a dictionary of metrics, got "),
        ("bad_perturbation", r"shape \(19, 6, 5, 3\), got float32 \(19, 5, 5, 3\)"),
        ("per_class_of_all", r"shape \(3, 6, 5, 3\), got float32 \(19, 6, 5, 3\)"),
        ("bad_finished", r"finished must return a \(\) bool"),
        ("no_steps", "num_steps must be a whole number > 0, got 0"),
        ("half_a_step", r"num_steps must be a whole number > 0, got 0\.5"),
        ("bad_budget", "budget must be a Budget, got 8"),
        ("init_takes_less", "failed: TypeError: "),
        ("sharded_init_raises", "failed: AttributeError: "),
        ("not_a_function", "'faulty:not_a_function' is no"),
        ("missing", "'faulty:missing' cannot be imported"),
    ],
)
@pytest.mark.parametrize("num_shards", [1, 8])
def test_faults_are_one_error_that_names_the_generator(
    write, function, message, num_shards
):
    write("faulty", FAULTY)
    name = f"faulty:{function}"
    with pytest.raises(ValueError, match=message) as caught:
        generators.create(name, generators.spec(name).config, _spec(num_shards))
    text = str(caught.value)
    assert text.startswith(f"generator '{name}'")
    assert "\n" not in text


def test_what_is_close_enough_is_allowed(write):
    write("faulty", FAULTY)
    # A bool of Python's, which never is True.
    delta, _, generator = _run("faulty:finished_in_python")
    assert np.abs(delta).max() == 0
    assert generator.num_steps == 1
