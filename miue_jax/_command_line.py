"""Command lines derived from dataclasses; whatever is wrong is one line, status 2."""

import contextlib
import importlib.util
import io
import logging
import os
import pathlib
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import tyro

from miue_jax import _checks, _own

BAD_INPUT = 2
# Set to anything, it shows where an error came from.
TRACEBACK = "MIUE_TRACEBACK"

T = TypeVar("T")


class HelpShown(SystemExit):
    """Raised after the help was printed."""


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    prog: str,
    default: T | None = None,
    description: str | None = None,
) -> T:
    """Parses a command line into a dataclass.

    Args:
      kind: the dataclass; its fields are the options, described by its docstring.
      arguments: the command line, without the name of the program.
      prog: that name, for the help.
      default: values of the options that are left out, in place of the dataclass's own.
      description: of the program, for the help; None for the dataclass's docstring.

    Returns:
      The instance.

    Raises:
      ValueError: if the arguments are wrong.
      HelpShown: after the help was printed.
    """
    arguments = list(arguments)
    options = [_option(a) for a in arguments if a.startswith("--")]
    for option in options:
        if options.count(option) > 1:
            raise ValueError(f"{option} is given twice")
    defaults: dict[str, Any] = {} if default is None else {"default": default}

    def run(arguments: Sequence[str]) -> T:
        with warnings.catch_warnings():
            # On defaults whose type is not that of their field: they are checked by
            # the dataclasses themselves.
            warnings.simplefilter("ignore")
            return tyro.cli(
                kind, args=arguments, prog=prog, description=description, **defaults
            )

    if {"-h", "--help"} & set(arguments):
        try:
            return run(arguments)
        except SystemExit:
            raise HelpShown(0) from None
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _unwrapped():
            given = run(arguments)
    except SystemExit:
        reason = _reason(errors.getvalue(), prog)
        if name := re.match(r"unknown option '(.*)'", reason):
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                run(["--help"])
            known = dict.fromkeys(re.findall(r"--\w[\w.-]*", text.getvalue()))
            allowed = [f"those of {prog} --help"]
            raise _checks.unknown("option", name[1], known, allowed=allowed) from None
        raise ValueError(reason) from None
    for name, problem in _PLACES.items():
        # An empty path would be the current directory.
        if _value(arguments, name) == "":
            raise ValueError(f"{name} is {problem}")
    return given


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Keeps the parser from breaking long words of its messages."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def option(arguments: Sequence[str], name: str, default: str | None) -> str | None:
    """Looks up an option that decides what the other options are.

    Args:
      arguments: the command line.
      name: of the option, such as "--generator".
      default: its value where it is left out.

    Returns:
      Its value.
    """
    value = _value(arguments, name)
    return default if value is None else value


# Options that name a file or a folder to write.
_PLACES = {
    "--workdir": "missing: name a directory for the run",
    "--png": "empty: name a folder to create",
    **dict.fromkeys(("--npy", "--json", "--output"), "empty: name a file"),
}


def _value(arguments: Sequence[str], name: str) -> str | None:
    for number, argument in enumerate(arguments):
        if _option(argument) != name:
            continue
        if "=" in argument:
            return argument.partition("=")[2]
        if number + 1 < len(arguments):
            return arguments[number + 1]
    return None


def _option(argument: str) -> str:
    return argument.partition("=")[0].replace("_", "-")


def _reason(box: str, prog: str) -> str:
    """The message in the box that the parser draws, in one line."""
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│ ")
        if text and not text.strip("─-"):
            sections.append([])
        elif text and text[0] not in "╭╰":
            sections[-1].append(text)
    if "╭" not in box:  # where the terminal has no lines, the title is above the first
        sections = sections[1:]
    sections = [section for section in sections if section]
    if not sections:
        return "the arguments cannot be parsed"
    message = " ".join(sections[0])
    if found := re.match(r"Unrecognized options: (.*)", message):
        tokens = found[1].split(", ")
        names = [token.partition("=")[0] for token in tokens if token[0] == "-"]
        if names:
            return f"unknown option {names[0]!r}"
        return f"unexpected argument {tokens[0]!r}; see {prog} --help"
    if message.startswith("Missing from"):
        names = [x for x in sections[0] if re.match(r"[A-Z_]+$|--\S+ [{\[A-Z]", x)]
        return f"missing: {', '.join(names)}; see {prog} --help"
    if found := re.match(
        r"invalid choice '(.*)' for argument '(.*)'\. .*\((.*)\)", message
    ):
        choices = sorted(set(re.findall(r"'([^']*)'", found[3])) - {"None"})
        return str(_checks.unknown(found[2], found[1], choices))
    # A dataclass that refuses its values says itself which one it is.
    message = re.sub(r"^Error parsing (?!-)[\w.-]+: (?=.*;|.*must )", "", message)
    message = re.sub(r"^Error parsing (?=-)", "", message)
    message = re.sub(
        r"(no type matching|Could not find valid parse).*? \[(.*?)\](.*)",
        r"cannot parse \2",
        message,
    )
    for section in sections[1:]:
        if section[0] == "Argument helptext:":
            message += f"; allowed: {section[1].partition(' ')[2]}"
    return message


