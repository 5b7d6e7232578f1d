"""A user's own generator and defense, named module:function, in the scripts."""

import sys
import textwrap

import numpy as np
import pytest
from configs import evaluate as evaluate_presets
from configs import generate as generate_presets

from miue_jax import data, defenses, generators
from miue_jax.workflows import evaluate, protect

OWN = """
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from miue_jax import Budget, defenses, methods
    from miue_jax.train.metrics import mean_of
    from miue_jax.train.parallel import State


    @dataclasses.dataclass(frozen=True)
    class BrightConfig:
        levels: int = 3


    def bright(config: BrightConfig, **sizes):
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
            num_steps=1,
            perturbation=lambda state: state.per_example,
            finished=lambda state: jnp.zeros((), bool),
            per_class=False,
            budget=Budget("linf", 3),
        )


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


    number = 5
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_parts", None)


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


def test_they_run_in_the_scripts(tmp_path, own, path):
    config = generate_presets.get_config("own_parts:bright").to_dict()
    config["data"]["name_or_path"] = path
    config["method"]["levels"] = 2
    protect.run(config, tmp_path / "made")
    artifact = tmp_path / "made" / protect.ARTIFACT
    made = artifact.load(artifact)
    assert (made.dataset.images == 102).all()
    assert made.metadata["method"] == {"name": "own_parts:bright", "levels": 2}

    argument = "quick/own_parts:inverted"
    config = evaluate_presets.get_config(argument).to_dict()
    config["train"]["name_or_path"] = str(artifact)
    config["test"]["name_or_path"] = path
    config["victim"] |= {"model": "mlp2", "width": 4, "epochs": 1, "batch_size": 8}
    config["seeds"] = (0,)
    assert config["defense"] == {"name": "own_parts:inverted", "strength": 1.0}
    results = evaluate.run(config, tmp_path / "victim")
    assert results["defense"]["name"] == "own_parts:inverted"


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


@pytest.mark.parametrize("name", ["swapped", "by_keyword"])
def test_a_defense_gets_what_it_needs_by_keyword(own, name):
    defenses.create(f"own_parts:{name}", image_shape=(8, 8, 3), num_classes=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generators.preset("own_part:bright"), "No module named 'own_part'"),
        (lambda: generators.preset("own_parts:dark"), "no attribute 'dark'"),
        (lambda: generators.preset("own_parts:number"), "is not a function, but 5"),
        (lambda: generators.preset("own_parts:"), "cannot be imported"),
        (lambda: generators.preset(":bright"), "cannot be imported"),
        (lambda: generators.preset("own_parts:no_config"), "needs a parameter config"),
        (lambda: generators.preset("own_parts:bright", "dark"), "allowed: default"),
        (
            lambda: generators.configure("own_parts:bright", {"level": 2}),
            "did you mean 'levels'",
        ),
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
        (lambda: defenses.parameters("own_parts:by_place"), "by keyword; it has"),
        (
            lambda: defenses.create(
                "own_parts:of_shape", image_shape=(8, 8, 3), num_classes=2
            ),
            "image_shape and num_classes, by keyword; it has .image_shape.",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(own, call, message):
    with pytest.raises(ValueError, match=message):
        call()
