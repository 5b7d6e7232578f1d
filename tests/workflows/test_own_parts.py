"""User-defined generators and defenses, named module:function, in the workflows."""

import json
import sys
import textwrap

import numpy as np
import pytest

from miue_jax import data, defenses, generators, victims
from miue_jax.data import DataSource, artifact
from miue_jax.workflows import evaluate, protect

OWN = """
    import dataclasses

    import jax.numpy as jnp
    import numpy as np

    from miue_jax import Budget, defenses, generators
    from miue_jax.train.metrics import mean_of
    from miue_jax.train.parallel import State


    @dataclasses.dataclass(frozen=True)
    class BrightConfig:
        levels: int = 3


    def bright(config: BrightConfig, spec: generators.DataSpec):
        def init(key, data):
            delta = jnp.zeros(data.images.shape, jnp.float32)
            return State(jnp.zeros((), jnp.int32), None, delta)

        def step(key, state, data):
            delta = jnp.full_like(state.per_example, config.levels / 255)
            state = State(state.step + 1, None, delta)
            return state, {"mean": mean_of(jnp.mean(delta))}

        return generators.Generator(
            init=init,
            step=step,
            perturbation=lambda state: state.per_example,
            budget=Budget("linf", 3),
            sharded=True,
        )


    def light(key, images, labels, *, levels: int = 3):
        return jnp.full_like(images, levels / 255)


    def inverted(image_shape, num_classes, *, strength: float = 1.0):
        def purify(key, images, labels):
            return images if strength == 0 else 255 - images

        return defenses.Defense(purify=purify)


    def no_config(settings, **rest):
        pass


    def swapped(num_classes, image_shape):
        assert num_classes == 10
        return defenses.Defense()


    def by_keyword(*, num_classes, image_shape):
        return defenses.Defense()


    def of_shape(image_shape):
        return defenses.Defense()


    def by_place(image_shape, num_classes, /, *, strength=1):
        return defenses.Defense()


    def endless(image_shape, num_classes, *, strength=float("inf")):
        return defenses.Defense()


    def exact(image_shape, num_classes, *, strength=np.float32(0.5)):
        return defenses.Defense()


    def broken(image_shape, num_classes):
        raise RuntimeError("mine")


    number = 5
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module that can be imported."""

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


@pytest.fixture
def own(write):
    write("own_parts", OWN)


@pytest.fixture
def path(tmp_path):
    images = np.full((24, 8, 8, 3), 100, np.uint8)
    labels = np.arange(24) % 2
    np.savez(
        tmp_path / "data.npz",
        x_train=images,
        y_train=labels,
        x_test=images,
        y_test=labels,
    )
    return str(tmp_path / "data.npz")


_LINEAR = {"model": "linear", "epochs": 1, "batch_size": 8}


@pytest.mark.parametrize("name", ["own_parts:bright", "own_parts:light"])
def test_they_run_in_the_workflows(tmp_path, own, path, name):
    config = protect.ProtectConfig(
        data=DataSource(path), generator=generators.spec(name, levels=2)
    )
    protect.run(config, tmp_path / "made", progress=False)
    file = tmp_path / "made" / protect.ARTIFACT
    made = artifact.load(file)
    assert (made.dataset.images == 102).all()
    assert made.metadata["generator"] == {"name": name, "levels": 2}

    config = evaluate.EvaluateConfig(
        train=DataSource(str(file)),
        test=DataSource(path, split="test"),
        victim=victims.preset("quick", **_LINEAR),
        defense="own_parts:inverted",
        seeds=(0,),
    )
    results = evaluate.run(config, tmp_path / "victim", progress=False)
    assert results["defense"] == {"name": "own_parts:inverted", "strength": 1.0}


def test_the_defense_does_what_it_says(own):
    images, labels = data.load("shapes", "test", per_class=1)[:2]
    made = defenses.create(
        "own_parts:inverted", image_shape=images.shape[1:], num_classes=10
    )
    np.testing.assert_array_equal(made.purify(None, images, labels), 255 - images)


