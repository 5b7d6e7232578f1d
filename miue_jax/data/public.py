"""What may be published: paths without the folders of the person who made it."""

import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

# A path from the root, the home, or up from here, or one in a bucket; not a part of a
# name or another address.
_START = r"(?:(?:s3|gs):/|~[\w.-]*|\.{1,2}|[A-Za-z]:)?[/\\]"
_PATH = re.compile(rf"(?<![\w:/\\.~-]){_START}[^\s\"'=,;:()\[\]{{}}]+")
_WHOLE = re.compile(rf"{_START}.*", re.DOTALL)


def without_folders(value: Any) -> Any:
    """Reduces every path in a value to its last part.

    Args:
      value: what JSON can hold.

    Returns:
      A copy in which texts that are or hold paths from the root, the home or a folder
      above name their last part only. Paths below the current directory stay as they
      are, such as ``mi_ue/interleaved``, which is none.

    Example:
      >>> from miue_jax.data import public
      >>> public.without_folders({"note": "see /home/jane/run/log.txt"})
      {'note': 'see log.txt'}
    """
    if isinstance(value, Mapping):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    # A path of its own may have spaces.
    if _WHOLE.fullmatch(value) and "\n" not in value:
        return _last(value)
    return _PATH.sub(lambda match: _last(match[0]), value)


def command(arguments: Sequence[str]) -> str:
    """Joins a command line as it may be published.

    Args:
      arguments: the program and its arguments.

    Returns:
      The command, in which `without_folders` has been applied to each argument and to
      the value of each option.

    Example:
      >>> from miue_jax.data import public
      >>> public.command(["miue", "protect", "/home/jane/my photos", "--workdir=/a/b"])
      "miue protect 'my photos' --workdir=b"
    """
    shown = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            shown.append(f"{name}={without_folders(value)}")
        else:
            shown.append(without_folders(argument))
    return shlex.join(shown)


def _last(path: str) -> str:
    name = pathlib.PureWindowsPath(path).name
    return "" if name in ("~", "..") else name
