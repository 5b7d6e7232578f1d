"""Users' own code: what it raises is one line that names the code and its line."""

import uuid

import pytest

from miue_jax import _own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise RuntimeError('no\\ndisk')",
            "cannot be imported: RuntimeError: no d",
        ),
        ("def f(:", "cannot be imported: SyntaxError: "),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("raise GeneratorExit", "cannot be imported: GeneratorExit"),
        ("async def f(): pass", "is asynchronous"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No mod"),
        ("f = 3", "is not a function but 3"),
        ("g = 3", "cannot be imported: .* has no attribute 'f'"),
    ],
)
def test_a_function_that_cannot_be_imported_is_named(
    tmp_path, monkeypatch, text, message
):
    name = f"broken_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"^defense '{name}:f' {message}") as raised:
        _own.imported("defense", f"{name}:f")
    assert "\n" not in str(raised.value)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of the user's own and returns its name."""

    def write(text: str) -> str:
        name = f"mine_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("assert False", "AssertionError"),
        ("raise ValueError('a\\n\\x1b[31mb')", "ValueError: a ?[31mb"),
        ("raise OSError('x' * 10**6)", f"OSError: {'x' * 300}..."),
        ("import json; json.loads('{')", "line 1 column 2 (char 1)"),
        ("raise type('E', (BaseException,), {})", "E"),
        ("raise type('E', (Exception,), {'__str__': lambda e: 1 / 0})", "E"),
    ],
)
def test_the_line_of_the_users_code_is_named(write, text, message):
    name = write(f"def f():\n    {text}\n")
    function = _own.guarded("mine", _own.imported("defense", f"{name}:f"))
    with pytest.raises(_own.Fault) as raised:
        function()
    line = str(raised.value)
    assert line.startswith("mine: ")
    assert line.endswith(f"{message} ({name}.py, line 2)")
    assert "\n" not in line


def test_the_user_may_interrupt(write):
    name = write("def f():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        _own.guarded("mine", _own.imported("defense", f"{name}:f"))()


def test_what_a_caller_understands_passes():
    with (
        pytest.raises(FloatingPointError),
        _own.calling("mine", passing=(FloatingPointError,)),
    ):
        raise FloatingPointError


def test_a_missing_module_is_not_a_missing_import_of_it(write):
    with pytest.raises(_own.Fault, match="'no_such'; install it, or set PYTHONPATH"):
        _own.imported("model", "no_such:f")
    name = write("import no_such_module\n")
    with pytest.raises(_own.Fault, match=rf"no_such_module' \({name}.py, line 1\)"):
        _own.imported("model", f"{name}:f")


@pytest.mark.parametrize("name", ["a:b:c", "a b:c", ":c", "a:", "..:c", "a:b.c"])
def test_what_is_not_of_the_form_module_function_is_told_so(name):
    with pytest.raises(ValueError, match=r"; allowed: module:function$"):
        _own.imported("defense", name)
