"""Calls of users' own code: whatever goes wrong there is one line that says where."""

import contextlib
import functools
import hashlib
import importlib
import inspect
import pathlib
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from miue_jax import _checks

_PACKAGE = pathlib.Path(__file__).parent
_LIBRARIES = ("site-packages", "dist-packages")


class Fault(ValueError):
    """Raised where a user's own code fails, with what it raised as the cause."""


@contextlib.contextmanager
def calling(what: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns whatever a user's code raises into a `Fault`.

    Args:
      what: the code, for the message, such as "generator 'my_noise:stripes'".
      passing: exceptions that mean something to the caller.

    Yields:
      Nothing.

    Raises:
      Fault: in place of every exception, `SystemExit` and `GeneratorExit` included;
        only Ctrl-C interrupts.
    """
    try:
        yield
    except (Fault, KeyboardInterrupt, *passing):
        raise
    except BaseException as error:  # sys.exit() would end the program without a word
        raise Fault(f"{what}: {describe(error)}") from error


def imported(kind: str, name: str) -> Callable[..., Any]:
    """Imports the user-defined function that ``module:function`` names.

    Args:
      kind: the kind of thing that is named, such as "defense".
      name: an importable module and a function in it.

    Returns:
      The function.

    Raises:
      Fault: if the module cannot be imported or has no such function.
    """
    module, _, attribute = name.partition(":")
    what = f"{kind} {_checks.shown(name)}"
    if not attribute.isidentifier() or not all(
        part.isidentifier() for part in module.split(".")
    ):
        raise Fault(f"{what} cannot be imported; allowed: module:function")
    with calling(f"{what} cannot be imported"):
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and f"{module}.".startswith(f"{error.name}."):
                raise ValueError(
                    f"No module named {_checks.shown(error.name)}; install it, or set "
                    "PYTHONPATH to the folder that holds it"
                ) from None
            raise
        if not hasattr(loaded, attribute):
            raise ValueError(
                f"module {module!r} has no attribute {_checks.shown(attribute)}"
            )
        found = getattr(loaded, attribute)
    if not callable(found):
        raise Fault(f"{what} is not a function but {_checks.shown(found)}")
    if inspect.iscoroutinefunction(found):
        raise Fault(f"{what} is asynchronous, and nothing here would await it")
    return found


def is_own(name: object) -> bool:
    """Tells whether a name is that of a user's own part.

    Args:
      name: the name.

    Returns:
      Whether it is of the form ``module:function``.

    Example:
      >>> from miue_jax import generators
      >>> generators.is_own("my_noise:stripes"), generators.is_own("mi_ue")
      (True, False)
    """
    return isinstance(name, str) and ":" in name


def code(*names: object) -> dict[str, dict[str, str]]:
    """Identifies the code of users' own parts, for the identity of a run.

    Args:
      *names: of parts; those that are not ``module:function`` are left out.

    Returns:
      The entry "code": a digest of the file of every part, by its name. Nothing if
      there are none.
    """
    found = {}
    for name in names:
        if is_own(name):
            module = importlib.import_module(str(name).partition(":")[0])
            file = getattr(module, "__file__", None)
            data = b"" if file is None else pathlib.Path(file).read_bytes()
            found[str(name)] = hashlib.sha256(data).hexdigest()[:16]
    return {"code": found} if found else {}


def guarded(
    what: str,
    function: Callable[..., Any],
    *,
    passing: tuple[type[Exception], ...] = (),
) -> Callable[..., Any]:
    """Wraps a user's function so that its exceptions become a `Fault`.

    Args:
      what: the function, for the message.
      function: the function; it may be traced.
      passing: exceptions that mean something to the caller.

    Returns:
      A function of the same parameters.
    """
    if not callable(function):
        raise Fault(f"{what}: {_checks.shown(function)} is not a function")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with calling(what, passing=passing):
            return function(*args, **kwargs)

    return call


def describe(error: BaseException) -> str:
    """Describes an exception: its type, its message, and the line of the user's code.

    Args:
      error: what was raised.

    Returns:
      One line. What this package found wrong with a result has no place in the user's
      code, and is described by its message alone.
    """
    try:
        # What is raised where XLA calls back holds a traceback of its own.
        text, _, inner = str(error).partition("Traceback (most recent call last)")
        reason = _checks.one_line(inner.rstrip().rpartition("\n")[2] or text)
    except Exception:  # a user's own exception may not even have a text
        reason = ""
    place = _place(error)
    if place is None and isinstance(error, ValueError) and reason:
        return reason
    text = ": ".join(filter(None, (type(error).__name__, reason)))
    # A syntax error says its own file and line.
    if place is None or isinstance(error, SyntaxError):
        return text
    return f"{text} ({place})"


def _place(error: BaseException) -> str | None:
    """The innermost line outside this package and the libraries, without its folder."""
    standard = sysconfig.get_paths()["stdlib"]
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        path = pathlib.Path(file)
        library = set(path.parts) & set(_LIBRARIES) or path.is_relative_to(standard)
        ours = path.is_relative_to(_PACKAGE)
        if not (library or ours or file.startswith("<")):
            found = f"{path.name}, line {number}"
    return found
