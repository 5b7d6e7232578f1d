"""The part of the pickle language that builds numbers, texts and containers.

A pickle is a program. Python's own unpickler runs whatever it refers to and allocates
whatever it declares; this interpreter has no function to call but those it is given,
and takes time and memory that are proportional to the program, however its parts are
shared or nested.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from miue_jax._checks import shown

# Bytes of the largest program that is read. A large network's state has a tenth.
LARGEST = 2**22

# What can be the key of a dictionary: nothing whose hash walks through parts.
_KEYS = (str, int, float, bytes, type(None))
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT"),
    *("BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES"),
    *("SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    "BINUNICODE8",
}


def run(
    program: bytes,
    *,
    refer: Callable[[str, str], Any],
    call: Callable[[Any, tuple[Any, ...]], Any],
    load: Callable[[Any], Any],
) -> Any:
    """Runs a pickle.

    Args:
      program: the pickle.
      refer: (module, name) -> what stands for it.
      call: (what stands for a function, arguments) -> its result.
      load: what a persistent identifier stands for.

    Returns:
      What it builds, of None, bools, numbers, texts, bytes, tuples, lists, dictionaries
      and what the functions return.

    Raises:
      ValueError: if it is truncated or too large, or does anything else.

    Example:
      >>> import pickle
      >>> from miue_jax.data import pickle_program
      >>> pickle_program.run(
      ...     pickle.dumps({"a": (1, [2.5])}), refer=None, call=None, load=None
      ... )
      {'a': (1, [2.5])}
    """
    if len(program) > LARGEST:
        raise ValueError(
            f"its program has {len(program)} bytes; allowed: at most {LARGEST}"
        )
    try:
        return _interpret(program, refer, call, load)
    except LookupError as error:
        raise ValueError("its program takes a part that it has not built") from error


def _interpret(
    program: bytes,
    refer: Callable[[str, str], Any],
    call: Callable[[Any, tuple[Any, ...]], Any],
    load: Callable[[Any], Any],
) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marked.pop()
        return items

    for opcode, argument, _ in pickletools.genops(program):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name == "POP":
            stack.pop() if stack else since_mark()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            # A dictionary: a list would be as long as the largest number.
            memo[_whole(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[_whole(argument)])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise ValueError("a tuple of more parts than there are")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            items = since_mark()
            stack.append(tuple(items))
        elif name in ("EMPTY_LIST", "LIST"):
            items = since_mark() if name == "LIST" else []
            stack.append(items)
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            _of(list, stack[-1]).extend(items)
        elif name in ("EMPTY_DICT", "DICT"):
            items = since_mark() if name == "DICT" else []
            stack.append(_update({}, items))
        elif name in ("SETITEM", "SETITEMS"):
            if name == "SETITEMS":
                items = since_mark()
            else:
                value, key = stack.pop(), stack.pop()
                items = [key, value]
            _update(_of(dict, stack[-1]), items)
        elif name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            stack.append(refer(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(refer(_of(str, module), _of(str, attribute)))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(call(function, _of(tuple, arguments)))
        elif name in ("PERSID", "BINPERSID"):
            stack.append(load(argument if name == "PERSID" else stack.pop()))
        elif name == "BUILD":
            # Attributes of an OrderedDict, which torch sets, are of no use here.
            stack.pop()
            if not isinstance(stack[-1], dict):
                raise ValueError(f"sets an attribute of {shown(stack[-1])}")
        elif name == "STOP":
            return stack.pop()
        else:
            raise ValueError(f"holds the instruction {name}, which is not allowed")
    raise ValueError("its program has no end")


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise ValueError(f"refers to a part by {shown(number)}")
    return number


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"takes {shown(value)} for a {kind.__name__}")
    return value


def _update(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a dictionary with a key and no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (*_KEYS, bool):
            raise ValueError(f"a dictionary with the key {shown(key)}")
        target[key] = value
    return target
