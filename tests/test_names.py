"""One wording for every unknown name: the nearest first, then all."""

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
