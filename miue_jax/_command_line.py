"""Command lines derived from dataclasses; whatever is wrong is one line, status 2."""

import contextlib
import glob
import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import tyro

from miue_jax import _checks, _lost_process, _own

BAD_INPUT = 2
INTERRUPTED = 130
# Set to anything, it shows where an error came from.
TRACEBACK = "MIUE_TRACEBACK"

_HEARTBEAT, _JOIN = "MIUE_HEARTBEAT_TIMEOUT", "MIUE_JOIN_TIMEOUT"

T = TypeVar("T")

_LOGGER = logging.getLogger("miue_jax")


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

    def run(arguments: Sequence[str], width: int | None = None) -> T:
        with warnings.catch_warnings(), _columns(width):
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
        with contextlib.redirect_stderr(errors):
            given = run(arguments, _UNWRAPPED)
    except SystemExit as error:
        if not errors.getvalue():  # not the parser's, but a user's own check of values
            raise _own.Fault(_own.describe(error)) from error
        reason = _reason(errors.getvalue(), prog)
        if name := re.match(r"unknown option '(.*)'", reason):
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                run(["--help"], _UNWRAPPED)
            known = dict.fromkeys(re.findall(r"--\w[\w.-]*", text.getvalue()))
            allowed = [f"those of {prog} --help"]
            raise _checks.unknown("option", name[1], known, allowed=allowed) from None
        raise ValueError(reason) from None
    except (ValueError, OSError):
        raise
    except Exception as error:  # raised where settings of a user's own check themselves
        raise _own.Fault(_own.describe(error)) from error
    for name, problem in _PLACES.items():
        # An empty path would be the current directory.
        if _value(arguments, name) == "":
            raise ValueError(f"{name} is {problem}")
    return given


# So wide that the parser does not break long words of its messages.
_UNWRAPPED = 100_000
# In fewer columns it does not come to an end.
_NARROWEST = 40


@contextlib.contextmanager
def _columns(width: int | None) -> Iterator[None]:
    """Sets the width of what the parser prints; None for that of the terminal."""
    before = os.environ.get("COLUMNS")
    if width is None:
        width = max(_NARROWEST, shutil.get_terminal_size().columns)
    os.environ["COLUMNS"] = str(width)
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


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """Removes an option whose value has been looked up by `option`.

    Args:
      arguments: the command line.
      name: of the option.

    Returns:
      The rest of the command line.
    """
    for number, argument in enumerate(arguments):
        if _option(argument) == name:
            after = number + (1 if "=" in argument else 2)
            return [*arguments[:number], *arguments[after:]]
    return list(arguments)


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
    if found := re.search(
        r"Unsupported type annotation for field (\S+) with type (.*?) •",
        " ".join(text for section in sections for text in [*section, "•"]),
    ):
        return (
            f"--{found[1].replace('_', '-')} cannot be an option: its type is "
            f"{found[2].removeprefix('typing.')}; annotate the setting, or give it a "
            "default"
        )
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
            if sys.stdout is not None:  # as it is where it was closed
                sys.stdout.flush()
            return status
        except BrokenPipeError:
            # Whoever reads the output has seen enough.
            _discard_output()
            return 128 + signal.SIGPIPE
        except HelpShown:
            return 0
        except KeyboardInterrupt:
            _complain(f"{prog}: interrupted")
            return INTERRUPTED
        except SystemExit as error:
            # Whatever of ours exits with a number, as after a signal, has said why.
            if isinstance(error.code, int) and error.code:
                return error.code
            return _refuse(prog, ValueError(error.code or "sys.exit was called"))
        except Exception as error:
            if _lost_process.is_disconnection(error):
                # The process that coordinates knows which one is gone, and ends us.
                _lost_process.wait_for_report(heartbeat_timeout() + 30)
            return _refuse(prog, error)


def report(text: object) -> None:
    """Prints the outcome of work that is done and saved.

    If it cannot be printed, it is done all the same: the log says so.

    Args:
      text: the outcome.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _LOGGER.warning("standard output: %s", _reason_of(error))
        _discard_output()


def _discard_output() -> None:
    """Sends what is left in the buffer nowhere: Python would fail on it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _discard_unwritten() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard_output()


def _refuse(prog: str, error: BaseException) -> int:
    if TRACEBACK in os.environ and sys.stderr is not None:
        traceback.print_exception(error)
    _complain(f"{prog}: {_reason_of(error)}")
    _discard_unwritten()
    return BAD_INPUT


