"""The flags that all scripts share, and bad input reported in one line, status 2."""

import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from miue_jax.train import parallel

BAD_INPUT = 2

# What flags and configuration files raise when they are parsed.
_WRONG = (flags.Error, ValueError, TypeError, LookupError, AttributeError, OSError)


def run(
    main: Callable[[dict[str, Any], pathlib.Path, bool], None],
    *,
    config_file: str,
    description: str,
    alone: Callable[[], bool] = lambda: False,
) -> None:
    """Runs a script with ``--config``, ``--workdir`` and ``--resume``.

    Args:
      main: called with the configuration, the working directory and whether a run that
        was stopped may be continued.
      config_file: the default of ``--config``, relative to the repository.
      description: of ``--config``.
      alone: whether this process is to join no cluster, asked once flags are parsed.
    """
    try:
        # Where --config is left out, the default is parsed here, with its overrides.
        config_flags.DEFINE_config_file("config", config_file, description)
    except _WRONG as error:
        fail(_named(error))
    flags.DEFINE_string("workdir", None, "Directory of the run.")
    flags.DEFINE_bool("resume", True, "Continue a run that was stopped.")
    for name in ("config", "workdir", "resume"):
        # Else --help of the script would not show them.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

    def start(rest: Sequence[str]) -> None:
        del rest
        values = flags.FLAGS
        keep_compiled()
        if values.workdir is None:
            raise ValueError("--workdir is missing: name a directory for the run")
        if not alone():
            parallel.initialize_processes()
        main(values.config.to_dict(), pathlib.Path(values.workdir), values.resume)

    try:
        app.run(start, flags_parser=parse)
    except (ValueError, OSError) as error:
        fail(error)


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache, unless JAX is told where already."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", f"{cache}/miue_jax")


def parse(arguments: Sequence[str]) -> Sequence[str]:
    """Parses flags; what is wrong with them ends the script with status 2."""
    options = [argument.partition("=")[0] for argument in arguments]
    for option in options:
        # A tuple that is given twice would hold both, and a number the last.
        if option.startswith("--config.") and options.count(option) > 1:
            fail(ValueError(f"{option} is given twice"))
    try:
        rest = flags.FLAGS(arguments)
    except _WRONG as error:
        fail(_named(error))
    if len(rest) > 1:
        fail(ValueError(f"unexpected argument {rest[1]!r}; every option is a flag"))
    # Orbax reports every directory that it makes.
    logging.set_verbosity(logging.WARNING)
    return rest


def _named(error: Exception) -> Exception:
    """Says which option is wrong: the error itself knows its last part at most."""
    options = [argument.lstrip("-").partition("=")[0] for argument in sys.argv[1:]]
    options = [option for option in options if option.startswith("config.")]
    reason = str(error)
    if isinstance(error, LookupError | AttributeError):
        found = re.search(r"'(\w+)", reason)
        near = re.search(r'Did you mean "(\w+)"', reason)
        if found:
            options = [o for o in options if found[1] in o.split(".")]
            hint = f"; did you mean {near[1]!r}?" if near else ""
            reason = f"there is no setting {found[1]!r}{hint}"
    elif not isinstance(error, TypeError):
        return error
    if not options:
        return error
    return ValueError(f"{' or '.join(f'--{option}' for option in options)}: {reason}")


def fail(error: Exception) -> NoReturn:
    """Prints an error in one line and exits with status 2."""
    message = " ".join(str(error).split()) or type(error).__name__
    if "Traceback (most recent call last)" in message:
        # ml_collections reports an error of a configuration file with its traceback.
        message = str(error).strip().splitlines()[-1].partition(": ")[2] or message
    script = pathlib.Path(sys.argv[0]).name
    print(f"{script}: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)
