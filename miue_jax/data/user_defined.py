"""Data sets that a function of the user returns, named ``module:function``."""

import inspect
import re
from typing import Any

import numpy as np

from miue_jax import _checks
from miue_jax.data import arrays
from miue_jax.data.dataset import Dataset, validate

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_name(name: str) -> bool:
    """Tells whether a name has the form module:function.

    Names of TFDS versions, such as ``mnist:3.0.1``, do not.
    """
    return _NAME.fullmatch(name) is not None


def load(name: str, split: str = "train") -> Dataset:
    """Calls a user-defined function that returns a data set.

    It returns a `Dataset`, ``(images, labels)`` or ``(images, labels, class_names)``,
    with images and labels as in a `.npz` file (see `arrays.load`). If it has a
    parameter ``split``, it is called with "train" or "test"; otherwise it has only the
    split "train".

    Args:
      name: module:function, where the module can be imported.
      split: "train" or "test".

    Returns:
      The data set.

    Raises:
      ValueError: naming the function, if it cannot be imported, fails, or returns
        something else.
    """
    function = _checks.imported("data set", name)
    try:
        takes_split = "split" in inspect.signature(function).parameters
        if not takes_split and split != "train":
            raise ValueError(f"it has no parameter split, so no {split!r} split")
        return _dataset(function(split=split) if takes_split else function())
    except Exception as error:  # of the user's own code
        reason = " ".join(str(error).split())
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"data set {name!r}: {reason}") from error


def _dataset(result: Any) -> Dataset:
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise ValueError(
            "it must return (images, labels) or (images, labels, class_names), got "
            f"{type(result).__name__}"
        )
    images, labels, *names = result
    return validate(arrays.dataset(np.asarray(images), np.asarray(labels), *names))
