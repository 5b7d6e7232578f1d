"""Data sets from user-defined functions, named ``module:function``."""

import inspect
import re
from typing import Any

import numpy as np

from miue_jax import _checks, _own
from miue_jax.data import arrays
from miue_jax.data.dataset import Dataset

# TFDS names with a version, such as ``mnist:3.0.1``, do not have this form.
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_name(name: str) -> bool:
    """Tells whether a name has the form ``module:function``.

    Args:
      name: the name.

    Returns:
      Whether it has.

    Example:
      >>> from miue_jax.data import user_defined
      >>> user_defined.is_name("my_data:faces"), user_defined.is_name("mnist:3.0.1")
      (True, False)
    """
    return _NAME.fullmatch(name) is not None


def load(name: str, split: str = "train") -> Dataset:
    """Calls a user-defined function that returns a data set.

    The function returns ``(images, labels)``, ``(images, labels, class_names)`` or a
    `Dataset`, with images and labels as in a ``.npz`` file (see `arrays.load`). If it
    has a parameter ``split``, it is called with "train" or "test"; otherwise it has
    only the split "train".

    Args:
      name: ``module:function``; the module must be importable.
      split: "train" or "test".

    Returns:
      The data set, validated.

    Raises:
      ValueError: naming the function, if it cannot be imported, fails, or returns
        something else.

    Example:
      >>> import sys, types
      >>> import numpy as np
      >>> from miue_jax.data import user_defined
      >>> sys.modules["my_data"] = types.SimpleNamespace(
      ...     squares=lambda: (np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2)
      ... )
      >>> user_defined.load("my_data:squares").class_names
      ('0', '1')
    """
    function = _own.imported("data set", name)
    with _own.calling(f"data set {name!r}"):
        takes_split = "split" in inspect.signature(function).parameters
        if not takes_split and split != "train":
            raise ValueError(f"it has no parameter split, so no {split!r} split")
        return _dataset(function(split=split) if takes_split else function())


def _dataset(result: Any) -> Dataset:
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise ValueError(
            "it must return (images, labels) or (images, labels, class_names), got "
            f"{_checks.shown(result)}"
        )
    images, labels, *names = result
    for given in names:
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"class_names must be strings, got {_checks.shown(given)}")
    return arrays.dataset(np.asarray(images), np.asarray(labels), *names)
