"""What bad input may do: one line, status 2, and nothing else."""

import pathlib


def content(root: pathlib.Path) -> dict[str, bytes | None]:
    """All files and folders in a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def assert_refused(result: tuple[int, str, str], name: str, message: str) -> None:
    """Checks the status, the output and the one line of a command."""
    status, output, errors = result
    assert (status, output) == (2, ""), errors
    assert errors.startswith(f"miue {name}: "), errors
    assert message in errors, errors
    assert len(errors.splitlines()) == 1, errors