def test_settings_are_told_as_json_can_hold_them(own):
    told = defenses.settings_of("own_parts:exact")
    assert told == {"name": "own_parts:exact", "strength": 0.5}
    assert type(told["strength"]) is float
    told = defenses.settings_of({"name": "own_parts:inverted", "strength": 2})
    assert told == {"name": "own_parts:inverted", "strength": 2}
    assert defenses.settings_of("jpeg-10") == {"name": "jpeg", "quality": 10}


@pytest.mark.parametrize("name", ["swapped", "by_keyword", "of_shape"])
def test_a_defense_gets_what_it_needs_by_keyword(own, name):
    defenses.create(f"own_parts:{name}", image_shape=(8, 8, 3), num_classes=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generators.preset("own_part:bright"), "No module named 'own_part'"),
        (lambda: generators.preset("own_parts:dark"), "no attribute 'dark'"),
        (lambda: generators.preset("own_parts:number"), "not a function but 5"),
        (lambda: generators.preset("own_parts:"), "cannot be imported"),
        (lambda: generators.preset(":bright"), "cannot be imported"),
        (
            lambda: generators.preset("own_parts:no_config"),
            "has the parameters .settings, rest.; allowed: .* annotation of config",
        ),
        (lambda: generators.preset("own_parts:bright", "dark"), "allowed: default"),
        (
            lambda: generators.spec({"name": "own_parts:bright", "level": 2}),
            "did you mean 'levels'",
        ),
        (lambda: generators.spec("own_parts:light", level=2), "did you mean 'levels'"),
        (
            lambda: defenses.create(
                {"name": "own_parts:inverted", "strenght": 1},
                image_shape=(8, 8, 3),
                num_classes=2,
            ),
            "did you mean 'strength'",
        ),
        (lambda: defenses.parameters("own_parts:none"), "no attribute 'none'"),
        (
            lambda: defenses.settings_of("own_parts:endless"),
            "strength of defense 'own_parts:endless' is inf; allowed: what JSON",
        ),
        (lambda: defenses.parameters("own_parts:by_place"), "be given by keyword"),
        (
            lambda: defenses.create(
                "own_parts:broken", image_shape=(8, 8, 3), num_classes=2
            ),
            "'own_parts:broken': RuntimeError: mine",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(own, call, message):
    with pytest.raises(ValueError, match=message):
        call()


FAULTS = """
    import dataclasses
    import sys

    import jax.numpy as jnp
    import numpy as np
    from flax import linen as nn

    from miue_jax import defenses, generators
    from miue_jax.train.parallel import State


    def error(key, images, labels, *, level: int = 1):
        raise RuntimeError("mine")


    def shape(key, images, labels):
        return images[:1]


    def nothing(key, images, labels):
        return None


    def required(key, images, labels, *, level):
        return images


    def no_defense(image_shape, num_classes):
        return 5


    def failing_defense(image_shape, num_classes):
        raise RuntimeError("mine")


    def failing_data(split):
        raise RuntimeError("mine")


    def no_data(split):
        return np.zeros(3)


    def failing_model(num_classes):
        raise RuntimeError("mine")


    def no_model(num_classes):
        return 5


    def leaves(key, images, labels):
        sys.exit(0)


    def _sharded(step, perturbation=lambda state: state.per_example):
        def init(key, data):
            delta = jnp.zeros(data.images.shape, jnp.float32)
            return State(jnp.zeros((), jnp.int32), None, delta)

        return generators.Generator(
            init=init, step=step, perturbation=perturbation, sharded=True
        )


    @dataclasses.dataclass(frozen=True)
    class Config:
        radius: float = 8.0


    def sharded_exit(config: Config, spec):
        return _sharded(lambda key, state, data: sys.exit(3))


    def sharded_shrinks(config: Config, spec):
        return _sharded(lambda key, state, data: (State(state.step, None, 1.0), {}))


    def sharded_metric(config: Config, spec):
        return _sharded(lambda key, state, data: (state, {"loss": 1.0}))


    def sharded_nothing(config: Config, spec):
        return _sharded(lambda key, state, data: (state, {}), lambda state: None)


    def augment_exit():
        return defenses.Defense(augment=lambda key, images, labels: sys.exit(3))


    def augment_nothing():
        return defenses.Defense(augment=lambda key, images, labels: None)


    def augment_shape():
        return defenses.Defense(
            augment=lambda key, images, labels: (images[1:], labels)
        )


    def loss_error():
        def loss(keys, progress, forward, images, labels):
            raise RuntimeError("mine")

        return defenses.Defense(loss=loss)


    def loss_vector():
        def loss(keys, progress, forward, images, labels):
            logits, state = forward(images)
            return logits, (logits, state)

        return defenses.Defense(loss=loss)


    def attack_nothing():
        return defenses.Defense(attack=lambda keys, predict, images, labels: None)


    def no_function():
        return defenses.Defense(augment=3)


    class Net(nn.Module):
        num_classes: int
        result: str

        @nn.compact
        def __call__(self, images, train):
            features = images.reshape(images.shape[0], -1)
            logits = nn.Dense(self.num_classes)(features)
            results = {
                "error": lambda: 1 / 0,
                "exit": lambda: sys.exit(3),
                "nothing": lambda: None,
                "logits": lambda: logits,
                "classes": lambda: (features, logits[:, :1]),
            }
            return results[self.result]()


    def call_error(num_classes):
        return Net(num_classes, "error")


    def call_exit(num_classes):
        return Net(num_classes, "exit")


    def call_nothing(num_classes):
        return Net(num_classes, "nothing")


    def call_logits(num_classes):
        return Net(num_classes, "logits")


    def call_classes(num_classes):
        return Net(num_classes, "classes")
"""

FAILING = {
    "generator": [
        ("error", "RuntimeError: mine"),
        ("shape", "perturbation"),
        ("nothing", ""),
        ("required", "level"),
        ("no_such", "no attribute 'no_such'"),
        ("leaves", "SystemExit: 0 (own_faults.py, line "),
        ("sharded_exit", "SystemExit: 3 (own_faults.py, line "),
        ("sharded_shrinks", "step must keep the shapes and dtypes of the state"),
        ("sharded_metric", "metrics.Mean"),
        ("sharded_nothing", "the perturbation must be floating point of shape"),
    ],
    "defense": [
        ("failing_defense", "RuntimeError: mine"),
        ("no_defense", "must return a Defense, got 5"),
        ("no_such", "no attribute 'no_such'"),
        ("augment_exit", "augment: SystemExit: 3 (own_faults.py, line "),
        ("augment_nothing", "augment: it must return (images, labels), got None"),
        ("augment_shape", "augment: it must return floating images of shape"),
        ("loss_error", "loss: RuntimeError: mine (own_faults.py, line "),
        ("loss_vector", "loss: its value must be a floating scalar, got float32"),
        ("attack_nothing", "attack: it must return floating images of shape"),
        ("no_function", "augment: 3 is not a function"),
    ],
    "data": [
        ("failing_data", "RuntimeError: mine"),
        ("no_data", "must return (images"),
    ],
    "model": [
        ("failing_model", "RuntimeError: mine"),
        ("no_model", "must return a Flax module, got 5"),
        ("call_error", "ZeroDivisionError: division by zero (own_faults.py, line "),
        ("call_exit", "SystemExit: 3 (own_faults.py, line "),
        ("call_nothing", "it must return (features, logits), floating point"),
        ("call_logits", "it must return (features, logits), floating point"),
        ("call_classes", "it must return (features, logits), floating point"),
    ],
}


@pytest.mark.parametrize(
    ("part", "function", "message"),
    [(part, *case) for part, cases in FAILING.items() for case in cases],
)
def test_parts_that_fail_are_one_line_and_nothing_is_written(
    miue, write, tmp_path, path, part, function, message
):
    write("own_faults", FAULTS)
    name = f"own_faults:{function}"
    arguments = {
        "generator": ["protect", path, "--generator", name],
        "defense": ["evaluate", path, path, "--defense", name],
        "data": ["protect", name, "--generator=random_noise"],
        "model": ["evaluate", path, path, "--victim.model", name],
    }[part]
    status, output, errors = miue(*arguments, "--workdir", tmp_path / "run")
    assert (status, output) == (2, "")
    assert errors.startswith(f"miue {arguments[0]}: ")
    assert f"'{name}'" in errors
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert not (tmp_path / "run").exists()


# Typed settings on the command line.

TYPES = """
    import dataclasses
    import enum
    from typing import Literal, Optional


    class Mode(enum.Enum):
        PLAIN = 0
        STRONG = 2


    @dataclasses.dataclass(frozen=True)
    class Inner:
        low: int = 1
        high: float = 2.0


    def levels(note, scale, sizes, pair, inner, mode, kind):
        \"\"\"Uses every setting as what its annotation says.\"\"\"
        assert note is None or isinstance(note, str)
        assert isinstance(sizes, tuple) and isinstance(pair, tuple)
        assert isinstance(inner, Inner) and isinstance(mode, Mode)
        strong = mode.value + (kind == "b") + len(sizes) + inner.low + pair[0]
        return int(strong * (scale or 1))
"""

SETTINGS = """
        note: str | None = None{0}
        scale: Optional[float] = None{0}
        sizes: tuple[int, ...] = (1, 2){0}
        pair: tuple[int, float] = (0, 0.5){0}
        inner: Inner = Inner(){0}
        mode: Mode = Mode.PLAIN{0}
        kind: Literal["a", "b"] = "a"{0}
"""

ALL = "note, scale, sizes, pair, inner, mode, kind"

# One module for each form that a plug-in may have.
FORMS = {
    "generator_of_config": f"""
    {TYPES}
    import jax.numpy as jnp

    from miue_jax import generators


    @dataclasses.dataclass(frozen=True)
    class Config:
        {SETTINGS.format("")}

    def make(config: Config, spec: generators.DataSpec):
        found = levels(**{{f.name: getattr(config, f.name)
                         for f in dataclasses.fields(config)}})
        return generators.Generator(
            init=lambda key, images, labels: 0 * images,
            step=lambda key, state, images, labels: state + found / 255,
        )
    """,
    "generator_function": f"""
    {TYPES}
    import jax.numpy as jnp


    def make(
        key, images, labels, *,
        {SETTINGS.format(",")}
    ):
        return jnp.full_like(images, levels({ALL}) / 255)
    """,
    "defense_maker": f"""
    {TYPES}
    from miue_jax import defenses


    def make(
        image_shape, num_classes, *,
        {SETTINGS.format(",")}
    ):
        found = levels({ALL})
        return defenses.Defense(purify=lambda key, images, labels: images + found)
    """,
    "defense_function": f"""
    {TYPES}
    import numpy as np

    def make(
        key, images, labels, *,
        {SETTINGS.format(",")}
    ):
        return (images + levels({ALL})).astype(np.uint8)
    """,
}

TYPED = {
    "note": ["hello"],
    "scale": ["0.5"],
    "sizes": ["3", "4", "5"],
    "pair": ["1", "0.25"],
    "inner.low": ["2"],
    "mode": ["STRONG"],
    "kind": ["b"],
}
PLAIN = {
    "note": "hello",
    "scale": 0.5,
    "sizes": [3, 4, 5],
    "pair": [1, 0.25],
    "inner": {"low": 2, "high": 2.0},
    "mode": "STRONG",
    "kind": "b",
}
DEFAULTS = {
    "note": None,
    "scale": None,
    "sizes": [1, 2],
    "pair": [0, 0.5],
    "inner": {"low": 1, "high": 2.0},
    "mode": "PLAIN",
    "kind": "a",
}


@pytest.fixture
def start(miue, write, tmp_path, path):
    """Runs a plug-in of a form; returns what `miue` does, and how it was called."""

    def start(form, *settings, workdir="run"):
        write(f"own_{form}", _dedented(FORMS[form]))
        part = form.partition("_")[0]
        if part == "generator":
            arguments = ["protect", path]
        else:
            options = [f"--victim.{k}={v}" for k, v in _LINEAR.items()]
            arguments = ["evaluate", path, path, "--seeds=0", *options]
        return miue(
            *(*arguments, f"--{part}", f"own_{form}:make"),
            *(word.replace("PART", part) for word in settings),
            *("--workdir", tmp_path / workdir, "--quiet"),
        )

    return start


def _dedented(source: str) -> str:
    """The source, whose parts are indented differently."""
    return "\n".join(line[4:] for line in source.splitlines())


def _settings_of(workdir, form):
    if form.startswith("generator"):
        return artifact.load(workdir / protect.ARTIFACT).metadata["generator"]
    return json.loads((workdir / evaluate.RESULTS).read_text())["defense"]


@pytest.mark.parametrize("form", FORMS)
def test_settings_of_any_type_are_options(start, tmp_path, form):
    status, _, errors = start(form)
    assert (status, errors) == (0, "")
    name = f"own_{form}:make"
    assert _settings_of(tmp_path / "run", form) == {"name": name, **DEFAULTS}
    typed = [
        word for k, v in TYPED.items() for word in (f"--PART.{k.replace('_', '-')}", *v)
    ]
    for _ in range(2):  # the second one finds its own settings there
        status, _, errors = start(form, *typed, workdir="typed")
        assert (status, errors) == (0, "")
    assert _settings_of(tmp_path / "typed", form) == {"name": name, **PLAIN}
    if form.startswith("generator"):
        for workdir, change in (("run", 3), ("typed", int(9 * 0.5))):
            made = artifact.load(tmp_path / workdir / protect.ARTIFACT)
            assert (made.dataset.images == 100 + change).all()
    status, _, errors = start(form, "--PART.note=None", "--PART.scale", "None")
    assert (status, errors) == (0, ""), "the defaults, which may be said"


BAD = {
    "unknown": (
        ["--PART.sale=2"],
        "unknown option '--PART.sale'; did you mean '--PART.",
    ),
    "float": (["--PART.scale", "wide"], "--PART.scale: cannot parse 'wide'; allowed:"),
    "tuple": (["--PART.sizes", "1", "x"], "--PART.sizes: cannot parse"),
    "length": (["--PART.pair", "1"], "--PART.pair"),
    "nested": (["--PART.inner.low", "x"], "--PART.inner.low: "),
    "nested name": (["--PART.inner.lo=3"], "did you mean '--PART.inner.low'"),
    "enum": (
        ["--PART.mode", "STRNG"],
        "'STRNG'; did you mean 'STRONG'? Allowed: PLAIN",
    ),
    "literal": (["--PART.kind=c"], "unknown --PART.kind 'c'; allowed: a, b"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BAD)
def test_settings_that_do_not_fit_are_one_line(start, tmp_path, form, case):
    arguments, message = BAD[case]
    status, output, errors = start(form, *arguments)
    part = form.partition("_")[0]
    assert (status, output) == (2, "")
    assert message.replace("PART", part) in errors
    assert len(errors.splitlines()) == 1, errors
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_other_code(write, tmp_path, path):
    source = "import jax.numpy as jnp\n\n\ndef shift(key, images, labels):\n"
    source += "    return jnp.full_like(images, {} / 255)\n\n\n"
    source += "def dark(key, images, labels):\n    return images // {}\n"
    write("changed_parts", source.format(2, 2))
    made = protect.protect(path, "changed_parts:shift", workdir=tmp_path / "made")
    assert list(made.metadata["code"]) == ["changed_parts:shift"]
    train = {"workdir": tmp_path / "victim", "seeds": (0,), **_LINEAR}
    evaluate.evaluate(path, defense="changed_parts:dark", **train)
    # The same code goes on.
    protect.protect(path, "changed_parts:shift", workdir=tmp_path / "made")
    evaluate.evaluate(path, defense="changed_parts:dark", **train)
    write("changed_parts", source.format(3, 3))
    with pytest.raises(ValueError, match=r"code\.changed_parts:shift is .* choose"):
        protect.protect(path, "changed_parts:shift", workdir=tmp_path / "made")
    with pytest.raises(ValueError, match=r"code\.changed_parts:dark is .* choose"):
        evaluate.evaluate(path, defense="changed_parts:dark", **train)


def test_a_purification_cannot_change_the_callers_images(write, path):
    write(
        "writing_parts",
        "def blacken(key, images, labels):\n    images[:] = 0\n    return images\n",
    )
    clean = data.load(path)
    evaluate.evaluate(
        *(clean, clean), defense="writing_parts:blacken", seeds=(0,), **_LINEAR
    )
    assert clean.images.min() == 100
