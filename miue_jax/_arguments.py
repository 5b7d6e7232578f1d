"""Checks of the arguments of numerical functions, before JAX sees them.

What JAX says about an argument that is no number names its own internals. All checks
pass traced values, of which only the type and the shape are known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax._checks import shown


def check_real(name: str, value: Any) -> None:
    """Checks that a value is a real number or an array of them, traced or not.

    Args:
      name: name of the argument, for the message.
      value: what was passed; bools count as 0 and 1.

    Raises:
      ValueError: for anything else.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None or isinstance(value, np.generic):
        try:
            dtype = np.asarray(value).dtype
        except ValueError:  # lists of several lengths
            dtype = np.dtype(object)
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        raise ValueError(f"{name} holds {dtype}; it must hold numbers")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex; it must be real")
    if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
        array = getattr(value, "ndim", 0) > 0
        given = f"an array of type {dtype}" if array else shown(value)
        raise ValueError(f"{name} is {given}; it must hold real numbers")


def check_scalar(name: str, value: Any) -> None:
    """Checks that a value is one real number, traced or not.

    Args:
      name: name of the argument.
      value: what was passed.

    Raises:
      ValueError: for anything else, bools too.
    """
    check_real(name, value)
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value}; it must be a number")


def check_callable(name: str, value: Any) -> None:
    """Checks that a value can be called.

    Args:
      name: name of the argument.
      value: what was passed.

    Raises:
      ValueError: if it cannot.
    """
    if not callable(value):
        raise ValueError(f"{name} is {shown(value)}; it must be a function")
