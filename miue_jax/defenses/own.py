"""User-defined defenses: what they return is checked, and what they raise is named."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import _own
from miue_jax._checks import shown
from miue_jax.defenses.base import Defense


def guarded(what: str, defense: Defense) -> Defense:
    """Wraps the functions of a user-defined defense.

    Args:
      what: the defense, for messages.
      defense: what its function returned.

    Returns:
      A defense of the same functions. Where they fail, or return something else than
      `Defense` says, they raise a ValueError.
    """

    def wrapped(field: str, check: Callable[..., Any]) -> Callable[..., Any] | None:
        function = getattr(defense, field)
        if function is None:
            return None
        # What diverges is a result of the run, not a fault.
        passing = (FloatingPointError,)
        call = _own.guarded(f"{what}: {field}", function, passing=passing)

        def checked(*args: Any) -> Any:
            result = call(*args)
            with _own.calling(f"{what}: {field}"):
                return check(result, *args)

        return checked

    return Defense(
        purify=wrapped("purify", _purified),
        augment=wrapped("augment", _augmented),
        loss=wrapped("loss", _lost),
        attack=wrapped("attack", _attacked),
    )


def _purified(result: Any, key: Any, images: np.ndarray, labels: Any) -> np.ndarray:
    del key, labels
    purified = np.asarray(result)
    if purified.dtype != np.uint8 or purified.shape != images.shape:
        raise ValueError(
            f"the purified images must be uint8 {images.shape}, got "
            f"{purified.dtype} {purified.shape}"
        )
    return purified


def _augmented(result: Any, key: Any, images: Any, labels: Any) -> Any:
    del key
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"it must return (images, labels), got {shown(result)}")
    _check_images(result[0], images)
    given = result[1]
    fits = _is_array(given) and (
        (given.shape == labels.shape and jnp.issubdtype(given.dtype, jnp.integer))
        or (
            given.ndim == labels.ndim + 1
            and given.shape[:-1] == labels.shape
            and jnp.issubdtype(given.dtype, jnp.floating)
        )
    )
    if not fits:
        raise ValueError(
            f"it must return integer labels of shape {labels.shape}, or class "
            f"probabilities with one more axis, got {_kind(given)}"
        )
    return result


def _lost(result: Any, *args: Any) -> Any:
    del args
    pair = isinstance(result, tuple) and len(result) == 2
    if not pair or not isinstance(result[1], tuple) or len(result[1]) != 2:
        raise ValueError(
            f"it must return (value, (logits, state)), got {shown(result)}"
        )
    value = result[0]
    if not (_is_array(value) and value.shape == () and _is_floating(value)):
        raise ValueError(f"its value must be a floating scalar, got {_kind(value)}")
    return result


def _attacked(result: Any, keys: Any, predict: Any, images: Any, labels: Any) -> Any:
    del keys, predict, labels
    _check_images(result, images)
    return result


def _check_images(given: Any, images: Any) -> None:
    if not (_is_array(given) and given.shape == images.shape and _is_floating(given)):
        raise ValueError(
            f"it must return floating images of shape {images.shape}, got "
            f"{_kind(given)}"
        )


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_floating(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if _is_array(value) else shown(value)