def _complain(line: str) -> None:
    """Prints a line on standard error, if there is one: the status says it, too."""
    if sys.stderr is not None:  # print() would use standard output in its place
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def _reason_of(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {error.strerror.lower()}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror.lower()
    if isinstance(error, ValueError | OSError):
        return _checks.one_line(text, _LONGEST) or type(error).__name__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"there is not enough memory ({_own.describe(error)}); take smaller "
            "batches, smaller images or a smaller model"
        )
    if isinstance(error, RuntimeError) and text.startswith("Unable to initialize"):
        # JAX_PLATFORMS names what is not there.
        return _checks.one_line(text, _LONGEST)
    # Not foreseen: whoever reports it needs more than a line.
    return f"{_own.describe(error)}; {TRACEBACK}=1 shows where"


# Characters of a line: enough for the names that a message lists.
_LONGEST = 2000


@contextlib.contextmanager
def _logged(prog: str) -> Iterator[None]:
    """Prints the library's log and warnings in single lines on standard error."""

    def show(message: Any, *rest: Any) -> None:
        text = _checks.one_line(str(message), _LONGEST)
        if not _forget_compiled(text):
            _complain(f"{prog}: {text}")

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{prog}: %(message)s"))
    logger = logging.getLogger("miue_jax")
    # Orbax reports every directory that it makes.
    logging.getLogger("absl").setLevel(logging.WARNING)
    # JAX logs the traceback of what it raises, too, and gcsfs that of what it tries.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    propagate, logger.propagate = logger.propagate, False
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    before = warnings.showwarning
    warnings.showwarning = cast(Any, show)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate, warnings.showwarning = propagate, before


def measure(
    kind: type[T],
    run: Callable[[T], dict[str, Any]],
    prog: str,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Does what a script of experiments/ is for: measures and writes what it found.

    Args:
      kind: a dataclass of options, of which "json" is the file for the results, or
        None.
      run: options -> results.
      prog: name of the script.
      report: prints the results.

    Raises:
      ValueError: if the arguments are wrong; nothing is measured then.
    """
    from miue_jax.data import atomic, public

    options: Any = parse(kind, sys.argv[1:], prog=prog)
    path = options.json
    # Before minutes of measuring, not after.
    if path is not None:
        atomic.check_new_file(path)
    measured = run(options)
    measured["command"] = public.command(
        ["python", f"experiments/{prog}", *sys.argv[1:]]
    )
    if report is not None:
        report(measured)
    if path is not None:
        with atomic.write_file(path) as file:
            file.write(json.dumps(measured, indent=2).encode() + b"\n")


def heartbeat_timeout() -> int:
    """Seconds after which a silent process of a multi-process run counts as lost.

    Returns:
      The value of the variable MIUE_HEARTBEAT_TIMEOUT, 100 if it is not set.

    Raises:
      ValueError: if it is not a whole number of at least 1.
    """
    return _seconds(_HEARTBEAT, 100)


def join_timeout() -> int:
    """Seconds within which all processes of a multi-process run must have come.

    Returns:
      The value of the variable MIUE_JOIN_TIMEOUT, 300 if it is not set.

    Raises:
      ValueError: if it is not a whole number of at least 1.
    """
    return _seconds(_JOIN, 300)


def _seconds(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= 10**6):
        raise ValueError(
            f"{variable} is {text!r}; allowed: whole seconds from 1 to {10**6}"
        )
    return int(text)


# JAX keeps what took a second. The cells of a sweep compile what takes less, each anew.
_SHORTEST, _SECONDS_TO_KEEP = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.1


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache, unless JAX is told where already.

    Where there is no home, or none that can be written to, it goes on without.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    with contextlib.suppress(RuntimeError, OSError):  # a user without a home
        cache = _own_cache()
        if not cache.is_absolute():
            return
        cache.mkdir(parents=True, exist_ok=True)
        # JAX would warn about each program that it cannot keep.
        if os.access(cache, os.R_OK | os.W_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", str(cache))
            if _SHORTEST not in os.environ:
                jax.config.update(_SHORTEST.lower(), _SECONDS_TO_KEEP)


def _own_cache() -> pathlib.Path:
    given = os.environ.get("XDG_CACHE_HOME")
    parent = pathlib.Path(given) if given else pathlib.Path.home() / ".cache"
    return parent / "miue_jax"


def _forget_compiled(warning: str) -> bool:
    """Removes what JAX could not read from the cache, or could not write whole.

    JAX leaves an entry that a full disk cut short, and warns of it in every process.

    Args:
      warning: what it warned of.

    Returns:
      Whether it was that.
    """
    found = re.match(
        r"Error (?:read|writ)ing persistent compilation cache entry for '([\w.<>-]+)'",
        warning,
    )
    if found is None:
        return False
    with contextlib.suppress(RuntimeError, OSError):
        for entry in _own_cache().glob(f"{glob.escape(found[1])}-*"):
            entry.unlink(missing_ok=True)
    return True