def load_config(argument: str) -> Any:
    """Runs ``get_config`` of a Python file, as ml_collections' configurations have it.

    Args:
      argument: "file.py", or "file.py:argument" to pass an argument on.

    Returns:
      What it returned, ConfigDicts as plain dictionaries.

    Raises:
      ValueError: naming the file, if it is missing, fails, or returns nothing.
    """
    name, _, text = argument.partition(":")
    path = pathlib.Path(name)
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"{name or 'config'}: no such configuration file (.py)")
    with _own.calling(name):
        made = importlib.util.spec_from_file_location(path.stem, path)
        assert made is not None
        assert made.loader is not None
        module = importlib.util.module_from_spec(made)
        made.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ValueError("it has no function get_config")
        config = module.get_config(*([text] if text else []))
        config = config.to_dict() if hasattr(config, "to_dict") else config
        if config is None:
            raise ValueError("get_config returned None")
    return config


def run(main: Callable[[], int | None], prog: str) -> int:
    """Runs a program; what stops it is one line on standard error and status 2.

    With the environment variable MIUE_TRACEBACK set, the traceback precedes the line.

    Args:
      main: the program; it returns its exit status, None for 0.
      prog: its name.

    Returns:
      The exit status.
    """
    with _logged(prog):
        try:
            status = main() or 0
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # Whoever reads the output has seen enough; nothing is left to flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except HelpShown:
            return 0
        except KeyboardInterrupt:
            print(f"{prog}: interrupted", file=sys.stderr)
            return 130
        except SystemExit as error:
            # Whatever of ours exits with a number, as after a signal, has said why.
            if isinstance(error.code, int) and error.code:
                return error.code
            return _refuse(prog, ValueError(error.code or "sys.exit was called"))
        except Exception as error:
            return _refuse(prog, error)


def _refuse(prog: str, error: BaseException) -> int:
    if TRACEBACK in os.environ:
        traceback.print_exception(error)
    print(f"{prog}: {_reason_of(error)}", file=sys.stderr)
    return BAD_INPUT


def _reason_of(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {error.strerror.lower()}"
    if isinstance(error, ValueError | OSError):
        return _checks.one_line(text, _LONGEST) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({_own.describe(error)})"
    # Not foreseen: whoever reports it needs more than a line.
    return f"{_own.describe(error)}; {TRACEBACK}=1 shows where"


# Characters of a line: enough for the names that a message lists.
_LONGEST = 2000


@contextlib.contextmanager
def _logged(prog: str) -> Iterator[None]:
    """Prints the library's log and warnings in single lines on standard error."""

    def show(message: Any, *rest: Any) -> None:
        print(f"{prog}: {_checks.one_line(str(message), _LONGEST)}", file=sys.stderr)

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{prog}: %(message)s"))
    logger = logging.getLogger("miue_jax")
    # Orbax reports every directory that it makes.
    logging.getLogger("absl").setLevel(logging.WARNING)
    # JAX logs the traceback of what it raises, too.
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    before = warnings.showwarning
    warnings.showwarning = cast(Any, show)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate, warnings.showwarning = propagate, before


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache, unless JAX is told where already.

    Where there is no home, or none that can be written to, it goes on without.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    with contextlib.suppress(RuntimeError, OSError):  # a user without a home
        given = os.environ.get("XDG_CACHE_HOME")
        parent = pathlib.Path(given) if given else pathlib.Path.home() / ".cache"
        cache = parent / "miue_jax"
        if not cache.is_absolute():
            return
        cache.mkdir(parents=True, exist_ok=True)
        # JAX would warn about each program that it cannot keep.
        if os.access(cache, os.R_OK | os.W_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", str(cache))
