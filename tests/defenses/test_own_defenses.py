"""Defenses of user-defined functions, and their typed settings."""

import textwrap

import jax
import numpy as np
import pytest

from miue_jax import defenses
from miue_jax.defenses.testing import check_defense

SHAPE = (8, 8, 3)

OWN = """
    import dataclasses
    import enum
    from typing import Literal, Optional

    from miue_jax.defenses import Defense


    class Side(enum.Enum):
        LEFT = 1
        RIGHT = 2


    @dataclasses.dataclass(frozen=True)
    class Inner:
        level: int = 3


    def inverted(key, images, labels, *, top: int = 255):
        return (top - images).astype("uint8")


    def typed(
        image_shape,
        num_classes,
        *,
        note: str | None = None,
        scale: Optional[float] = None,
        sizes: tuple[int, ...] = (1, 2),
        side: Side = Side.LEFT,
        kind: Literal["a", "b"] = "a",
        inner: Inner = Inner(),
    ):
        assert image_shape == (8, 8, 3) and num_classes == 2
        assert isinstance(side, Side) and isinstance(inner, Inner)
        assert isinstance(sizes, tuple)
        level = inner.level

        def purify(key, images, labels):
            return 0 * images + images.dtype.type(level)

        return Defense(purify=purify)


    def needs_nothing(*, strength: float = 1.0):
        return Defense(augment=lambda key, images, labels: (images * 0, labels))


    def wrong_dtype(key, images, labels):
        return images / 255


    def none(key, images, labels):
        return None


    def broken():
        raise RuntimeError("mine")


    def no_defense():
        return 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "own_defenses.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)


def _create(spec):
    return defenses.create(spec, image_shape=SHAPE, num_classes=2)


def _purified(spec):
    images = np.full((4, *SHAPE), 100, np.uint8)
    defense = _create(spec)
    return defense.purify(jax.random.key(0), images, np.arange(4) % 2)


@pytest.mark.parametrize("name", ["inverted", "typed", "needs_nothing"])
def test_they_keep_the_contract_of_a_defense(name):
    defense = _create(f"own_defenses:{name}")
    check_defense(defense, image_shape=SHAPE, num_classes=2)


def test_a_plain_function_is_a_purification():
    assert (_purified("own_defenses:inverted") == 155).all()
    spec = {"name": "own_defenses:inverted", "top": 200}
    assert (_purified(spec) == 100).all()
    assert defenses.settings_of(spec) == spec


def test_settings_are_typed_and_become_plain_and_back():
    name = "own_defenses:typed"
    plain = defenses.settings_of(name)
    assert plain == {
        "name": name,
        "note": None,
        "scale": None,
        "sizes": [1, 2],
        "side": "LEFT",
        "kind": "a",
        "inner": {"level": 3},
    }
    changed = {**plain, "inner": {"level": 9}, "side": "RIGHT", "sizes": [4]}
    assert (_purified(changed) == 9).all()
    _, config = defenses.parse(changed)
    assert config.sizes == (4,)
    assert config.side.name == "RIGHT"
    assert defenses.settings_of((name, config)) == changed
    assert (_purified((name, config)) == 9).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_defenses:broken", "'own_defenses:broken': RuntimeError: mine"),
        ("own_defenses:no_defense", "must return a Defense, got 3"),
        ("own_defenses:missing", "cannot be imported"),
        ({"name": "own_defenses:inverted", "to": 1}, "unknown setting.*'to'.*'top'"),
        ({"name": "own_defenses:typed", "side": "UP"}, "unknown .*side 'UP'"),
    ],
)
def test_what_fails_names_the_function(spec, message):
    with pytest.raises(ValueError, match=message):
        _create(spec)


@pytest.mark.parametrize("name", ["wrong_dtype", "none"])
def test_wrong_results_of_a_purification_are_named(name):
    with pytest.raises(ValueError, match=f"'own_defenses:{name}': purify: .*uint8"):
        _purified(f"own_defenses:{name}")


def test_the_settings_of_a_defense_are_described():
    kind = defenses.config_type("jpeg")
    assert "quality: libjpeg's quality" in kind.__doc__
    name, settings = defenses.parse("jpeg")
    assert name == "jpeg"
    assert isinstance(settings, type)
    assert defenses.parse("jpeg-30")[1].quality == 30


@pytest.mark.parametrize("name", ["mode", "nothing"])
def test_settings_that_do_not_exist_or_fit_are_refused(name):
    changes = {"kind": "c"} if name == "mode" else {"knd": "a"}
    with pytest.raises(ValueError, match=r"^unknown .*(a|A)llowed: "):
        defenses.parse({"name": "own_defenses:typed", **changes})
