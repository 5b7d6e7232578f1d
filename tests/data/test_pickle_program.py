"""The interpreter of pickles builds values, and neither runs nor allocates more."""

import collections
import pickle
import sys

import pytest

from miue_jax.data import pickle_program


def _refuse(*found):
    raise ValueError(f"refers to {found}")


def _run(program, **functions):
    functions = {
        "refer": _refuse,
        "call": _refuse,
        "load": _refuse,
        **functions,
    }
    return pickle_program.run(program, **functions)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 255, 2**16, 2**31, -(2**70), 0.5, float("inf")),
        *("", "text", "ä\n'", "x" * 300, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        *([], [1, [2]], {}, {"a": 1, 2: (3, {None: 0.5}), True: []}),
        list(range(3000)),
        {str(i): i for i in range(3000)},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_it_builds_what_python_builds(value, protocol):
    program = pickle.dumps(value, protocol)
    assert _run(program) == value
    assert type(_run(program)) is type(value)


def test_shared_parts_are_one():
    part = [1]
    built = _run(pickle.dumps([part, part]))
    assert built[0] is built[1]
    loop = []
    loop.append(loop)
    built = _run(pickle.dumps(loop))
    assert built[0] is built


def test_what_is_referred_to_is_asked_for():
    program = pickle.dumps(collections.OrderedDict(a=1), 2)
    built = _run(
        program,
        refer=lambda module, name: (module, name),
        call=lambda function, arguments: {} if not arguments else _refuse(function),
    )
    assert built == {"a": 1}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "exhausted"),
        (b".", "has not built"),
        (b"N", "exhausted"),
        (b"\xff.", "opcode"),
        (b"]q\xff", "exhausted"),
        (b"\x80\x04\x8f.", "instruction EMPTY_SET"),
        (b"\x80\x04)\x81.", "instruction NEWOBJ"),
        (b"(ios\nsystem\n.", "refers to .*system"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"Na.", "has not built"),
        (b"NNa.", "takes None for a list"),
        (b"}Ns.", "has not built"),
        (b"}(Nu.", "a key and no value"),
        (b"})Ns.", r"the key \(\)"),
        (b"}]Ns.", r"the key \[\]"),
        (b"\x85.", "more parts than there are"),
        (b"t.", "has not built"),
        (b"h\x01.", "has not built"),
        (b"gx\n.", "x"),
        (b"NNR.", "takes None for a tuple"),
        (b"N}b.", "sets an attribute of None"),
        (b"\x80\x04NN\x93.", "takes None for a str"),
    ],
)
def test_anything_else_is_refused(program, message):
    with pytest.raises(ValueError, match=message):
        _run(program)


def test_a_large_program_is_not_begun():
    with pytest.raises(ValueError, match=r"has 4194305 bytes; allowed: at most"):
        _run(b"N" * (pickle_program.LARGEST + 1))


def test_declared_sizes_are_not_allocated():
    """Python's unpickler keeps room for as many parts as the largest number names."""
    assert _run(b"Nr\xff\xff\xff\x00j\xff\xff\xff\x00.") is None
    with pytest.raises(ValueError, match="expected 1099511627776 bytes"):
        _run(b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x.")


def test_the_work_is_that_of_the_program_not_of_its_paths():
    """n pairs of one part have 2**n paths."""

    def calls(levels: int) -> int:
        program = b"N" + b"q\x01h\x01\x86" * levels + b"Q."
        count = 0

        def profile(*_):
            nonlocal count
            count += 1

        sys.setprofile(profile)
        try:
            _run(program, load=lambda identifier: None)
        finally:
            sys.setprofile(None)
        return count

    four, eight, twelve = calls(4), calls(8), calls(12)
    assert twelve - eight == eight - four
