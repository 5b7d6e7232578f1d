"""Checks of settings and names: one wording, the nearest names first."""

import collections

import jax
import pytest

from miue_jax import _checks, data, defenses, generators, models, projected_gradient


def test_the_nearest_names_come_first_then_all():
    known = ("resnet10", "resnet18", "vgg11")
    assert str(_checks.unknown("model", "resnet8", known)) == (
        "unknown model 'resnet8'; did you mean 'resnet18' or 'resnet10'? "
        "Allowed: resnet10, resnet18, vgg11"
    )
    assert str(_checks.unknown("model", "zzz", known)) == (
        "unknown model 'zzz'; allowed: resnet10, resnet18, vgg11"
    )


def test_what_is_listed_may_be_other_than_the_names():
    error = _checks.unknown(
        "defense", "jpg", ("none", "jpeg"), allowed=("jpeg-<number>",)
    )
    assert isinstance(error, ValueError)
    assert str(error) == (
        "unknown defense 'jpg'; did you mean 'jpeg'? Allowed: jpeg-<number>"
    )


def test_any_object_may_be_an_unknown_name():
    for name in (None, 5, [1], "a\nb"):
        message = str(_checks.unknown("norm", name, ("linf", "l2")))
        assert message == f"unknown norm {name!r}; allowed: linf, l2"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("vg11", num_classes=2), "'vg11'; did you mean 'vgg11'"),
        (lambda: generators.preset("mi_eu"), "'mi_eu'; did you mean 'mi_ue'"),
        (
            lambda: defenses.create("jpg", image_shape=(32, 32, 3), num_classes=2),
            "'jpg'; did you mean 'jpeg'",
        ),
        (lambda: data.load("shaps"), "'shaps'; did you mean 'shapes'"),
        (
            lambda: projected_gradient.project(0.0, radius=1, norm="l_2"),
            "did you mean 'l2'",
        ),
    ],
)
def test_all_registries_say_it_alike(call, message):
    with pytest.raises(
        ValueError, match=rf"^unknown [a-z ]+ .*{message}.*\? Allowed: "
    ):
        call()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (("a",), "seeds holds 'a'"),
        ((0, 0.5), r"seeds holds 0\.5"),
        ((True,), "seeds holds True"),
        ((-1,), "seeds holds -1"),
        ((2**32,), "seeds holds 4294967296"),
        ((1, 0, 1), "they must differ"),
        ((), "seeds is empty"),
        (3, "must be a list"),
    ],
)
def test_bad_seeds_are_named(seeds, message):
    with pytest.raises(ValueError, match=message):
        _checks.check_seeds("seeds", seeds)


def test_the_largest_seed_gives_its_own_key():
    _checks.check_seeds("seeds", [0, 2**32 - 1])
    keys = {str(jax.random.key_data(jax.random.key(s))) for s in (0, 1, 2**32 - 1)}
    assert len(keys) == 3


def test_what_a_message_quotes_is_bounded():
    assert len(_checks.shown("x" * 10**6)) < 120
    assert len(_checks.shown([["x" * 1000] * 1000] * 1000)) < 120
    assert len(_checks.shown(10**5000)) < 120
    assert _checks.shown("a\x1b[2Jb\n") == "'a\\x1b[2Jb\\n'"
    assert _checks.one_line("a\x1b[2J\n b") == "a?[2J b"
    with pytest.raises(
        ValueError, match=r"^n is '1{3,60}\.\.\.1{3,60}'; allowed: whole"
    ):
        _checks.check_number("n", "1" * 10**6, "> 0", whole=True)


def test_quoting_looks_at_the_beginning_of_shared_parts_only():
    """A value of n nested pairs of one part has 2**n paths."""
    seen = []

    class Leaf:
        def __repr__(self) -> str:
            seen.append(self)
            return "leaf"

    for kind in (tuple, list, collections.OrderedDict):
        value = Leaf()
        for _ in range(16):
            pair = [value, value]
            value = (
                kind(enumerate(pair)) if kind is collections.OrderedDict else kind(pair)
            )
        assert len(_checks.shown(value)) < 120
    assert len(seen) < 10
